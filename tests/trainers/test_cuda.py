"""The trainer on a pretended CUDA device: every tensor is where it must be."""

import collections
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shoal.trainers import ppo
from shoal.trainers.config import Config
from tests.trainers import gpu_checks
from tests.trainers.pretend_cuda import OnDevice, pretended_cuda, strip

ROOT = Path(__file__).parents[2]
BREAKOUT = Config(
    "breakout", num_envs=8, num_workers=1, horizon=8, total_steps=128, hidden_size=16, device="cuda"
)
CONFIGS = {
    "LSTM": replace(BREAKOUT, memory="lstm", accumulate=2),
    "MinGRU": replace(BREAKOUT, memory="mingru"),
    "normalised, V-trace and Muon": replace(
        BREAKOUT,
        normalize_observations=True,
        normalize_rewards=True,
        vtrace_rho=1.0,
        vtrace_c=1.0,
        optimizer="muon",
    ),
    "grid": replace(BREAKOUT, env="squared", env_kwargs={"size": 21}),
    "several agents and masks": replace(BREAKOUT, env="connect4"),
    "continuous": replace(BREAKOUT, env="Pendulum-v1", num_workers=0, squash=True),
    "pool": replace(BREAKOUT, env="CartPole-v1", num_workers=2, batch_size=4),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_no_operation_mixes_devices(config):
    saved = []
    with pretended_cuda() as (mismatches, _):
        result = ppo.train(config, save=lambda state, metrics: saved.append(state))
    assert mismatches == {}
    assert result.metrics["updates"] >= 2
    assert all(isinstance(p, OnDevice) for p in result.policy.parameters())


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
@pytest.mark.parametrize("env", ["breakout", "connect4"])
def test_the_host_waits_for_actions_and_twice_an_update(env, memory):
    config = replace(BREAKOUT, env=env, memory=memory, update_epochs=2, minibatch_size=32)
    counts = []
    with pretended_cuda() as (_, waits):

        def report(metrics):
            counts.append(collections.Counter())
            for (_, functions, _), count in waits.items():
                part = next((f for f in functions if f in ("answer", "receive", "step")), "update")
                counts[-1][part] += count
            waits.clear()

        ppo.train(config, report=report)
    assert len(counts) >= 2
    for count in counts[1:]:  # what is made once has waited in the first
        assert count["answer"] + count["receive"] == config.horizon  # a step: 1
        assert count["step"] == 0  # a minibatch
        assert count["update"] == 2


@pytest.mark.parametrize("start, end", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_another_device(start, end):
    """Its generators can't have the other's states: they go on with a stream of their own."""
    saved = []
    with pretended_cuda() if start == "cuda" else contextlib.nullcontext():
        ppo.train(replace(BREAKOUT, device=start), save=lambda state, metrics: saved.append(state))
    longer = replace(BREAKOUT, device=end, total_steps=256)
    results = []
    for _ in range(2):
        with pretended_cuda() if end == "cuda" else contextlib.nullcontext():
            results.append(ppo.train(longer, checkpoint=saved[-1]))
    assert results[0].metrics["steps"] >= 256
    one, two = ([strip(p.detach()) for p in result.policy.parameters()] for result in results)
    assert all(
        torch.equal(a.detach().as_subclass(torch.Tensor), b.detach().as_subclass(torch.Tensor))
        for a, b in zip(one, two)
    )


# -- what only a GPU can show ------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("check", gpu_checks.CHECKS, ids=lambda check: check.__name__)
def test_on_a_gpu(check):
    check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_reports_a_missing_gpu(tmp_path):
    """Every part that needs one says so, none counts as passed, and all is written."""
    command = [sys.executable, "benchmarks/gpu.py", "--no-build", "--results", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, env=environment)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts.pop("device")["gpu"] is None
    assert len(parts) >= 7
    assert {part["status"] for part in parts.values()} == {"no GPU"}
    text = (tmp_path / "gpu.md").read_text()
    assert text.count("no GPU") == len(parts) + 1
    assert "torch" in text
