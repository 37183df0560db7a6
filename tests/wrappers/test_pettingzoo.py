"""Vectors as PettingZoo's ParallelEnv, and as rows for those who know no agents."""

import functools

import gymnasium
import numpy as np
import pytest
from mpe2 import simple_spread_v3, simple_tag_v3
from pettingzoo.butterfly import knights_archers_zombies_v11
from pettingzoo.classic import connect_four_v3, tictactoe_v3
from pettingzoo.test import parallel_api_test, parallel_seed_test

import shoal
from shoal.errors import ActionError, ResetNeededError
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
