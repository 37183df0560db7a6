"""`check_env` and `emulate(debug=True)`: each planted fault is found, and healthy ones are not."""

import datetime
import importlib
import random
import re
import time
import warnings
from pathlib import Path
from time import perf_counter

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

import shoal
from shoal.cli import main
from shoal.emulation.check.check_env import RULES, check_env
from shoal.emulation.seeding import reproducible
from shoal.errors import EnvCheckError
from tests.ocean_c.sources import built

FAULT_STEP = 4
EPISODE = 9


class Walk(gymnasium.Env):
    """A healthy random walk, whose subclasses each have one fault."""

    observation_space = spaces.Dict(
        {
            "pos": spaces.Box(-100, 100, (3,), np.float32),
            "inventory": spaces.Tuple([spaces.Box(0, 5, (2,), np.int16)] * 4),
            "role": spaces.Discrete(4, start=1),
        }
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.pos = self.noise()
        return self.observe(), {}

    def noise(self):
        return self.np_random.random(3, np.float32)

    def observe(self):
        return {
            "pos": self.pos,
            "inventory": tuple(np.full(2, i, np.int16) for i in range(4)),
            "role": 1,
        }

    def step(self, action):
        self.t += 1
        self.pos = self.pos + self.noise() * np.float32(action - 1)
        return self.observe(), 1.0, self.t >= EPISODE, False, {}


def faulty_leaf(key, value):
    """A walk whose observation has `value` at `key` in step 4 of each episode."""

    class Faulty(Walk):
        def observe(self):
            observation = super().observe()
            if self.t == FAULT_STEP:
                observation[key] = value
            return observation

    return Faulty


def faulty_step(position, value):
    """A walk that returns `value` as one of the five results in step 4 of each episode."""

    class Faulty(Walk):
        def step(self, action):
            result = super().step(action)
            if self.t == FAULT_STEP:
                result = (*result[:position], value, *result[position + 1 :])
            return result

    return Faulty


def inventory(last):
    return (*(np.full(2, i, np.int16) for i in range(3)), last)


# What is wrong: (environment, code of the finding, where, part of the message).
VALUES = {
    "dtype": (faulty_leaf("pos", np.zeros(3)), "dtype", "obs.pos", "got float64"),
    "dtype deep": (
        faulty_leaf("inventory", inventory(np.ones(2, np.int64))),
        *("dtype", "obs.inventory[3]", "expected int16, got int64"),
    ),
    "dtype object": (
        faulty_leaf("pos", np.array([None] * 3)),
        *("dtype", "obs.pos", "got object"),
    ),
    "shape": (
        faulty_leaf("pos", np.zeros((3, 1), np.float32)),
        *("shape", "obs.pos", "expected shape (3,), got (3, 1)"),
    ),
    "shape deep": (
        faulty_leaf("inventory", inventory(np.int16(1))),
        *("shape", "obs.inventory[3]", "expected shape (2,), got ()"),
    ),
    "nan": (
        faulty_leaf("pos", np.array([0, np.nan, 0], np.float32)),
        *("nan", "obs.pos", "element [1] = nan is NaN"),
    ),
    "above": (
        faulty_leaf("pos", np.array([0, 0, 101], np.float32)),
        *("bounds", "obs.pos", "element [2] = 101.0 is above its bound 100.0"),
    ),
    "below": (
        faulty_leaf("inventory", inventory(np.full(2, -7, np.int16))),
        *("bounds", "obs.inventory[3]", "[0] = -7 is below its bound 0 (and 1 more of 2 elements)"),
    ),
    "infinite": (
        faulty_leaf("pos", np.array([0, np.inf, 0], np.float32)),
        *("bounds", "obs.pos", "inf is above its bound 100.0"),
    ),
    "choice": (faulty_leaf("role", 5), "bounds", "obs.role", "5 is not in 1..4"),
    "choice float": (faulty_leaf("role", 2.0), "type", "obs.role", "integer, got 2.0 (float)"),
    "choice None": (faulty_leaf("role", None), "type", "obs.role", "got None (NoneType)"),
    "tuple short": (
        faulty_leaf("inventory", inventory(None)[:3]),
        *("type", "obs.inventory", "expected a tuple of 4"),
    ),
    "text": (faulty_leaf("pos", "here"), "type", "obs.pos", "an array, got 'here' (str)"),
    "ragged": (faulty_leaf("pos", [[1], [1, 2]]), "type", "obs.pos", "[[1], [1, 2]] (list)"),
    "extra key": (faulty_leaf("x", 0), "keys", "obs.x", "not in the space"),
    "observation None": (faulty_step(0, None), "type", "obs", "a dict, got None"),
    "reward None": (faulty_step(1, None), "reward-type", "reward", "got None (NoneType)"),
    "reward list": (faulty_step(1, [1.0]), "reward-type", "reward", "[1.0] (list)"),
    "reward text": (faulty_step(1, "1"), "reward-type", "reward", "'1' (str)"),
    "reward complex": (faulty_step(1, 1j), "reward-type", "reward", "1j (complex)"),
    "reward NaN": (faulty_step(1, float("nan")), "reward-nan", "reward", "nan"),
    "reward infinite": (faulty_step(1, -np.inf), "reward-nan", "reward", "-inf"),
    "terminated None": (faulty_step(2, None), "flag-type", "terminated", "a bool, got None"),
    "truncated text": (faulty_step(3, ""), "flag-type", "truncated", "a bool, got '' (str)"),
    "info None": (faulty_step(4, None), "info-type", "info", "a dict, got None"),
}
HARMLESS = {
    "list": (faulty_leaf("pos", [1.0, 2.0, 3.0]), "not-array", "obs.pos", "(list)"),
    "narrow": (
        faulty_leaf("pos", np.zeros(3, np.float16)),
        *("dtype-cast", "obs.pos", "got float16"),
    ),
    "reward array": (faulty_step(1, np.ones(1)), "reward-array", "reward", "float64 (1,)"),
    "flag number": (faulty_step(2, 0), "flag-number", "terminated", "got 0 (int)"),
}


def only(report, code, where):
    """The one finding, which must be the only one."""
    assert [(f.code, f.where) for f in report.findings] == [(code, where)], str(report)
    return report.findings[0]


@pytest.mark.parametrize("fault", VALUES)
def test_faulty_values_are_errors_at_leaf_and_step(fault):
    env, code, where, message = VALUES[fault]
    report = check_env(env(), steps=100)
    finding = only(report, code, where)
    assert (finding.severity, finding.episode, finding.step) == ("error", 1, FAULT_STEP)
    assert finding.count == 11  # once in each of the episodes that got that far
    assert message in finding.message
    text = str(report)
    assert f"error[{code}] {where}, episode 1, step {FAULT_STEP}: " in text
    assert RULES[code][1] in text and text.endswith("1 error")
    assert not report.ok
    with pytest.raises(EnvCheckError) as raised:
        report.raise_if_failed()
    assert str(raised.value) == text


@pytest.mark.parametrize("fault", HARMLESS)
def test_harmless_values_are_warnings(fault):
    env, code, where, message = HARMLESS[fault]
    report = check_env(env(), steps=100)
    finding = only(report, code, where)
    assert (finding.severity, finding.step) == ("warning", FAULT_STEP)
    assert message in finding.message
    assert report.ok
    report.raise_if_failed()


def test_missing_key():
    class Faulty(Walk):
        def observe(self):
            observation = super().observe()
            if self.t == FAULT_STEP:
                del observation["role"]
            return observation

    finding = only(check_env(Faulty(), steps=20), "keys", "obs.role")
    assert "missing" in finding.message and finding.step == FAULT_STEP


def test_infinity_within_its_bounds():
    class Faulty(Walk):
        observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

        def observe(self):
            return np.full(3, np.inf, np.float32) if self.t == FAULT_STEP else self.pos

    finding = only(check_env(Faulty(), steps=20), "inf", "obs")
    assert finding.severity == "warning" and finding.step == FAULT_STEP


SAMPLES = {
    "text": (spaces.Text(3, charset="ab"), "ab", ["abab", "", "xyz", 3, None]),
    "multidiscrete": (
        spaces.MultiDiscrete([3, 3], start=[0, 5]),
        np.array([2, 7]),
        [np.array([2, 8]), np.array([-1, 7]), np.zeros(3, np.int64), np.array([0.5, 6])],
    ),
    "multibinary": (
        spaces.MultiBinary([2, 2]),
        np.ones((2, 2), np.int8),
        [np.full((2, 2), 2), np.ones(4, np.int8), np.array([["a", "b"], ["c", "d"]])],
    ),
    "sequence": (
        spaces.Sequence(spaces.Discrete(2)),
        (0, 1),
        [(0, 2), [0, 1], None],
    ),
    "stacked": (
        spaces.Sequence(spaces.Box(0, 1, (2,), np.float32), stack=True),
        np.ones((3, 2), np.float32),
        [np.full((3, 2), 2, np.float32)],
    ),
    "oneof": (
        spaces.OneOf([spaces.Discrete(2), spaces.Text(2)]),
        (1, "ab"),
        [(2, 0), (0, "ab"), (0, 2), 0],
    ),
    "graph": (
        spaces.Graph(spaces.Discrete(3), None),
        spaces.GraphInstance(np.array([1, 2]), None, None),
        [spaces.GraphInstance(np.array([1, 3]), None, None), None],
    ),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_of_space_is_verified(kind):
    space, good, bad = SAMPLES[kind]

    def found(value):
        class Env(Walk):
            observation_space = spaces.Dict({"leaf": space})

            def observe(self):
                self.noise()
                return {"leaf": good if self.t < FAULT_STEP else value}

        return {f.where for f in check_env(Env(), steps=20).errors}

    assert found(good) == set()
    for value in bad:
        (where,) = found(value)
        assert where.startswith("obs.leaf"), (value, where)


# -- results, episodes, buffers ---------------------------------------------------------------


@pytest.mark.parametrize(
    "result, message",
    [((1, 2, 3, 4), "got 4 values"), (None, "None"), ([0, 0.0, False, False, {}], "list")],
)
def test_wrong_number_of_results_ends_the_check(result, message):
    class Faulty(Walk):
        def step(self, action):
            return super().step(action) if self.t < FAULT_STEP else result

    finding = only(check_env(Faulty()), "result", "step")
    assert message in finding.message and finding.step == FAULT_STEP + 1


def test_reset_without_info():
    class Faulty(Walk):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0]

    finding = only(check_env(Faulty()), "result", "reset")
    assert finding.step == 0 and "(observation, info)" in finding.message


def test_exceptions_name_their_line():
    class Faulty(Walk):
        def step(self, action):
            return super().step(action) if self.t < FAULT_STEP else 1 / 0

    finding = only(check_env(Faulty()), "exception", "step")
    assert "ZeroDivisionError" in finding.message and "test_check.py:" in finding.message
    assert finding.step == FAULT_STEP + 1


def test_reused_observation_array():
    class Faulty(Walk):
        def reset(self, *, seed=None, options=None):
            self.buffer = np.zeros(3, np.float32)
            return super().reset(seed=seed)

        def observe(self):
            self.buffer[:] = self.pos
            return {**super().observe(), "pos": self.buffer}

    report = check_env(Faulty(), steps=50)
    finding = only(report, "reused", "obs.pos")
    assert finding.severity == "warning" and finding.episode == 1 and finding.step >= 1
    assert "overwritten" in finding.message and report.ok


def test_done_after_done():
    class Faulty(Walk):
        over = False

        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            self.over = self.over or terminated  # and reset() forgets to clear it
            return observation, reward, self.over, truncated, info

    finding = only(check_env(Faulty()), "done-after-done", "terminated")
    assert (finding.severity, finding.episode, finding.step) == ("error", 2, 1)


def test_episodes_of_one_step_are_no_fault():
    class Bandit(Walk):
        def step(self, action):
            return (*super().step(action)[:2], True, False, {})

    assert check_env(Bandit()).findings == ()


def test_stepping_on_after_the_end():
    class Faulty(Walk):
        def step(self, action):
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, self.t == EPISODE, truncated, info

    finding = only(check_env(Faulty()), "step-after-end", "terminated")
    assert finding.severity == "warning" and finding.step == EPISODE + 1


def test_an_error_after_the_end_is_fine():
    class Strict(Walk):
        def step(self, action):
            if self.t == EPISODE:
                raise RuntimeError("the episode is over")
            return super().step(action)

    assert check_env(Strict()).findings == ()


def test_episodes_that_never_end():
    class Endless(Walk):
        def step(self, action):
            return (*super().step(action)[:2], False, False, {})

    finding = only(check_env(Endless(), steps=50), "never-ends", "terminated")
    assert finding.severity == "note" and "50 steps" in finding.message


# -- seeds and clocks -------------------------------------------------------------------------


class GlobalNumpy(Walk):
    def noise(self):
        return np.random.random(3).astype(np.float32)


class GlobalRandom(Walk):
    def noise(self):
        return np.full(3, random.random(), np.float32)


class OwnGenerator(Walk):
    def __init__(self):
        self.rng = np.random.default_rng()

    def noise(self):
        return self.rng.random(3, np.float32)


class NoSuperReset(Walk):
    """np_random is there, but nobody seeds it."""

    def reset(self, *, seed=None, options=None):
        self.t, self.pos = 0, np.zeros(3, np.float32)
        return self.observe(), {}


class SystemRandom(Walk):
    def __init__(self):
        self.dice = random.SystemRandom()

    def noise(self):
        return np.full(3, self.dice.random(), np.float32)


class Hidden(Walk):
    """A generator that is nowhere to be seen."""

    def noise(self, rng=random.Random()):  # noqa: B008
        return np.full(3, rng.random(), np.float32)


class Leftover(Walk):
    """What one episode leaves changes the next."""

    total = 0.0

    def noise(self):
        self.total += 0.01
        return super().noise() * np.float32(self.total)


class Settles(Walk):
    """Only the very first episodes differ."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)

    def noise(self):
        return super().noise() + np.float32(self.resets < 50)


class FromTime(Walk):
    def noise(self):
        return np.full(3, time.time() % 1, np.float32)


class FromPerfCounter(Walk):
    def noise(self):
        return np.full(3, perf_counter() % 1, np.float32)  # imported by name


class FromDatetime(Walk):
    def noise(self):
        return np.full(3, datetime.datetime.now().timestamp() % 1, np.float32)


class SeededByTime(Walk):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=time.time_ns() % 2**31)


@pytest.mark.parametrize(
    "env, code, message",
    [
        (GlobalNumpy, "rng-global", "numpy.random"),
        (GlobalRandom, "rng-global", "`random`"),
        (OwnGenerator, "rng-unseeded", "self.rng is in another state"),
        (NoSuperReset, "rng-unseeded", "self._np_random is in another state"),
        (SystemRandom, "rng-unseeded", "self.dice is in another state"),
        (Hidden, "not-reproducible", "generator inside"),
        (Leftover, "not-reproducible", "outlives reset"),
        (Settles, "not-reproducible", "the next replay is the same again"),
        (FromTime, "clock", "clock"),
        (FromPerfCounter, "clock", "clock"),
        (FromDatetime, "clock", "clock"),
        (SeededByTime, "clock", "clock"),
    ],
)
def test_a_seed_that_does_not_reproduce_and_why(env, code, message):
    report = check_env(env(), steps=300)
    finding = only(report, code, "obs.pos")
    assert finding.severity == "error" and message in finding.message
    assert "reset(seed=0)" in finding.message
    assert finding.episode == 1
    # NoSuperReset begins at zero, and a still action (1) keeps it there.
    assert finding.step == 0 or (env is NoSuperReset and finding.step < 10)


def test_reset_without_a_seed_must_not_seed_anew():
    class Faulty(Walk):
        def reset(self, *, seed=None, options=None):
            self._np_random = np.random.default_rng(seed)
            return super().reset()

    finding = only(check_env(Faulty(), steps=100), "not-reproducible", "obs.pos")
    assert (finding.episode, finding.step) == (2, 0)
    assert "reset() without a seed does not go on from it" in finding.message


def test_a_time_limit_in_seconds_is_found_without_waiting():
    class Impatient(Walk):
        def reset(self, *, seed=None, options=None):
            self.began = time.monotonic()
            return super().reset(seed=seed)

        def step(self, action):
            observation, reward, terminated, _, info = super().step(action)
            return observation, reward, terminated, time.monotonic() - self.began > 60, info

    finding = only(check_env(Impatient()), "clock", "truncated")
    assert (finding.episode, finding.step) == (1, 1)
    assert "another time" in finding.message


def test_seed_ignored():
    class Fixed(Walk):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=42)

    finding = only(check_env(Fixed()), "seed-ignored", "reset")
    assert finding.severity == "error"
    assert "seeds 0 and 1" in finding.message and "self._np_random" in finding.message


def test_seed_without_effect():
    class Deterministic(Walk):
        def noise(self):
            return np.ones(3, np.float32)

    report = check_env(Deterministic())
    assert only(report, "seed-no-effect", "reset").severity == "warning" and report.ok


def test_the_check_leaves_clocks_and_generators_as_they_were():
    clocks = [time.time, time.monotonic_ns, datetime.datetime, perf_counter]
    for env in (FromTime, GlobalNumpy, Walk):
        check_env(env(), steps=50)
    assert [time.time, time.monotonic_ns, datetime.datetime, perf_counter] == clocks
    random.seed(5)
    np.random.seed(5)
    check_env(Walk(), steps=50)
    check_env(OwnGenerator(), steps=50)
    after = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    assert after == (random.random(), np.random.random())


# -- agents -----------------------------------------------------------------------------------


class Herd(ParallelEnv):
    """A healthy parallel environment: agent i ends at step 3 + i."""

    metadata = {"name": "herd_v0"}  # noqa: RUF012
    possible_agents = ["a_0", "a_1", "a_2", "a_3"]  # noqa: RUF012

    def __init__(self):
        self.space = spaces.Dict({"pos": spaces.Box(-1, 1, (2,), np.float32)})
        self.actions = spaces.Discrete(2)

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.actions

    def observe(self, agent):
        return {"pos": self.rng.random(2, np.float32)}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.t = 0
        return {a: self.observe(a) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions):
        self.t += 1
        assert actions.keys() == set(self.agents)
        present = self.agents
        over = {a: self.t >= 3 + int(a[-1]) for a in present}
        self.agents = [a for a in present if not over[a]]
        return (
            {a: self.observe(a) for a in present},
            dict.fromkeys(present, 1.0),
            over,
            dict.fromkeys(present, False),
            {a: {} for a in present},
        )


class TurnHerd(AECEnv):
    """The same, turn by turn: in round r, agents below r - 2 have ended."""

    metadata = {"name": "turn_herd_v0"}  # noqa: RUF012
    possible_agents = Herd.possible_agents

    def __init__(self):
        self.space = spaces.Dict({"pos": spaces.Box(-1, 1, (2,), np.float32)})
        self.actions = spaces.Discrete(2)

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.actions

    def observe(self, agent):
        return {"pos": self.values[agent]}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.t = 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {a: {} for a in self.agents}
        self.agent_selection = "a_0"
        self.values = {a: self.rng.random(2, np.float32) for a in self.agents}

    def step(self, action):
        if self.terminations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self.t += 1
        agent = self.agent_selection
        self.values[agent] = self.rng.random(2, np.float32)
        self.rewards = dict.fromkeys(self.agents, 0.5)
        self.terminations[agent] = self.t >= 9
        self.agent_selection = self.agents[(self.agents.index(agent) + 1) % len(self.agents)]
        self._deads_step_first()


def herd(change, base=Herd):
    """A herd in which `change(self, result)` makes the fault after each step."""

    class Faulty(base):
        def step(self, *args):
            result = super().step(*args)
            return change(self, result) or result

    return Faulty()


def revive(env, result):
    if env.t == 6:
        env.agents = ["a_1", *env.agents]


def stranger(index):
    def change(env, result):
        if env.t == 2:
            result[index]["a_9"] = result[index]["a_0"]

    return change


def forget(index):
    def change(env, result):
        if env.t == 2:
            del result[index]["a_1"]

    return change


def repeat(env, result):
    if env.t == 5:
        result[2]["a_0"] = True


def linger(env, result):
    if env.t == 3:
        env.agents = ["a_0", *env.agents]


def vanish(env, result):
    if env.t == 1:
        env.agents.remove("a_2")


def unknown_agent(env, result):
    if env.t == 2:
        env.agents.append("nobody")


def bad_value(env, result):
    if env.t == 2:
        result[0]["a_1"]["pos"] = np.array([0, 2], np.float32)


def bad_reward(env, result):
    if env.t == 2:
        result[1]["a_1"] = None


@pytest.mark.parametrize(
    "change, code, where, step, message",
    [
        (revive, "agent-revived", "agents.a_1", 6, "ended at step 4"),
        (stranger(0), "agent-key", "obs.a_9", 2, "takes no part"),
        (stranger(1), "agent-key", "reward.a_9", 2, "takes no part"),
        (stranger(2), "agent-key", "terminated.a_9", 2, "takes no part"),
        (forget(0), "agent-missing", "obs.a_1", 2, "the keys are ['a_0', 'a_2', 'a_3']"),
        (forget(1), "agent-missing", "reward.a_1", 2, "the keys are"),
        (forget(3), "agent-missing", "truncated.a_1", 2, "the keys are"),
        (repeat, "done-after-done", "terminated.a_0", 5, "reported at step 3"),
        (linger, "agent-lingers", "agents.a_0", 3, "still there"),
        (vanish, "agent-vanished", "agents.a_2", 1, "is gone"),
        (unknown_agent, "agents", "agents", 2, "['nobody'] are not in possible_agents"),
        (bad_value, "bounds", "obs.a_1.pos", 2, "2.0 is above its bound 1.0"),
        (bad_reward, "reward-type", "reward.a_1", 2, "None"),
    ],
)
def test_faults_of_parallel_environments(change, code, where, step, message):
    report = check_env(herd(change), steps=100)
    found = {(f.code, f.where): f for f in report.findings}
    assert (code, where) in found, str(report)
    finding = found[code, where]
    assert (finding.episode, finding.step) == (1, step)
    assert message in finding.message
    first = report.errors[:1] or report.findings
    assert first[0].step <= step  # what follows from the fault does not come before it


def selects_the_dead(env, result):
    if env.t == 12 and env.agents:
        env.agent_selection = "a_8"


def turn_stranger(env, result):
    if env.t == 2:
        env.rewards["a_9"] = 0.0


def turn_forget(env, result):
    if env.t == 2:
        del env.infos["a_1"]


@pytest.mark.parametrize(
    "change, code, where, message",
    [
        (turn_stranger, "agent-key", "reward.a_9", "takes no part"),
        (turn_forget, "agent-missing", "info.a_1", "the keys are"),
        (selects_the_dead, "agents", "agent_selection", "'a_8' is not in"),
    ],
)
def test_faults_of_turn_based_environments(change, code, where, message):
    report = check_env(herd(change, TurnHerd), steps=100)
    finding = {(f.code, f.where): f for f in report.findings}[code, where]
    assert finding.severity == "error" and message in finding.message
    assert finding.episode == 1 and finding.step >= 2


def test_a_turn_based_agent_that_comes_back():
    class Faulty(TurnHerd):
        def step(self, action):
            super().step(action)
            if self.t == 11 and "a_0" not in self.agents:
                self.agents.insert(0, "a_0")
                for values in (self.rewards, self._cumulative_rewards):
                    values["a_0"] = 0.0
                self.terminations["a_0"] = self.truncations["a_0"] = False
                self.infos["a_0"] = {}

    report = check_env(Faulty(), steps=100)
    assert ("agent-revived", "agents.a_0") in {(f.code, f.where) for f in report.errors}


def test_a_turn_based_agent_that_stays_after_its_last_step():
    class Faulty(TurnHerd):
        def step(self, action):
            if self.terminations[self.agent_selection]:
                self.agents = [*self.agents]
                self.agent_selection = self.agents[0]
                if self.t < 50:
                    self.t += 1
                    return
            super().step(action)

    report = check_env(Faulty(), steps=40)
    assert {f.code for f in report.errors} == {"agent-lingers"}


def test_no_agents_after_reset():
    class Empty(Herd):
        def reset(self, seed=None, options=None):
            result = super().reset(seed, options)
            self.agents = []
            return result

    only(check_env(Empty()), "agents", "agents")


@pytest.mark.parametrize("index, message", [(0, "obs"), (3, "truncated")])
def test_parallel_results_that_are_no_dictionaries(index, message):
    def change(env, result):
        return (*result[:index], None, *result[index + 1 :])

    finding = only(check_env(herd(change)), "result", message)
    assert "dict by agent" in finding.message and finding.step == 1


@pytest.mark.parametrize("herd_class", [Herd, TurnHerd])
def test_healthy_herds_and_their_seeds(herd_class):
    assert check_env(herd_class(), steps=200).findings == ()

    class Unseeded(herd_class):
        def reset(self, seed=None, options=None):
            super().reset(np.random.randint(1000), options)
            return super().reset(None, options)

    finding = only(check_env(Unseeded(), steps=200), "rng-global", "obs.a_0.pos")
    assert (finding.episode, finding.step) == (1, 0)


# -- masks, old interfaces, healthy environments ----------------------------------------------


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 2])])
@pytest.mark.parametrize("place", ["action_mask", "elsewhere"])
def test_random_actions_keep_to_the_mask(space, place):
    class Masked(Walk):
        action_space = space
        observation_space = spaces.Dict({place: spaces.MultiBinary(4)})

        def mask(self):
            legal = [0, 1, 1, 0] if self.t % 2 else [1, 0, 0, 1]
            return np.array(legal, np.int8)

        def observe(self):
            return {place: self.mask()}

        def reset(self, *, seed=None, options=None):
            observation, _ = super().reset(seed=seed)
            return observation, {"action_mask": self.mask()}

        def step(self, action):
            chosen = [action] if np.ndim(action) == 0 else [action[0], 2 + action[1]]
            if self.t < EPISODE and not self.mask()[chosen].all():
                raise ValueError(f"{action} is illegal")
            self.t += 1
            return self.observe(), 0.0, self.t >= EPISODE, False, {"action_mask": self.mask()}

    only(check_env(Masked(), steps=200), "seed-no-effect", "reset")


def test_old_gym_interface():
    class Old:
        observation_space = spaces.Box(-100, 100, (3,), np.float32)
        action_space = spaces.Discrete(3)

        def seed(self, seed):
            self.rng = np.random.default_rng(seed)

        def reset(self):
            self.t = 0
            return self.rng.random(3, np.float32)

        def step(self, action):
            self.t += 1
            return self.rng.random(3, np.float32), 0.0, self.t >= EPISODE, {}

    with pytest.warns(UserWarning, match="four values"):
        report = check_env(Old(), steps=50)
    assert only(report, "old-interface", "env").severity == "note"
    assert report.steps == 50


def test_old_pettingzoo_interface():
    class Old(Herd):
        def seed(self, seed):
            self.rng = np.random.default_rng(seed)

        def reset(self):
            return super().reset()[0]

        def step(self, actions):
            return (*super().step(actions)[:3], {})

    with pytest.warns(UserWarning, match="four values"):
        report = check_env(Old(), steps=50)
    only(report, "old-interface", "env")
    assert report.steps == 50


@pytest.mark.parametrize("wrong", [None, 3, Walk, "CartPole-v1"])
def test_what_is_no_environment(wrong):
    for function in (check_env, lambda env: shoal.emulate(env, debug=True)):
        with pytest.raises(shoal.EmulationError, match="environment"):
            function(wrong)


def test_a_space_without_fixed_size_is_mentioned():
    class Unbounded(Walk):
        observation_space = spaces.Dict({"seen": spaces.Sequence(spaces.Discrete(3))})

        def observe(self):
            return {"seen": (0,) * int(self.np_random.integers(3))}

    finding = only(check_env(Unbounded()), "space", "obs.seen")
    assert "max_len" in finding.message and finding.severity == "warning"


def make(name):
    if "." not in name:
        return gymnasium.make(name, disable_env_checker=True)
    module = importlib.import_module(name)
    return (getattr(module, "parallel_env", None) or module.env)()


@pytest.mark.parametrize(
    "name, codes",
    [
        ("CartPole-v1", set()),
        ("FrozenLake-v1", set()),
        ("Taxi-v4", {"step-after-end"}),
        ("Blackjack-v1", {"step-after-end"}),
        ("HalfCheetah-v5", set()),
        ("pettingzoo.classic.tictactoe_v3", {"seed-no-effect"}),
        ("mpe2.simple_spread_v3", set()),
    ],
)
def test_healthy_environments_have_no_errors(name, codes):
    env = make(name)
    report = check_env(env, steps=1001)
    env.close()
    assert report.ok, str(report)
    assert {f.code for f in report.findings} == codes
    assert report.steps == 1001 and report.env == name.rpartition(".")[2]


@pytest.mark.slow
def test_pistonball_has_no_errors():
    env = make("pettingzoo.butterfly.pistonball_v6")
    report = check_env(env, steps=300)
    env.close()
    assert report.ok, str(report)


@pytest.mark.parametrize("wrap", [lambda env: env, reproducible])
def test_nethack_does_not_reproduce_by_its_seed(wrap):
    gymnasium.register_envs(importlib.import_module("nle"))
    env = wrap(gymnasium.make("NetHackScore-v0", disable_env_checker=True))
    report = check_env(env, steps=300)
    env.close()
    (error,) = report.errors
    assert error.code == "rng-unseeded" and error.where.startswith("obs.") and error.step == 0
    assert "reset(seed=0)" in error.message and "seed() of its own" in error.message
    assert error.message.endswith("call it before each reset, as shoal.emulate does")
    # Unseeded as it is, it may or may not end within these steps.
    assert {f.code for f in report.findings} - {"never-ends"} == {"rng-unseeded", "reused"}
    assert "more, elsewhere" in str(report)


def test_the_documentation_lists_every_rule():
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \|", page, re.MULTILINE)
    assert rows == [(code, severity) for code, (severity, _) in RULES.items()]


# -- emulate(debug=True) ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", VALUES)
def test_debug_raises_the_same_at_the_faulty_step(fault):
    env = VALUES[fault][0]
    (told,) = check_env(env(), steps=EPISODE + 1).findings
    emulated = shoal.emulate(env(), debug=True)
    emulated.reset(seed=0)
    for _ in range(FAULT_STEP - 1):
        emulated.step(0)
    with pytest.raises(EnvCheckError) as error:
        emulated.step(0)
    assert str(error.value) == str(told)


def test_debug_warns_once_and_goes_on():
    env = shoal.emulate(faulty_leaf("pos", [1.0, 2.0, 3.0])(), debug=True)
    with pytest.warns(UserWarning, match=r"not-array\] obs\.pos, episode 1, step 4") as told:
        for _ in range(2):
            env.reset()
            for _ in range(EPISODE):
                env.step(0)
    assert len(told) == 1


def test_debug_leaves_healthy_environments_alone():
    plain, debug = shoal.emulate(Walk()), shoal.emulate(Walk(), debug=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env in (plain, debug):
            env.reset(seed=3)
        for action in (0, 1, 2):
            for a, b in zip(plain.step(action), debug.step(action)):
                np.testing.assert_array_equal(a, b)
    assert type(debug.unwrapped) is Walk


@pytest.mark.parametrize("base, change", [(Herd, bad_value), (TurnHerd, turn_stranger)])
def test_debug_covers_agents(base, change):
    told = check_env(herd(change, base), steps=20).errors[0]
    env = shoal.emulate(herd(change, base), debug=True)
    env.reset(seed=0)
    env.step(dict.fromkeys(env.agents, 0))
    with pytest.raises(EnvCheckError) as error:
        env.step(dict.fromkeys(env.agents, 0))
    told.count = 1  # debug stops at the first
    assert str(error.value) == str(told)


@pytest.mark.parametrize("base", [Herd, TurnHerd])
def test_debug_leaves_healthy_herds_alone(base):
    envs = [shoal.emulate(base(), debug=debug) for debug in (False, True)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [env.reset(seed=3) for env in envs]
        while envs[0].agents:
            np.testing.assert_equal(results[0], results[1])
            results = [env.step(dict.fromkeys(env.agents, 0)) for env in envs]
    assert envs[1].agents == []


# -- environments in C ------------------------------------------------------------------------


def test_an_observation_that_c_does_not_write_is_reported(tmp_path, capsys):
    path = built(tmp_path, "forgets", observe="")
    assert main(["check", path, "--steps", "20"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("walk: 0 steps")
    assert re.search(r"error\[native\] reset.*did not write observation position", out)
    good = built(tmp_path, "writes")
    assert main(["check", good, "--steps", "20"]) == 0
    assert capsys.readouterr().out.startswith("walk: 20 steps, ")


def test_an_error_of_checking_that_nobody_noted_is_reported():
    class Odd(Walk):
        def step(self, action):
            raise EnvCheckError("a fault that something else has found")

    finding = only(check_env(Odd(), steps=10), "native", "step")
    assert finding.message == "a fault that something else has found"
