"""The trainer's parts, each against what it must be; what it learns is in test_probes.py."""

import contextlib
import dataclasses
import functools
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces

import shoal
from shoal.errors import CheckpointError, ConfigError, EmulationError, NotFiniteError
from shoal.rows.layout import Layout
from shoal.trainers import ppo
from shoal.trainers.checks import check_categories
from shoal.trainers.config import Config
from shoal.trainers.distributions import Distribution
from shoal.trainers.policies import Recurrent
from shoal.trainers.seeds import TRAINING, environment_seed
from tests.trainers.environments import (
    Counter,
    Dying,
    Endless,
    Failing,
    FailingTeam,
    Liar,
    Spoilt,
)

TIMES = {"seconds", "steps_per_second", "peak_share"}


def config(**changes):
    plain = {
        "env": "CartPole-v1",
        "num_envs": 4,
        "num_workers": 0,
        "horizon": 16,
        "minibatch_size": 16,
        "update_epochs": 4,
        "learning_rate": 1e-3,
        "hidden_size": 16,
        "total_steps": 512,
        "seed": 3,
    }
    return Config(**{**plain, **changes})


def run(cfg, **kwargs):
    """All metrics of a run, and its result."""
    reported = []
    result = ppo.train(cfg, report=reported.append, **kwargs)
    return reported, result


def without_times(metrics):
    return {k: v for k, v in metrics.items() if k not in TIMES and not k.startswith("time/")}


def collect(env, cfg, rollouts=1, **kwargs):
    """Rollouts of a vector by a fresh policy; also the vector's collector and policy."""
    vector = shoal.vectorize(env, cfg.num_envs, **{"backend": "serial", **kwargs})
    try:
        torch.manual_seed(0)
        policy = ppo.make_policy(cfg, vector.observation_layout, vector.action_layout)
        distribution = Distribution(vector.action_layout)
        collector = ppo.Collector(vector, distribution, cfg, policy, torch.device("cpu"))
        found = []
        for _ in range(rollouts):
            rollout = collector.collect(policy)
            found.append(
                dataclasses.replace(
                    rollout,
                    **{
                        f.name: getattr(rollout, f.name).clone()
                        for f in dataclasses.fields(rollout)
                        if f.name not in ("used", "masked", "even")
                    },
                )
            )
        return found, collector, policy
    finally:
        vector.close()


def observations_of(rollout, collector):
    rows = ppo.typed(rollout.observations.flatten(0, 1), collector.layout)
    return rows.reshape(*rollout.observations.shape[:2], *collector.layout.shape).numpy()


# -- collecting --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
@pytest.mark.parametrize(
    "options",
    [{}, {"backend": "pool", "batch_size": 2, "num_workers": 2}],
    ids=["serial", "pool"],
)
def test_a_rollout_holds_what_happened(options, memory):
    """Each slot's reward and flags are those that follow from its own observation."""
    cfg = config(memory=memory, horizon=10)
    rollouts, collector, _ = collect(Counter, cfg, rollouts=3, **options)
    lengths = Counter().lengths
    for rollout in rollouts:
        seen = observations_of(rollout, collector)
        slots = rollout.valid.nonzero().numpy()
        assert len(slots) >= 4 * 10 * 0.6
        for slot, segment in slots:
            t, episode, mark = seen[slot, segment]
            length, how = lengths[int(episode) % 4], int(episode) % 3
            reward = 100 * mark + episode + 0.01 * (t + 1)
            over = t + 1 >= length
            at = slot, segment
            assert float(rollout.rewards[at]) == pytest.approx(reward, rel=1e-6)
            assert bool(rollout.terminated[at]) == (over and how != 1)
            assert bool(rollout.truncated[at]) == (over and how != 0)
            assert bool(rollout.starts[at]) == (t == 0)
            # The next slot holds what followed, the final observation included.
            np.testing.assert_array_equal(seen[slot + 1, segment], [t + 1, episode, mark])
        # Each transition is in a rollout once at most.
        keys = [tuple(seen[slot, segment]) for slot, segment in slots]
        assert len(set(keys)) == len(keys)
        assert not rollout.valid[-1].any()


def test_consecutive_rollouts_leave_nothing_out():
    rollouts, collector, _ = collect(Counter, config(horizon=10), rollouts=4)
    keys = set()
    for rollout in rollouts:
        keys |= {tuple(o) for o in observations_of(rollout, collector)[rollout.valid.numpy()]}
    last = {mark: max((e, t) for t, e, m in keys if m == mark) for mark in {k[2] for k in keys}}
    for mark, (episode, t) in last.items():
        for e in range(int(episode) + 1):
            length = Counter().lengths[e % 4] if e < episode else t + 1
            assert {(float(i), float(e), mark) for i in range(int(length))} <= keys


@pytest.mark.parametrize(
    "options", [{}, {"backend": "pool", "batch_size": 2, "num_workers": 4}], ids=["serial", "pool"]
)
def test_agents_that_die_take_no_slots_and_others_lose_none(options):
    cfg = config(num_envs=4, horizon=12)
    rollouts, collector, _ = collect(Dying, cfg, rollouts=8 if options else 2, **options)
    for rollout in rollouts:
        seen = observations_of(rollout, collector)
        counts = dict.fromkeys(range(4), 0)
        for slot, segment in rollout.valid.nonzero().numpy():
            agent, t = seen[slot, segment]
            counts[int(agent)] += 1
            assert float(rollout.rewards[slot, segment]) == 10 * agent + t + 1
            over = t + 1 >= 2 * agent + 2
            assert bool(rollout.terminated[slot, segment]) == (over and agent % 2 == 0)
            assert bool(rollout.truncated[slot, segment]) == (over and agent % 2 == 1)
            np.testing.assert_array_equal(seen[slot + 1, segment], [agent, t + 1])
        # An episode of 8 steps gives 2, 4, 6 and 8 slots to the four.
        assert counts[0] < counts[1] < counts[2] < counts[3]


def test_illegal_moves_are_never_played():
    """connect_four ends the game, and says so, at an illegal move."""
    cfg = config(env="pettingzoo.classic.connect_four_v3", total_steps=2000)
    reported, _ = run(cfg)
    # Whoever plays an illegal move gets -1 and the other 0: the sum is 0 in legal games. The last
    # game of each environment may be in two rollouts of at least 64 steps, of which one is missing.
    assert sum(m["reward/mean"] for m in reported) == pytest.approx(0, abs=4 / 64)
    (rollout,), _, _ = collect(cfg.env, dataclasses.replace(cfg, horizon=64))
    at = rollout.valid
    legal = rollout.masks[at].gather(1, rollout.discrete[at])
    assert legal.all()
    assert not rollout.masks[at].all()  # some column was full


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
@pytest.mark.parametrize("env", ["CartPole-v1", Counter, "connect4"])
def test_slices_equal_index_arrays(env, memory, monkeypatch):
    """20 updates of even rollouts, and of the same rows through segments and index arrays.

    With one minibatch a pass both learn from the same steps; only the sums' order differs.
    """
    cfg = config(memory=memory, minibatch_size=10**6, update_epochs=2, total_steps=10**6)
    make, results = ppo.Collector.__init__, []

    def uneven(collector, *args):
        make(collector, *args)
        collector.become_uneven()

    for _ in range(2):
        with contextlib.closing(shoal.vectorize(env, 4, seed=1)) as vector:
            answers = iter([False] * 20 + [True])
            results.append(run(cfg, vector=vector, stop=functools.partial(next, answers)))
        monkeypatch.setattr(ppo.Collector, "__init__", uneven)
    (even, one), (segments, two) = results
    assert len(even) == 20
    for a, b in zip(even, segments, strict=True):
        assert without_times(a) == pytest.approx(without_times(b), rel=1e-3, abs=1e-4)
    for a, b in zip(one.policy.parameters(), two.policy.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_first_absent_row_makes_a_rollout_uneven():
    """What was collected until then stays, in the middle of a rollout."""
    (rollout,), collector, _ = collect(Dying, config(horizon=12), backend="serial")
    assert not rollout.even and not collector.even
    (rollout,), collector, _ = collect(Counter, config(), backend="serial")
    assert rollout.even and collector.even


# -- the first ratio ---------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
@pytest.mark.parametrize("env", ["CartPole-v1", Counter, Dying, "pettingzoo.classic.tictactoe_v3"])
def test_the_first_ratio_is_one(env, memory):
    """Learning recomputes exactly what collecting computed, recurrent state included."""
    cfg = config(memory=memory, minibatch_size=10**6, update_epochs=2, learning_rate=1e-2)
    vector = shoal.vectorize(env, cfg.num_envs, backend="serial")
    with_errors, _ = run(dataclasses.replace(cfg, total_steps=1000), vector=vector)
    vector.close()
    assert len(with_errors) > 3
    assert max(m["ratio/first_error"] for m in with_errors) < 1e-6
    assert max(m["kl"] for m in with_errors) > 1e-5  # the policy did change


def test_a_state_that_is_not_reset_would_show():
    """The test above can fail: without the resets, the ratios of a recurrent policy are off."""
    cfg = config(memory="lstm", minibatch_size=10**6, update_epochs=1, horizon=12)
    rollouts, collector, policy = collect(Counter, cfg, rollouts=2)
    learner = ppo.Learner(
        policy, collector.distribution, collector.layout, cfg, torch.device("cpu")
    )
    right, wrong = rollouts[1], dataclasses.replace(rollouts[1])
    wrong.starts = torch.zeros_like(wrong.starts)
    segments = torch.arange(right.used)
    for rollout, exact in ((right, True), (wrong, False)):
        parameters, _ = ppo.forward_part(policy, rollout, collector.layout, slice(12), segments)
        at = rollout.valid[:12]
        actions = ppo.Actions(rollout.discrete[:12][at], rollout.continuous[:12][at])
        logs, _ = learner.distribution.evaluate(parameters[at], actions, rollout.masks[:12][at])
        error = (logs - rollout.log_probabilities[:12][at]).abs().max()
        assert (error < 1e-6) == exact


# -- learning ----------------------------------------------------------------------------------


def test_losses_equal_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    distribution = Distribution(shoal.emulate(Counter()).action_layout)
    cfg = config(value_clip=0.3)
    n = 50

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    parameters, values, old_values, advantage, returns = random(n, 3), *random(4, n)
    actions = ppo.Actions(torch.randint(3, (n, 1), generator=generator), torch.zeros(n, 0))
    masks = torch.ones(n, 3, dtype=torch.bool)
    old = -1.1 + 0.3 * random(n)
    weights = (random(n) > -0.5).float()
    got = ppo.losses(
        parameters,
        values,
        actions,
        masks,
        old,
        old_values,
        advantage,
        returns,
        weights,
        distribution,
        cfg,
    )
    policy = value = entropy = clipped = 0.0
    for i in np.flatnonzero(weights):
        p = np.exp(parameters[i].double().numpy())
        p /= p.sum()
        ratio = p[actions.discrete[i, 0]] / math.exp(old[i])
        a = float(advantage[i])
        policy -= min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
        clipped += abs(ratio - 1) > 0.2
        entropy -= (p * np.log(p)).sum()
        v, o, r = float(values[i]), float(old_values[i]), float(returns[i])
        near = o + min(max(v - o, -0.3), 0.3)
        value += 0.5 * max((v - r) ** 2, (near - r) ** 2)
    expected = {"policy": policy, "value": value, "entropy": entropy, "clipped": clipped}
    for name, number in expected.items():
        assert float(got[name]) == pytest.approx(number, rel=1e-5)


def gradients(cfg, rollout, collector, policy):
    """The gradient of one minibatch, of everything there is, before any step."""
    learner = ppo.Learner(
        policy, collector.distribution, collector.layout, cfg, torch.device("cpu")
    )
    learner.optimizers = []  # the weights stay
    policy.zero_grad()
    learner.learn(rollout)
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.numel()}


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
def test_accumulating_gives_the_same_gradient(memory):
    cfg = config(
        memory=memory, minibatch_size=10**6, update_epochs=1, max_gradient_norm=1e9, num_envs=5
    )
    (rollout,), collector, policy = collect(Counter, cfg)
    whole = gradients(cfg, rollout, collector, policy)
    parts = gradients(dataclasses.replace(cfg, accumulate=3), rollout, collector, policy)
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
def test_invalid_slots_have_no_influence(memory):
    """Whatever stands in them: the gradient is the same."""
    cfg = config(memory=memory, minibatch_size=10**6, update_epochs=1, vtrace_rho=1, vtrace_c=1)
    (rollout,), collector, policy = collect(Counter, cfg)
    clean = gradients(cfg, rollout, collector, policy)
    invalid = ~rollout.valid
    assert invalid[:-1].any()
    rollout.rewards[invalid] = 1e6
    rollout.log_probabilities[invalid] = -50
    rollout.terminated[invalid] = True
    rollout.discrete[invalid] = 2
    spoilt = gradients(cfg, rollout, collector, policy)
    for name, gradient in clean.items():
        torch.testing.assert_close(spoilt[name], gradient, rtol=0, atol=0)


@pytest.mark.slow
def test_an_endless_task_is_worth_what_it_is_worth():
    """Reward 1 for ever, truncated every 8 steps: V = 1 / (1 - gamma). As deaths, it would be 7."""
    cfg = config(
        gamma=0.9, num_envs=8, horizon=32, total_steps=40_000, learning_rate=3e-3, anneal="linear"
    )
    vector = shoal.vectorize(Endless, 8, backend="serial")
    reported, result = run(cfg, vector=vector)
    vector.close()
    with torch.no_grad():
        value = result.policy.decode(result.policy.encode(torch.ones(1, 1)))[1]
    assert float(value) == pytest.approx(10, rel=0.05)
    # No reset is counted as a step: all rewards are 1.
    assert all(m["reward/mean"] == 1 and m["reward/nonzero"] == 1 for m in reported)


def test_rewards_are_divided_by_statistics_that_include_the_rollout():
    """Against a plain loop over the same environments; what Counter does depends on no action."""
    cfg = config(normalize_rewards=True, gamma=0.9, total_steps=200)
    vector = shoal.vectorize(Counter, 4, backend="serial")
    reported, _ = run(cfg, vector=vector)
    vector.close()
    vector = shoal.vectorize(Counter, 4, backend="serial")
    vector.reset(seed=cfg.seed)
    returns, seen = np.zeros(4), []
    for metrics in reported:
        rewards = []
        for _ in range(cfg.horizon):
            vector.send(np.zeros(4, np.int64))
            batch = vector.recv()
            for i in np.flatnonzero(batch.masks):
                returns[i] = returns[i] * 0.9 * (not batch.terminations[i]) + batch.rewards[i]
                seen.append(returns[i])
                rewards.append(batch.rewards[i])
        scaled = np.clip(np.array(rewards) / np.std(seen), -10, 10)
        assert metrics["reward/mean"] == pytest.approx(scaled.mean(), rel=1e-3)
    vector.close()


def test_the_first_normalised_rewards_are_bounded():
    """They were up to 200 when statistics of too few steps divided them."""
    cfg = config(normalize_rewards=True, env="Pendulum-v1")
    vector = shoal.vectorize(cfg.env, 4, backend="serial")
    collector = ppo.Collector(
        vector,
        Distribution(vector.action_layout),
        cfg,
        policy := ppo.make_policy(cfg, vector.observation_layout, vector.action_layout),
        torch.device("cpu"),
    )
    rollout = collector.collect(policy)
    scaled = collector.rewards.scaled(rollout.rewards)
    vector.close()
    assert 0.01 < float(scaled.abs().max()) <= 10


def test_rewards_are_clipped_last():
    cfg = config(normalize_rewards=True, reward_clip=0.5, total_steps=64)
    vector = shoal.vectorize(Counter, 4, backend="serial")
    reported, _ = run(cfg, vector=vector)
    vector.close()
    assert 0 < reported[0]["reward/mean"] <= 0.5


def test_observations_are_normalised_by_what_was_valid():
    cfg = config(normalize_observations=True, total_steps=40, update_epochs=1)
    vector = shoal.vectorize(Counter, 4, backend="serial")
    _, result = run(cfg, vector=vector)
    (rollout,), collector, _ = collect(Counter, cfg)
    seen = observations_of(rollout, collector)[rollout.valid.numpy()]
    vector.close()
    normalizer = result.policy.normalizer
    assert float(normalizer.count) == len(seen)
    np.testing.assert_allclose(normalizer.mean[1:], seen.mean(0)[1:], rtol=1e-6)
    np.testing.assert_allclose(normalizer.variance[1:], seen.var(0)[1:], rtol=1e-5)


@pytest.mark.parametrize("anneal", ["linear", "cosine", "none"])
def test_the_learning_rate_falls_as_it_should(anneal):
    cfg = config(anneal=anneal, learning_rate=0.1, total_steps=1000)
    half = {"linear": 0.05, "cosine": 0.05, "none": 0.1}[anneal]
    quarter = {"linear": 0.075, "cosine": 0.1 * (1 + math.sqrt(0.5)) / 2, "none": 0.1}[anneal]
    assert ppo.annealed(cfg, 0) == 0.1
    assert ppo.annealed(cfg, 500) == pytest.approx(half)
    assert ppo.annealed(cfg, 250) == pytest.approx(quarter)


def test_muon_gets_hidden_matrices_only():
    cfg = config(optimizer="muon", memory="lstm")
    _, _, policy = collect("FrozenLake-v1", cfg)
    muon, adam = ppo.make_optimizers(policy, cfg)
    names = {id(p): name for name, p in policy.named_parameters()}
    matrices = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    rest = {names[id(p)] for group in adam.param_groups for p in group["params"]}
    assert matrices == {
        "policy.first.weight",
        "memory.inputs.weight",
        "memory.hidden.weight",
    }
    assert matrices | rest == set(names.values())
    reported, _ = run(cfg)
    assert reported[-1]["kl"] > 0


def test_muon_says_which_torch_it_needs(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match=r"muon needs torch 2\.9 or newer, got"):
        run(config(optimizer="muon"))


@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
def test_a_minibatch_of_one_step_is_not_normalised(memory):
    """Its advantage has no deviation; it counts as it is, and moves the policy."""
    cfg = config(memory=memory, num_envs=1, horizon=4, minibatch_size=10**6, update_epochs=1)
    (rollout,), collector, policy = collect("CartPole-v1", cfg)
    rollout.valid[1:] = False
    rollout.rewards[0] = 3.0
    alone = gradients(dataclasses.replace(cfg, max_gradient_norm=1e9), rollout, collector, policy)
    plain = dataclasses.replace(cfg, max_gradient_norm=1e9, normalize_advantages=False)
    expected = gradients(plain, rollout, collector, policy)
    for name, gradient in expected.items():
        torch.testing.assert_close(alone[name], gradient, rtol=0, atol=0)
    bias = next(name for name in expected if name.endswith("head.linear.bias"))
    assert float(expected[bias].abs().max()) > 0.1


def test_metrics_that_are_not_defined_are_absent():
    """Explained variance of returns that do not vary."""
    cfg = config(num_envs=1, horizon=4)
    (rollout,), collector, policy = collect("CartPole-v1", cfg)
    rollout.valid[1:] = False
    learner = ppo.Learner(
        policy, collector.distribution, collector.layout, cfg, torch.device("cpu")
    )
    metrics = learner.learn(rollout)
    assert "explained_variance" not in metrics
    assert all(math.isfinite(number) for number in metrics.values())


def test_a_policy_that_is_given_gets_the_memory_that_is_asked_for():
    plain = collect("CartPole-v1", config())[2]
    _, result = run(config(memory="lstm", total_steps=64), policy=plain)
    assert isinstance(result.policy, Recurrent) and result.policy.policy is plain
    with pytest.raises(ConfigError, match="memory: the policy has lstm, got none"):
        run(config(), policy=Recurrent(plain, "lstm"))
    with pytest.raises(ConfigError, match="Linear has no encode"):
        run(config(), policy=torch.nn.Linear(4, 2))


@pytest.mark.parametrize(
    "options",
    [{"backend": "serial"}, {"backend": "multiprocess", "num_workers": 2},
     {"backend": "pool", "num_workers": 2, "batch_size": 2}],
    ids=["serial", "multiprocess", "pool"],
)  # fmt: skip
@pytest.mark.parametrize("env", [Failing, FailingTeam])
def test_training_goes_on_through_restarts(env, options):
    """What a restart has lost is invalid, and the rest is what the environments gave."""
    vector = shoal.vectorize(env, 4, on_error="restart", **options)
    cfg = config(total_steps=1500, horizon=16)
    with warnings.catch_warnings(action="ignore"):
        reported, _ = run(cfg, vector=vector)
    restarts = vector.restarts
    vector.close()
    assert restarts > 2
    assert all(metrics["reward/mean"] == 1 for metrics in reported)


@pytest.mark.parametrize("env, native", [("breakout", True), ("CartPole-v1", False)])
def test_no_workers_leave_native_environments_native(env, native):
    with contextlib.closing(ppo.make_vector(config(env=env, num_workers=0))) as vector:
        assert (type(vector._backend).__name__ == "NativeBackend") == native


# -- numbers that are none ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_named(value):
    vector = shoal.vectorize(
        [lambda: Spoilt(when=-1), lambda: Spoilt(value=value)], backend="serial"
    )
    with pytest.raises(NotFiniteError, match=rf"obs\.position of environment 1 is {value}"):
        run(config(num_envs=2), vector=vector)
    vector.close()


@pytest.mark.parametrize("value, bounds", [(-1, "0 to 3"), (4, "0 to 3"), (99, "0 to 3")])
def test_an_observation_outside_its_space_is_named(value, bounds):
    """Not counted as another category, and not an error of torch's without a place."""
    vector = shoal.vectorize([Liar, lambda: Liar(value)], backend="serial")
    message = rf"observation obs\.choice of environment 1 must be from {bounds}, got {value}"
    with pytest.raises(EmulationError, match=message):
        run(config(num_envs=2), vector=vector)
    vector.close()


def test_an_observation_outside_its_space_is_named_where_a_policy_only_acts():
    states = []
    vector = shoal.vectorize(Liar, 2, backend="serial")
    run(config(num_envs=2), vector=vector, save=lambda state, metrics: states.append(state))
    vector.close()
    policy = ppo.load_policy(states[-1])
    rows = np.zeros((2, *policy.observation_layout.shape), policy.observation_layout.dtype)
    policy.observation_layout.view(rows)["choice"][1] = -1
    with pytest.raises(EmulationError, match=r"obs\.choice of row 1 must be from 0 to 3, got -1"):
        ppo.act(policy, rows)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16"])
def test_categories_are_checked_whatever_their_type(dtype):
    space = spaces.Dict(
        {"many": spaces.MultiDiscrete([3, 5], dtype=dtype, start=[1, 2]), "x": spaces.Discrete(2)}
    )
    layout = Layout.from_space(space)
    rows = layout.zeros(3)
    layout.view(rows)["many"][:] = [[1, 2], [3, 6], [3, 6]]
    flat = torch.from_numpy(rows.reshape(3, -1).view(np.uint8))
    check_categories(flat, layout)
    for bad in ([0, 2], [4, 2], [1, 7], [1, 1]):
        layout.view(rows)["many"][2] = bad
        with pytest.raises(EmulationError, match="many of row 2 must be from"):
            check_categories(flat, layout)


def test_a_reward_that_is_not_finite_is_named():
    vector = shoal.vectorize(lambda: Spoilt("reward"), 2, backend="serial")
    with pytest.raises(NotFiniteError, match="a reward of environment 0 is nan"):
        run(config(num_envs=2), vector=vector)
    vector.close()


def test_a_gradient_that_is_not_finite_is_named():
    cfg = config()
    (rollout,), collector, policy = collect("CartPole-v1", cfg)
    policy.critic[0].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NotFiniteError, match=r"gradient of critic\.0\.weight"):
        gradients(cfg, rollout, collector, policy)


def test_weights_that_are_not_finite_are_named():
    cfg = config()
    policy = collect("CartPole-v1", cfg)[2]
    with torch.no_grad():
        policy.actor[0].weight[0, 0] = math.nan
    with pytest.raises(NotFiniteError, match=r"parameter actor\.0\.weight"):
        ppo.train(cfg, policy=policy)


# -- going on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory": "lstm", "normalize_rewards": True, "normalize_observations": True},
        {"optimizer": "muon", "env": "FrozenLake-v1"},
        {"env": "Pendulum-v1", "squash": True, "anneal": "cosine"},
    ],
    ids=str,
)
def test_a_run_goes_on_as_if_it_had_never_stopped(changes):
    cfg = config(checkpoint_interval=3, total_steps=640, **changes)
    states = []
    whole, _ = run(cfg, save=lambda state, metrics: states.append(state))
    middle = states[0]
    assert middle["updates"] == 3
    rest, _ = run(cfg, checkpoint=middle)
    assert len(rest) == len(whole) - 3
    for again, before in zip(rest, whole[3:]):
        np.testing.assert_equal(without_times(again), without_times(before))


def test_a_checkpoint_of_other_spaces_is_refused():
    states = []
    run(config(total_steps=64), save=lambda state, metrics: states.append(state))
    with pytest.raises(CheckpointError, match="observation space is not"):
        run(config(env="FrozenLake-v1"), checkpoint=states[0])
    with pytest.raises(CheckpointError, match="weights don't fit"):
        run(config(hidden_size=8), checkpoint=states[0])


def test_a_loaded_policy_acts_as_it_did():
    states = []
    cfg = config(memory="lstm", env="CartPole-v1")
    _, result = run(cfg, save=lambda state, metrics: states.append(state))
    loaded = ppo.load_policy(states[-1])
    rng = np.random.default_rng(0)
    state = None
    kept = torch.zeros(2, 3, result.policy.num_features)
    for t in range(5):
        observations = rng.normal(size=(3, 4)).astype(np.float32)
        starts = np.array([t == 0, False, t == 3])
        actions, state = ppo.act(loaded, observations, state, starts=starts)
        kept = kept * ~torch.from_numpy(starts)[:, None]
        with torch.no_grad():
            parameters, _, kept = ppo.forward_step(
                result.policy, torch.from_numpy(observations), kept
            )
        np.testing.assert_array_equal(actions, parameters.argmax(1).numpy())
        torch.testing.assert_close(state, kept)


def test_the_run_ends_when_it_is_told_to():
    count = iter(range(100))
    reported, _ = run(config(total_steps=10**6), stop=lambda: next(count) == 2)
    assert len(reported) == 2


# -- several processes -------------------------------------------------------------------------

RANKS = """
import functools, os, sys
import torch
import torch.distributed as dist
from shoal.rows.layout import Layout
from shoal.trainers import ppo
from shoal.trainers.checks import check_categories
from shoal.trainers.distributions import Distribution
from tests.trainers import test_ppo
from tests.trainers.environments import Counter

folder = sys.argv[1]
cfg = test_ppo.config(minibatch_size=10**6, update_epochs=1, max_gradient_norm=1e9, seed=0)
(rollout,), collector, policy = test_ppo.collect(Counter, cfg)  # of all, in each process
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
own = ppo.shared_config(cfg, size)
mine = slice(rank * own.num_envs, (rank + 1) * own.num_envs)
for name in ("observations discrete continuous masks log_probabilities values rewards terminated "
             "truncated valid starts").split():
    setattr(rollout, name, getattr(rollout, name)[:, mine])
rollout.states, rollout.used = rollout.states[:, mine], own.num_envs
torch.save(test_ppo.gradients(own, rollout, collector, policy), f"{folder}/{rank}.pt")

reported, result, states = test_ppo.run_shared(test_ppo.SHARED)
assert bool(reported) == (rank == 0)  # only the first process reports and saves
torch.save([reported, result.policy.state_dict()], f"{folder}/run{rank}.pt")
again, result, _ = test_ppo.run_shared(test_ppo.SHARED, checkpoint=torch.load(sys.argv[2]))
torch.save([again, result.policy.state_dict()], f"{folder}/again{rank}.pt")
dist.barrier()
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # all is checked and saved: threads of gloo may abort the interpreter's own exit
"""
SHARED = config(
    minibatch_size=10**6,
    update_epochs=2,
    memory="lstm",
    normalize_observations=True,
    normalize_rewards=True,
    checkpoint_interval=2,
    total_steps=384,
)


def run_shared(cfg, **kwargs):
    """A run whose actions don't depend on how many processes draw them."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    rank = torch.distributed.get_rank() if world > 1 else 0
    sample, states = Distribution.sample, []
    Distribution.sample = functools.partialmethod(sample, greedy=True)
    first = environment_seed(cfg.seed, TRAINING) + rank * cfg.num_envs // world
    vector = shoal.vectorize(Counter, cfg.num_envs // world, backend="serial", seed=first)
    try:
        reported, result = run(
            cfg, vector=vector, save=lambda state, metrics: states.append(state), **kwargs
        )
    finally:
        Distribution.sample = sample
        vector.close()
    return reported, result, states


def torchrun(tmp_path, script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *sys.path])
    file = tmp_path / "ranks.py"
    file.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, str(file), *arguments], check=True, timeout=200, env=environment)


def test_two_processes_equal_one(tmp_path):
    """Gradients, a whole run with both normalisers, and going on with what one process saved."""
    reported, result, states = run_shared(SHARED)
    torch.save(states[0], tmp_path / "saved.pt")
    torchrun(tmp_path, RANKS, str(tmp_path), str(tmp_path / "saved.pt"))
    cfg = config(minibatch_size=10**6, update_epochs=1, max_gradient_norm=1e9, seed=0)
    (rollout,), collector, policy = collect(Counter, cfg)
    alone = gradients(cfg, rollout, collector, policy)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in alone.items():
            torch.testing.assert_close(shared[name], gradient, rtol=1e-4, atol=1e-6)
    (shared, weights), (_, others) = (torch.load(tmp_path / f"run{i}.pt") for i in range(2))
    for one, two in zip(reported, shared, strict=True):
        one, two = without_times(one), without_times(two)
        assert two == pytest.approx(one, rel=1e-5, abs=1e-6)
    for name, weight in result.policy.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(others[name], weights[name], rtol=0, atol=0)
    again, _ = torch.load(tmp_path / "again0.pt")
    assert again[0]["updates"] == states[0]["updates"] + 1
    assert again[-1]["steps"] >= SHARED.total_steps


GOES_ON = """
import os, sys
import torch
import torch.distributed as dist
from tests.trainers import test_ppo

dist.init_process_group("gloo")
rank = dist.get_rank()
cfg = test_ppo.config(checkpoint_interval=2, total_steps=384, minibatch_size=32, memory="lstm",
                      normalize_rewards=True, normalize_observations=True)
states = []
whole, result = test_ppo.run(cfg, save=lambda state, metrics: states.append(state))
saved = [states[0] if rank == 0 else None]
dist.broadcast_object_list(saved)
rest, again = test_ppo.run(cfg, checkpoint=saved[0])
if rank == 0:
    assert len(saved[0]["processes"]) == 2
    torch.save([list(map(test_ppo.without_times, m)) for m in (whole, rest)], sys.argv[1])
for a, b in zip(result.policy.parameters(), again.policy.parameters()):
    torch.testing.assert_close(a, b, rtol=0, atol=0)
dist.barrier()
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)
"""


def test_every_process_goes_on_from_its_own_state(tmp_path):
    torchrun(tmp_path, GOES_ON, str(tmp_path / "metrics.pt"))
    whole, rest = torch.load(tmp_path / "metrics.pt")
    assert len(rest) == len(whole) - 2 > 2
    for again, before in zip(rest, whole[2:]):
        np.testing.assert_equal(again, before)


def test_workers_are_shared_like_environments():
    cfg = config(num_envs=8, num_workers=4, batch_size=4)
    own = ppo.shared_config(cfg, 2)
    assert (own.num_envs, own.num_workers, own.batch_size) == (4, 2, 2)
    for workers in (None, 0, 1):
        own = ppo.shared_config(config(num_envs=8, num_workers=workers), 4)
        assert own.num_workers == workers


def test_environments_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ConfigError, match="4 can't be shared by 3"):
        ppo.shared_config(config(), 3)


# -- settings ----------------------------------------------------------------------------------


def test_torchs_settings_are_restored():
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    inside = []
    run(
        config(tf32=True, torch_threads=2, total_steps=64),
        stop=lambda: inside.append((torch.get_num_threads(), torch.get_float32_matmul_precision())),
    )
    assert inside[0] == (2, "high")
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_a_policy_of_ones_own_must_be_one(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "class Policy:\n    def __init__(self, *args): pass\n    encode = decode = None\n"
    )
    with pytest.raises(ConfigError, match="has no num_features"):
        run(config(policy=f"{file}:Policy"))


@pytest.mark.parametrize("epochs, steps", [(1, 4), (0.5, 2), (2.25, 9), (0.1, 1)])
def test_a_pass_may_be_a_part_of_one(epochs, steps):
    cfg = config(update_epochs=epochs)
    (rollout,), collector, policy = collect("CartPole-v1", cfg)
    learner = ppo.Learner(
        policy, collector.distribution, collector.layout, cfg, torch.device("cpu")
    )
    sizes, step = [], learner.step

    def counted(rollout, minibatch, *rest):
        sizes.append(len(minibatch))
        return step(rollout, minibatch, *rest)

    learner.step = counted
    learner.learn(rollout)
    assert sizes == [16] * steps
