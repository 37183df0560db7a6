"""Multi-agent emulation: PettingZoo's own tests, a scripted environment with a reference model of
its rows, turn-based games against hand-written loops, old interfaces, and every way to be wrong.
"""

import functools
import warnings

import numpy as np
import pytest
from gymnasium import spaces
from mpe2 import simple_spread_v3, simple_tag_v3
from pettingzoo import ParallelEnv
from pettingzoo.butterfly import knights_archers_zombies_v11, pistonball_v6
from pettingzoo.classic import connect_four_v3, tictactoe_v3
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
from shoal.emulation.loop import DISABLED, NEXT_STEP, SAME_STEP, Buffers, EnvLoop
from shoal.emulation.rows import zero_rows

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
            observations, *parts, infos = env.step(actions)
            assert bare.log[-1][7] == actions
            for name, part in zip(("rewards", "terminations", "truncations"), parts):
                assert part == {agent: env.rows[name][env_slot(env, agent)] for agent in part}
                assert part.keys() == observations.keys()


def env_slot(env, agent):
    return env._driver.occupants.index(agent)


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP, DISABLED])
@pytest.mark.parametrize("possible", [POSSIBLE, ()], ids=["possible", "unknown"])
def test_rows_in_a_loop_with_autoreset(possible, mode):
    """Two environments whose rows lie among others' that must not be touched."""
    n = 40
    envs = [Scripted(possible, seed) for seed in (1, 2)]
    emulated = [shoal.emulate(env, max_agents=n) for env in envs]
    loop = EnvLoop([env.driver() for env in emulated], emulated[0].observation_layout.nbytes, mode)
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
