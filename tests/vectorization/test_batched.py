"""Environments that step all environments themselves."""

import contextlib
import functools
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import shoal
from shoal.errors import ActionError, EmulationError, EnvCheckError, LayoutError

torch = pytest.importorskip("torch")

from tests.vectorization.batched_environments import TorchGuess, TorchWalk, Walk  # noqa: E402

MODES = ("next_step", "same_step", "disabled")
ARRAYS = (
    "action_masks",
    "acting",
    "occupants",
    "finals",
    "episode_returns",
    "episode_lengths",
)


def same(one, other, where=""):
    """Assert that two nested values are the same, dtypes included."""
    if isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in other:
            same(one[key], other[key], f"{where}.{key}")
        return
    assert one.dtype == other.dtype, where
    if other.dtype == object:
        for mine, theirs in zip(one, other, strict=True):
            assert (mine is None) == (theirs is None), where
            assert mine is None or (mine == theirs).all(), where
    else:
        np.testing.assert_array_equal(one, other, err_msg=where)


def play(mine, reference, mode, steps, check_infos=True):
    """Step two vectors with the same actions; everything they return must be the same."""
    reference.action_space.seed(3)
    options = {"bonus": 5}
    for seed, given in ((11, options), (None, None)):
        ours, theirs = (v.reset(seed=seed, options=given) for v in (mine, reference))
        same(ours[0], theirs[0])
        same(ours[1], theirs[1])
        ends = 0
        for _ in range(steps):
            actions = reference.action_space.sample()
            for vector in (mine, reference):
                vector.send(actions)
            ours, theirs = mine.recv(), reference.recv()
            for name in ("observations", "rewards", "terminations", "truncations", "masks"):
                same(getattr(ours, name), getattr(theirs, name), name)
            for name in ARRAYS:
                same(getattr(mine, name), getattr(reference, name), name)
            if check_infos:
                same(ours.infos, theirs.infos)
            rows = reference.finals
            same(mine.final_observations[rows], reference.final_observations[rows])
            over = theirs.terminations | theirs.truncations
            ends += over.sum()
            if mode == "disabled" and over.any():
                given = {"reset_mask": over, "bonus": 2}
                ours, theirs = (vector.reset(options=given) for vector in (mine, reference))
                same(ours[0], theirs[0])
                same(ours[1], theirs[1])
                same(mine.episode_returns, reference.episode_returns)
        assert ends > 5
    ours, theirs = mine.statistics(), reference.statistics()
    assert ours["episodes"] == theirs["episodes"]
    for key in theirs.keys() - {"time"}:
        assert ours[key] == pytest.approx(theirs[key]), key
    for vector in (mine, reference):
        vector.close()


@pytest.mark.parametrize("mode", MODES)
def test_it_is_what_one_copy_after_the_other_gives(mode):
    mine = shoal.vectorize(TorchWalk(5), autoreset=mode, debug=True)
    reference = shoal.vectorize(Walk, 5, backend="serial", autoreset=mode)
    assert (mine.backend, mine.num_envs, mine.num_rows) == ("batched", 5, 5)
    assert mine.metadata["autoreset_mode"] is AutoresetMode[mode.upper()]
    for name in ("observation_space", "action_space"):
        assert getattr(mine, name) == getattr(reference, name)
    play(mine, reference, mode, 80)


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_one_that_resets_itself_keeps_its_mode(mode):
    mine = shoal.vectorize(TorchWalk(5, mode.upper()))
    reference = shoal.vectorize(Walk, 5, backend="serial", autoreset=mode)
    # What this one says of resets inside a step is not what the reference says.
    play(mine, reference, mode, 80, check_infos=False)


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_own_vectors_give_what_ours_gives(mode):
    theirs = gymnasium.make_vec(
        "CartPole-v1",
        3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode[mode.upper()]},
    )
    mine = shoal.vectorize(theirs)
    if mode == "disabled":
        assert mine.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        mine = shoal.vectorize(theirs, autoreset=mode)
    reference = shoal.vectorize("CartPole-v1", 3, backend="serial", autoreset=mode)
    reference.action_space.seed(0)
    for vector in (mine, reference):
        vector.reset(seed=2)
    for _ in range(60):
        actions = reference.action_space.sample()
        ours, expected = mine.step(actions), reference.step(actions)
        for one, other in zip(ours, expected, strict=True):
            same(one, other)
        over = ours[2] | ours[3]
        if mode == "disabled" and over.any():
            for vector in (mine, reference):
                vector.reset(options={"reset_mask": over})


def test_a_last_observation_that_is_not_told_is_the_one_before():
    vector = shoal.vectorize(TorchWalk(4, "SAME_STEP", tells_finals=False))
    observations, _ = vector.reset(seed=0)
    for _ in range(30):
        before = observations.copy()
        observations, *_ = vector.step(vector.action_space.sample())
        rows = vector.finals
        same(vector.final_observations[rows], before[rows])
        if rows.any():
            break
    assert rows.any()


def test_batches_stay_as_they_are_though_the_environment_uses_its_tensors_again():
    vector = shoal.vectorize(TorchWalk(2))
    first, _ = vector.reset(seed=0)
    kept = first.copy()
    vector.step(vector.action_space.sample())
    assert (first == kept).all()


def test_arrays_in_main_memory_are_handed_over_without_a_copy():
    from shoal.vectorization.backends.batched import to_numpy

    tensor = torch.arange(6.0)
    view = to_numpy(tensor)
    tensor[2] = 9
    assert view[2] == 9
    assert to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert to_numpy(torch.tensor([True, False])).dtype == bool


class Indexed:
    """Shaped as ManiSkill's vectors are: ``auto_reset``, and resets of some by index."""

    single_observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    single_action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, auto_reset):
        self.num_envs, self.auto_reset = 3, auto_reset
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.left = torch.tensor([2, 3, 4])

    def reset(self, *, seed=None, options=None):
        chosen = (options or {}).get("env_idx", torch.arange(3))
        self.left[chosen] = chosen + 2
        return self.left[:, None].float(), {"elapsed": self.left - 2}

    def step(self, actions):
        self.left -= 1
        observations, over = self.left[:, None].float(), self.left == 0
        rewards, infos = torch.ones(3), {"success": over.clone()}
        if self.auto_reset and over.any():
            final = {"final_observation": observations.clone(), "_final_observation": over}
            final |= {"final_info": infos, "_final_info": over}
            observations, infos = self.reset(options={"env_idx": torch.arange(3)[over]})
            infos = infos | final
        return observations, rewards, over, torch.zeros(3, dtype=torch.bool), infos


@pytest.mark.parametrize("auto_reset", [True, False])
def test_vectors_shaped_as_maniskills(auto_reset):
    vector = shoal.vectorize(Indexed(auto_reset), autoreset="same_step")
    assert vector.reset(seed=0)[0].tolist() == [[2], [3], [4]]
    seen = []
    for _ in range(4):
        observations, _, terminations, _, infos = vector.step(np.zeros((3, 1), np.float32))
        seen.append(observations[:, 0].tolist())
        if terminations.any():
            assert (vector.final_observations[terminations] == 0).all()
            assert infos["final_info"]["success"][terminations].all()
            assert (infos["_final_info"] == terminations).all()
            assert (vector.episode_lengths[terminations] == terminations.nonzero()[0] + 2).all()
    assert seen == [[1, 2, 3], [2, 1, 2], [1, 3, 1], [2, 2, 4]]


def test_a_function_that_takes_num_envs_makes_all_environments():
    vector = shoal.vectorize(functools.partial(TorchWalk, mode="SAME_STEP"), 6)
    assert (vector.backend, vector.num_envs) == ("batched", 6)
    assert shoal.vectorize(TorchWalk).num_envs == 4  # its own default
    name = f"{Path(__file__).parent / 'batched_environments.py'}:TorchWalk"
    vector = shoal.vectorize(name, 3, env_kwargs={"mode": "SAME_STEP"}, backend="batched")
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env = vector.call("begin", slice(None))
    assert env == (None,) * 3


def test_seeds_options_and_calls_are_those_of_the_whole():
    env = TorchWalk(3)
    vector = shoal.vectorize(env, seed=4)
    vector.reset()
    assert env.first.tolist() == [4, 5, 6]
    with pytest.raises(ValueError, match="one dict, for all environments"):
        vector.reset(options=[{"bonus": 1}, {"bonus": 2}, None])
    vector = shoal.vectorize(env)
    vector.reset(seed=0)
    assert vector.get_attr("num_envs") == (3, 3, 3)
    assert vector.call(lambda whole: whole is env) == (True,) * 3
    vector.set_attr("mark", [8, 8, 8])
    assert env.mark == 8
    with pytest.raises(ValueError, match="the same for all environments"):
        vector.set_attr("mark", [1, 2, 3])
    with pytest.raises(EmulationError, match="can't be taken apart"):
        vector.get_state()
    vector.set_options({"bonus": 3})
    given = []
    for _ in range(40):
        *_, infos = vector.step(vector.action_space.sample())
        if "bonus" in infos:
            given += infos["bonus"][infos["_bonus"]].tolist()
    assert given and set(given) == {3}
    vector.close()
    assert env.closed


def test_what_does_not_go_together_is_refused():
    for arguments in (
        {"num_workers": 2},
        {"batch_size": 2},
        {"on_error": "restart"},
        {"form": "float32"},
        {"pad": True},
        {"autoreset": "own"},
        {"max_len": 3},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}: not for a batched"):
            shoal.vectorize(TorchWalk, 4, **arguments)
    with pytest.raises(ValueError, match="num_envs must be 4, as of the environment, got 5"):
        shoal.vectorize(TorchWalk(4), 5)
    with pytest.raises(ValueError, match="env_kwargs"):
        shoal.vectorize(TorchWalk(4), env_kwargs={"mode": "DISABLED"})
    for backend in ("multiprocess", "pool", "native", "ray"):
        with pytest.raises(ValueError, match="backend: not for a batched"):
            shoal.vectorize(TorchWalk(4), backend=backend)
    with pytest.raises(ValueError, match='backend="batched" is for'):
        shoal.vectorize("CartPole-v1", backend="batched")
    with pytest.raises(ValueError, match=r'must be "same_step".*got "next_step"'):
        shoal.vectorize(TorchWalk(4, "SAME_STEP"), autoreset="next_step")
    undeclared = TorchWalk(4)
    undeclared.metadata = {}
    with pytest.raises(EmulationError, match=r'set its metadata\["autoreset_mode"\]'):
        shoal.vectorize(undeclared)
    worded = TorchWalk(4)
    worded.single_observation_space = spaces.Dict({"word": spaces.Text(5)})
    with pytest.raises(LayoutError, match="Text"):
        shoal.vectorize(worded)
    with pytest.raises(EmulationError, match=r"shoal\.vectorize"):
        shoal.emulate(TorchWalk(4))


class Counted(gymnasium.Env):
    """An ordinary environment that happens to have a parameter called num_envs."""

    observation_space = action_space = spaces.Discrete(3)

    def __init__(self, num_envs=2):
        self.num = num_envs

    def reset(self, seed=None, options=None):
        return self.num, {}

    def step(self, action):
        return action, 1.0, False, False, {}


@pytest.mark.parametrize(
    "how",
    [
        {"backend": "serial"},
        {"backend": "multiprocess", "num_workers": 2},
        {"backend": "pool", "num_workers": 2, "batch_size": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("env", [Counted, f"{__file__}:Counted"], ids=["class", "name"])
def test_an_ordinary_environment_with_a_parameter_num_envs_is_taken_where_its_backend_is_named(
    env, how
):
    with contextlib.closing(shoal.vectorize(env, 4, **how)) as vector:
        vector.async_reset(seed=0)
        assert vector.recv().observations.tolist() == [2] * 4
    with pytest.raises(EmulationError, match='name its backend \\("serial"'):
        shoal.vectorize(env, 4)


def test_what_can_not_be_done_with_some_environments_is_refused_and_nothing_is_lost():
    vector = shoal.vectorize(TorchWalk(3, "NEXT_STEP"))
    actions = vector.action_space.sample()
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="steps all environments, not some"):
        vector.send({key: part[:1] for key, part in actions.items()}, [0], keep_others=True)
    with pytest.raises(ValueError, match="resets environments by itself"):
        vector.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(ActionError, match="only rows"):
        vector.send_objects([0, 0, 0])
    vector.step(actions)


class Faulty(TorchGuess):
    """Lets a function spoil what its steps return."""

    def __init__(self, spoil):
        super().__init__(2)
        self.spoil = spoil

    def step(self, actions):
        return self.spoil(*super().step(actions))


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (
            lambda o, r, d, t, i: (o[:1], r, d, t, i),
            EmulationError,
            "observations: expected",
        ),
        (
            lambda o, r, d, t, i: (o, r[:, None], d, t, i),
            EmulationError,
            r"got \(2, 1\)",
        ),
        (lambda o, r, d, t, i: (o, r, d, i), EmulationError, "4 values"),
        (lambda o, r, d, t, i: (o, r / 0, d, t, i), EnvCheckError, "the reward is"),
        (lambda o, r, d, t, i: (o - 1, r, d, t, i), EnvCheckError, r"environment 0: obs\[\d\]"),
        (lambda o, r, d, t, i: (o.cfloat(), r, d, t, i), EmulationError, "expected float32"),
    ],
)
def test_faults_are_named(spoil, error, says):
    vector = shoal.vectorize(Faulty(spoil), debug=True)
    vector.reset(seed=0)
    with pytest.raises(error, match=says):
        vector.step(np.zeros(2, np.int64))


def test_profile_says_where_the_time_goes():
    vector = shoal.vectorize(TorchWalk(8), profile=True)
    vector.reset(seed=0)
    for _ in range(20):
        vector.step(vector.action_space.sample())
    shares = vector.profile()
    assert shares["environment"] > 0 and shares["packing"] > 0
    assert sum(shares.values()) == pytest.approx(1)


def test_ppo_learns_on_one():
    from shoal.trainers.ppo import Config, train

    name = f"{Path(__file__).parent / 'batched_environments.py'}:guess"
    seen = []
    config = Config(env=name, num_envs=16, horizon=16, total_steps=16_000, seed=1, device="cpu")
    train(config, report=seen.append)
    assert seen[-1]["episode/return"] > 7  # of 8; by chance it is 2
