"""swarm.c beside all pairs of boids, without a grid: places are complex numbers, in doubles."""

import numpy as np
import pytest

import shoal
from tests.ocean_c.chance import Chance
from tests.ocean_c.states import states_of

SLOWEST, FASTEST = 0.03, 0.09


def state_type(num_boids: int, size: int) -> np.dtype:
    boid = [(name, "f4") for name in ("x", "y", "cosine", "sine", "heading", "speed", "total")]
    fields = [("rng", "u4", 4), ("params", "i4", 3), ("weights", "f4", 4)]
    grid = [("cells", "i4", size * size + 1), ("list", "i4", num_boids)]
    return np.dtype([*fields, ("boids", boid, num_boids), *grid])


class Flock:
    """The boids of one environment, which go on from its state."""

    def __init__(self, state: np.ndarray, size: int, weights: tuple[float, ...], spacing: float):
        boids = state["boids"]
        self.size, self.weights, self.spacing = size, weights, spacing
        self.chance, self.num_boids = Chance.at(state["rng"]), len(boids)
        self.at = boids["x"].astype(float) + 1j * boids["y"].astype(float)
        self.heading, self.speed = boids["heading"].astype(float), boids["speed"].astype(float)

    def wrapped(self, z: np.ndarray) -> np.ndarray:
        return z.real % self.size + 1j * (z.imag % self.size)

    def reset(self) -> None:
        for i in range(self.num_boids):
            x, y = self.chance.between(0, self.size), self.chance.between(0, self.size)
            self.at[i] = x + 1j * y
            self.heading[i] = self.chance.between(-np.pi, np.pi)
            self.speed[i] = self.chance.between(SLOWEST, FASTEST)

    def step(self, actions: np.ndarray) -> None:
        turn, push = actions.T.astype(float)
        self.heading += 0.25 * turn
        self.speed = np.clip(self.speed + 0.01 * push, SLOWEST, FASTEST)
        self.at = self.wrapped(self.at + self.speed * np.exp(1j * self.heading))

    def look(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, and whether they are sure: rounding does not decide."""
        half = self.size / 2 * (1 + 1j)
        way = self.wrapped(self.at[None] - self.at[:, None] + half) - half
        way *= np.exp(-1j * self.heading)[:, None]  # ahead, and to the right
        relative = np.exp(1j * (self.heading[None] - self.heading[:, None]))
        away = abs(way)
        np.fill_diagonal(away, np.inf)
        order = np.argsort(away, axis=1)[:, :7]
        first = np.take_along_axis(away, order, 1)
        gaps = np.diff(np.minimum(first, 2), axis=1)
        sure = (abs(away - 1) > 1e-5).all(1) & ((gaps > 1e-5) | (first[:, 1:] > 1)).all(1)
        seen = away < 1
        count = seen.sum(1)
        rows = np.zeros((self.num_boids, 6, 4))
        for k in range(min(6, self.num_boids - 1)):
            there = np.take_along_axis(way, order[:, [k]], 1)[:, 0]
            heading = np.take_along_axis(relative, order[:, [k]], 1)[:, 0]
            row = np.stack([there.real, there.imag, heading.real, heading.imag], 1)
            rows[:, k] = np.where((first[:, k] < 1)[:, None], row, 0)
        own = np.stack(
            [(self.speed - SLOWEST) / (FASTEST - SLOWEST), np.minimum(count, 16) / 16], 1
        )
        observations = np.concatenate([own, rows.reshape(self.num_boids, -1)], 1)
        number = np.maximum(count, 1)
        alignment = (relative.real * seen).sum(1) / number
        middle = abs((way * seen).sum(1)) / number
        crowding = np.maximum(0, 1 - first[:, 0] / self.spacing)
        a, c, s = self.weights
        rewards = a * alignment + c * (1 - middle) - s * crowding
        return observations, np.where(count > 0, rewards, 0), sure


def follow(seen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """To where the nearest ones fly."""
    turn = 2 * seen[:, 2:].reshape(-1, 6, 4)[..., 3].mean(1) + random.normal(0, 0.2, len(seen))
    actions = np.stack([turn, random.uniform(-1, 1, len(seen))], 1)
    return actions.clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("num_boids, size, spacing", [(64, 8, 0.3), (150, 3, 0.1), (2, 4, 0.8)])
def test_it_is_the_flock(num_boids, size, spacing):
    """Each step, from wherever the last one led to, sparse and so dense that most are not seen."""
    copies, limit, weights = max(1, min(16, 128 // num_boids)), 60, (0.7, 0.2, 0.9)
    kwargs = dict(zip(("alignment", "cohesion", "separation"), weights))
    kwargs |= {"num_boids": num_boids, "size": size, "spacing": spacing, "max_steps": limit}
    vector = shoal.vectorize("swarm", copies, env_kwargs=kwargs, seed=1)
    observations, _ = vector.reset()
    kind = state_type(num_boids, size)
    random, states = np.random.default_rng(0), states_of(vector, kind)
    totals, doubtful = np.zeros(len(observations)), 0
    for t in range(1, 2 * limit + 3):
        actions = follow(observations, random)
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        before, states = states, states_of(vector, kind)
        assert not terminations.any() and (truncations == (t % (limit + 1) == limit)).all()
        for e, rows in enumerate(np.split(np.arange(len(actions)), copies)):
            flock = Flock(before[e], size, weights, spacing)
            if t % (limit + 1):
                flock.step(actions[rows])
            else:  # the step that only resets
                flock.reset()
                assert states[e]["rng"].tolist() == flock.chance.s
            now = states[e]["boids"]
            off = flock.wrapped(now["x"] + 1j * now["y"] - flock.at + 1 + 1j) - 1 - 1j
            assert abs(off).max() < 2e-6 * size
            seen, expected, sure = flock.look()
            doubtful += (~sure).sum()
            np.testing.assert_allclose(observations[rows][sure], seen[sure], atol=1e-5)
            if t % (limit + 1) == 0:
                expected[:] = 0
            np.testing.assert_allclose(rewards[rows][sure], expected[sure], atol=2e-5)
        totals = totals + rewards if t % (limit + 1) else 0 * totals
        if truncations[0]:
            score = (totals / limit / (weights[0] + weights[1])).clip(0, 1)
            np.testing.assert_allclose(infos["score"], score, atol=1e-5)
            assert num_boids != 64 or score.mean() > 0.4
    assert doubtful < 0.02 * t * len(rewards)
    vector.close()


def test_those_who_follow_fare_better_than_chance():
    vector = shoal.vectorize("swarm", 8, seed=0)
    random, found = np.random.default_rng(0), []
    for wise in (True, False):
        seen, _ = vector.reset(seed=0)
        total = 0.0
        for _ in range(200):
            by_chance = random.uniform(-1, 1, (512, 2)).astype("f4")
            seen, rewards, *_ = vector.step(follow(seen, random) if wise else by_chance)
            total += rewards.mean() / 200
        found.append(total)
    assert found[0] > 0.4 > 0.3 > found[1] > 0
    vector.close()
