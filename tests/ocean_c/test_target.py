"""target.c beside the world written again: the plane is that of complex numbers, in doubles."""

import numpy as np
import pytest

import shoal
from shoal.ocean_c.find import module_named
from tests.ocean_c.chance import Chance
from tests.ocean_c.states import plane, states_of

AGENT = np.dtype(
    [
        ("at", "f4", 2),
        ("ahead", "f4", 2),
        ("heading", "f4"),
        ("speed", "f4"),
        ("from", "f4", 2),
        ("way", "f4"),
        ("goals", "i4"),
    ],
    align=True,
)
STATE = np.dtype(
    [
        ("rng", "u4", 4),
        ("counts", "i4", 2),
        ("steps", "i4"),
        ("sizes", "f4", 2),
        ("moved", "i4", 32),
        ("goals", "f4", (32, 2)),
        ("agents", AGENT, 64),
    ],
    align=True,
)


class World:
    """One environment, which goes on from a state.

    `doubtful` if rounding may decide: a goal is touched by a hair, two things are as far away.
    """

    def __init__(
        self, state: np.ndarray, num_agents: int, num_goals: int, size: float, radius: float
    ):
        agents = state["agents"][:num_agents]
        self.num_agents, self.num_goals, self.size, self.radius = (
            num_agents,
            num_goals,
            size,
            radius,
        )
        self.chance, self.doubtful = Chance.at(state["rng"]), False
        self.at, self.origin = plane(agents["at"]), plane(agents["from"])
        self.heading, self.speed = agents["heading"].astype(float), agents["speed"].astype(float)
        self.way, self.count = agents["way"].astype(float), agents["goals"].copy()
        self.goals = plane(state["goals"][:num_goals])

    def anywhere(self) -> complex:
        x = self.chance.between(0, self.size)
        return x + 1j * self.chance.between(0, self.size)

    def reset(self) -> None:
        for i in range(self.num_agents):
            self.at[i] = self.origin[i] = self.anywhere()
            self.heading[i] = self.chance.between(-np.pi, np.pi)
        self.speed[:], self.way[:], self.count[:] = 0, 0, 0
        self.goals[:] = [self.anywhere() for _ in range(self.num_goals)]

    def step(self, actions: np.ndarray) -> list[int]:
        rewards = [0] * self.num_agents
        for i, (turn, push) in enumerate(actions):
            self.heading[i] += [0, -0.25, 0.25][turn]
            self.speed[i] = np.clip(self.speed[i] + [0, 0.05, -0.05][push], 0, 0.3)
            to = self.at[i] + self.speed[i] * np.exp(1j * self.heading[i])
            self.at[i] = np.clip(to.real, 0, self.size) + 1j * np.clip(to.imag, 0, self.size)
            for k in range(self.num_goals):
                near = abs(self.goals[k] - self.at[i]) - self.radius
                self.doubtful |= bool(abs(near) < 1e-5)
                if near <= 0:
                    self.goals[k] = self.anywhere()
                    rewards[i] += 1
                    self.way[i] += abs(self.at[i] - self.origin[i])
                    self.origin[i] = self.at[i]
        self.count += rewards
        return rewards

    def seen(self, i: int) -> np.ndarray:
        """What agent i observes."""
        parts = [np.array([self.speed[i] / 0.3])]
        for things in (self.goals, np.delete(self.at, i)):
            there = (things - self.at[i]) * np.exp(-1j * self.heading[i])
            there = there[np.argsort(abs(there))]
            away = abs(there)
            self.doubtful |= bool((np.diff(away) < 1e-6).any())
            where = there / np.maximum(away, 1e-9)
            parts.append(np.stack([where.real, where.imag, away / self.size / 2**0.5], 1).ravel())
        return np.concatenate(parts)


def seek(seen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """To the nearest goal, some of them at random."""
    ahead, right, away = seen[:, 1:4].T
    turn = np.where(right > 0.12, 2, np.where((right < -0.12) | (ahead < 0), 1, 0))
    push = np.where((ahead < 0.6) & (away < 0.2), 2, 1)
    chance = random.random(len(seen)) < 0.1
    return np.where(
        chance[:, None], random.integers(0, 3, (len(seen), 2)), np.stack([turn, push], 1)
    )


@pytest.mark.parametrize("total_agents", [32, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_agents, num_goals, size, radius", [(8, 4, 10, 0.5), (1, 9, 4, 0.3)])
def test_it_is_the_world(num_agents, num_goals, size, radius, total_agents):
    """Each step, from wherever the last one led to: 204 of each agent, resets among them."""
    copies, limit = total_agents // num_agents, 40
    kwargs = {"num_agents": num_agents, "num_goals": num_goals, "size": size, "goal_radius": radius}
    vector = shoal.vectorize("target", copies, env_kwargs={**kwargs, "max_steps": limit}, seed=5)
    observations, _ = vector.reset()
    random = np.random.default_rng(0)
    states, doubtful, total = states_of(vector, STATE), 0, 0
    for t in range(1, 205):
        actions = seek(observations, random)
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        before, states = states, states_of(vector, STATE)
        assert not terminations.any() and (truncations == (t % (limit + 1) == limit)).all()
        for e, rows in enumerate(np.split(np.arange(len(actions)), copies)):
            world = World(before[e], num_agents, num_goals, size, radius)
            if t % (limit + 1):
                expected = world.step(actions[rows])
            else:  # the step that only resets
                world.reset()
                expected = [0] * num_agents
            seen = [world.seen(i) for i in range(num_agents)]
            if world.doubtful:
                doubtful += 1
                continue
            assert rewards[rows].tolist() == expected
            assert states[e]["rng"].tolist() == world.chance.s
            now = states[e]["agents"][:num_agents]
            close = {"rtol": 0, "atol": 1e-5}
            np.testing.assert_allclose(plane(now["at"]), world.at, **close)
            np.testing.assert_allclose(plane(states[e]["goals"][:num_goals]), world.goals, **close)
            np.testing.assert_allclose(observations[rows], seen, atol=2e-3)
            if truncations[rows[0]]:
                score = world.way / (0.3 * limit)
                np.testing.assert_allclose(infos["score"][rows], score.clip(0, 1), rtol=1e-4)
                assert infos["goals"][rows].tolist() == world.count.tolist()
                total += world.count.sum()
    assert doubtful < 10 and total > 3 * total_agents
    vector.close()


def test_alone_there_are_no_others():
    spec = module_named("target").spec({"num_agents": 1})
    assert [field.name for field in spec.observations] == ["speed", "goals"]


def test_chance_reaches_goals():
    vector = shoal.vectorize("target", 64, seed=0)
    vector.reset()
    random = np.random.default_rng(0)
    total = sum(vector.step(random.integers(0, 3, (512, 2)))[1].sum() for _ in range(256))
    assert 100 < total < 1000
    vector.close()
