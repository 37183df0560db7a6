"""What a vector promises beside its trajectories: seeds, statistics, calls, errors, lifetimes."""

import contextlib
import copy
import doctest
import functools
import importlib
import pickle
import subprocess
import sys
import textwrap

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from pettingzoo.classic import connect_four_v3

import shoal
from shoal.errors import (
    ActionError,
    ClosedError,
    EmulationError,
    EnvCheckError,
    PendingCallError,
    ResetNeededError,
)
from shoal.registry.creators import find_source
from tests.vectorization.environments import Crowd, Everything, Global

gymnasium.register_envs(ale_py)

MODES = ["next_step", "same_step", "disabled"]
WORKERS = {
    "serial": {"backend": "serial"},
    "multiprocess": {"backend": "multiprocess", "num_workers": 2, "start_method": "fork"},
}


@pytest.fixture(params=WORKERS)
def workers(request):
    return WORKERS[request.param]


class Recorder(gymnasium.Env):
    """Counts, tells in its infos all that was asked of it, and reuses its observation."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Discrete(5)

    def __init__(self, length=3, render_mode="rgb_array"):
        self.length = length
        self.render_mode = render_mode
        self.observation = np.zeros(2, np.float32)
        self.steps = 0  # since it was made
        self.resets = []
        self.mood = "calm"

    def reset(self, *, seed=None, options=None):
        self.resets.append((seed, options))
        self.observation[:] = -len(self.resets), 0
        return self.observation, {"asked": (seed, options)}

    def step(self, action):
        self.steps += 1
        self.observation[1] += 1
        over = bool(self.observation[1] >= self.length)
        info = {"score": 10.0 * self.observation[1].item(), "mood": self.mood}
        return self.observation, float(action), over, False, info

    def render(self):
        return np.full((2, 2, 3), self.steps, np.uint8)

    def double(self, x, *, plus=0):
        return 2 * x + plus + self.length


def lengths(n=4):
    return [functools.partial(Recorder, length=2 + i) for i in range(n)]


# -- seeds ------------------------------------------------------------------------------------


def first_observations(reset_seed, **how):
    vector = shoal.vectorize("CartPole-v1", 4, **how)
    observations = vector.reset(seed=reset_seed)[0].copy()
    vector.close()
    return observations


def test_environment_i_is_seeded_seed_plus_i(workers):
    ours = first_observations(20, **workers)
    for i in range(4):
        np.testing.assert_array_equal(ours[i], gymnasium.make("CartPole-v1").reset(seed=20 + i)[0])
    listed = first_observations([22, 23, 20, 99], **workers)
    np.testing.assert_array_equal(listed[:3], ours[[2, 3, 0]])
    assert len(np.unique(np.concatenate([ours, first_observations(30, **workers)]), axis=0)) == 8
    np.testing.assert_array_equal(first_observations(None, seed=20, **workers), ours)
    assert (first_observations(None, **workers) != first_observations(None, **workers)).all()


def test_what_each_environment_is_asked_for(workers):
    vector = shoal.vectorize(lengths(3), **workers)
    vector.reset(seed=[5, None, 7], options=[{"a": 1}, None, {"b": 2}])
    assert vector.get_attr("resets") == ([(5, {"a": 1})], [(None, None)], [(7, {"b": 2})])
    vector.reset(options={"level": 3})
    assert [each[-1] for each in vector.get_attr("resets")] == [(None, {"level": 3})] * 3
    vector.reset(seed=4)
    assert [each[-1] for each in vector.get_attr("resets")] == [(4, None), (5, None), (6, None)]
    for wrong in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="seed: expected one for each of 3 environments"):
            vector.reset(seed=wrong)
    with pytest.raises(ValueError, match="options: expected one for each"):
        vector.reset(options=[{}])
    vector.close()


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_options_reach_automatic_resets(workers, mode):
    vector = shoal.vectorize(lengths(3), autoreset=mode, **workers)
    vector.reset(seed=0, options={"only": "now"})
    vector.set_options([{"level": 1}, None, {"level": 3}])
    for _ in range(5):
        vector.step([0, 0, 0])
    resets = vector.get_attr("resets")
    assert [each[0] for each in resets] == [(i, {"only": "now"}) for i in range(3)]
    for each, options in zip(resets, ({"level": 1}, None, {"level": 3})):
        assert each[1:] and set(map(str, each[1:])) == {str((None, options))}
    vector.close()


@pytest.mark.parametrize(
    ("method", "with_torch"), [("fork", True), ("forkserver", True), ("spawn", False)]
)
def test_global_generators_differ_between_workers_and_repeat(method, with_torch):
    def play(seed):
        vector = shoal.vectorize(
            functools.partial(Global, with_torch),
            2,
            backend="multiprocess",
            num_workers=2,
            start_method=method,
            seed=seed,
        )
        observations = [vector.reset()[0].copy()] + [vector.step([0, 0])[0] for _ in range(2)]
        vector.close()
        return np.stack(observations)[..., : 2 + with_torch]

    one = play(1)
    np.testing.assert_array_equal(one, play(1))
    assert len(np.unique(one)) == one.size
    if method == "fork":
        assert len(np.unique([one, play(7)])) == 2 * one.size


def test_global_generators_of_this_process_repeat_too():
    def play(**how):
        vector = shoal.vectorize(functools.partial(Global, True), 2, backend="serial", **how)
        return np.stack([vector.reset()[0].copy()] + [vector.step([0, 0])[0] for _ in range(2)])

    one = play(seed=1)
    np.testing.assert_array_equal(one, play(seed=1))
    assert len(np.unique([one, play(seed=2)])) == 2 * one.size
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    assert play()[0, 0, 1] == expected  # without a seed they are left alone


# -- statistics -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_statistics_equal_a_plain_counter(workers, mode):
    """Returns and lengths of episodes; invalid rows are resets of NEXT_STEP, and nothing else."""
    vector = shoal.vectorize(Everything, 4, autoreset=mode, seed=3, max_len=100, **workers)
    vector.reset()
    vector.action_space.seed(0)
    total, count = np.zeros(4), np.zeros(4, int)
    finished, invalid, due = [], 0, np.zeros(4, bool)
    for _ in range(300):
        vector.send(vector.action_space.sample())
        batch = vector.recv()
        np.testing.assert_array_equal(batch.masks, ~due if mode == "next_step" else True)
        invalid += (~batch.masks).sum()
        total[batch.masks] += batch.rewards[batch.masks]
        count[batch.masks] += 1
        over = batch.terminations | batch.truncations
        for env in range(4):
            if over[env]:
                finished.append((total[env], count[env]))
                total[env] = count[env] = 0
        if mode == "same_step":  # the rows hold what ended, and begin again after that
            assert (
                vector.episode_returns[over].tolist()
                == [r for r, _ in finished[-over.sum() :]][: over.sum()]
            )
        else:
            np.testing.assert_array_equal(
                vector.episode_returns[~over & batch.masks], total[~over & batch.masks]
            )
            np.testing.assert_array_equal(
                vector.episode_lengths[~over & batch.masks], count[~over & batch.masks]
            )
        if mode == "disabled" and over.any():
            vector.reset(options={"reset_mask": over})
        due = over
    statistics = vector.statistics()
    returns, steps = np.array(finished).T
    assert statistics["episodes"] == len(finished) > 50
    assert statistics["return"] == pytest.approx(returns.mean(), rel=1e-12)
    assert statistics["length"] == steps.mean()
    assert invalid == (len(finished) - due.sum() if mode == "next_step" else 0)
    assert vector.statistics() == {"episodes": 0}
    vector.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dying", [False, True])
def test_statistics_of_agents_equal_a_plain_counter(dying, mode):
    create = functools.partial(Crowd, dying=dying)
    vector = shoal.vectorize(create, 2, backend="serial", autoreset=mode, seed=3)
    vector.reset()
    total, count, finished = np.zeros(8), np.zeros(8, int), []
    for _ in range(300):
        vector.send(np.ones(8, np.int64))
        batch = vector.recv()
        for row in np.flatnonzero(batch.masks):
            total[row] += batch.rewards[row]
            count[row] += 1
            if batch.terminations[row] or batch.truncations[row]:
                finished.append((total[row], count[row]))
                total[row] = count[row] = 0
        assert not (batch.terminations | batch.truncations)[~batch.masks].any()
        over = ~vector.acting.reshape(2, 4).any(axis=1)
        if mode == "disabled" and over.any():
            with pytest.raises(ResetNeededError):
                vector.step(np.ones(8, np.int64))
            vector.reset(options={"reset_mask": over})
    statistics = vector.statistics()
    returns, steps = np.array(finished).T
    assert statistics["episodes"] == len(finished) > 50
    assert statistics["return"] == pytest.approx(returns.mean(), rel=1e-12)
    assert statistics["length"] == steps.mean()
    vector.close()


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_numbers_in_the_last_info_of_an_episode_are_averaged(workers, mode, as_list):
    vector = shoal.vectorize(lengths(2), autoreset=mode, **workers)  # episodes of 2 and 3 steps
    vector.list_infos = as_list
    vector.reset()
    for _ in range(2):
        vector.step([1, 2])
    statistics = vector.statistics()
    assert statistics.pop("time") > 0
    assert statistics == {"episodes": 1, "return": 2.0, "length": 2.0, "score": 20.0}
    if mode == "disabled":
        vector.reset(options={"reset_mask": np.array([True, False])})
        assert vector.statistics() == {"episodes": 0}  # rows that are left alone are counted once
    vector.step([1, 2])
    statistics = vector.statistics()
    assert (statistics["episodes"], statistics["return"], statistics["score"]) == (1, 6.0, 30.0)
    vector.close()


# -- final observations -----------------------------------------------------------------------


def test_final_observations_of_an_environment_that_reuses_its_own(workers):
    for mode in ("next_step", "same_step"):
        vector = shoal.vectorize(lengths(3), autoreset=mode, **workers)
        vector.reset()
        episode = np.ones(3)
        for _ in range(20):
            *_, terminations, _, infos = vector.step([0, 0, 0])
            over = np.flatnonzero(terminations)
            for i in over:
                final = vector.final_observations[i]
                assert final.tolist() == [-episode[i], 2 + i]
            if mode == "same_step" and len(over):
                assert [infos["final_obs"][i].tolist() for i in over] == (
                    vector.final_observations[over].tolist()
                )
                assert infos["_final_obs"].tolist() == terminations.tolist()
                assert infos["final_info"]["score"][over].tolist() == (20.0 + 10 * over).tolist()
            episode[over] += 1
        assert episode.min() > 4
        vector.close()


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_final_observations_of_nethack(mode):
    pytest.importorskip("nle")
    name = "nle:NetHackScore-v0"
    vector = shoal.vectorize(
        name, 2, backend="serial", autoreset=mode, env_kwargs={"max_episode_steps": 12}
    )
    bare = shoal.emulate(find_source(name, 1, {"max_episode_steps": 12}).creators[0]())
    observation, _ = bare.reset(seed=1)
    np.testing.assert_array_equal(vector.reset(seed=[1, 2])[0][0], observation)
    actions = np.random.default_rng(0).integers(bare.action_space.n, size=40)
    for action in actions:
        *_, terminations, truncations, infos = vector.step([action, action])
        final, _, terminated, truncated, _ = bare.step(action)
        np.testing.assert_array_equal(
            vector.final_observations[0] if terminated or truncated else final, final
        )
        assert (terminations[0], truncations[0]) == (terminated, truncated)
        if terminated or truncated:
            if mode == "same_step":
                np.testing.assert_array_equal(infos["final_obs"][0], final)
            break
    else:
        pytest.fail("no episode has ended")
    vector.close()
    bare.close()


# -- resets of some ---------------------------------------------------------------------------


def test_reset_mask(workers):
    vector = shoal.vectorize(lengths(4), autoreset="disabled", **workers)
    vector.reset(seed=0)
    before = vector.step([0] * 4)[0].copy()
    vector.step([0] * 4)  # the first is over
    with pytest.raises(ResetNeededError, match=r"environments \[0\] are over"):
        vector.step([0] * 4)
    assert vector.get_attr("steps") == (2, 2, 2, 2)
    mask = np.array([True, False, False, True])
    options = {"reset_mask": mask, "level": 2}
    vector.async_reset(seed=50, options=options)
    batch = vector.recv()
    assert options == {"reset_mask": mask, "level": 2}  # as it was
    assert batch.observations.tolist() == [[-2, 0], [-1, 2], [-1, 2], [-2, 0]]
    assert before.tolist() == [[-1, 1]] * 4
    assert batch.masks.tolist() == mask.tolist()
    assert batch.infos["_asked"].tolist() == mask.tolist()
    assert [batch.infos["asked"][i] for i in (0, 3)] == [(50, {"level": 2}), (53, {"level": 2})]
    assert vector.episode_lengths.tolist() == [0, 2, 2, 0]
    assert vector.step([0] * 4)[0].tolist() == [[-2, 1], [-1, 3], [-1, 3], [-2, 1]]
    vector.close()


@pytest.mark.parametrize(
    "mask",
    [
        [True, False],
        np.array([True]),
        np.array([[True, False]]),
        np.array([1, 0]),
        np.array([False, False]),
        None,
    ],
)
def test_wrong_reset_masks_are_refused_as_gymnasium_does(mask):
    ours = shoal.vectorize("CartPole-v1", 2, backend="serial")
    theirs = SyncVectorEnv([functools.partial(gymnasium.make, "CartPole-v1")] * 2)
    raised = []
    for vector in (ours, theirs):
        vector.reset(seed=0)
        with pytest.raises(Exception) as error:
            vector.reset(options={"reset_mask": mask})
        raised.append(error.type)
        vector.close()
    assert raised[0] is raised[1]


# -- single environments ----------------------------------------------------------------------


def test_calls_and_attributes(workers):
    vector = shoal.vectorize(lengths(3), **workers)
    vector.reset()
    assert vector.call("double", 5, plus=1) == (13, 14, 15)
    assert vector.call("length") == vector.get_attr("length") == (2, 3, 4)
    vector.set_attr("mood", "wild")
    assert vector.step([0] * 3)[4]["mood"].tolist() == ["wild"] * 3
    vector.set_attr("mood", ["a", "b", "c"])
    assert vector.get_attr("mood") == ("a", "b", "c")
    for wrong in (["a", "b"], ("a",) * 4):
        with pytest.raises(ValueError, match="expected 3 values"):
            vector.set_attr("mood", wrong)
    with pytest.raises(AttributeError, match="nonsense"):
        vector.get_attr("nonsense")
    with pytest.raises(TypeError, match="double"):
        vector.call("double")
    assert vector.call("double", 5) == (12, 13, 14)  # an error of a call ends nothing
    assert (vector.render_mode, vector.metadata["render_fps"]) == ("rgb_array", 7)
    vector.step([0] * 3)
    assert vector.call_on([2, 0], "double", 5, plus=1) == [15, 13]
    assert vector.call_on([1], "length") == [3] and vector.call_on([], "length") == []
    vector.call_on([1], setattr, "mood", "b")
    assert vector.get_attr("mood") == ("a", "b", "c")
    assert vector.call(lambda env, x: (env.length, x), 7) == ((2, 7), (3, 7), (4, 7))
    frames = vector.render()
    assert isinstance(frames, tuple) and [frame.max() for frame in frames] == [2, 2, 2]
    assert vector.render(1).shape == (2, 2, 3)
    with pytest.raises(IndexError):
        vector.render(3)
    vector.close()


# -- calls out of order -----------------------------------------------------------------------

LAST_BATCH = ["acting", "action_masks", "episode_lengths", "episode_returns", "occupants"]


def test_calls_out_of_order_name_the_pending_one(workers):
    vector = shoal.vectorize(lengths(3), **workers)
    with pytest.raises(PendingCallError, match="reset") as error:
        vector.step([0] * 3)
    assert error.value.name == "reset"
    with pytest.raises(PendingCallError, match="send actions first") as error:
        vector.recv()
    assert error.value.name == "step"
    for name in LAST_BATCH:
        with pytest.raises(PendingCallError, match=f"{name}: no batch"):
            getattr(vector, name)
    with pytest.raises(PendingCallError, match="reset all environments first"):
        vector.reset(options={"reset_mask": np.ones(3, bool)})
    for pending, begin in (
        ("reset", vector.async_reset),
        ("step", functools.partial(vector.send, [1, 1, 1])),
    ):
        begin()
        for call in (
            vector.async_reset,
            vector.reset,
            functools.partial(vector.send, [0] * 3),
            functools.partial(vector.step, [0] * 3),
            functools.partial(vector.call, "length"),
            functools.partial(vector.get_attr, "length"),
            functools.partial(vector.set_attr, "mood", 1),
            functools.partial(vector.set_options, {}),
            vector.render,
            vector.get_state,
        ):
            with pytest.raises(PendingCallError, match=f"a {pending} is pending") as error:
                call()
            assert error.value.name == pending
        rewards = vector.recv().rewards
    assert rewards.tolist() == [1, 1, 1]
    assert vector.get_attr("steps") == (1, 1, 1)
    vector.close()


def test_out_of_order_in_a_pool():
    vector = shoal.vectorize(
        Recorder, 4, backend="pool", num_workers=2, batch_size=2, start_method="fork"
    )
    for call in (vector.reset, functools.partial(vector.step, [0] * 4)):
        with pytest.raises(PendingCallError, match="use async_reset, send and recv"):
            call()
    vector.async_reset(seed=0)
    vector.recv()
    first = vector.env_ids.copy()
    with pytest.raises(PendingCallError, match="a reset is pending"):
        vector.async_reset()
    others = np.setdiff1d(np.arange(4), first)
    with pytest.raises(PendingCallError, match=rf"environments \[{others[0]}\] have not answered"):
        vector.send([0, 0], [first[0], others[0]])
    for wrong, why in (
        ([0, 0], "named twice"),
        ([0, 4], "expected 0 to 3"),
        ([-1, 0], "expected 0 to 3"),
        ([[0, 1]], "list of integers"),
        ([0.0, 1.0], "list of integers"),
    ):
        with pytest.raises(ValueError, match=why):
            vector.send([0, 0], wrong)
    vector.send([1, 2], first[::-1])  # the actions go with the ids as they are given
    seen = {}
    for _ in range(2):
        batch = vector.recv()
        seen.update(zip(vector.env_ids.tolist(), batch.rewards.tolist()))
    assert seen == {first[1]: 1.0, first[0]: 2.0, others[0]: 0.0, others[1]: 0.0}
    with pytest.raises(PendingCallError, match="0 environments are on their way"):
        vector.recv()
    vector.close()


def test_a_closed_vector_says_so(workers):
    vector = shoal.vectorize("CartPole-v1", 2, **workers)
    vector.reset()
    vector.close()
    vector.close()
    assert vector.closed
    for call in (
        vector.reset,
        vector.async_reset,
        vector.recv,
        functools.partial(vector.step, [0, 0]),
        functools.partial(vector.send, [0, 0]),
        functools.partial(vector.call, "render"),
        vector.get_state,
        *(functools.partial(getattr, vector, name) for name in LAST_BATCH),
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()


# -- actions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "actions",
    [
        [0, 0],
        [0, 0, 0, 0],
        0,
        [[0], [0], [0]],
        [0.0, 0.0, 0.0],
        [0, 0, 5],
        [0, -1, 0],
        [0, 0, 2**40],
        np.array([0, 0, 2**63], np.uint64),
        ["0", "0", "0"],
        [0, None, 0],
        [[0], [0, 1], 0],
        None,
        {"a": 1},
        torch.zeros(3, requires_grad=True),
        np.zeros(3, np.complex64),
    ],
    ids=str,
)
def test_wrong_discrete_actions_step_nothing(workers, actions):
    vector = shoal.vectorize(lengths(3), **workers)
    vector.reset()
    for call in (vector.step, vector.send):
        with pytest.raises(ActionError, match="action"):
            call(actions)
    assert vector.get_attr("steps") == (0, 0, 0)
    assert vector.step([4, 3, 2])[1].tolist() == [4, 3, 2]
    vector.close()


@pytest.mark.parametrize(
    "actions",
    [
        np.zeros((3, 2)),
        np.zeros(3),
        np.full((3, 1), 3.5),
        np.full((3, 1), np.nan),
        np.full((3, 1), 1j),
        np.zeros((2, 1)),
    ],
)
def test_wrong_continuous_actions_step_nothing(actions):
    vector = shoal.vectorize("Pendulum-v1", 3, backend="serial")  # Box(-2, 2, (1,))
    before = vector.reset(seed=0)[0].copy()
    with pytest.raises(ActionError, match="action"):
        vector.step(actions)
    np.testing.assert_array_equal(
        before, np.stack([env._get_obs() for env in vector.get_attr("unwrapped")])
    )
    vector.close()


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        torch.tensor,
        lambda a: np.array(a, np.int32),
        lambda a: np.array(a, np.uint8),
        lambda a: np.repeat(a, 2)[::2],
        lambda a: [np.int64(each) for each in a],
        lambda a: [torch.tensor(each) for each in a],
    ],
)
def test_actions_of_any_kind(convert):
    vector = shoal.vectorize(lengths(3), backend="serial")
    vector.reset()
    assert vector.step(convert([4, 0, 2]))[1].tolist() == [4, 0, 2]
    vector.close()


def test_continuous_actions_of_any_kind():
    ours = shoal.vectorize("Pendulum-v1", 3, backend="serial", seed=1)
    ours.reset()
    expected = None
    for convert in (np.float32, np.float64, torch.tensor, list, np.asfortranarray):
        ours.reset(seed=1)
        rewards = ours.step(convert([[0.5], [-1.0], [2.0]]))[1]
        expected = rewards if expected is None else expected
        np.testing.assert_array_equal(rewards, expected)
    assert ours.step(np.zeros((3, 1), int))[1].shape == (3,)
    ours.close()


def test_hybrid_actions(workers):
    class Echo(gymnasium.Env):
        observation_space = spaces.Box(-9, 9, (3,), np.float64)
        action_space = spaces.Dict(
            {"go": spaces.Discrete(3, start=1), "force": spaces.Box(-1, 1, (2,), np.float32)}
        )
        steps = 0

        def reset(self, *, seed=None, options=None):
            return np.zeros(3), {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.steps += 1
            return np.array([action["go"], *action["force"]], np.float64), 0.0, False, False, {}

    vector = shoal.vectorize(Echo, 2, **workers)
    vector.reset()
    good = {"continuous": np.array([[0.5, 1], [-1, 0]], np.float32), "discrete": [[1], [3]]}
    assert vector.step(good)[0].tolist() == [[1, 0.5, 1], [3, -1, 0]]
    for wrong in (
        {"continuous": good["continuous"]},
        {**good, "more": 1},
        {**good, "discrete": [[0], [1]]},
        {**good, "discrete": [1, 3]},
        {**good, "discrete": [[1.0], [1.0]]},
        {**good, "continuous": [[0.5, 1.5], [0, 0]]},
        {**good, "continuous": [[0.5, np.nan], [0, 0]]},
        good["continuous"],
        [good, good],
    ):
        with pytest.raises(ActionError, match="action"):
            vector.step(wrong)
    assert vector.get_attr("steps") == (1, 1)
    vector.close()


# -- lifetimes and debugging ------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [4, 2])
def test_observations_live_until_the_second_following_recv(batch_size):
    vector = shoal.vectorize(
        Recorder, 4, backend="pool", num_workers=2, batch_size=batch_size, start_method="fork"
    )
    vector.async_reset()
    held = []
    for step in range(60):
        batch = vector.recv()
        assert not batch.observations.flags.owndata
        held.append((batch.observations, batch.observations.copy()))
        for view, kept in held[-2:]:
            np.testing.assert_array_equal(view, kept)
        vector.send(np.full(batch_size, step % 5))
        for view, kept in held[-2:]:
            np.testing.assert_array_equal(view, kept)
    vector.close()


def test_copies_stay(workers):
    vector = shoal.vectorize(Recorder, 2, copy=True, **workers)
    kept = [vector.reset()[0]] + [vector.step([0, 0])[0] for _ in range(7)]
    assert [each[0, 1] for each in kept] == [0, 1, 2, 3, 0, 1, 2, 3]
    vector.close()


def test_small_arrays_are_the_callers(workers):
    vector = shoal.vectorize(lengths(2), **workers)
    vector.reset()
    kept = [vector.step([n % 5, 0]) for n in range(6)]
    assert [each[1][0] for each in kept] == [0, 1, 0, 3, 4, 0]  # every third step resets
    assert [each[2][0] for each in kept] == [False, True, False, False, True, False]
    vector.close()


def test_observations_outlive_the_vector(workers):
    vector = shoal.vectorize("CartPole-v1", 2, **workers)
    observations, _ = vector.reset(seed=0)
    copy = observations.copy()
    vector.close()
    del vector
    np.testing.assert_array_equal(observations, copy)


@pytest.mark.parametrize("create", [Recorder, "Taxi-v4"])
def test_debug_poisons_what_has_expired(workers, create):
    vector = shoal.vectorize(create, 2, debug=True, **workers)
    first = vector.reset(seed=0)[0]
    kept = first.copy()
    vector.step([0, 0])
    np.testing.assert_array_equal(first, kept)
    vector.step([0, 0])
    if first.dtype.kind == "f":
        assert np.isnan(first).all()
    else:
        assert not vector.single_observation_space.contains(first[0])
    vector.close()


def test_debug_names_the_environment_and_the_leaf(workers):
    class Wrong(gymnasium.Env):
        observation_space = spaces.Dict({"pack": spaces.Tuple((spaces.Box(0, 1, (2,)),))})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"pack": (np.zeros(2, np.float32),)}, {}

        def step(self, action):
            value = np.array([0, 7 * action], np.float32)
            return {"pack": (value,)}, 0.0, False, False, {}

    vector = shoal.vectorize(Wrong, 3, debug=True, **workers)
    vector.reset(seed=0)
    vector.step([0, 0, 0])
    with pytest.raises(EnvCheckError, match=r"pack\[0\]") as error:
        vector.step([0, 0, 1])
    assert "environment 2" in "".join(error.value.__notes__)
    vector.close()


# -- masks and several agents -----------------------------------------------------------------


def test_action_masks_of_infos(workers):
    vector = shoal.vectorize("Taxi-v4", 3, seed=0, **workers)
    _, infos = vector.reset()
    rng = np.random.default_rng(0)
    for _ in range(40):
        np.testing.assert_array_equal(vector.action_masks, infos["action_mask"] == 1)
        assert vector.action_masks.dtype == bool and vector.action_masks.shape == (3, 6)
        actions = [rng.choice(np.flatnonzero(mask)) for mask in vector.action_masks]
        *_, infos = vector.step(actions)
    vector.close()


def test_a_turn_based_game_follows_its_own_loop(workers):
    """Random legal moves in connect four, several games after each other."""
    vector = shoal.vectorize("pettingzoo.classic.connect_four_v3", 2, seed=0, **workers)
    assert (vector.num_envs, vector.agents_per_env, vector.num_rows) == (2, 2, 4)
    assert vector.agents == ["player_0", "player_1"]
    game = connect_four_v3.env()
    game.reset(seed=0)
    vector.async_reset()
    rng = np.random.default_rng(0)
    finals = 0
    for _ in range(150):
        batch = vector.recv()
        actions = np.zeros(4, np.int64)
        for env in range(2):
            acting = np.flatnonzero(vector.acting[2 * env : 2 * env + 2])
            assert len(acting) == (1 if game.agents else 0)
            for seat in acting:
                row = 2 * env + seat
                assert game.agent_selection == f"player_{seat}"
                expected = game.observe(game.agent_selection)
                ours = vector.observation_layout.view(batch.observations)
                np.testing.assert_array_equal(ours["observation"][row], expected["observation"])
                np.testing.assert_array_equal(
                    vector.action_masks[row], expected["action_mask"] == 1
                )
        if game.agents:
            actions[:] = rng.choice(np.flatnonzero(expected["action_mask"]))
            game.step(actions[0])
            if game.terminations[game.agent_selection]:
                last = {agent: game.rewards[agent] for agent in game.agents}
                while game.agents:
                    game.step(None)
        else:  # the batch had the ends of all agents; the next step resets
            assert batch.terminations.all() and batch.masks.all()
            assert batch.rewards.tolist() == [last["player_0"], last["player_1"]] * 2
            finals += 1
            game.reset()
        vector.send(actions)
    assert finals >= 3
    vector.close()


def test_infos_of_agents_go_to_their_rows(workers):
    vector = shoal.vectorize(functools.partial(Crowd, dying=True), 3, seed=0, **workers)
    _, infos = vector.reset()
    assert infos["born"].tolist() == [True] * 12 and infos["_born"].all()
    for _ in range(50):
        vector.send(np.ones(12, np.int64))
        batch = vector.recv()
        told = batch.infos.get("_where", np.zeros(12, bool))
        np.testing.assert_array_equal(told, batch.masks & (batch.rewards > 0))
        for row in np.flatnonzero(told):
            assert batch.infos["where"][row][0] == batch.rewards[row]
        np.testing.assert_array_equal(
            batch.infos.get("_born", np.zeros(12, bool)), vector.acting & ~batch.masks
        )
        assert (vector.occupants[vector.acting] == (np.arange(12) % 4)[vector.acting]).all()
        assert (vector.occupants >= 0)[batch.masks].all()
    vector.close()


def row_of(infos, row):
    """One environment's part of the dict of arrays, as a dict of Python's own values."""
    return {
        key: row_of(value, row) if isinstance(value, dict) else as_list(value[row])
        for key, value in infos.items()
        if key[0] != "_" and key != "final_obs" and infos[f"_{key}"][row]
    }


def as_list(value):
    if isinstance(value, dict):
        return {key: as_list(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize("create", [Everything, Crowd, functools.partial(Crowd, dying=True)])
def test_infos_as_a_list_tell_the_same(workers, create, mode):
    vectors = [
        shoal.vectorize(create, 3, autoreset=mode, seed=0, max_len=99, **workers) for _ in range(2)
    ]
    vectors[1].list_infos = True
    told = finals = 0
    actions = None
    for step in range(80):
        calls = [vector.step(actions) if step else vector.reset() for vector in vectors]
        together, each = (call[-1] for call in calls)
        rows = range(vectors[0].num_rows)
        assert [as_list(info) for info in each] == [row_of(together, row) for row in rows]
        told += sum(map(bool, each))
        finals += sum("final_info" in info for info in each)
        actions = vectors[0].action_space.sample()
    assert told > 20 and (finals > 0) == (mode == "same_step")
    for vector in vectors:
        vector.close()


def test_infos_as_a_list_are_what_environments_returned(workers):
    class Odd(Recorder):
        kept = [0]  # noqa: RUF012

        def step(self, action):
            observation, reward, terminated, truncated, _ = super().step(action)
            self.kept[0] = self.steps
            odd = [1, 0.5, "text", {"deep": (1,)}, None, np.arange(self.steps)][self.steps - 1]
            return observation, reward, terminated, truncated, {"odd": odd, "kept": self.kept}

    vector = shoal.vectorize(functools.partial(Odd, length=99), 2, **workers)
    vector.list_infos = True
    assert vector.reset(seed=4)[1] == [{"asked": (4, None)}, {"asked": (5, None)}]
    held = [vector.step([0, 0])[4] for _ in range(6)]
    assert [infos[1]["kept"] for infos in held] == [[1], [2], [3], [4], [5], [6]]
    odd = [infos[0]["odd"] for infos in held]
    assert odd[:5] == [1, 0.5, "text", {"deep": (1,)}, None] and type(odd[0]) is int
    assert odd[5].tolist() == [0, 1, 2, 3, 4, 5]
    vector.close()


# -- snapshots --------------------------------------------------------------------------------


def own_state():
    class Own(gymnasium.Env):
        """Can't be pickled, but saves itself."""

        observation_space = spaces.Box(-np.inf, np.inf, (), np.float64)
        action_space = spaces.Discrete(2)

        def __init__(self):
            self.at, self.unpicklable = 0.0, (n for n in ())

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.at = self.np_random.normal()
            return np.float64(self.at), {}

        def step(self, action):
            self.at += self.np_random.normal() + action
            return np.float64(self.at), self.at, False, False, {}

        def get_state(self):
            return self.at, self.np_random.bit_generator.state

        def set_state(self, state):
            self.at, self.np_random.bit_generator.state = state

    return gymnasium.wrappers.TimeLimit(Own(), 7)


SAVED = {
    "CartPole": functools.partial(gymnasium.make, "CartPole-v1"),
    "MuJoCo": functools.partial(gymnasium.make, "Hopper-v5"),
    "Atari": functools.partial(
        gymnasium.make, "ALE/Pong-v5", max_episode_steps=30, repeat_action_probability=0.0
    ),
    "its own": own_state,
    "agents": functools.partial(Crowd, dying=True),
    "turns": connect_four_v3.env,
    "nested": Everything,
}


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize("name", SAVED)
def test_a_snapshot_goes_on_exactly(workers, name, mode):
    """In this vector, and in a new one of the other kind."""
    options = {"autoreset": mode, "copy": True}
    if name == "nested":
        options["max_len"] = 100
    vector = shoal.vectorize(SAVED[name], 3, **options, **workers)
    vector.action_space.seed(0)
    actions = [vector.action_space.sample() for _ in range(80)]
    vector.reset(seed=1)
    for action in actions[:25]:
        vector.step(action)

    def go_on(vector):
        results = []
        for action in actions[25:]:
            vector.send(action)
            batch = vector.recv()
            results.append(
                [each.tobytes() for each in (*batch[:4], batch.masks, vector.acting)]
                + [vector.episode_returns.tolist(), vector.episode_lengths.tolist()]
            )
        return results

    states = vector.get_state()
    expected = go_on(vector)
    vector.set_state(states)
    assert go_on(vector) == expected
    vector.close()
    kind = "multiprocess" if vector.backend == "serial" else "serial"
    other = shoal.vectorize(SAVED[name], 3, **options, **WORKERS[kind])
    other.set_state(states)
    assert go_on(other) == expected
    with pytest.raises(ValueError, match="expected 3 states, got 2"):
        other.set_state(states[:2])
    other.close()


def test_what_cannot_be_saved_says_so(workers):
    class Generator(Recorder):
        def __init__(self):
            super().__init__()
            self.unpicklable = (n for n in ())

    vector = shoal.vectorize(Generator, 2, **workers)
    vector.reset()
    with pytest.raises(EmulationError, match=r"environment 0 can't be saved.*generator"):
        vector.get_state()
    vector.step([0, 0])  # and that is all
    vector.close()


def test_a_snapshot_remembers_whose_episode_is_over(workers):
    vector = shoal.vectorize(lengths(2), autoreset="disabled", **workers)
    vector.reset()
    vector.step([0, 0])
    vector.step([0, 0])
    states = vector.get_state()
    vector.close()
    vector = shoal.vectorize(lengths(2), autoreset="disabled", **workers)
    vector.set_state(states)
    with pytest.raises(ResetNeededError, match=r"\[0\]"):
        vector.step([0, 0])
    observations, _ = vector.reset(options={"reset_mask": np.array([True, False])})
    assert observations.tolist() == [[-2, 0], [-1, 2]]
    vector.close()


# -- where creators may stand -----------------------------------------------------------------

SCRIPT = """
import gymnasium, numpy as np, shoal, sys

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, scale=1):
        self.scale = scale

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {"mine": self}

    def observe(self):
        return np.float32(self.scale * self.np_random.random(2))

    def step(self, action):
        return self.observe(), 0.0, False, False, {}

scale = 3
found = []
for how in ({"backend": "serial"}, {"backend": "multiprocess", "num_workers": 2}):
    if how["backend"] != "serial":
        how["start_method"] = sys.argv[1]
    limited = lambda: gymnasium.wrappers.TimeLimit(Mine(), 5)
    for create in (Mine, lambda: Mine(scale), [Mine, limited]):
        vector = shoal.vectorize(create, 2, **how)
        observations, infos = vector.reset(seed=1)
        assert type(infos["mine"][0]) is Mine
        found.append((observations.tolist(), vector.step([0, 1])[0].tolist()))
        vector.close()
assert found[:3] == found[3:]
assert found[1][0][0] != found[0][0][0]
print("done")
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_creators_in_a_script_without_a_guard(tmp_path, method):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    for command in (["script.py"], ["-c", SCRIPT]):
        result = subprocess.run(
            [sys.executable, *command, method],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        assert (result.stdout, result.stderr) == ("done\n", "")


# -- Gymnasium's wrappers ---------------------------------------------------------------------


def cartpoles(ours, mode):
    if ours:
        return shoal.vectorize(
            "CartPole-v1", 3, autoreset=mode, backend="multiprocess", num_workers=2
        )
    create = functools.partial(gymnasium.make, "CartPole-v1")
    return SyncVectorEnv([create] * 3, autoreset_mode=AutoresetMode[mode.upper()])


def doubled(vector):
    return vector_wrappers.TransformObservation(vector, lambda each: each * 2)


WRAPPERS = {  # and whether they take the SAME_STEP mode
    vector_wrappers.RecordEpisodeStatistics: True,
    vector_wrappers.NormalizeReward: True,
    functools.partial(vector_wrappers.ClipReward, max_reward=0.5): True,
    vector_wrappers.DictInfoToList: True,
    vector_wrappers.NormalizeObservation: False,
    vector_wrappers.FlattenObservation: False,
    doubled: False,
}


@pytest.mark.parametrize(
    ("wrap", "mode"),
    [(wrap, "next_step") for wrap in WRAPPERS]
    + [(wrap, "same_step") for wrap, takes in WRAPPERS.items() if takes],
)
def test_gymnasiums_vector_wrappers_give_the_same(wrap, mode):
    with_ours, with_theirs = (wrap(cartpoles(ours, mode)) for ours in (True, False))
    one, other = (vector.reset(seed=4) for vector in (with_ours, with_theirs))
    np.testing.assert_array_equal(one[0], other[0])
    rng = np.random.default_rng(1)
    for _ in range(100):
        actions = rng.integers(2, size=3)
        one, other = with_ours.step(actions), with_theirs.step(actions)
        for mine, theirs in zip(one[:4], other[:4]):
            np.testing.assert_array_equal(mine, theirs)
        mine, theirs = one[4], other[4]
        if isinstance(theirs, list):
            assert [set(each) for each in mine] == [set(each) for each in theirs]
        elif "episode" in theirs:
            np.testing.assert_array_equal(mine["_episode"], theirs["_episode"])
            for key in ("r", "l"):
                np.testing.assert_array_equal(mine["episode"][key], theirs["episode"][key])
        else:
            assert mine.keys() == theirs.keys()
    with_ours.close()
    with_theirs.close()


def test_it_is_a_vector_environment():
    with_ours, with_theirs = (cartpoles(ours, "next_step") for ours in (True, False))
    assert isinstance(with_ours, gymnasium.vector.VectorEnv)
    assert with_ours.unwrapped is with_ours
    for name in (
        "num_envs",
        "single_observation_space",
        "single_action_space",
        "observation_space",
        "action_space",
        "metadata",
        "render_mode",
        "closed",
    ):
        assert getattr(with_ours, name) == getattr(with_theirs, name), name
    with_ours.close()
    with_theirs.close()


# -- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 2.0}, "num_envs"),
        ({"env": [], "num_envs": None}, "must not be an empty list"),
        ({"env": 3}, "env must be a name.*got int"),
        ({"env": [Recorder], "num_envs": 2}, "length of the list env"),
        ({"env": Recorder, "env_kwargs": {"length": 3}}, "env_kwargs"),
        ({"backend": "threads"}, "backend"),
        ({"autoreset": "never"}, "autoreset"),
        ({"on_error": "ignore"}, "on_error"),
        ({"order": "random"}, "order"),
        ({"backend": "serial", "num_workers": 2}, "no workers"),
        ({"backend": "serial", "batch_size": 2}, "no workers"),
        ({"backend": "multiprocess", "num_workers": 5}, "num_workers"),
        ({"backend": "multiprocess", "num_workers": 0}, "num_workers"),
        ({"backend": "multiprocess", "batch_size": 2}, 'must be num_envs.*backend="pool"'),
        ({"backend": "pool", "batch_size": 5}, "batch_size"),
        ({"backend": "pool", "batch_size": 3, "order": "fixed"}, "must divide num_envs .4."),
        ({"backend": "multiprocess", "start_method": "thread"}, "start_method"),
        ({"num_workers": 1.5}, "num_workers must be an integer of at least 0, got 1.5"),
        ({"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
        ({"seed": 1.0}, "seed must be an integer >= 0, a sequence of them or None, got 1.0"),
        ({"seed": -1}, "seed must be"),
        ({"seed": [0, "1", 2, 3]}, "seed must be"),
        ({"copy": 1}, "copy must be one of"),
        ({"profile": None}, "profile must be one of"),
        ({"timeout": -1}, "timeout must be at least 0 seconds, got -1"),
        ({"timeout": "1"}, "timeout must be a number of seconds"),
        ({"affinity": []}, r"affinity must name cores among \[.*\], got \[\]"),
        ({"affinity": [999]}, r"affinity must name cores among \[.*\], got \[999\]"),
        ({"affinity": 0}, "affinity must name cores"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments, why):
    with pytest.raises(ValueError, match=why):
        shoal.vectorize(**{"env": "CartPole-v1", "num_envs": 4, **arguments})


@pytest.mark.parametrize("name, meant", [("num_env", "num_envs"), ("backed", "backend")])
def test_an_argument_that_does_not_exist_is_answered_with_one_that_does(name, meant):
    with pytest.raises(TypeError, match=f"no argument '{name}'; did you mean {meant}?"):
        shoal.vectorize("CartPole-v1", **{name: 4})
    with pytest.raises(TypeError, match=r"no argument 'zzzzzz'$"):
        shoal.vectorize("CartPole-v1", zzzzzz=1)


def test_the_choice_of_auto_is_said_in_words_and_logged_and_not_printed(capfd, caplog):
    caplog.set_level("INFO", "shoal")
    with contextlib.closing(shoal.vectorize("CartPole-v1", 2)) as vector:
        assert vector.choice.startswith(("serial: ", "multiprocess with 2 workers: "))
        assert [record.message for record in caplog.records] == [vector.choice]
    with contextlib.closing(shoal.vectorize("squared", 2)) as vector:
        assert vector.choice == "native: a native environment"
    with contextlib.closing(shoal.vectorize("CartPole-v1", 2, backend="serial")) as vector:
        assert vector.choice == "serial: backend='serial' was asked for"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("env", ["CartPole-v1", "squared"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_vector_that_is_copied_or_pickled_says_why_it_can_not(env, copied):
    vector = shoal.vectorize(env, 2, num_workers=1)
    with pytest.raises(TypeError, match=r"can't be pickled or copied.*the arguments"):
        copied(vector)
    vector.close()


@pytest.mark.parametrize(
    "how",
    [
        {"env": "CartPole-v1", "backend": "serial"},
        {"env": "CartPole-v1", "backend": "multiprocess", "num_workers": 2},
        {"env": "squared"},
        {"env": functools.partial(gymnasium.make_vec, "CartPole-v1", 3)},
    ],
    ids=["serial", "multiprocess", "native", "batched"],
)
def test_numpys_integers_and_arrays_of_them_are_seeds(how):
    def first(made_with, reset_with):
        env = how["env"]() if callable(how["env"]) else how["env"]
        vector = shoal.vectorize(**{**how, "env": env}, num_envs=3, seed=made_with)
        with contextlib.closing(vector):
            return vector.reset(seed=reset_with)[0].tolist()

    expected = first(None, 5)
    for seed in (np.int64(5), np.uint8(5), np.array(5), np.arange(5, 8), np.arange(5, 8).tolist()):
        assert first(None, seed) == expected
        assert first(seed, None) == expected
        assert first(3, seed) == expected
    for seed in (np.float64(5), "5", -1, np.array([5.0, 6.0, 7.0])):
        with pytest.raises(ValueError, match="seed must be an integer >= 0"):
            first(None, seed)
        with pytest.raises(ValueError, match="seed must be an integer >= 0"):
            first(seed, None)


def test_environments_that_differ_are_refused(workers):
    creators = [functools.partial(gymnasium.make, name) for name in ("CartPole-v1", "Acrobot-v1")]
    with pytest.raises(EmulationError, match="environment 1") as error:
        shoal.vectorize(creators, **workers)
    assert "environment 0" in str(error.value)


def test_an_emulated_environment_is_copied(workers):
    env = shoal.emulate(gymnasium.make("Blackjack-v1"), form="float32")
    vector = shoal.vectorize(env, 3, **workers)
    assert vector.single_observation_space.dtype == np.float32
    observations = vector.reset(seed=2)[0]
    expected = [shoal.emulate(gymnasium.make("Blackjack-v1"), form="float32") for _ in range(3)]
    np.testing.assert_array_equal(
        observations, [each.reset(seed=2 + i)[0] for i, each in enumerate(expected)]
    )
    vector.close()


def test_the_trial_of_auto_plays_on_where_nobody_resets(capfd):
    shoal.vectorize("CartPole-v1", 8, autoreset="disabled").close()
    assert "failed" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", MODES)
def test_some_environments_step_and_others_stay(mode, workers):
    vector = shoal.vectorize("CartPole-v1", 3, **workers, autoreset=mode)
    alone = [shoal.vectorize("CartPole-v1", 1, backend="serial", autoreset=mode) for _ in range(3)]
    vector.reset(seed=0)
    for i, one in enumerate(alone):
        one.reset(seed=i)
    rng = np.random.default_rng(0)
    held = vector.reset(seed=0)[0].copy()
    for _ in range(200):
        some = rng.permutation(3)[: rng.integers(1, 4)]
        actions = rng.integers(2, size=len(some))
        vector.send(actions, some, keep_others=True)
        batch = vector.recv()
        stayed = np.setdiff1d(np.arange(3), some)
        assert not batch.masks[stayed].any()
        assert (batch.observations[stayed] == held[stayed]).all()
        ended = np.zeros(3, bool)
        for i, action in zip(some, actions):
            observation, reward, terminated, truncated, _ = alone[i].step([action])
            assert (batch.observations[i] == observation[0]).all()
            assert (batch.rewards[i], batch.terminations[i]) == (reward[0], terminated[0])
            ended[i] = terminated[0] or truncated[0]
        held = batch.observations.copy()
        if mode == "disabled" and ended.any():
            held = vector.reset(options={"reset_mask": ended})[0].copy()
            for i in np.flatnonzero(ended):
                alone[i].reset()
    vector.async_reset()
    with pytest.raises(PendingCallError, match="reset is pending"):
        vector.send([0], [0], keep_others=True)
    vector.close()


@pytest.mark.parametrize("module", ["vector", "vectorize"])
def test_the_examples_in_the_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"shoal.vectorization.{module}"))
    assert found.attempted >= 7 and not found.failed


@pytest.mark.parametrize(
    "options",
    [
        {"env": "CartPole-v1", "backend": "serial"},
        {"env": "CartPole-v1", "backend": "multiprocess", "num_workers": 2},
        {"env": "squared"},
    ],
    ids=["serial", "multiprocess", "native"],
)
def test_actions_for_some_environments_of_a_whole_batch_are_refused(options):
    vector = shoal.vectorize(num_envs=4, **options)
    vector.reset(seed=0)
    with pytest.raises(ActionError, match="env_ids must name all 4 environments"):
        vector.send([0, 0], [0, 1])
    vector.send([0, 1, 0, 1], [3, 2, 1, 0])  # nothing was sent before
    assert vector.recv().masks.all() and vector.episode_lengths.tolist() == [1] * 4
    with pytest.raises(PendingCallError, match="send actions first"):
        vector.recv()
    vector.close()


def test_a_seed_given_at_first_is_the_only_one():
    """The vector's own seed is for a first reset without one; later resets just run on."""
    vector = shoal.vectorize("CartPole-v1", 2, backend="serial", seed=0)
    other = shoal.vectorize("CartPole-v1", 2, backend="serial")
    for each in (vector, other):
        each.reset(seed=3)
    assert (vector.reset()[0] == other.reset()[0]).all()
    vector.close()
    other.close()
