"""Each probe is solved, with three seeds, by a training of about a second."""

import functools

import numpy as np
import pytest
import torch

import shoal
from shoal.trainers.config import Config
from shoal.trainers.ppo import act, load_policy, train
from tests.trainers import probes

SEEDS = (1, 2, 3)
# Spaces differ in what is taken apart and put together, which chance has little part in.
MOSTLY_SLOW = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]
COMMON = {
    "env": "probe",
    "num_envs": 16,
    "horizon": 16,
    "update_epochs": 4,
    "learning_rate": 5e-3,
    "hidden_size": 32,
    "gamma": 0.9,
    "device": "cpu",
    "torch_threads": 1,
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learn(make, seed, updates, vector_options=None, **options):
    """Train on an environment: (the policy as a checkpoint holds it, metrics of all updates)."""
    config = {**COMMON, "seed": seed, **options}
    vector = shoal.vectorize(
        make, config["num_envs"], backend="serial", seed=seed, **(vector_options or {})
    )
    config["minibatch_size"] = config["horizon"] * vector.num_rows // 2
    config["total_steps"] = updates * config["horizon"] * vector.num_rows
    states, metrics = [], []
    try:
        train(
            Config(**config),
            vector=vector,
            report=metrics.append,
            save=lambda state, _: states.append(state),
        )
    finally:
        vector.close()
    # Whoever acted and whoever learns agree on how likely each action was.
    assert max(m["ratio/first_error"] for m in metrics) < 1e-5
    return load_policy(states[-1]), metrics


def play(policy, make, steps, greedy=False, vector_options=None):
    """Mean reward of a valid row, over `steps` of 20 environments, and mean return of episodes."""
    vector = shoal.vectorize(make, 20, backend="serial", seed=10_000, **(vector_options or {}))
    generator = torch.Generator().manual_seed(0)
    observations, _ = vector.reset()
    state, starts = None, np.ones(vector.num_rows, bool)
    total = count = 0.0
    for _ in range(steps):
        actions, state = act(
            policy,
            observations,
            state,
            vector.action_masks,
            starts=starts,
            greedy=greedy,
            generator=generator,
        )
        vector.send(actions)
        observations, rewards, _, _, _, _, masks = vector.recv()
        starts = ~masks
        total += rewards[masks].sum()
        count += masks.sum()
    found = vector.statistics()
    vector.close()
    return total / count, found["return"]


def value(policy, observation):
    """What the policy expects after an observation of numbers."""
    with torch.no_grad():
        _, values = policy.decode(policy.encode(torch.as_tensor(observation)[None]))
    return float(values)


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_constant(seed):
    policy, _ = learn(probes.Constant, seed, updates=12)
    assert value(policy, np.zeros(1, np.float32)) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("seed", MOSTLY_SLOW)
@pytest.mark.parametrize("gamma", [0.9, 0.95])
def test_a_truncated_episode_is_worth_what_would_have_followed(gamma, seed):
    policy, _ = learn(probes.Endless, seed, updates=40, gamma=gamma, anneal="cosine")
    assert value(policy, np.zeros(1, np.float32)) == pytest.approx(1 / (1 - gamma), rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_terminated_episode_is_worth_no_more(seed):
    policy, _ = learn(probes.Ending, seed, updates=25, anneal="cosine", gae_lambda=1.0)
    mean = np.mean([sum(0.9**k for k in range(left)) for left in range(1, 9)])
    assert value(policy, np.zeros(1, np.float32)) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_delayed_reward(seed):
    policy, _ = learn(probes.Delayed, seed, updates=20)
    assert play(policy, probes.Delayed, 70)[1] >= 0.95
    start = np.zeros(8, np.float32)
    start[0] = 1
    assert value(policy, start) == pytest.approx(0.9**5, rel=0.1)


# -- policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_two_actions(seed):
    policy, _ = learn(probes.TwoActions, seed, updates=10)
    assert play(policy, probes.TwoActions, 40)[0] >= 0.95


@pytest.mark.parametrize("seed", MOSTLY_SLOW)
def test_memory(seed):
    policy, _ = learn(probes.Memory, seed, updates=40, memory="lstm")
    assert play(policy, probes.Memory, 60)[1] >= 0.9


def test_memory_needs_memory():
    policy, _ = learn(probes.Memory, 1, updates=40)
    assert play(policy, probes.Memory, 120)[1] < 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_password(seed):
    policy, _ = learn(probes.Password, seed, updates=25)
    assert play(policy, probes.Password, 80)[1] >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_mixed(seed):
    policy, _ = learn(probes.Mixed, seed, updates=30)
    assert play(policy, probes.Mixed, 170)[1] >= 8
    assert play(policy, probes.Mixed, 34, greedy=True)[1] <= 3


@pytest.mark.parametrize("seed", MOSTLY_SLOW)
def test_action_mask(seed):
    policy, _ = learn(probes.Masked, seed, updates=25)
    assert play(policy, probes.Masked, 60)[0] >= 0.9


@pytest.mark.parametrize("seed", MOSTLY_SLOW)
@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
def test_agents_learn_their_own_part(memory, seed):
    policy, _ = learn(probes.Identity, seed, updates=10, num_envs=8, memory=memory)
    assert play(policy, probes.Identity, 40)[0] >= 0.95


# -- every space -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", MOSTLY_SLOW)
@pytest.mark.parametrize(
    ("name", "squash"), [*((name, False) for name in probes.TARGETS), ("box", True), ("dict", True)]
)
def test_action_space(name, squash, seed):
    make = functools.partial(probes.Aim, *probes.TARGETS[name])
    policy, _ = learn(make, seed, updates=40, squash=squash, entropy_coefficient=0.0)
    assert play(policy, make, 20, greedy=True)[0] >= 0.9


@pytest.mark.parametrize("seed", MOSTLY_SLOW)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "large_image" else ())
        for name in probes.SHOWN
    ],
)
def test_observation_space(name, seed):
    space, show, options = probes.SHOWN[name]
    make = functools.partial(probes.Read, space, show)
    large = {"learning_rate": 1e-3, "num_envs": 8} if name == "large_image" else {}
    policy, _ = learn(make, seed, updates=12, vector_options=options, **large)
    assert play(policy, make, 20, vector_options=options)[0] >= 0.9
