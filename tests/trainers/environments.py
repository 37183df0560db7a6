"""Small environments whose every number a test can foretell."""

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Counter(gymnasium.Env):
    """Observation: steps since the reset, and a number of the environment's own. Episodes end after
    `lengths[i % n]` steps, in turn by termination, by truncation, and by both."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, lengths=(3, 5, 1, 9)):
        self.lengths, self.episode = lengths, -1

    def observe(self):
        return np.array([self.t, self.episode, self.mark], np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.mark = float(1 + seed % 8)
        self.t, self.episode = 0, self.episode + 1
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.lengths[self.episode % len(self.lengths)]
        how = self.episode % 3
        reward = 100 * self.mark + self.episode + 0.01 * self.t
        return self.observe(), reward, over and how != 1, over and how != 0, {}


class Endless(gymnasium.Env):
    """Reward 1 for ever, cut off every 8 steps, which the policy can't see coming."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.t = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.ones(1, np.float32), 1.0, False, self.t % 8 == 0, {}


class Dying(ParallelEnv):
    """Four agents, of which agent i lives for ``2 * i + 2`` steps; reward: 10 * agent + step."""

    metadata = {"name": "dying"}  # noqa: RUF012
    possible_agents = ["agent_0", "agent_1", "agent_2", "agent_3"]  # noqa: RUF012
    render_mode = None

    def observation_space(self, agent):
        return spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(4)

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return self.observe(self.agents), {agent: {} for agent in self.agents}

    def observe(self, agents):
        return {a: np.array([int(a[-1]), self.t], np.float32) for a in agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        acted = self.agents
        over = {a: self.t >= 2 * int(a[-1]) + 2 for a in acted}
        self.agents = [a for a in acted if not over[a]]
        return (
            self.observe(acted),
            {a: 10.0 * int(a[-1]) + self.t for a in acted},
            {a: over[a] and int(a[-1]) % 2 == 0 for a in acted},
            {a: over[a] and int(a[-1]) % 2 == 1 for a in acted},
            {a: {} for a in acted},
        )


class Spoilt(gymnasium.Env):
    """Counts its steps, and on step `when` puts `value` where it is told."""

    observation_space = spaces.Dict(
        position=spaces.Box(-np.inf, np.inf, (3,), np.float32), kind=spaces.Discrete(3)
    )
    action_space = spaces.Discrete(2)

    def __init__(self, where="observation", when=20, value=np.nan):
        self.where, self.when, self.value, self.t = where, when, value, 0

    def observe(self):
        bad = self.where == "observation" and self.t == self.when
        return {"position": np.array([0, self.value if bad else 1, 2], np.float32), "kind": 1}

    def reset(self, seed=None, options=None):
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        bad = self.where == "reward" and self.t == self.when
        return self.observe(), self.value if bad else 0.0, False, False, {}


class Failing(gymnasium.Env):
    """Reward 1 for ever; raises now and then."""

    observation_space = spaces.Box(0, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.np_random.random() < 0.01:
            raise RuntimeError("now and then")
        return np.full(3, 0.5, np.float32), 1.0, self.t >= 7, False, {}


class FailingTeam(ParallelEnv):
    """Two agents with reward 1; raises now and then."""

    metadata = {"name": "failing"}  # noqa: RUF012
    possible_agents = ["a", "b"]  # noqa: RUF012
    render_mode = random = None

    def observation_space(self, agent):
        return spaces.Box(0, 1, (3,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        if seed is not None or self.random is None:
            self.random = np.random.default_rng(seed)
        self.agents, self.t = list(self.possible_agents), 0
        return {a: np.zeros(3, np.float32) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions):
        self.t += 1
        if self.random.random() < 0.01:
            raise RuntimeError("now and then")
        agents, over = self.agents, self.t >= 7
        self.agents = [] if over else agents
        return (
            {a: np.full(3, 0.5, np.float32) for a in agents},
            dict.fromkeys(agents, 1.0),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            {a: {} for a in agents},
        )


class Liar(gymnasium.Env):
    """One of four choices, but in the fifth step of each episode what it is told to say."""

    observation_space = spaces.Dict(
        {"choice": spaces.Discrete(4), "speed": spaces.Box(-1, 1, (2,), np.float32)}
    )
    action_space = spaces.Discrete(2)

    def __init__(self, says=3):
        self.says = says

    def observe(self):
        choice = self.says if self.t == 5 else self.t % 4
        return {"choice": choice, "speed": np.zeros(2, np.float32)}

    def reset(self, seed=None, options=None):
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), 0.0, self.t >= 8, False, {}
