"""Multi-agent emulation: PettingZoo's own tests, a scripted environment with a reference model of
its rows, turn-based games against hand-written loops, old interfaces, and every way to be wrong.
"""

import functools
import pickle
import warnings

import numpy as np
import pytest
from gymnasium import spaces
from mpe2 import simple_spread_v3, simple_tag_v3
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.butterfly import knights_archers_zombies_v11, pistonball_v6
from pettingzoo.classic import connect_four_v3, leduc_holdem_v4, texas_holdem_v4, tictactoe_v3
from pettingzoo.test import parallel_api_test, parallel_seed_test
from pettingzoo.test.example_envs import (
    generated_agents_env_action_mask_info_v0,
    generated_agents_env_action_mask_obs_v0,
    generated_agents_env_cust_agentid_v0,
    generated_agents_env_v0,
    generated_agents_parallel_cust_agentid_v0,
    generated_agents_parallel_v0,
)

import shoal
from shoal.emulation.loop import EnvLoop
from shoal.errors import ActionError, EmulationError, EnvCheckError, LayoutError
from shoal.rows.buffers import Buffers
from shoal.rows.fields import DISABLED, NEXT_STEP, SAME_STEP, zero_rows

# -- PettingZoo's own tests -------------------------------------------------------------------

CASES = {
    "pistonball": (pistonball_v6.parallel_env, {}),
    "pistonball as AEC": (pistonball_v6.env, {}),
    "knights_archers_zombies": (knights_archers_zombies_v11.parallel_env, {}),
    "simple_spread": (simple_spread_v3.parallel_env, {}),
    "simple_spread, float32": (simple_spread_v3.parallel_env, {"form": "float32"}),
    "simple_spread, continuous": (
        functools.partial(simple_spread_v3.parallel_env, continuous_actions=True),
        {},
    ),
    "simple_tag": (simple_tag_v3.parallel_env, {}),
    "simple_tag, padded": (simple_tag_v3.parallel_env, {"pad": True}),
    "connect_four": (connect_four_v3.env, {}),
    "tictactoe": (tictactoe_v3.env, {}),
    "generated": (generated_agents_parallel_v0.parallel_env, {"max_agents": 40}),
    "generated, tuple ids": (
        generated_agents_parallel_cust_agentid_v0.parallel_env,
        {"max_agents": 40},
    ),
    "generated AEC": (generated_agents_env_v0.env, {"max_agents": 40}),
    "generated AEC, tuple ids": (generated_agents_env_cust_agentid_v0.env, {"max_agents": 40}),
    "generated AEC, masks in obs": (
        generated_agents_env_action_mask_obs_v0.env,
        {"max_agents": 40},
    ),
    "generated AEC, masks in info": (
        generated_agents_env_action_mask_info_v0.env,
        {"max_agents": 40},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_pettingzoo_accepts_it(name):
    make, options = CASES[name]
    with warnings.catch_warnings():
        # What it says where the dictionaries of a step are not of the agents that they should be.
        warnings.filterwarnings("error", message="Live agent|Agent was given|No agents present but")
        if "generated" in name or "AEC" in name:  # these have no such agents, or none that end
            warnings.filterwarnings("ignore", message="No agents present")
        parallel_api_test(shoal.emulate(make(), **options), num_cycles=60)
    parallel_seed_test(lambda: shoal.emulate(make(), **options), num_cycles=60)


def test_it_is_still_the_environment_inside():
    bare = knights_archers_zombies_v11.parallel_env(render_mode="rgb_array")
    env = shoal.emulate(bare)
    assert isinstance(env, ParallelEnv)
    assert env.env is bare and env.unwrapped is bare.unwrapped
    assert env.metadata is bare.metadata and env.render_mode == "rgb_array"
    assert env.possible_agents == bare.possible_agents and env.max_num_agents == 4
    assert env.agents_per_env == 4 and env.num_agents == 0
    env.reset(seed=1)
    assert env.agents == bare.agents and env.num_agents == 4
    assert env.render().shape == bare.render().shape
    assert (env.state() == bare.state()).all()
    assert env.observation_spaces.keys() == env.action_spaces.keys() == set(bare.possible_agents)
    env.close()


def test_a_flat_space_is_the_environments_own_object():
    """So seeding it has the effect that it had before."""
    bare = simple_spread_v3.parallel_env()
    env = shoal.emulate(bare)
    for agent in env.possible_agents:
        assert env.action_space(agent) is bare.action_space(agent)
        assert env.observation_space(agent) is bare.observation_space(agent)


def test_dictionaries_are_the_bare_environments():
    env, bare = (knights_archers_zombies_v11.parallel_env(max_cycles=200) for _ in range(2))
    env = shoal.emulate(env)
    rng = np.random.default_rng(0)
    (obs, infos), (bare_obs, bare_infos) = env.reset(seed=3), bare.reset(seed=3)
    for _ in range(300):
        assert obs.keys() == bare_obs.keys() and infos == bare_infos and env.agents == bare.agents
        for agent, value in bare_obs.items():
            np.testing.assert_array_equal(obs[agent], value)
        if not bare.agents:
            break
        actions = {agent: rng.integers(6) for agent in bare.agents}
        obs, *rest, infos = env.step(actions)
        bare_obs, *bare_rest, bare_infos = bare.step(actions)
        assert rest == bare_rest
    assert not bare.agents


# -- agents that nobody announced -------------------------------------------------------------


def tagged(base):
    """`base`, with each observation beginning with a number that belongs to one agent alone."""

    class Tagged(base):
        tags = ()

        def reset(self, seed=None, options=None):
            self.tags = {}
            return super().reset(seed=seed, options=options)

        def observe(self, agent):
            observation = super().observe(agent)
            observation[0] = self.tags.setdefault(agent, len(self.tags)) / 1024
            return observation

    return Tagged


def check_slots(env, bare, before, slots, ended):
    """What must hold of rows and slots after any step; returns the agents' slots, and those ended.

    `slots` and `ended`: what this returned after the step before; `before`: the agents alive then.
    """
    rows = env.rows
    occupied = np.flatnonzero(rows["occupants"] >= 0)
    tags = {tag: agent for agent, tag in bare.tags.items()}
    now = {}
    for slot in occupied:
        agent = tags[round(float(rows["observations"][slot, 0]) * 1024)]
        assert agent not in now, "one agent in two slots"
        now[agent] = slot
    assert set(now) == set(before) | set(bare.agents)
    empty = rows["occupants"] < 0
    for name in ("observations", "rewards", "terminations", "truncations", "masks", "acting"):
        assert not rows[name][empty].any()
    assert rows["action_masks"][empty].all()
    for agent, slot in now.items():
        if agent in before:
            assert slots[agent] == slot, "an agent moved"
        else:
            taken = [a for a in slots if slots[a] == slot and a not in ended]
            assert not taken, "a slot was taken before its agent's end was delivered"
            assert slot == min(set(range(env.agents_per_env)) - set(slots_of(now, before, slot)))
    over = rows["terminations"] | rows["truncations"]
    gone = {agent for agent in before if agent not in bare.agents}
    assert all(over[now[agent]] for agent in gone)
    return now, gone


def slots_of(now, before, slot):
    """The slots that were taken when the agent of `slot` joined."""
    return [s for agent, s in now.items() if agent in before or s < slot]


def play_generated(bare, episodes, steps, turn_based):
    """Play with random actions, checking every step; the number of times a slot was recycled."""
    env = shoal.emulate(bare, max_agents=64)
    recycled = 0
    for episode in range(episodes):
        env.reset(seed=episode)
        slots, ended = check_slots(env, bare, (), {}, set())
        assert env.rows["masks"].sum() == len(bare.agents)
        ids = {agent: env.rows["occupants"][slot] for agent, slot in slots.items()}
        used = set(slots.values())
        acted = set()
        for _ in range(steps):
            before = list(bare.agents)
            acting = {agent for agent, slot in slots.items() if env.rows["acting"][slot]}
            acted |= acting
            env.step({agent: env.action_space(agent).sample() for agent in acting})
            slots, ended = check_slots(env, bare, before, slots, ended)
            recycled += sum(a not in before and slots[a] in used for a in slots)
            used |= set(slots.values())
            masks = {agent for agent, slot in slots.items() if env.rows["masks"][slot]}
            acting = {agent for agent, slot in slots.items() if env.rows["acting"][slot]}
            if turn_based:
                assert acting == ({bare.agent_selection} if bare.agents else set())
                assert masks == (acting & acted) | ended
                acted -= masks
            else:
                assert masks == set(before)
                assert acting == set(bare.agents)
            for agent, slot in slots.items():
                assert ids.setdefault(agent, len(ids)) == env.rows["occupants"][slot]
            if not bare.agents:
                break
    return recycled


MANY = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("episodes", [30, pytest.param(1000, marks=MANY)])
@pytest.mark.parametrize(
    "module", [generated_agents_parallel_v0, generated_agents_parallel_cust_agentid_v0]
)
def test_generated_agents(module, episodes):
    bare = tagged(module.parallel_env)()
    assert play_generated(bare, episodes, steps=30, turn_based=False) > episodes


# Agents die in this one only where there are twenty, which takes some hundred turns.
@pytest.mark.parametrize("episodes, steps", [(2, 1000), pytest.param(1000, 50, marks=MANY)])
@pytest.mark.parametrize("module", [generated_agents_env_v0, generated_agents_env_cust_agentid_v0])
def test_generated_agents_in_turns(module, episodes, steps):
    bare = tagged(module.raw_env)()
    assert play_generated(bare, episodes, steps, turn_based=True) or steps < 100


# -- a scripted environment, and what its rows must be ----------------------------------------

SCRIPT_OBS = spaces.Dict(
    {"who": spaces.Discrete(1000), "when": spaces.Box(-1, 9999, (2,), np.float32)}
)
SCRIPT_DTYPE = shoal.Layout.from_space(SCRIPT_OBS).struct_dtype


class Scripted(ParallelEnv):
    """Agents that join, die, vanish and come back by chance. Keeps a log of what it said."""

    def __init__(self, possible=(), seed=0):
        self.rng = np.random.default_rng(seed)
        if possible:
            self.possible_agents = list(possible)
        self.pool = list(possible) or [f"a{i}" for i in range(30)]
        self.log = []

    def observation_space(self, agent):
        return SCRIPT_OBS

    def action_space(self, agent):
        return spaces.Discrete(5, start=2)

    def _observe(self, agents):
        return {
            agent: {
                "who": self.pool.index(agent),
                "when": np.float32([self.time, self.rng.random()]),
            }
            for agent in agents
        }

    def reset(self, seed=None, options=None):
        self.time = 0
        self.agents = [agent for agent in self.pool if self.rng.random() < 0.2] or self.pool[:1]
        observations = self._observe(self.agents)
        infos = {agent: {"n": self.time} for agent in self.agents if self.rng.random() < 0.3}
        self.log.append(("reset", list(self.agents), observations, infos))
        return observations, infos

    def step(self, actions):
        assert list(actions) == self.agents
        self.time += 1
        fate = {agent: self.rng.choice(5, p=[0.7, 0.1, 0.1, 0.05, 0.05]) for agent in self.agents}
        if self.time > 6:
            fate = dict.fromkeys(fate, 2)  # truncated, all at once
        terminations = {agent: fate[agent] in (1, 3) for agent in fate}
        truncations = {agent: np.bool_(fate[agent] == 2) for agent in fate if fate[agent] != 1}
        alive = [agent for agent in fate if fate[agent] == 0]
        if alive and self.rng.random() < 0.5:
            new = [a for a in self.pool if a not in fate and self.rng.random() < 0.1][:3]
            alive = [*new, *alive] if self.rng.random() < 0.5 else [*alive, *new]
        seen = [*alive, *(agent for agent in fate if fate[agent] in (1, 2))]
        observations = self._observe(seen)
        rewards = {agent: float(actions[agent]) for agent in fate if fate[agent] != 4}
        infos = {agent: {"n": self.time} for agent in seen if self.rng.random() < 0.3}
        self.agents = alive
        self.log.append(
            ("step", alive, observations, rewards, terminations, truncations, infos, actions)
        )
        return observations, rewards, terminations, truncations, infos


class Model:
    """The rows that `Scripted` must give, worked out again with dictionaries and no cleverness."""

    def __init__(self, num_slots, possible):
        self.num_slots, self.possible = num_slots, possible
        self.slot, self.leaving, self.ids = {}, set(), {}
        self.returns, self.lengths = {}, {}

    def enter(self, agent):
        free = [s for s in range(self.num_slots) if s not in self.slot.values()]
        self.slot[agent] = self.possible.index(agent) if self.possible else free[0]
        self.ids.setdefault(agent, self.slot[agent] if self.possible else len(self.ids))
        self.returns[agent] = self.lengths[agent] = 0

    def take(self, entry, rows, explicit=True):
        """Write one log entry into `rows`."""
        kind, alive, observations = entry[:3]
        for array in rows.values():
            array[...] = 0
        rows["occupants"][:] = -1
        rows["action_masks"][:] = True
        if kind == "reset":
            self.slot, self.leaving, self.ids = {}, set(), {}
            for agent in alive:
                self.enter(agent)
                rows["masks"][self.slot[agent]] = explicit
        else:
            rewards, terminations, truncations = entry[3:6]
            for agent in self.leaving:
                del self.slot[agent]
            before = list(self.slot)
            for agent in before:
                slot = self.slot[agent]
                rows["masks"][slot] = True
                rows["rewards"][slot] = rewards.get(agent, 0)
                rows["terminations"][slot] = terminations.get(agent, False)
                rows["truncations"][slot] = truncations.get(agent, False)
                if agent not in alive and not terminations.get(agent):
                    rows["truncations"][slot] = True
                self.returns[agent] += rewards.get(agent, 0)
                self.lengths[agent] += 1
            self.leaving = {agent for agent in before if agent not in alive}
            for agent in alive:
                if agent not in self.slot:
                    self.enter(agent)
        for agent, slot in self.slot.items():
            rows["occupants"][slot] = self.ids[agent]
            rows["acting"][slot] = agent in alive
            rows["episode_returns"][slot] = self.returns[agent]
            rows["episode_lengths"][slot] = self.lengths[agent]
            if agent in observations:
                row = rows["observations"][slot : slot + 1].view(SCRIPT_DTYPE)
                row["who"], row["when"] = observations[agent].values()


POSSIBLE = [3, ("x", 1), "b", 2.5, *range(10, 26)]
STATISTICS = ("episode_returns", "episode_lengths")


@pytest.mark.parametrize("possible", [POSSIBLE, ()], ids=["possible", "unknown"])
@pytest.mark.parametrize("seed", range(10))
def test_rows_are_those_of_the_model(possible, seed):
    bare = Scripted(possible, seed)
    env = shoal.emulate(bare, max_agents=None if possible else 40)
    bare.log.clear()
    model = Model(env.agents_per_env, possible)
    want = {name: array.copy() for name, array in env.rows.items()}
    rng = np.random.default_rng(seed)
    for _ in range(20):
        observations, infos = env.reset()
        while True:
            entry = bare.log.pop()
            assert not bare.log
            model.take(entry, want)
            want["actions"][...] = env.rows["actions"]
            for name, array in want.items():
                np.testing.assert_array_equal(env.rows[name], array, err_msg=name)
            assert env.agents == entry[1]
            assert observations.keys() == model.slot.keys()
            for agent, slot in model.slot.items():
                np.testing.assert_array_equal(observations[agent], want["observations"][slot])
            assert (
                infos == {agent: {} for agent in model.slot} | entry[-1 if len(entry) == 4 else 6]
            )
            if not entry[1]:
                break
            actions = {agent: rng.integers(2, 7) for agent in entry[1]}
            poison(env.rows)
            observations, *parts, infos = env.step(actions)
            assert bare.log[-1][7] == actions
            for name, part in zip(("rewards", "terminations", "truncations"), parts):
                assert part == {agent: env.rows[name][env_slot(env, agent)] for agent in part}
                assert part.keys() == observations.keys()


def poison(rows):
    """Spoil what was written, so that what is not written again shows."""
    for name, array in rows.items():
        if name not in ("actions", "acting", "final_observations"):
            array.reshape(-1).view(np.uint8)[...] = 1


def env_slot(env, agent):
    return env._driver.occupants.index(agent)


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP, DISABLED])
@pytest.mark.parametrize("possible", [POSSIBLE, ()], ids=["possible", "unknown"])
def test_rows_in_a_loop_with_autoreset(possible, mode):
    """Two environments whose rows lie among others' that must not be touched."""
    n = 40
    envs = [Scripted(possible, seed) for seed in (1, 2)]
    emulated = [shoal.emulate(env, max_agents=n) for env in envs]
    loop = EnvLoop(
        [env.core.driver() for env in emulated], emulated[0].observation_layout.nbytes, mode
    )
    layouts = emulated[0].observation_layout, emulated[0].action_layout
    rows = zero_rows(*layouts, 2 * n)
    buffers = Buffers(*layouts, rows)
    rows["actions"][:] = np.random.default_rng(0).integers(2, 7, 2 * n)
    models = [Model(n, possible) for _ in envs]
    want = [zero_rows(*layouts, n) for _ in envs]
    over = [False, False]
    for i, env in enumerate(envs):
        env.log.clear()
        loop.reset(i, None, None, buffers, i * n)
        models[i].take(env.log.pop(), want[i])
    for step in range(100):
        if step:
            for i in (0, 1):
                if mode == DISABLED and over[i]:
                    loop.reset(i, None, None, buffers, i * n)
                    models[i].take(envs[i].log.pop(), want[i])
                    over[i] = False
            loop.step(buffers)
        for i, env in enumerate(envs):
            if step:
                first, *second = env.log
                env.log.clear()
                models[i].take(first, want[i], explicit=False)
                over[i] = not first[1]
                assert bool(second) == (mode == SAME_STEP and over[i])
                if first[0] == "step":
                    sent = {a: rows["actions"][i * n + s] for a, s in models[i].slot.items()}
                    assert all(sent[a] == action for a, action in first[7].items())
            part = {name: array[i * n : i * n + n] for name, array in rows.items()}
            want[i]["actions"][...] = part["actions"]
            want[i]["final_observations"][...] = part["final_observations"]
            if step and mode == SAME_STEP and over[i]:
                np.testing.assert_array_equal(part["final_observations"], want[i]["observations"])
                assert part["finals"].all()
                fresh = zero_rows(*layouts, n)
                models[i].take(second[0], fresh)
                for name in ("observations", "occupants", "acting"):
                    want[i][name][...] = fresh[name]
                want[i]["finals"][:] = True
            for name, array in want[i].items():
                np.testing.assert_array_equal(part[name], array, err_msg=f"{step} {name}")
            want[i]["finals"][:] = False


# -- turn-based games -------------------------------------------------------------------------


def legal(observation, info, space, rng):
    """A random legal action, by the mask in the observation or the info, if there is one."""
    mask = observation.get("action_mask") if isinstance(observation, dict) else None
    mask = info.get("action_mask") if mask is None else mask
    return rng.choice(np.flatnonzero(mask)) if mask is not None else rng.integers(space.n)


def play_by_hand(env, seed, rng):
    """The loop of PettingZoo's documentation: who moved how, and each agent's total reward."""
    env.reset(seed=seed)
    moves, totals = [], dict.fromkeys(env.possible_agents, 0)
    for agent in env.agent_iter():
        observation, reward, terminated, truncated, info = env.last()
        totals[agent] += reward
        action = None
        if not (terminated or truncated):
            action = legal(observation, info, env.action_space(agent), rng)
            moves.append((agent, action))
        env.step(action)
    return moves, totals


class Gifts(AECEnv):
    """Three players in turn; every step gives rewards to players drawn by chance, on turn or not,
    before their first turn too. They drop out one by one, on turn or not; the last ones together.
    """

    possible_agents = ("p", "q", "r")  # any sequence will do
    rng = None

    def observation_space(self, agent):
        return spaces.Discrete(100)

    def action_space(self, agent):
        return spaces.Discrete(4)

    def observe(self, agent):
        return self.moves

    def reset(self, seed=None, options=None):
        if seed is not None or self.rng is None:
            self.rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        for name, value in (
            ("terminations", False),
            ("truncations", False),
            ("rewards", 0),
            ("_cumulative_rewards", 0),
        ):
            setattr(self, name, dict.fromkeys(self.agents, value))
        self.infos = {agent: {} for agent in self.agents}
        self.moves = 0
        self.agent_selection = "p"

    def step(self, action):
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            return self._was_dead_step(action)
        mover = self.agent_selection
        self.moves += 1
        self._cumulative_rewards[mover] = 0
        for agent in self.agents:
            self.rewards[agent] = float(self.rng.integers(3)) + action / 8
        alive = [agent for agent in self.agents if not self.terminations[agent]]
        if self.moves > 40:
            self.truncations = dict.fromkeys(self.agents, True)
        elif len(alive) > 1 and self.rng.random() < 0.1:
            self.terminations[self.rng.choice(alive)] = True
        self._accumulate_rewards()
        order = [*self.possible_agents, *self.possible_agents]
        after = order[order.index(mover) + 1 :]
        alive = [a for a in self.agents if not (self.terminations[a] or self.truncations[a])]
        self.agent_selection = next((agent for agent in after if agent in alive), mover)
        self._deads_step_first()


@pytest.mark.parametrize(
    "make",
    [
        tictactoe_v3.env,
        connect_four_v3.env,
        leduc_holdem_v4.env,
        texas_holdem_v4.env,
        generated_agents_env_v0.env,
        Gifts,
    ],
    ids=lambda make: make.__module__.rsplit(".", 1)[-1] + "." + make.__name__,
)
def test_totals_are_those_of_a_loop_by_hand(make):
    by_hand, bare = make(), make()
    unknown = not hasattr(bare, "possible_agents")
    if unknown:
        by_hand.unwrapped.possible_agents = [f"type{t}_{i}" for t in range(9) for i in range(99)]
        by_hand.unwrapped.max_cycles = bare.unwrapped.max_cycles = 40
    env = shoal.emulate(bare, max_agents=30 if unknown else None)
    for seed in range(3 if unknown else 30):
        moves, totals = play_by_hand(by_hand, seed, np.random.default_rng(seed))
        env.reset(seed=seed)
        assert env.rows["masks"].sum() == env.rows["acting"].sum() + len(env.agents) - 1
        mine, valid_rows = dict.fromkeys(totals, 0), dict.fromkeys(totals, 0)
        ended = set()
        for mover, action in moves:
            (slot,) = np.flatnonzero(env.rows["acting"])
            assert env._driver.occupants[slot] == mover and mover in env.agents
            if env.rows["action_masks"].size and not unknown:
                assert env.rows["action_masks"][slot, action]
                assert env.rows["action_masks"][~env.rows["acting"]].all()
            slots = {a: s for s, a in enumerate(env._driver.occupants) if a is not None}
            observations, rewards, terminated, truncated, _ = env.step({mover: action})
            assert not ended & observations.keys() or unknown
            ended |= {agent for agent in rewards if terminated[agent] or truncated[agent]}
            for agent, reward in rewards.items():
                mine[agent] += reward
                slot = env._driver.occupants.index(agent)
                if env.rows["masks"][slot]:
                    valid_rows[agent] += env.rows["rewards"][slot]
                else:
                    assert reward == 0 and not terminated[agent] and not truncated[agent]
                assert slots.get(agent, slot) == slot
        assert mine == totals and valid_rows == totals
        assert not env.agents and ended >= {mover for mover, _ in moves}


def test_the_end_of_a_game_comes_for_all_in_one_step():
    env = shoal.emulate(tictactoe_v3.env())
    env.reset()
    for move in (0, 3, 1, 4):
        (agent,) = (a for a, s in zip(env.agents, env.rows["acting"]) if s)
        _, rewards, *flags, _ = env.step({agent: move})
        assert not any(rewards.values()) and not any(flags[0].values())
    _, rewards, terminations, _, _ = env.step({"player_1": 2})  # 0, 1, 2: a row
    assert rewards == {"player_1": 1, "player_2": -1}
    assert terminations == {"player_1": True, "player_2": True}
    assert env.rows["masks"].all() and not env.rows["acting"].any() and not env.agents
    assert env.rows["episode_returns"].tolist() == [1, -1]
    assert env.rows["episode_lengths"].tolist() == [3, 2]


@pytest.mark.parametrize("flagged", [True, False])
def test_an_agent_that_comes_back_has_not_moved_yet(flagged):
    class Phoenix(Gifts):
        """Player q dies (or just vanishes) after its first move, and is back before its turn."""

        def step(self, action):
            if self.terminations[self.agent_selection]:
                return self._was_dead_step(action)
            mover = self.agent_selection
            self.moves += 1
            self._cumulative_rewards[mover] = 0
            self.rewards = dict.fromkeys(self.agents, 1)
            self.agent_selection = {"p": "q", "q": "r", "r": "p"}[mover]
            if self.moves == 2:
                if flagged:
                    self.terminations["q"] = True
                else:
                    self.agents.remove("q")
                    del self.rewards["q"]
            if self.moves == 3:
                self.agents.append("q")
                for part in (self.rewards, self._cumulative_rewards, self.infos):
                    part["q"] = {} if part is self.infos else 0
                self.terminations["q"] = self.truncations["q"] = False
            self._accumulate_rewards()
            self._deads_step_first()

    env = shoal.emulate(Phoenix())
    env.reset()
    seen = []
    for _ in range(7):
        _, rewards, *flags, _ = env.step(dict.fromkeys(env.agents, 0))
        masks = "".join(a for a, valid in zip("pqr", env.rows["masks"]) if valid)
        over = "".join(a for a in rewards if flags[0][a] or flags[1][a])
        seen.append((env.env.agent_selection, masks, over, env.rows["rewards"].tolist()))
    assert seen == [
        ("q", "", "", [0, 0, 0]),
        # q got 1 before its first turn and 1 for its move; the latter nobody sees if it vanishes.
        ("r", "q", "q", [0, 2 if flagged else 1, 0]),
        ("p", "p", "", [3, 0, 0]),
        ("q", "", "", [0, 0, 0]),  # its first turn in this life ends no transition
        ("r", "r", "", [0, 0, 5]),
        ("p", "p", "", [3, 0, 0]),
        ("q", "q", "", [0, 4, 0]),  # 1 of it from before its first turn
    ]


def test_masks_and_observations_of_a_turn_based_game():
    """Both players' boards are fresh at every step, though one moved."""
    env = shoal.emulate(connect_four_v3.env())
    env.reset()
    assert env.rows["masks"].tolist() == [True, True]  # after a reset: everybody present
    assert env.rows["acting"].tolist() == [True, False]
    bare = connect_four_v3.env()
    bare.reset()
    for turn in range(8):
        mover, other = bare.agents[turn % 2], bare.agents[1 - turn % 2]
        observations, *_ = env.step({mover: 2 if turn < 6 else turn - 3, other: 99})
        bare.step(2 if turn < 6 else turn - 3)
        for agent in bare.agents:
            got, want = env.decode(agent, observations[agent]), bare.observe(agent)
            np.testing.assert_array_equal(got["observation"], want["observation"])
            np.testing.assert_array_equal(got["action_mask"], want["action_mask"])
        assert env.rows["acting"].tolist() == [turn % 2 == 1, turn % 2 == 0]
        # Nobody's first turn ends a transition.
        assert env.rows["masks"].tolist() == [turn % 2 == 1, turn % 2 == 0 and turn > 0]
        slot = int(turn % 2 == 0)
        np.testing.assert_array_equal(
            env.rows["action_masks"][slot], bare.observe(other)["action_mask"]
        )
        assert env.rows["action_masks"][1 - slot].all()
    assert not env.rows["action_masks"].all()  # a column is full


# -- agents whose spaces differ ---------------------------------------------------------------

ODD_ACTIONS = {
    "discrete": spaces.Discrete(3),
    "started": spaces.Discrete(5, start=-2),
    "multi": spaces.MultiDiscrete([2, 7, 4], start=[1, 0, 5]),
    "binary": spaces.MultiBinary([2, 2]),
    "integers": spaces.Box(-3, 3, (2,), np.int8),
    "box": spaces.Box(np.float32([-1, 0.25]), np.float32([1, 0.5])),
    "wide": spaces.Box(-1e30, 1e30, (2, 3), np.float64),
    "half": spaces.Box(-1, 1, (3,), np.float16),
    "mixed": spaces.Dict(
        move=spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
        say=spaces.Text(3, charset="ab"),
        far=spaces.Box(-(2**40), 2**40, (1,), np.int64),
    ),
}
ODD_OBSERVATIONS = {
    name: spaces.Dict(
        me=spaces.Discrete(50, start=i),
        see=spaces.Box(-9, 9, (i, 2), np.float32),
        **({"action_mask": spaces.MultiBinary(14)} if name == "integers" else {}),
    )
    for i, name in enumerate(ODD_ACTIONS)
}


class Various(ParallelEnv):
    """One agent for each of some action spaces; remembers what it was given."""

    def __init__(self, names=tuple(ODD_ACTIONS), observations=ODD_OBSERVATIONS, infos=None):
        self.possible_agents = list(names)
        self.observations, self.infos = observations, infos or {}

    def observation_space(self, agent):
        return self.observations[agent]

    def action_space(self, agent):
        return ODD_ACTIONS[agent]

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self._observe(), self.infos

    def _observe(self):
        self.said = {agent: self.observations[agent].sample() for agent in self.agents}
        return self.said

    def step(self, actions):
        assert list(actions) == self.agents
        self.actions = actions
        return self._observe(), dict.fromkeys(self.agents, 1.5), {}, {}, self.infos


def same(a, b):
    """Whether two nested values are equal, arrays included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


class Masked(ParallelEnv):
    """Agents of 2, 3 and (2, 4) choices, whose infos say which are legal."""

    possible_agents = ["two", "three", "pair"]  # noqa: RUF012
    metadata = {"name": "masked"}  # noqa: RUF012
    counts = {"two": [2], "three": [3], "pair": [2, 4]}  # noqa: RUF012
    masks = {  # noqa: RUF012
        "two": np.array([0, 1], np.int8),
        "three": np.array([1, 0, 1], np.int8),
        "pair": np.array([1, 0, 0, 1, 1, 0], np.int8),
    }

    def observation_space(self, agent):
        return spaces.Box(0, 1, (1,), np.float32)

    def action_space(self, agent):
        counts = self.counts[agent]
        return spaces.MultiDiscrete(counts) if len(counts) > 1 else spaces.Discrete(counts[0])

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self.look(), self.infos()

    def look(self):
        return {agent: np.zeros(1, np.float32) for agent in self.agents}

    def infos(self):
        return {agent: {"action_mask": self.masks[agent], "own": 1} for agent in self.agents}

    def step(self, actions):
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action)
        flags = dict.fromkeys(self.agents, False)
        return self.look(), dict.fromkeys(self.agents, np.ones(1)), flags, flags, self.infos()


def padded_masks():
    """The masks of `Masked` in the common space (3, 4); a missing element has one value."""
    return {
        "two": [0, 1, 0, 1, 0, 0, 0],
        "three": [1, 0, 1, 1, 0, 0, 0],
        "pair": [1, 0, 0, 0, 1, 1, 0],
    }


@pytest.mark.parametrize("pad", [False, True])
def test_masks_in_infos_are_padded_as_the_action_space_is(pad):
    env = shoal.emulate(Masked(), pad=pad)
    _, infos = env.reset(seed=0)
    for _ in range(3):
        for agent, mask in padded_masks().items():
            own = Masked.masks[agent].tolist()
            assert infos[agent]["action_mask"].tolist() == (mask if pad else own)
            assert infos[agent]["action_mask"].dtype == np.int8 and infos[agent]["own"] == 1
        assert env.rows["action_masks"].tolist() == [
            [bool(entry) for entry in mask] for mask in padded_masks().values()
        ]
        if pad:
            assert env.action_space("two") == spaces.MultiDiscrete([3, 4])
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        *_, infos = env.step(actions)
    assert Masked.masks["two"].tolist() == [0, 1]  # the environment's own are left alone


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize(
    "backend", [{"backend": "serial"}, {"backend": "multiprocess", "num_workers": 2}]
)
@pytest.mark.parametrize("pad", [False, True])
def test_masks_of_different_agents_in_vectors(pad, backend, autoreset):
    vector = shoal.vectorize(Masked, 2, pad=pad, autoreset=autoreset, **backend)
    _, infos = vector.reset(seed=0)
    expected = [[bool(entry) for entry in mask] for mask in padded_masks().values()] * 2
    for _ in range(3):
        assert vector.action_masks.tolist() == expected
        for row, agent in enumerate(Masked.possible_agents * 2):
            mask = padded_masks()[agent] if pad else Masked.masks[agent].tolist()
            assert list(infos["action_mask"][row]) == mask
        state = vector.get_state()
        vector.set_state(state)
        _, rewards, _, _, infos = vector.step(np.zeros((6, 2), np.int64))
        assert rewards.tolist() == [1.0] * 6
    vector.close()


@pytest.mark.parametrize("form", ["bytes", "float32"])
@pytest.mark.parametrize("pad", [False, True])
def test_every_value_of_various_agents_arrives(form, pad):
    bare = Various()
    env = shoal.emulate(bare, form, pad=pad)
    own = {agent: shoal.rows.actions.ActionLayout.from_space(s) for agent, s in ODD_ACTIONS.items()}
    observations, _ = env.reset()
    for _ in range(300):
        for agent, observation in observations.items():
            assert env.observation_space(agent).contains(observation)
            assert same(env.decode(agent, observation), bare.said[agent])
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        observations, *_ = env.step(actions)
        for agent, action in bare.actions.items():
            assert ODD_ACTIONS[agent].contains(action), agent
            flat = own[agent].flat.zeros()
            if pad:
                part = own[agent].flat.view(flat)
                parts = part if isinstance(part, dict) else {"one": part}
                for name, into in parts.items():
                    narrow(actions[agent], own[agent], name, into)
            else:
                own[agent].encode(actions[agent], flat)
            assert same(own[agent].decode(flat), action), agent


def narrow(action, layout, name, into):
    """One part of an agent's own flat action, worked out from a common one by the written rule."""
    leaves = {leaf.path or "one": leaf for leaf in layout.flat.leaves}
    low, high = leaves[name].low, leaves[name].high
    if name == "one":
        name = "continuous" if isinstance(layout.flat_space, spaces.Box) else "discrete"
        if layout.flat_space == ODD_ACTIONS["integers"]:
            name = "discrete"
    values = action[name][: into.size].reshape(into.shape)
    if name == "discrete":
        into[...] = low + values % (np.asarray(high, np.int64) - low + 1)
    else:
        into[...] = np.clip(values, low, high)


def test_padded_agents_share_their_spaces():
    env = shoal.emulate(simple_tag_v3.parallel_env(), pad=True)
    assert len({id(env.observation_space(agent)) for agent in env.possible_agents}) == 1
    assert env.observation_space("agent_0") == env.observation_layout.flat_space
    assert env.observation_layout.shape == (16,) and env.observation_layout.dtype == np.float32
    various = shoal.emulate(Various(["discrete", "started"]), pad=True)
    assert various.action_space("discrete") == spaces.Discrete(5)
    various = shoal.emulate(Various(["discrete", "multi"]), pad=True)
    assert various.action_space("discrete") == spaces.MultiDiscrete([3, 7, 4])
    various = shoal.emulate(Various(["box", "wide"]), pad=True)
    low, high = np.full(6, -1e30), np.full(6, 1e30)
    assert various.action_space("box") == spaces.Box(low, high, dtype=np.float64)
    various = shoal.emulate(Various(["box", "started"]), pad=True)
    assert various.action_space("box") == spaces.Dict(
        continuous=spaces.Box(np.float32([-1, 0.25]), np.float32([1, 0.5])),
        discrete=spaces.MultiDiscrete([5]),
    )


def test_padded_rows_are_the_agents_own_and_zero():
    bare = simple_tag_v3.parallel_env()
    env = shoal.emulate(bare, pad=True)
    env.reset(seed=0)
    poison(env.rows)
    env.step(dict.fromkeys(env.agents, 1))
    hunters, prey = env.groups
    assert hunters.agents == ("adversary_0", "adversary_1", "adversary_2")
    assert hunters.slots == (0, 1, 2) and prey.agents == ("agent_0",) and prey.slots == (3,)
    rows = env.rows["observations"]
    assert hunters.observations(rows).shape == (3, 16) and prey.observations(rows).shape == (1, 14)
    assert np.shares_memory(prey.observations(rows), rows)
    assert rows[:3, 14:].any() and not rows[3:, 14:].any()
    for group in env.groups:
        for agent, row in zip(group.agents, group.observations(rows)):
            np.testing.assert_array_equal(row, bare.aec_env.observe(agent))


def test_groups_with_scattered_slots():
    names = ["box", "discrete", "half"]
    shared = {"box": ODD_OBSERVATIONS["wide"], "half": ODD_OBSERVATIONS["wide"]}
    bare = Various(names, ODD_OBSERVATIONS | shared)
    bare.action_space = lambda agent: spaces.Discrete(3 if agent == "discrete" else 2)
    env = shoal.emulate(bare)
    env.reset()
    first, second = env.groups
    assert first.agents == ("box", "half") and first.slots == (0, 2)
    assert second.agents == ("discrete",) and second.slots == (1,)
    seen = first.observation_layout.view(first.observations(env.rows["observations"]))
    assert seen["me"].tolist() == [bare.said["box"]["me"], bare.said["half"]["me"]]
    np.testing.assert_array_equal(seen["see"], [bare.said["box"]["see"], bare.said["half"]["see"]])


def test_one_group_where_all_are_alike():
    env = shoal.emulate(simple_spread_v3.parallel_env(N=4))
    env.reset()
    (group,) = env.groups
    assert group.slots == (0, 1, 2, 3) and group.observation_layout == env.observation_layout
    assert group.observations(env.rows["observations"]).base is env.rows["observations"]


def test_unforeseen_agents_may_need_declared_spaces():
    bare = generated_agents_parallel_v0.parallel_env()
    box, choices = spaces.Box(0, 1, (50,)), spaces.Discrete(10)
    env = shoal.emulate(bare, max_agents=40, pad=(box, choices))
    for seed in range(20):
        env.reset(seed=seed)
        for _ in range(5):
            env.step({agent: env.action_space(agent).sample() for agent in env.agents})
            assert env.observation_space(env.agents[0]) == box
            assert env.action_space(env.agents[0]) == choices
            assert env.rows["observations"].shape == (40, 50)
    tight = shoal.emulate(bare, max_agents=40, pad=True)
    with pytest.raises(EmulationError, match=r"agent 'type\d_\d+': .*pad=\(observation_space"):
        for seed in range(50):
            tight.reset(seed=seed)


# -- action masks and infos -------------------------------------------------------------------


def test_action_masks_come_from_observations_and_infos():
    mask = np.int8([1, 0, 1])
    infos = {"discrete": {"action_mask": mask}, "started": {"n": 3}}
    env = shoal.emulate(Various(["discrete", "started", "integers"], infos=infos))
    env.reset()
    # Common actions: two elements, the first of 7 and the second of 7 categories.
    assert env.action_layout.num_masked == 14
    one_choice = [True] + [False] * 6
    for _ in range(5):
        masks = env.rows["action_masks"]
        assert masks[0].tolist() == [True, False, True, *[False] * 4, *one_choice]
        assert masks[1].tolist() == [*[True] * 5, False, False, *one_choice]
        assert masks[2].tolist() == env.env.said["integers"]["action_mask"].tolist()
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        *_, seen = env.step(actions)
        assert seen == infos | {"integers": {}}


def test_masks_of_alike_agents():
    class Masked(ParallelEnv):
        possible_agents = ("a", "b", "c")

        def observation_space(self, agent):
            return spaces.Dict(action_mask=spaces.MultiBinary(4), x=spaces.Box(0, 1, ()))

        def action_space(self, agent):
            return spaces.Discrete(4)

        def reset(self, seed=None, options=None):
            self.agents = ["a", "b"]
            return self._observe(), {}

        def _observe(self):
            self.masks = {
                a: np.random.default_rng().integers(2, size=4, dtype=np.int8) for a in "abc"
            }
            return {a: {"x": 0.5, "action_mask": self.masks[a]} for a in self.agents}

        def step(self, actions):
            return self._observe(), dict.fromkeys("ab", 0), {}, {}, {}

    env = shoal.emulate(Masked())
    env.reset()
    for _ in range(10):
        want = [env.env.masks["a"] != 0, env.env.masks["b"] != 0, np.ones(4, bool)]
        np.testing.assert_array_equal(env.rows["action_masks"], want)
        env.step({"a": 0, "b": 0})


def test_infos_of_others_are_passed_on():
    infos = {"box": {"n": 1}, "common": {"time": 3}}
    env = shoal.emulate(Various(["box", "discrete"], infos=infos))
    assert env.reset()[1] == infos | {"discrete": {}}
    assert env.core.driver().info is None
    loop = EnvLoop([env.core.driver()], env.observation_layout.nbytes, DISABLED)
    loop.reset(0, None, None, Buffers(env.observation_layout, env.action_layout, env.rows), 0)
    assert loop.take_infos() == ([{0: {"n": 1}}], None)  # by slot, for whoever serves the rows


# -- old interfaces ---------------------------------------------------------------------------


class OldParallel:
    """PettingZoo of 2021: attributes for spaces, no seed, no infos from reset, one `dones`."""

    def __init__(self):
        self.possible_agents = ["a", "b"]
        self.observation_spaces = dict.fromkeys("ab", spaces.Box(0, 9, (2,)))
        self.action_spaces = dict.fromkeys("ab", spaces.Discrete(2))
        self.seeds = []

    def seed(self, seed):
        self.seeds.append(seed)

    def reset(self):
        self.agents = ["a", "b"]
        self.time = 0
        return self._observe(self.agents)

    def _observe(self, agents):
        return {agent: np.float32([self.time, 0]) for agent in agents}

    def step(self, actions):
        self.time += 1
        before = self.agents
        dones = {agent: self.time >= {"a": 2, "b": 3}[agent] for agent in before}
        self.agents = [agent for agent in before if not dones[agent]]
        return self._observe(before), dict.fromkeys(before, 1), dones, {a: {} for a in before}


class OldInNew(OldParallel, ParallelEnv):
    """The same, written by someone who had today's signature of `reset` only."""

    def reset(self, seed=None, options=None):
        return super().reset()

    def step(self, actions):
        observations, rewards, dones, infos = super().step(actions)
        return observations, rewards, dones | {"__all__": not self.agents}, infos


class OldTurns(Gifts):
    """An AEC environment of that time: `dones`, a `last` of four values, `seed`."""

    observation_spaces = dict.fromkeys(Gifts.possible_agents, spaces.Discrete(100))
    action_spaces = dict.fromkeys(Gifts.possible_agents, spaces.Discrete(4))
    observation_space = action_space = None
    given = None

    def seed(self, seed):
        self.given = seed

    def reset(self):
        super().reset(self.given)

    def last(self, observe=True):
        observation, reward, terminated, truncated, info = super().last(observe)
        return observation, reward, terminated or truncated, info


def warned(play):
    """The messages of all warnings that `play` gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        play()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("kind", [OldParallel, OldInNew])
def test_old_parallel_environments(kind):
    bare = kind()
    env = shoal.emulate(bare)

    def play():
        for _ in range(3):
            observations, infos = env.reset(seed=7)
            assert infos == {"a": {}, "b": {}} and observations["a"].tolist() == [0, 0]
            env.step({"a": 0, "b": 1})
            observations, rewards, terminations, truncations, infos = env.step({"a": 0, "b": 1})
            assert rewards == {"a": 1, "b": 1} and observations["a"].tolist() == [2, 0]
            assert terminations == {"a": True, "b": False} and not any(truncations.values())
            assert env.agents == ["b"] and infos == {"a": {}, "b": {}}
            _, rewards, terminations, *_ = env.step({"b": 1})
            assert terminations == {"b": True} and env.agents == []

    found = sorted(text for text in warned(play) if "override" not in text)
    want = [
        f"{kind.__name__}: old PettingZoo interface: reset() returns no infos",
        f"{kind.__name__}: old PettingZoo interface: step() returns four values",
    ]
    if kind is OldParallel:
        want.append(f"{kind.__name__}: reset() takes no seed; its seed() method is called instead")
        assert bare.seeds == [7, 7, 7]
    assert found == want


def test_old_turn_based_environments():
    old, new = shoal.emulate(OldTurns()), shoal.emulate(Gifts())

    def play():
        for seed in range(5):
            assert old.reset(seed=seed) == new.reset(seed=seed)
            while new.agents:
                actions = dict.fromkeys(new.agents, 1)
                observations, rewards, terminations, truncations, _ = new.step(actions)
                seen = old.step(actions)
                assert seen[0] == observations and seen[1] == rewards
                over = {a: terminations[a] or truncations[a] for a in rewards}
                assert seen[2] == over and not any(seen[3].values())
            assert not old.agents

    assert sorted(warned(play)) == [
        "OldTurns: old PettingZoo interface: last() returns four values",
        "OldTurns: reset() takes no seed; its seed() method is called instead",
    ]


# -- errors -----------------------------------------------------------------------------------


class Broken(ParallelEnv):
    """Two agents; what `step` and `reset` return can be spoilt by a function."""

    possible_agents = ("a", "b")

    def __init__(self, spoil=lambda result, env: result, spoil_reset=lambda result, env: result):
        self.spoil, self.spoil_reset, self.steps = spoil, spoil_reset, 0

    def observation_space(self, agent):
        return spaces.Box(0, 1, (2,))

    def action_space(self, agent):
        return spaces.Box(-1, 1, (2,)) if agent == "c" else spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents = ["a", "b"]
        return self.spoil_reset((self._observe(), {}), self)

    def _observe(self):
        return {agent: np.zeros(2, np.float32) for agent in self.agents}

    def step(self, actions):
        self.steps += 1
        no = dict.fromkeys(self.agents, False)
        result = [self._observe(), dict.fromkeys(self.agents, 0.5), no, dict(no), {}]
        result = self.spoil(result, self)
        return tuple(result) if isinstance(result, list) else result


def put(index, agent, value):
    """A function that spoils one entry of one dictionary."""

    def spoil(result, env):
        result[index] = {**result[index], agent: value}
        return result

    return spoil


def drop(index, agent):
    return lambda result, env: [
        {k: v for k, v in part.items() if k != agent or i != index} for i, part in enumerate(result)
    ]


def rename(agents):
    def spoil(result, env):
        env.agents = agents
        return result

    return spoil


@pytest.mark.parametrize(
    "spoil, message",
    [
        (drop(0, "b"), "agent 'b' is in env.agents, but has no observation; .*'a'"),
        (drop(1, "b"), "agent 'b' is alive, but has no reward; .*'a'"),
        (put(1, "b", None), "agent 'b': reward: expected a number, got None"),
        (put(1, "b", "2"), "agent 'b': reward: expected a number, got '2'"),
        (
            put(0, "b", np.zeros(3, np.float32)),
            r"agent 'b': obs: expected shape \(2,\), got \(3,\)",
        ),
        (put(0, "b", "x"), "agent 'b': obs: "),
        (rename(["a", "b", "c"]), "agent 'c' is in env.agents, but not in env.possible_agents"),
        (rename(["a", "b", "a"]), "lists an agent twice"),
        (lambda result, env: result[:3], "step: expected 5 dictionaries .*, got 3"),
        (lambda result, env: 3, "step: expected 5 dictionaries .*, got int"),
        (
            lambda result, env: [*result[:4], []],
            "step: infos: expected a dictionary by agent, got list",
        ),
    ],
)
def test_broken_steps_are_told(spoil, message):
    env = shoal.emulate(Broken(spoil))
    env.reset()
    with pytest.raises(shoal.ShoalError, match=message):
        env.step({"a": 0, "b": 1})
    env.env.spoil = lambda result, env: result
    env.reset()  # and then all is well
    env.step({"a": 0, "b": 1})
    assert env.agents == ["a", "b"] and env.rows["masks"].all()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda result, env: ({"a": result[0]["a"]}, {}), "agent 'b' .* has no observation"),
        (lambda result, env: (result[0], []), "reset: infos: expected a dictionary"),
        (lambda result, env: rename([])(result, env), "no agent is in env.agents"),
    ],
)
def test_broken_resets_are_told(spoil, message):
    with pytest.raises(EmulationError, match=message):
        shoal.emulate(Broken(spoil_reset=spoil)).reset()


@pytest.mark.parametrize(
    "actions, message",
    [
        ({"a": 0}, r"agent 'b': no action; got actions of \['a'\]"),
        ({"a": 0, "b": 3}, r"agent 'b': action: 3 is outside \[0, 2\]"),
        ({"a": -1, "b": 0}, r"agent 'a': action: -1 is outside \[0, 2\]"),
        ({"a": 0, "b": 0.5}, "agent 'b': action: value 0.5 doesn't fit int64"),
        ({"a": 0, "b": [1, 2]}, r"agent 'b': action: expected shape \(\), got \(2,\)"),
        ({"a": 0, "b": None}, "agent 'b': action"),
    ],
)
def test_bad_actions_are_refused_before_anything_is_stepped(actions, message):
    bare = Broken()
    env = shoal.emulate(bare)
    env.reset()
    with pytest.raises(ActionError, match=message):
        env.step(actions)
    assert bare.steps == 0
    env.step({"a": 0, "b": 2, "nobody": 9})  # actions of others are nobody's business
    assert bare.steps == 1


def test_bad_actions_of_agents_with_other_spaces():
    class Mixed(Broken):
        possible_agents = ("a", "c")

        def reset(self, seed=None, options=None):
            self.agents = ["a", "c"]
            return self._observe(), {}

    bare = Mixed()
    env = shoal.emulate(bare)
    env.reset()
    for wrong, message in (
        (np.float32([0, 2]), r"agent 'c': action\[1\]: 2.0 is outside \[-1.0, 1.0\]"),
        (np.zeros(3), r"agent 'c': action: expected shape \(2,\), got \(3,\)"),
        (np.float32([np.nan, 0]), r"agent 'c': action\[0\]: nan is outside"),
    ):
        with pytest.raises(ActionError, match=message):
            env.step({"a": 0, "c": wrong})
    assert bare.steps == 0


def test_environments_that_can_not_be_emulated_as_asked():
    with pytest.raises(EmulationError, match=r"parallel_env has no possible_agents.*max_agents=N"):
        shoal.emulate(generated_agents_parallel_v0.parallel_env())
    for wrong in (1, 2.5, "4"):
        with pytest.raises(EmulationError, match=r"max_agents must be an integer of at least [12]"):
            shoal.emulate(Broken(), max_agents=wrong)
    assert shoal.emulate(Broken(), max_agents=3).agents_per_env == 3
    with pytest.raises(EmulationError, match="give an instance"):
        shoal.emulate(Broken)


def test_too_many_agents():
    env = shoal.emulate(Scripted((), seed=1), max_agents=8)
    with pytest.raises(EmulationError, match=r"no slot for agent 'a.*all 8 are taken.*max_agents"):
        for _ in range(50):
            env.reset()
            while env.agents:
                env.step(dict.fromkeys(env.agents, 2))
    with pytest.raises(EmulationError, match="reset the environment first"):
        env.step(dict.fromkeys(env.env.agents, 2))


def test_steps_need_a_running_episode():
    env = shoal.emulate(Broken(rename([])))
    with pytest.raises(EmulationError, match="reset the environment first"):
        env.step({})
    env.reset()
    env.step({"a": 0, "b": 0})
    assert env.rows["truncations"].all() and env.rows["masks"].all() and env.agents == []
    with pytest.raises(EmulationError, match="reset the environment first"):
        env.step({})


def test_everybody_flagged_is_the_end_though_the_list_stays():
    def all_over(result, env):
        result[2] = dict.fromkeys("ab", True)
        return result

    env = shoal.emulate(Broken(all_over))
    env.reset()
    *_, terminations, _, _ = env.step({"a": 0, "b": 0})
    assert terminations == {"a": True, "b": True} and env.agents == []
    assert not env.rows["acting"].any()
    env.reset()
    assert env.agents == ["a", "b"] and env.rows["acting"].all()


def test_a_flagged_agent_that_stays_has_a_new_life():
    env = shoal.emulate(Broken(put(2, "a", True)))
    env.reset()
    for _ in range(3):
        env.step({"a": 0, "b": 0})
        assert env.agents == ["a", "b"] and env.rows["acting"].all()
        assert env.rows["terminations"].tolist() == [True, False]
        assert env.rows["episode_lengths"][0] == 1 and env.rows["episode_returns"][0] == 0.5


def test_turns_that_break_the_rules():
    class Lingering(Gifts):
        def _was_dead_step(self, action):
            pass

    class Stranger(Gifts):
        def step(self, action):
            super().step(action)
            self.agent_selection = "nobody"

    for kind, message in (
        (Lingering, r"agent '\w' is over, but step\(None\) left it in env.agents"),
        (Stranger, "env.agent_selection is 'nobody', which is not in env.agents"),
    ):
        env = shoal.emulate(kind())
        env.reset(seed=0)
        with pytest.raises(EmulationError, match=message):
            while env.agents:
                env.step(dict.fromkeys(env.agents, 0))


def test_debug_checks_what_the_environment_says():
    with pytest.raises(EnvCheckError, match=r"obs\.b, episode 1, step 1"):
        env = shoal.emulate(Broken(put(0, "b", np.float32([0, 2]))), debug=True)
        env.reset()
        env.step({"a": 0, "b": 0})
    for make in (tictactoe_v3.env, simple_spread_v3.parallel_env, OldParallel):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = shoal.emulate(make(), debug=True)
            env.reset(seed=0)
            while env.agents:
                env.step({agent: slot % 2 for slot, agent in enumerate(env.agents)})


# -- buffers, copies and saved states ---------------------------------------------------------


def test_results_go_to_given_rows():
    env = shoal.emulate(simple_spread_v3.parallel_env())
    big = zero_rows(env.observation_layout, env.action_layout, 9)
    given = {name: array[3:6] for name, array in big.items()}
    env.bind(given)
    observations, _ = env.reset(seed=0)
    for _ in range(5):
        for slot, agent in enumerate(env.agents):
            np.testing.assert_array_equal(big["observations"][3 + slot], observations[agent])
            assert not np.shares_memory(big["observations"], observations[agent])
        observations, rewards, *_ = env.step(dict.fromkeys(env.agents, 1))
        assert big["rewards"].tolist() == [*[0] * 3, *rewards.values(), *[0] * 3]
    for name, array in big.items():
        assert not array[:3].any() and not array[6:].any(), name
    with pytest.raises(LayoutError, match="expected buffers of 3 rows, got 9"):
        env.bind(big)
    assert env.rows is given
    with pytest.raises(LayoutError, match="rewards"):
        env.bind(given | {"rewards": np.zeros(3, np.float32)})


def test_rows_of_another_width_are_refused():
    """A loop made before agents with larger spaces joined must not write past its rows."""
    narrow = spaces.Box(0, 1, (2,)), spaces.Discrete(2)
    env = shoal.emulate(Broken())
    layouts = (
        shoal.Layout.from_space(narrow[0], form="float32"),
        shoal.rows.actions.ActionLayout.from_space(spaces.MultiDiscrete([2, 2])),
    )
    rows = zero_rows(*layouts, 2)
    driver = env.core.driver()
    loop = EnvLoop([driver], layouts[0].nbytes, DISABLED)
    loop.reset(0, None, None, Buffers(*layouts, rows), 0)
    with pytest.raises(EmulationError, match="rows of 16 action bytes, expected 8"):
        loop.step(Buffers(*layouts, rows))
    wide = shoal.Layout.from_space(spaces.Box(0, 1, (3,)))
    with pytest.raises(EmulationError, match="rows of 12 observation bytes, expected 8"):
        loop.reset(0, None, None, Buffers(wide, layouts[1], zero_rows(wide, layouts[1], 2)), 0)


@pytest.mark.parametrize("make", [Gifts, functools.partial(Scripted, POSSIBLE, 5)])
def test_copies_hold_the_environment_as_it_is(make):
    env = shoal.emulate(make(), max_agents=40)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.agents_per_env == 40 and copy.observation_layout == env.observation_layout
    assert copy.env is not env.env
    for _ in range(3):
        seen = [e.reset(seed=1)[0] for e in (env, copy)]
        while True:
            assert same(*seen) and env.agents == copy.agents
            if not env.agents:
                break
            seen = [e.step(dict.fromkeys(e.agents, 2))[0] for e in (env, copy)]


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP])
@pytest.mark.parametrize(
    "make", [Gifts, functools.partial(Scripted, POSSIBLE, 5), functools.partial(Scripted, (), 5)]
)
def test_saved_states_go_on_alike(make, mode):
    first, second = (shoal.emulate(make(), max_agents=40) for _ in range(2))
    layouts = first.observation_layout, first.action_layout
    loops = [EnvLoop([env.core.driver()], layouts[0].nbytes, mode) for env in (first, second)]
    all_rows = [zero_rows(*layouts, 40) for _ in loops]
    buffers = [Buffers(*layouts, rows) for rows in all_rows]
    for rows in all_rows:
        rows["actions"][:] = 2
    loops[0].reset(0, 1, None, buffers[0], 0)
    loops[1].reset(0, 2, None, buffers[1], 0)
    for at in range(60):
        for _ in range(at % 3):
            loops[0].step(buffers[0])
        copy = pickle.loads(pickle.dumps((first.env, loops[0].get_state(0))))
        second.core.env = copy[0]
        loops[1].replace(0, second.core.driver())
        loops[1].set_state(0, copy[1])
        for _ in range(at % 5):
            for loop, into in zip(loops, buffers):
                loop.step(into)
            for name, array in all_rows[0].items():
                if name != "final_observations" or all_rows[0]["finals"].all():
                    np.testing.assert_array_equal(all_rows[1][name], array, err_msg=name)
