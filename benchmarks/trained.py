"""The trained agents of the gallery: docs/trained/NAME.h and NAME.f16, and what they score.

    python benchmarks/trained.py [--only NAME ...] [--runs-dir RUNS]

Every environment in C is trained by the command with the options below, as a user would do it. A
run of that name in --runs-dir is taken as it is. The policy is exported to C, with weights of 16
bits, and plays 20 episodes with them and with the weights of 32 bits. What has been measured of
others before is kept.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import RESULTS, ROOT, machine, machine_text, save, shoal, table

from shoal.trainers.evaluate import evaluate
from shoal.trainers.export.c import export_c
from shoal.trainers.runs import newest_checkpoint, read_checkpoint

OPTIONS: dict[str, list[str]] = {  # all that is not a default
    "asteroids": [],
    "bandit": [],
    "breakout": [],
    "cartpole": [],
    "connect4": [],
    "drone": [],
    "g2048": [],
    "maze": [],
    "memory": ["--memory", "lstm"],
    "password": [],
    "pong": [],
    "snake": [],
    "squared": [],
    "stochastic": [],
    "swarm": [],
    "target": [],
    "tetris": ["--hidden-size", "64", "--total-steps", "1_500_000"],
    "tripletriad": [],
}
EPISODES = 20
FEW = {"snake": 2}  # episodes, where each is of hundreds of agents
FOLDER = ROOT / "docs" / "trained"
MOST_BYTES = 300_000  # of an agent's weights


def halved(state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose weights are rounded to 16 bits."""
    policy = {
        name: value.half().float() if value.is_floating_point() else value
        for name, value in state["policy"].items()
    }
    return {**state, "policy": policy}


def measure(name: str, runs: Path) -> dict[str, Any]:
    if not (runs / name).exists():
        place = ["--runs-dir", str(runs), "--name", name, "--display", "none"]
        shoal("train", name, *OPTIONS[name], *place)
    lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").open()]
    scores = [line["episode/score"] for line in lines if "episode/score" in line]
    state = read_checkpoint(newest_checkpoint(runs / name))
    with tempfile.TemporaryDirectory() as folder:
        export_c(runs / name, folder)
        weights = np.fromfile(Path(folder, "weights.bin"), "<f4").astype("<f2")
        shutil.copy(Path(folder, "policy.h"), FOLDER / f"{name}.h")
    weights.tofile(FOLDER / f"{name}.f16")
    assert weights.nbytes <= MOST_BYTES, (name, weights.nbytes)
    with torch.no_grad():
        episodes = FEW.get(name, EPISODES)
        whole = evaluate(state, name, episodes, num_envs=episodes)
        half = evaluate(halved(state), name, episodes, num_envs=episodes)
        random = evaluate(None, name, episodes, num_envs=episodes)
    return {
        "options": OPTIONS[name],
        "steps": lines[-1]["steps"],
        "seconds": lines[-1]["seconds"],
        "score": float(np.mean(scores[-10:])),
        "return": whole["return"],
        "error": whole["error"],
        "return_16": half["return"],
        "error_16": half["error"],
        "random": random["return"],
        "bytes": weights.nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    parser.add_argument("--runs-dir", type=Path, help="default: a folder that is deleted")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    store = RESULTS / "trained.json"
    agents = json.loads(store.read_text())["agents"] if store.exists() else {}
    found = machine("numpy", "torch")
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            agents[name] = measure(name, args.runs_dir or Path(folder))
        print(name, agents[name], flush=True)
        write(found, agents)


def write(found: dict[str, Any], agents: dict[str, Any]) -> None:
    rows = [
        [
            name,
            " ".join(each["options"]),
            f"{each['steps']:,.0f}",
            f"{each['seconds']:.0f}",
            f"{each['score']:.3f}",
            f"{each['return']:.4g} ± {each['error']:.2g}",
            f"{each['return_16']:.4g} ± {each['error_16']:.2g}",
            f"{each['random']:.4g}",
            f"{each['bytes'] / 1000:.0f}",
        ]
        for name, each in sorted(agents.items())
    ]
    head = ["environment", "options", "steps", "seconds", "score", "return", "return, 16 bits"]
    head += ["random", "kB"]
    text = f"""# The trained agents of the gallery

{machine_text(found)}

`shoal train NAME` with no other options than those named, one seed, while other programs used the
same cores. Score (0 to 1): mean over the last 10 updates of training that saw an episode's end.
Return: mean of {EPISODES} episodes (snake: 2) with actions drawn from the policy and its standard
error, with weights of 32 bits and of 16, and of random actions. kB: of the weights in 16 bits.

{table(head, rows)}"""
    save("trained", text, {"machine": found, "agents": agents})


if __name__ == "__main__":
    main()
