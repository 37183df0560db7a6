"""Everything that only a GPU can show, in at most 8 minutes: python benchmarks/gpu.py

Runs from a source tree on a machine without a network: it builds Shoal into build/gpu with the
Cython, Meson and compiler that are there, and takes pure-Python packages that are missing from
wheels in .whl/. Each part is a process of its own with a time limit, and the results are written
after each part, so a run that is cut short leaves what it had. Without a GPU every part that needs
one is reported as "no GPU".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "gpu"
SITE = BUILD / "site"
SECONDS = 450.0  # for everything
PACKAGES = ("torch", "triton", "numpy", "gymnasium")
TRAINED = {"breakout": 60.0, "pong": 60.0}  # seconds of training
ENVS = ("breakout", "pong", "cartpole", "squared", "snake", "connect4")
MEMORIES = ("none", "lstm", "mingru")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--no-build", action="store_true", help="use the shoal that is installed")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part]()))
        return 0
    begun = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "parts": {}}
    paths = [str(ROOT), *(os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if not options.no_build:
        results["parts"]["build"] = build()
        paths.insert(0, str(SITE))
        write(options.results, results)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    found = run_part("device", environment, 60)
    results["parts"]["device"] = found
    gpu = found["status"] == "passed" and found["gpu"] is not None
    for name in PARTS:
        if name == "device":
            continue
        if not gpu:
            results["parts"][name] = {"status": "no GPU"}
            continue
        write(options.results, results)
        left = SECONDS - (time.monotonic() - begun)
        if left < 20:
            results["parts"][name] = {"status": "no time left"}
        else:
            results["parts"][name] = run_part(name, environment, left)
    results["seconds"] = round(time.monotonic() - begun, 1)
    write(options.results, results)
    return int(any(part["status"] == "failed" for part in results["parts"].values()))


def run_part(name: str, environment: dict[str, str], seconds: float) -> dict[str, Any]:
    """Run one part in a process of its own; its results, or why it failed."""
    command = [sys.executable, __file__, "--part", name]
    begun = time.monotonic()
    print(f"{name} ...", flush=True)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "why": f"not done after {seconds:.0f} s"}
    taken = round(time.monotonic() - begun, 1)
    if done.returncode:
        return {"status": "failed", "why": done.stderr[-2000:], "seconds": taken}
    return {"status": "passed", "seconds": taken, **json.loads(done.stdout.splitlines()[-1])}


def build() -> dict[str, Any]:
    """Compile Shoal into build/gpu/site, and unpack the wheels of .whl/ there."""
    begun = time.monotonic()
    print("build ...", flush=True)
    shutil.rmtree(BUILD, ignore_errors=True)
    SITE.mkdir(parents=True)
    for wheel in sorted((ROOT / ".whl").glob("*-none-any.whl")):
        zipfile.ZipFile(wheel).extractall(SITE)
    places = [f"-Dpython.{kind}dir={SITE}" for kind in ("platlib", "purelib")]
    for command in (
        ["meson", "setup", str(BUILD / "objects"), *places],
        ["meson", "install", "--quiet", "-C", str(BUILD / "objects")],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return {"status": "failed", "why": (done.stdout + done.stderr)[-2000:]}
    return {"status": "passed", "seconds": round(time.monotonic() - begun, 1)}


def machine() -> dict[str, Any]:
    """The processor, and the versions of what is installed."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


# -- the parts ---------------------------------------------------------------------------------


def device() -> dict[str, Any]:
    """The GPU, its driver and what torch was built for; None for everything without one."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None}
    driver = "unknown"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return {
        "gpu": torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)),
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def check(name: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        from tests.trainers import gpu_checks

        getattr(gpu_checks, name)()
        return {}

    return run


def training(env: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        from shoal.trainers import ppo

        config = training_config(env)
        curve: list[dict[str, float]] = []
        end = time.monotonic() + TRAINED[env]
        ppo.train(
            config,
            report=lambda metrics: curve.append(dict(metrics)),
            stop=lambda: time.monotonic() > end,
        )
        later = curve[len(curve) // 2 :]
        returns = [(m["seconds"], m["episode/return"]) for m in curve if "episode/return" in m]
        return {
            "steps": curve[-1]["steps"],
            "steps_per_second": statistics.median(m["steps_per_second"] for m in later),
            "shares": {
                name: round(statistics.mean(m[name] for m in later), 3)
                for name in later[0]
                if name.startswith("time/")
            },
            "last_return": returns[-1][1] if returns else None,
            "curve": returns[:: max(1, len(returns) // 50)],
        }

    return run


def training_config(env: str, **changes: Any) -> Any:
    from shoal.trainers.config import Config

    return Config(
        env,
        num_envs=4096,
        horizon=64,
        minibatch_size=32_768,
        update_epochs=1,
        anneal="none",
        total_steps=10**10,
        **{"device": "cuda", **changes},
    )


def speeds(memory: str, **changes: Any) -> Callable[[], dict[str, Any]]:
    """Return a part that trains six environments for a few updates, beside a plain torch loop."""

    def run() -> dict[str, Any]:
        from shoal.trainers.profile import measure

        found = {}
        for env in ENVS:
            config = training_config(env, memory=memory, **changes)
            profile = measure(config, updates=5)
            found[env] = {
                "steps_per_second": round(profile.steps / profile.wall),
                "plain": round(plain_loop(profile.config)),
                "precision": profile.config.precision,
                "peak_share": round(profile.flops / profile.wall / profile.peak, 4),
                "phases": {n: round(s / profile.wall, 3) for n, s in profile.seconds.items()},
            }
        return {"speeds": found}

    return run


def plain_loop(config: Any, updates: int = 3) -> float:
    """Return the steps/s of the same network and batches in a bare torch loop, on zeros.

    It acts once a step and learns once a minibatch, and does nothing else.
    """
    import contextlib

    import torch

    from shoal.trainers import ppo
    from shoal.trainers.policies import initial_state
    from shoal.trainers.precision import autocast, minibatch_pass, plain_rows

    device = torch.device(config.device)
    with contextlib.closing(ppo.make_vector(config)) as vector:
        layout, rows = vector.observation_layout, vector.num_rows
        policy = ppo.make_policy(config, layout, vector.action_layout).to(device)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    seen = plain_rows(layout, rows).to(device)
    many = plain_rows(layout, config.minibatch_size).to(device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    begun = 0.0
    for update in range(updates + 1):  # the first one warms up
        if update == 1:
            wait()
            begun = time.perf_counter()
        state = initial_state(policy, rows, device)
        for _ in range(config.horizon):
            with torch.no_grad(), autocast(config, device):
                _, _, state = ppo.forward_step(policy, seen, state)
        for _ in range(rows * config.horizon // config.minibatch_size):
            with autocast(config, device):
                minibatch_pass(policy, many, config.horizon)
            optimizer.step()
            optimizer.zero_grad()
    wait()
    return updates * rows * config.horizon / (time.perf_counter() - begun)


def profile() -> dict[str, Any]:
    """Where the time of breakout's updates goes, by torch's profiler."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from shoal.trainers import ppo

    updates = iter(range(100))
    recorder = profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def stop() -> bool:
        update = next(updates)
        if update == 2:  # the first ones compile kernels and fill caches
            recorder.start()
        if update == 4:
            recorder.stop()
        return update == 4

    ppo.train(training_config("breakout"), stop=stop)
    rows = recorder.key_averages()
    busiest = sorted(rows, key=lambda row: row.self_device_time_total, reverse=True)[:12]
    longest = sorted(rows, key=lambda row: row.self_cpu_time_total, reverse=True)[:12]
    return {
        "device_ms": {r.key[:60]: round(r.self_device_time_total / 1e3, 2) for r in busiest},
        "host_ms": {r.key[:60]: round(r.self_cpu_time_total / 1e3, 2) for r in longest},
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "device": device,
    "kernel_equals_c": check("kernel_equals_c"),
    "runs_resume_across_devices": check("runs_resume_across_devices"),
    "bfloat16_is_near_float32": check("bfloat16_is_near_float32"),
    "sampling_follows_the_probabilities": check("sampling_follows_the_probabilities"),
    "mingru_equals_the_cpu": check("mingru_equals_the_cpu"),
    **{f"speed_{memory}": speeds(memory) for memory in MEMORIES},
    "train_breakout": training("breakout"),
    "train_pong": training("pong"),
    "profile": profile,
}


# -- results -----------------------------------------------------------------------------------


def write(folder: Path, results: dict[str, Any]) -> None:
    """Write gpu.json and gpu.md with what is known so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "gpu.md").write_text(report(results) + "\n")


def report(results: dict[str, Any]) -> str:
    found, parts = results["machine"], results["parts"]
    packages = ", ".join(f"{k} {v or 'not installed'}" for k, v in found["packages"].items())
    gpu = parts.get("device", {})
    name = gpu.get("gpu")
    lines = [
        "# What a GPU shows",
        "",
        f"{name}, driver {gpu['driver']}, CUDA {gpu['cuda']}" if name else "no GPU",
        f"{found['processor']}, {found['cores']} cores, {found['system']}, "
        f"Python {found['python']}; {packages}. {found['time']}.",
        "",
        "| part | result | seconds |",
        "| --- | --- | --- |",
    ]
    for part, result in parts.items():
        lines.append(f"| {part} | {said(result)} | {result.get('seconds', '')} |")
    for memory in MEMORIES:
        found_speeds = parts.get(f"speed_{memory}", {}).get("speeds", {})
        if found_speeds:
            lines += ["", f"Training speed, memory {memory}, 4,096 environments x 64 steps:", ""]
            lines += ["| environment | steps/s | plain torch loop | share | peak | environment's |"]
            lines += ["| --- | --- | --- | --- | --- | --- |"]
        for env, each in found_speeds.items():
            share = each["steps_per_second"] / each["plain"]
            lines.append(
                f"| {env} | {each['steps_per_second']:,} ({each['precision']}) | "
                f"{each['plain']:,} | {share:.2f} | {each['peak_share']:.1%} | "
                f"{each['phases']['environment']:.0%} |"
            )
    if "device_ms" in parts.get("profile", {}):
        for key, title in (("device_ms", "GPU"), ("host_ms", "host")):
            lines += ["", f"Two updates of breakout, {title} time:", "", "| operation | ms |"]
            lines += ["| --- | --- |"]
            lines += [f"| {op} | {ms} |" for op, ms in parts["profile"][key].items()]
    return "\n".join(lines)


def said(result: dict[str, Any]) -> str:
    """One part's result in a table's cell."""
    if result["status"] == "failed":
        last = (result["why"].strip().splitlines() or ["?"])[-1]
        return f"**failed**: {last[:200].replace('|', '/')}"
    if "steps_per_second" in result:
        shares = ", ".join(
            f"{k.removeprefix('time/')} {v:.0%}" for k, v in result["shares"].items()
        )
        return (
            f"{result['steps_per_second']:,.0f} steps/s ({shares}); return "
            f"{result['last_return']} after {result['steps']:,.0f} steps"
        )
    return result["status"]


if __name__ == "__main__":
    sys.exit(main())
