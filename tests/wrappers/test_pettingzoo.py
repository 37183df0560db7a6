"""Vectors as PettingZoo's ParallelEnv, and as rows for those who know no agents."""

import copy
import functools
import pickle
import types

import gymnasium
import numpy as np
import pytest
from mpe2 import simple_spread_v3, simple_tag_v3
from pettingzoo.butterfly import knights_archers_zombies_v11
from pettingzoo.classic import connect_four_v3, tictactoe_v3
from pettingzoo.test import max_cycles_test, parallel_api_test, parallel_seed_test
from pettingzoo.utils.conversions import parallel_to_aec

import shoal
from shoal.errors import ActionError, ResetNeededError
from shoal.ocean_c.native_parallel_env import NativeParallelEnv
from shoal.wrappers import FrameStack, NormalizeReward, repeat_action, time_limit
from shoal.wrappers.pettingzoo import AgentRows, ShoalParallelEnv
from tests.vectorization.environments import Crowd

MODES = ["next_step", "same_step", "disabled"]


def vector(env, num_envs=1, mode="next_step", **kwargs):
    return shoal.vectorize(env, num_envs, **{"backend": "serial", **kwargs}, autoreset=mode)


MAKERS = {
    "spread": simple_spread_v3.parallel_env,
    "tag": simple_tag_v3.parallel_env,  # agents differ
    "zombies": knights_archers_zombies_v11.parallel_env,  # agents die
    "crowd": functools.partial(Crowd, dying=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MAKERS)
def test_pettingzoos_own_test(name, mode):
    env = ShoalParallelEnv(vector(MAKERS[name], mode=mode))
    parallel_api_test(env, num_cycles=60)
    env.close()


def test_pettingzoos_seed_test():
    parallel_seed_test(lambda: ShoalParallelEnv(vector(simple_spread_v3.parallel_env)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("joining", [False, True])
def test_it_is_the_environment_again(mode, joining):
    """Step by step what the environment itself gives, dying and joining agents included."""
    kwargs = {"dying": True, "joining": joining}
    plain = Crowd(**kwargs)
    made = vector(functools.partial(Crowd, **kwargs), 3, mode, max_agents=16 if joining else None)
    env = ShoalParallelEnv(made, index=1)
    rng = np.random.default_rng(0)
    steps = 0
    for episode in range(12):
        ours, theirs = env.reset(seed=episode), plain.reset(seed=episode)
        while True:
            assert ours[0].keys() == theirs[0].keys() and env.agents == plain.agents
            for agent, observation in theirs[0].items():
                assert (ours[0][agent] == observation).all()
            if len(theirs) == 5:
                for part, its in zip(ours[1:4], theirs[1:4]):  # newcomers have none there
                    assert {agent: part[agent] for agent in its} == its
            for agent, info in theirs[-1].items():
                assert ours[-1][agent].keys() == info.keys()
                for key in info:
                    assert np.all(ours[-1][agent][key] == info[key])
            if not plain.agents:
                break
            actions = {agent: int(rng.integers(3)) for agent in plain.agents}
            ours, theirs = env.step(actions), plain.step(actions)
            steps += 1
        with pytest.raises(ResetNeededError):
            env.step({})
    assert steps > 100
    env.close()


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: FrameStack(v, 3)], ids=["", "wrapped"])
def test_two_environments_of_one_vector_do_not_disturb_each_other(wrap):
    make = simple_spread_v3.parallel_env
    made = wrap(vector(make, 2, backend="multiprocess", num_workers=2, start_method="fork"))
    pair = [ShoalParallelEnv(made, index) for index in range(2)]
    alone = [ShoalParallelEnv(wrap(vector(make))) for _ in range(2)]
    rng = np.random.default_rng(0)
    for i in (0, 1):
        pair[i].reset(seed=i + 5)
        alone[i].reset(seed=i + 5)
    for _ in range(200):
        i = int(rng.integers(2))
        if not pair[i].agents:
            assert not alone[i].agents
            pair[i].reset(seed=i), alone[i].reset(seed=i)
        actions = {agent: int(rng.integers(5)) for agent in pair[i].agents}
        one, other = pair[i].step(actions), alone[i].step(actions)
        for agent in other[0]:
            assert (one[0][agent] == other[0][agent]).all()
        assert one[1:4] == other[1:4]
    made.close()


def test_turn_based_games():
    env = ShoalParallelEnv(vector(tictactoe_v3.env))
    env.reset(seed=0)
    moves = 0
    while env.agents:
        (row,) = np.flatnonzero(env.vector.acting)
        legal = np.flatnonzero(env.vector.action_masks[row])
        _, rewards, terminations, _, _ = env.step({env.possible_agents[row]: legal[0]})
        moves += 1
    assert 5 <= moves <= 9 and sum(rewards.values()) == 0 and all(terminations.values())
    env.close()


def test_wrong_calls():
    env = ShoalParallelEnv(vector(simple_spread_v3.parallel_env))
    with pytest.raises(ResetNeededError):
        env.step({})
    env.reset(seed=0)
    with pytest.raises(ActionError, match="agent_0"):
        env.step({"agent_1": 0, "agent_2": 0})
    with pytest.raises(ActionError, match="outside"):
        env.step({"agent_0": 0, "agent_1": 5, "agent_2": 0})
    env.step({"agent_0": 0, "agent_1": 0, "agent_2": 0})  # nothing had been sent
    with pytest.raises(ValueError, match="index"):
        ShoalParallelEnv(env.vector, 1)
    env.close()
    pool = vector(
        simple_spread_v3.parallel_env, 2, backend="pool", num_workers=1, start_method="fork"
    )
    with pytest.raises(ValueError, match="batch"):
        ShoalParallelEnv(pool)
    pool.close()


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_agents(mode):
    """Episodes of all rows end where their environment's do, and padding is zero."""
    ours = AgentRows(vector(functools.partial(Crowd, dying=True), 3, mode))
    plain = vector(functools.partial(Crowd, dying=True), 3, mode)
    assert ours.num_envs == 12 and ours.observation_space.shape == (12, 3)
    assert isinstance(ours, gymnasium.vector.VectorEnv)
    first, other = ours.reset(seed=0)[0], plain.reset(seed=0)[0]
    assert (first == other).all()
    died = ends = 0
    for _ in range(600):
        actions = ours.action_space.sample()
        observations, rewards, terminations, truncations, _ = ours.step(actions)
        plain.send(actions)
        batch = plain.recv()
        assert (observations == batch.observations).all() and (rewards == batch.rewards).all()
        assert (terminations == batch.terminations).all()
        ended = terminations | truncations
        if mode == "same_step":
            over = batch.infos.get("_final_obs", np.zeros(12, bool))
        else:
            over = np.repeat(~plain.acting.reshape(3, 4).any(axis=1), 4)
        assert ended[over].all()
        own = batch.terminations | batch.truncations
        assert (ended == (own | over)).all()
        died += (own & ~over).sum()
        ends += over.sum()
        if mode == "disabled" and over.any():
            reset = ours.reset(options={"reset_mask": over})[0]
            assert (reset == plain.reset(options={"reset_mask": over[::4]})[0]).all()
    assert died > 50 and ends > 50
    with pytest.raises(ValueError, match="together"):
        ours.reset(options={"reset_mask": np.arange(12) == 0})
    ours.close()
    plain.close()


def test_rows_of_agents_go_around_other_wrappers():
    ours = AgentRows(NormalizeReward(FrameStack(vector(simple_spread_v3.parallel_env, 2), 2)))
    observations, _ = ours.reset(seed=0)
    assert observations.shape == (6, 2, 18)
    ours.step(ours.action_space.sample())
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(ours)
    wrapped.reset(seed=0)
    for _ in range(25):
        *_, infos = wrapped.step(wrapped.action_space.sample())
    assert infos["episode"]["l"].tolist() == [25] * 6
    ours.close()


def test_rows_of_agents_in_a_pool():
    ours = AgentRows(
        vector(simple_spread_v3.parallel_env, 4, backend="pool", num_workers=2, start_method="fork")
    )
    ours.async_reset(seed=0)
    for _ in range(40):
        batch = ours.recv()
        assert (batch.agent_ids == ours.env_ids).all() and len(batch.rewards) == 6
        ours.send(np.zeros(6, np.int64))
    with pytest.raises(ValueError, match="all agents"):
        ours.send(np.zeros(2, np.int64), [0, 1])
    ours.close()


def test_agents_repeat_actions_and_run_out_of_time():
    plain, ours = Crowd(dying=True), repeat_action(Crowd(dying=True), 3)
    plain.reset(seed=0)
    ours.reset(seed=0)
    for _ in range(10):
        if not ours.agents:
            break
        actions = dict.fromkeys(ours.agents, 1)
        totals = dict.fromkeys(ours.agents, 0.0)
        for _ in range(3):
            alive = list(plain.agents)
            expected = plain.step(actions)
            for agent, reward in expected[1].items():
                totals[agent] += reward
            if plain.agents != alive:
                break
        result = ours.step(actions)
        assert result[1] == pytest.approx(totals) and result[2:4] == expected[2:4]
    limited = time_limit(simple_spread_v3.parallel_env(), 7)
    parallel_api_test(limited, num_cycles=50)
    made = vector(lambda: time_limit(simple_spread_v3.parallel_env(), 7), 2)
    made.reset(seed=0)
    for step in range(1, 24):
        _, _, _, truncations, _ = made.step(made.action_space.sample())
        assert truncations.all() == (step % 8 == 7)  # each eighth step resets
    made.close()
    with pytest.raises(ValueError, match="turn"):
        time_limit(connect_four_v3.env(), 7)


# -- native environments --------------------------------------------------------------------------

NATIVE = ["snake", "swarm", "target"]


def native(name, mode="next_step", **params):
    make = functools.partial(shoal.vectorize, name, autoreset=mode, env_kwargs=params)
    return ShoalParallelEnv(make)


def max_cycles_module(name):
    """What PettingZoo's `max_cycles_test` takes, with a time limit of the environment's own."""

    def parallel_env(max_cycles):
        return native(name, max_steps=max_cycles)

    def env(max_cycles):
        return parallel_to_aec(parallel_env(max_cycles))

    return types.SimpleNamespace(parallel_env=parallel_env, env=env, raw_env=env)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NATIVE)
def test_pettingzoos_own_tests_of_native_environments(name, mode):
    parallel_api_test(native(name, mode), num_cycles=60)
    parallel_seed_test(lambda: native(name, mode), num_cycles=20)
    parallel_api_test(pickle.loads(pickle.dumps(native(name, mode))), num_cycles=5)
    parallel_api_test(copy.deepcopy(native(name, mode)), num_cycles=5)


@pytest.mark.parametrize("name", ["snake", "swarm"])
def test_pettingzoos_max_cycles_test_of_native_environments(name):
    max_cycles_test(max_cycles_module(name))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NATIVE)
def test_native_environments_are_those_of_pettingzoos_face(name, mode):
    """Step by step what `NativeParallelEnv` gives; agents of snake respawn, and act at once."""
    params = (
        {"num_snakes": 20, "size": 24, "max_length": 8, "num_food": 40} if name == "snake" else {}
    )
    ours, theirs = native(name, mode, **params), NativeParallelEnv(name, **params)
    respawned, steps = 0, 0
    for episode in range(2):
        first, second = ours.reset(seed=episode), theirs.reset(seed=episode)
        while ours.agents and steps < 60 * (episode + 1):
            assert ours.agents == theirs.agents
            for agent in ours.agents:
                np.testing.assert_array_equal(first[0][agent], flat(second[0][agent]))
            actions = {agent: ours.action_space(agent).sample() for agent in ours.agents}
            first, second = ours.step(actions), theirs.step(actions)
            steps += 1
            for mine, other in zip(first[1:4], second[1:4], strict=True):
                assert mine == other
            for agent, info in second[4].items():
                again = info.get("respawned", False)
                assert first[4][agent].get("respawned", False) == again
                respawned += again
        ours.reset(seed=0), theirs.reset(seed=0)
    assert steps > 10 and (respawned > 10) == (name == "snake")


def flat(observation):
    """A native observation as the vector has it."""
    if isinstance(observation, dict):
        return np.concatenate([part.reshape(-1) for part in observation.values()])
    return observation


def test_a_vector_itself_cannot_be_pickled():
    with pytest.raises(TypeError, match="a function that makes it"):
        pickle.dumps(ShoalParallelEnv(shoal.vectorize("snake")))
