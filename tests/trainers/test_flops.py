"""Counted operations against those of a network that is known."""

import contextlib
from dataclasses import replace

import pytest
import torch

from shoal.trainers import ppo
from shoal.trainers.config import Config
from shoal.trainers.flops import model_flops, peak_flops

CPU = torch.device("cpu")
CONFIG = Config("CartPole-v1", num_envs=2, num_workers=0, hidden_size=16, update_epochs=1)


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
def test_a_multiplication_and_an_addition_for_each_weight(memory):
    """Once to act, and three times to learn, forward and backward."""
    config = replace(CONFIG, memory=memory)
    with contextlib.closing(ppo.make_vector(config)) as vector:
        layout = vector.observation_layout
        policy = ppo.make_policy(config, layout, vector.action_layout)
    expected = 8 * sum(p.numel() for p in policy.parameters() if p.ndim == 2)
    assert model_flops(config, policy, layout, CPU) == expected
    half = replace(config, update_epochs=0.5)
    assert model_flops(half, policy, layout, CPU) == expected * (1 + 1.5) / 4
    twice = replace(config, update_epochs=2)
    assert model_flops(twice, policy, layout, CPU) == 2 * expected
    assert all(p.grad is None for p in policy.parameters())


def test_the_peak_is_a_number_of_this_century():
    assert 1e8 < peak_flops(CPU) < 1e16
