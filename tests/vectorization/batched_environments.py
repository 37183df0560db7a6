"""A walk on a line, twice: one copy in NumPy, and all copies at once in torch."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

OBSERVATION = spaces.Dict(
    {
        "position": spaces.Box(-9, 9, (2,), np.float32),
        "age": spaces.Discrete(100),
        "where": spaces.Tuple((spaces.Box(-9, 9, (), np.int16), spaces.MultiBinary(2))),
    }
)
ACTION = spaces.Dict(
    {"direction": spaces.Discrete(3, start=-1), "wind": spaces.Box(-1, 1, (2,), np.float32)}
)
LIMIT, EDGE = 12, 4


class Walk(gymnasium.Env):
    """The reference. It begins where its seed and the number of its episodes say."""

    observation_space, action_space = OBSERVATION, ACTION

    def __init__(self):
        self.begun = self.first = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.first, self.begun = seed, 0
        self.at = (7 * self.first + 3 * self.begun) % 5 - 2
        self.blown = np.zeros(2, np.float32)
        self.age = 0
        self.begun += 1
        bonus = 0 if options is None else options["bonus"]
        return self.look(), {"born": np.int64(self.begun), "bonus": np.int64(bonus)}

    def look(self):
        return {
            "position": self.blown + np.float32(self.at),
            "age": self.age,
            "where": (np.int16(self.at), np.array([self.at > 0, self.at < 0], np.int8)),
        }

    def step(self, action):
        self.at += int(action["direction"])
        self.blown = (self.blown + action["wind"]) / 2
        self.age += 1
        info = {
            "distance": np.float32(abs(self.at)),
            "action_mask": np.array([self.at > -3, True, self.at < 3]),
            "deep": {"age": np.int64(self.age)},
        }
        terminated, truncated = abs(self.at) > EDGE, self.age == LIMIT
        return self.look(), float(self.at * self.blown.sum()), terminated, truncated, info


class TorchWalk:
    """The same for all copies, in tensors that are used again in every step."""

    single_observation_space, single_action_space = OBSERVATION, ACTION

    def __init__(self, num_envs=4, mode="DISABLED", tells_finals=True, device="cpu"):
        self.num_envs = num_envs
        self.mode = AutoresetMode[mode]
        self.metadata = {"autoreset_mode": self.mode}
        self.tells_finals = tells_finals
        whole = {"dtype": torch.int64, "device": device}
        self.first, self.begun = torch.zeros(num_envs, **whole), torch.zeros(num_envs, **whole)
        self.at, self.age = torch.zeros(num_envs, **whole), torch.zeros(num_envs, **whole)
        self.blown = torch.zeros(num_envs, 2, device=device)
        self.over = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self.position = torch.zeros(num_envs, 2, device=device)
        self.closed = False

    def reset(self, *, seed=None, options=None):
        options = dict(options or {})
        mask = torch.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if seed is not None:
            self.first[:] = seed + torch.arange(self.num_envs)
            self.begun[:] = 0
        self.begin(mask)
        bonus = torch.full_like(self.age, options.get("bonus", 0))
        return self.look(), {"born": self.begun, "bonus": bonus}

    def begin(self, mask):
        self.at[mask] = (7 * self.first[mask] + 3 * self.begun[mask]) % 5 - 2
        self.blown[mask] = 0
        self.age[mask] = 0
        self.begun[mask] += 1
        self.over[mask] = False

    def look(self):
        torch.add(self.blown, self.at[:, None], out=self.position)
        where = (self.at.to(torch.int16), torch.stack([self.at > 0, self.at < 0], 1))
        return {"position": self.position, "age": self.age, "where": where}

    def step(self, actions):
        assert isinstance(actions["wind"], torch.Tensor)
        assert actions["direction"].device == self.at.device
        fresh = self.over.clone() & (self.mode is AutoresetMode.NEXT_STEP)
        self.at += actions["direction"]
        self.blown = (self.blown + actions["wind"]) / 2
        self.age += 1
        rewards = self.at * self.blown.sum(1)
        infos = {
            "distance": self.at.abs().float(),
            "action_mask": torch.stack([self.at > -3, self.at == self.at, self.at < 3], 1),
            "deep": {"age": self.age},
        }
        terminated, truncated = self.at.abs() > EDGE, self.age == LIMIT
        self.over = terminated | truncated
        begun = fresh
        if self.mode is AutoresetMode.SAME_STEP:
            begun = self.over.clone()
            seen = self.look() | {"position": self.position.clone(), "age": self.age.clone()}
            infos |= {"final_info": dict(infos), "_final_info": begun}
            if self.tells_finals:
                infos |= {"final_obs": seen, "_final_obs": begun}
        self.begin(begun)
        infos["action_mask"] = infos["action_mask"] | begun[:, None]
        terminated, truncated = terminated & ~fresh, truncated & ~fresh
        self.over = terminated | truncated
        return self.look(), rewards, terminated, truncated, infos

    def close(self):
        self.closed = True


class TorchGuess:
    """Says a number from 0 to 3, and rewards whoever repeats it; an episode has 8 steps."""

    single_observation_space = spaces.Box(0, 1, (4,), np.float32)
    single_action_space = spaces.Discrete(4)

    def __init__(self, num_envs):
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.num_envs = num_envs
        self.generator = torch.Generator()
        self.age = torch.zeros(num_envs)

    def look(self):
        self.said = torch.randint(4, (self.num_envs,), generator=self.generator)
        return torch.nn.functional.one_hot(self.said, 4).float()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.generator.manual_seed(seed)
        mask = torch.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        self.age[mask] = 0
        return self.look(), {}

    def step(self, actions):
        rewards = (actions == self.said).double()
        self.age += 1
        return self.look(), rewards, torch.zeros(self.num_envs) != 0, self.age == 8, {}


def guess(num_envs):
    """What ``batched_environments.py:guess`` makes."""
    return TorchGuess(num_envs)
