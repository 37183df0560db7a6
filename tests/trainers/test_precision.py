"""The choice of the networks' arithmetic, each decision forced."""

import contextlib
import warnings
from dataclasses import replace

import pytest
import torch

from shoal.errors import ConfigError
from shoal.trainers import ppo, precision
from shoal.trainers.config import Config

CPU = torch.device("cpu")
CONFIG = Config(
    "CartPole-v1", num_envs=4, num_workers=0, horizon=8, total_steps=64, hidden_size=8, device="cpu"
)


def choose(monkeypatch, asked, able, ratio):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: able)
    monkeypatch.setattr(precision, "speed_ratio", lambda *args: ratio)
    return precision.choose_precision(replace(CONFIG, precision=asked), None, None, 32, 8, CPU)


def test_bfloat16_is_taken_only_if_it_is_clearly_faster(monkeypatch):
    assert choose(monkeypatch, "auto", True, 1.9) == (
        "bfloat16",
        "bfloat16 is 1.9 times as fast as float32",
    )
    assert choose(monkeypatch, "auto", True, precision.CLEARLY)[0] == "bfloat16"
    assert choose(monkeypatch, "auto", True, 1.19)[0] == "float32"


def test_without_instructions_for_it_nothing_is_timed(monkeypatch):
    """Timing would fail: there is no policy."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    chosen = precision.choose_precision(CONFIG, None, None, 32, 8, CPU)
    assert chosen == ("float32", "this processor has no instructions for bfloat16")


def test_what_is_asked_for_is_taken_and_a_slow_choice_is_reported(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(monkeypatch, "float32", True, 9.0)[0] == "float32"
        assert choose(monkeypatch, "bfloat16", True, 0.1)[0] == "bfloat16"
    with pytest.warns(RuntimeWarning, match="no instructions for bfloat16, so float32 is faster"):
        assert choose(monkeypatch, "bfloat16", False, 9.0)[0] == "bfloat16"
    with pytest.raises(ConfigError, match="precision: expected one of auto, float32, bfloat16"):
        replace(CONFIG, precision="float16")


@pytest.mark.parametrize(
    ("text", "able"),
    [
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16\nflags\t\t: fpu\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni avx2\n", False),
        ("vmx flags\t: bf16\n", False),
        ("", False),
    ],
)
def test_the_processors_flags_say_what_it_can_do(monkeypatch, tmp_path, text, able):
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    assert not precision.has_bfloat16(CPU)  # no such file
    precision.CPUINFO.write_text(f"processor\t: 0\n{text}")
    assert precision.has_bfloat16(CPU) == able


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
def test_timing_leaves_no_trace(monkeypatch, memory):
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    config = replace(CONFIG, memory=memory)
    with contextlib.closing(ppo.make_vector(config)) as vector:
        layout = vector.observation_layout
        policy = ppo.make_policy(config, layout, vector.action_layout)
    before, weights = torch.get_rng_state(), [p.clone() for p in policy.parameters()]
    assert precision.speed_ratio(config, policy, layout, 64, 8, CPU) > 0
    assert torch.equal(torch.get_rng_state(), before)
    for parameter, weight in zip(policy.parameters(), weights, strict=True):
        assert parameter.grad is None and torch.equal(parameter, weight)


def test_a_run_says_and_keeps_its_precision(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "speed_ratio", lambda *args: 2.0)
    saved, said = [], []
    result = ppo.train(CONFIG, save=lambda state, _: saved.append(state), say=said.append)
    assert said == ["precision: bfloat16 (bfloat16 is 2.0 times as fast as float32)"]
    assert all(p.dtype == torch.float32 for p in result.policy.parameters())
    assert saved[-1]["config"]["precision"] == "bfloat16"
    monkeypatch.setattr(precision, "speed_ratio", lambda *args: 0.5)
    ppo.train(
        replace(CONFIG, total_steps=128),
        checkpoint=saved[-1],
        save=lambda state, _: saved.append(state),
        say=said.append,
    )
    assert said[1:] == ["precision: bfloat16 (as asked)"]
    assert saved[-1]["config"]["precision"] == "bfloat16"
    ppo.train(CONFIG, say=said.append)
    assert said[2].startswith("precision: float32")
