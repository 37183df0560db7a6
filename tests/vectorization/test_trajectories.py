"""All backends give the same trajectories, and those of Gymnasium's own vector."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

import shoal
from shoal.emulation.options import EmulationOptions
from shoal.registry.creators import find_source
from shoal.vectorization.backend import Options
from shoal.vectorization.vector import Vector
from tests.other_python import PYTHONS
from tests.vectorization import environments
from tests.vectorization.environments import Crowd, Everything
from tests.vectorization.sixth_backend import ThreadBackend

NUM_ENVS = 6
MODES = ["next_step", "same_step", "disabled"]
ENVS = {
    "single": (Everything, {"max_len": 100}),
    "multi": (Crowd, {}),
    "dying": (functools.partial(Crowd, dying=True), {}),
    "joining": (functools.partial(Crowd, dying=True, joining=True), {"max_agents": 10}),
}
BACKENDS = {
    "fork": {"backend": "multiprocess", "num_workers": 2, "start_method": "fork"},
    "forkserver": {"backend": "multiprocess", "num_workers": 4, "start_method": "forkserver"},
    "spawn": {"backend": "multiprocess", "num_workers": 2, "start_method": "spawn"},
    "pool": {"backend": "pool", "num_workers": 4, "batch_size": 2},
    "isolated": {"backend": "multiprocess", "num_workers": 2, "python": "this"},
    "old": {"backend": "multiprocess", "num_workers": 2, "python": "old"},
    "oldest": {"backend": "multiprocess", "num_workers": 2, "python": "oldest"},
    "old, pool": {"backend": "pool", "num_workers": 3, "batch_size": 2, "python": "old"},
    "pool, fixed": {"backend": "pool", "num_workers": 2, "batch_size": 3, "order": "fixed"},
    "sixth": {"make": ThreadBackend},
}


def one_row(values, row):
    """The part of a (nested) batch of infos that is of one row, with types that compare exactly."""
    if isinstance(values, dict):
        return {
            key: one_row(value, row)
            for key, value in values.items()
            if key[0] != "_" and values["_" + key][row]
        }
    value = values[row]
    if isinstance(value, (np.ndarray, np.generic)):
        return str(value.dtype), value.shape, value.tobytes()
    return type(value).__name__, value


def play(vector, steps, seed=None):
    """Step every environment at least `steps` times.

    Each environment's n-th action is the same whatever the order in which they are served.

    Returns:
        For each environment, what each of its first `steps` steps delivered.
    """
    agents, size = vector.agents_per_env, vector.batch_size
    space = batch_space(vector.single_action_space, vector.num_rows)
    space.seed(1)
    table = [space.sample() for _ in range(97)]
    records = [[] for _ in range(vector.num_envs)]

    def actions(env_ids):
        rows = [slice(env * agents, (env + 1) * agents) for env in env_ids]
        parts = [table[len(records[env]) % len(table)] for env in env_ids]
        if isinstance(space, gymnasium.spaces.Dict):
            return {
                key: np.concatenate([part[key][row] for part, row in zip(parts, rows)])
                for key in space
            }
        return np.concatenate([part[row] for part, row in zip(parts, rows)])

    def receive(wanted):
        batch = vector.recv()
        env_ids = vector.env_ids.copy()
        assert batch.agent_ids.tolist() == [e * agents + a for e in env_ids for a in range(agents)]
        for slot, env in enumerate(env_ids):
            if not wanted[env]:
                continue
            rows = slice(slot * agents, (slot + 1) * agents)
            records[env].append(
                {
                    "observations": batch.observations[rows].tobytes(),
                    "rewards": batch.rewards[rows].tolist(),
                    "terminations": batch.terminations[rows].tolist(),
                    "truncations": batch.truncations[rows].tolist(),
                    "masks": batch.masks[rows].tolist(),
                    "acting": vector.acting[rows].tolist(),
                    "occupants": vector.occupants[rows].tolist(),
                    "action_masks": vector.action_masks[rows].tolist(),
                    "episode_returns": vector.episode_returns[rows].tolist(),
                    "episode_lengths": vector.episode_lengths[rows].tolist(),
                    "infos": [one_row(batch.infos, row) for row in range(vector.num_rows)[rows]],
                }
            )
        return env_ids

    everyone = np.ones(vector.num_envs, bool)
    vector.async_reset(seed=seed)
    if vector.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
        while min(map(len, records)) < steps:
            for _ in range(vector.num_envs // size):
                receive(everyone)
            over = np.array([not any(record[-1]["acting"]) for record in records])
            if over.any():
                vector.async_reset(options={"reset_mask": over})
                for _ in range(vector.num_envs // size):
                    receive(over)
            env_ids = np.arange(vector.num_envs)
            vector.send(actions(env_ids), env_ids)
    else:
        while min(map(len, records)) < steps:
            env_ids = receive(everyone)
            vector.send(actions(env_ids), env_ids if len(env_ids) < vector.num_envs else None)
    vector.close()
    return [record[:steps] for record in records]


@functools.cache
def serial(name, mode, steps):
    create, options = ENVS[name]
    return play(
        shoal.vectorize(create, NUM_ENVS, backend="serial", autoreset=mode, seed=11, **options),
        steps,
    )


def compare(name, mode, backend, steps):
    create, options = ENVS[name]
    expected = serial(name, mode, steps)
    how = dict(BACKENDS[backend])
    if "python" in how:
        how["python"] = PYTHONS[how["python"]]()
        partial = create if isinstance(create, functools.partial) else functools.partial(create)
        create = f"{environments.__file__}:{partial.func.__name__}"
        how["env_kwargs"] = partial.keywords
    if "make" in how:
        how = how["make"], Options(EmulationOptions(**options), autoreset=mode, seed=11)
        vector = Vector(
            how[0](find_source(create, NUM_ENVS).creators, how[1]), how[1], "an example"
        )
    else:
        vector = shoal.vectorize(create, NUM_ENVS, autoreset=mode, seed=11, **options, **how)
    for env, (ours, theirs) in enumerate(zip(play(vector, steps), expected)):
        for step, (mine, other) in enumerate(zip(ours, theirs)):
            for what in other:
                assert mine[what] == other[what], f"environment {env}, step {step}: {what}"
    ends = sum(any(r["terminations"]) or any(r["truncations"]) for env in expected for r in env)
    assert ends > steps * NUM_ENVS / 40  # the episodes did end


# Each backend with each mode and each environment, though not with each pair of the two.
SOME = [(b, n, MODES[(i + j) % 3]) for i, b in enumerate(BACKENDS) for j, n in enumerate(ENVS)]


@pytest.mark.parametrize(("backend", "name", "mode"), SOME)
def test_backends_agree(backend, name, mode):
    compare(name, mode, backend, steps=80)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree_for_long(backend, name, mode):
    compare(name, mode, backend, steps=1 + 10_000 // NUM_ENVS)


# -- beside Gymnasium -------------------------------------------------------------------------


def same(ours, theirs, where="infos"):
    """Assert that two nested infos are the same, to the dtype."""
    assert type(ours) is type(theirs), f"{where}: {type(ours)} instead of {type(theirs)}"
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(theirs, np.ndarray) and theirs.dtype != object:
        # Gymnasium's column has the first value's dtype, and cuts off what that can't hold.
        held = ours.astype(theirs.dtype)
        assert ours.dtype == theirs.dtype or (held != ours).any(), where
        np.testing.assert_array_equal(held, theirs, where)
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == object and ours.shape == theirs.shape, where
        for i, (mine, other) in enumerate(zip(ours, theirs)):
            same(mine, other, f"{where}[{i}]")
    else:
        assert ours == theirs, where


GYMNASIUM = {
    "CartPole-v1": {},
    "FrozenLake-v1": {},
    "Taxi-v4": {"max_episode_steps": 20},
    "Hopper-v5": {"max_episode_steps": 30},
    "Blackjack-v1": {},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        *[(backend, name) for backend in ("serial", "multiprocess") for name in GYMNASIUM],
        *[("old", name) for name in ("CartPole-v1", "Blackjack-v1")],  # the same in any Gymnasium
    ],
)
def test_equals_gymnasiums_vector(backend, name, mode):
    create = functools.partial(gymnasium.make, name, **GYMNASIUM[name])
    theirs = SyncVectorEnv([create] * NUM_ENVS, autoreset_mode=AutoresetMode[mode.upper()])
    how = {"env": create, "backend": backend}
    if backend == "multiprocess":
        how |= {"num_workers": 2, "start_method": "fork"}
    if backend == "old":
        how = {"env": name, "num_workers": 2, "python": PYTHONS["old"](), "backend": "multiprocess"}
    ours = shoal.vectorize(num_envs=NUM_ENVS, autoreset=mode, **how)
    assert ours.metadata == theirs.metadata

    def observation(mine, other):
        if isinstance(other, tuple):  # Blackjack; ours is one array, whose view is nested
            mine = ours.observation_layout.view(mine)
            assert len(mine) == len(other)
            for one, another in zip(mine, other):
                np.testing.assert_array_equal(one, another)
        else:
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)

    def infos(mine, other):
        if "final_obs" in other:
            finals = other["_final_obs"]
            np.testing.assert_array_equal(mine["_final_obs"], finals)
            for i, final in enumerate(other.pop("final_obs")):
                one = mine["final_obs"][i]
                if finals[i]:
                    observation(one, final) if isinstance(final, tuple) else (
                        np.testing.assert_array_equal(one, final)
                    )
                    assert (ours.final_observations[i] == one).all()
                else:
                    assert one is None and final is None
            del mine["final_obs"]
        same(mine, other)

    mine, other = ours.reset(seed=5), theirs.reset(seed=5)
    observation(mine[0], other[0])
    infos(mine[1], other[1])
    theirs.action_space.seed(3)
    ends = 0
    for _ in range(150):
        actions = theirs.action_space.sample()
        mine, other = ours.step(actions), theirs.step(actions)
        observation(mine[0], other[0])
        for one, another in zip(mine[1:4], other[1:4]):
            assert one.dtype == another.dtype
            np.testing.assert_array_equal(one, another)
        infos(mine[4], other[4])
        over = other[2] | other[3]
        ends += over.sum()
        if mode == "disabled" and over.any():
            masks = [{"reset_mask": over.copy(), "low": -0.01, "high": 0.01} for _ in range(2)]
            seeds = [int(i) for i in range(NUM_ENVS)]
            mine = ours.reset(seed=seeds, options=masks[0])
            other = theirs.reset(seed=seeds, options=masks[1])
            observation(mine[0], other[0])
            infos(mine[1], other[1])
    assert ends > 20
    ours.close()
    theirs.close()
