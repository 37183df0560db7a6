"""asteroids.c beside the game written again: places are complex numbers, in doubles."""

import numpy as np
import pytest

import shoal
from tests.ocean_c.chance import Chance
from tests.ocean_c.states import plane, states_of

SIDE = 20
RADIUS = {1: 0.45, 2: 0.9, 3: 1.8}
FLYING = [("at", "f4", 2), ("speed", "f4", 2)]
ROCK = np.dtype([*FLYING, ("radius", "f4"), ("size", "i4"), ("number", "i4")], align=True)
BULLET = np.dtype([*FLYING, ("left", "i4"), ("number", "i4")], align=True)
STATE = np.dtype(
    [
        ("rng", "u4", 4),
        ("params", "i4", 3),
        ("rock_speed", "f4"),
        *FLYING,
        ("ahead", "f4", 2),
        ("heading", "f4"),
        ("thrusting", "i4"),
        ("cooldown", "i4"),
        ("hit", "i4"),
        ("dead", "i4"),
        ("num_rocks", "i4"),
        ("created", "i4"),
        ("fired", "i4"),
        ("bullets", BULLET, 4),
        ("rocks", ROCK, 64),
    ],
    align=True,
)


def wrap(z):
    """Onto the torus."""
    return np.real(z) % SIDE + 1j * (np.imag(z) % SIDE)


def way(z):
    """The shortest way round the torus."""
    return wrap(z + SIDE / 2 * (1 + 1j)) - SIDE / 2 * (1 + 1j)


class Game:
    """One environment, which goes on from a state; `doubtful` if rounding may decide."""

    def __init__(self, state: np.ndarray, num_rocks: int, speed: float):
        self.chance, self.doubtful, self.rock_speed = Chance.at(state["rng"]), False, speed
        self.num_large, self.num_seen = num_rocks, 8
        self.at, self.speed = complex(plane(state["at"])), complex(plane(state["speed"]))
        self.heading, self.cooldown = float(state["heading"]), int(state["cooldown"])
        self.hit, self.dead = int(state["hit"]), bool(state["dead"])
        rocks, bullets = state["rocks"][: state["num_rocks"]], state["bullets"]
        self.rocks = [
            [*each]
            for each in zip(plane(rocks["at"]), plane(rocks["speed"]), rocks["size"].tolist())
        ]
        self.bullets = [
            [*each] if each[2] else None
            for each in zip(plane(bullets["at"]), plane(bullets["speed"]), bullets["left"].tolist())
        ]

    def direction(self) -> complex:
        return np.exp(1j * self.chance.between(0, 2 * np.pi))

    def rock(self, at: complex, size: int) -> list:
        where = self.direction()
        faster = {3: 1, 2: 1.5, 1: 2}[size] * self.chance.between(0.5, 1.5)
        return [at, self.rock_speed * faster * where, size]

    def reset(self) -> None:
        self.at, self.speed, self.bullets = SIDE / 2 * (1 + 1j), 0j, [None] * 4
        self.heading, self.rocks = self.chance.between(-np.pi, np.pi), []
        self.cooldown = self.hit = self.dead = 0
        for _ in range(self.num_large):
            where = self.direction()
            place = self.at + self.chance.between(5, 10) * where
            self.rocks.append(self.rock(place, 3))

    def near(self, place: complex, extra: float) -> list[int]:
        """The rocks that touch a circle there."""
        found = []
        for i, (at, _, size) in enumerate(self.rocks):
            gap = abs(way(at - place)) - RADIUS[size] - extra
            self.doubtful |= abs(gap) < 1e-5
            if gap < 0:
                found.append(i)
        return found

    def frame(self, thrust: int, turn: int, fire: int) -> None:
        self.heading += [0, -0.08, 0.08][turn]
        ahead = np.exp(1j * self.heading)
        self.speed = 0.98 * self.speed + 0.006 * thrust * ahead
        self.at = wrap(self.at + self.speed)
        self.cooldown = max(self.cooldown - 1, 0)
        if fire and self.cooldown == 0 and None in self.bullets:
            nose = wrap(self.at + 0.4 * ahead)
            self.bullets[self.bullets.index(None)] = [nose, self.speed + 0.4 * ahead, 36]
            self.cooldown = 8
        for rock in self.rocks:
            rock[0] = wrap(rock[0] + rock[1])
        for i, bullet in enumerate(self.bullets):
            if bullet is None:
                continue
            bullet[0] = wrap(bullet[0] + bullet[1])
            bullet[2] -= 1
            hit = self.near(bullet[0], 0)
            if hit:
                self.hit += 1
                at, _, size = self.rocks[hit[0]]
                if size > 1:
                    self.rocks[hit[0]] = self.rock(at, size - 1)
                    self.rocks.append(self.rock(at, size - 1))
                else:
                    self.rocks[hit[0]] = self.rocks[-1]
                    self.rocks.pop()
            if hit or not bullet[2]:
                self.bullets[i] = None
        self.dead = bool(self.near(self.at, 0.4))

    def step(self, actions: np.ndarray) -> int:
        before = self.hit
        for _ in range(2):
            if self.rocks and not self.dead:
                self.frame(*actions)
        return self.hit - before

    def seen(self) -> np.ndarray:
        turn = np.exp(-1j * self.heading)
        speed = self.speed * turn / 0.3
        left, total = self.bullets.count(None), 7 * self.num_large
        ship = [speed.real, speed.imag, left / 4, self.cooldown / 8, 1 - self.hit / total]
        rows = []
        for at, moving, size in self.rocks:
            there, relative = way(at - self.at) * turn, (moving - self.speed) * turn / 0.3
            away = abs(there) - RADIUS[size]
            where = there / abs(there)
            relative = np.clip([relative.real, relative.imag], -1, 1)
            rows.append([away, where.real, where.imag, max(away, 0) / 10, *relative, size / 3])
        rows.sort(key=lambda row: row[0])  # two of one rock are in one place, in their order
        gaps = np.diff([row[0] for row in rows[: self.num_seen + 1]])
        self.doubtful |= bool(((gaps > 0) & (gaps < 1e-5)).any())
        table = np.zeros((self.num_seen, 6))
        for k, row in enumerate(rows[: self.num_seen]):
            table[k] = row[1:]
        return np.concatenate([ship, table.ravel().clip(-1, 1)])


def aim(seen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shoots at the nearest rock; a little at random."""
    ahead, right = seen[:, 5:7].T
    turn = np.where(right > 0.1, 2, np.where((right < -0.1) | (ahead < 0), 1, 0))
    fire = (ahead > 0.9).astype(int)
    chosen = np.stack([random.random(len(seen)) < 0.05, turn, fire], 1)
    chance = random.random((len(seen), 1)) < 0.1
    return np.where(chance, random.integers(0, (2, 3, 2), (len(seen), 3)), chosen)


@pytest.mark.parametrize("count", [16, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_rocks, speed, limit", [(4, 0.04, 270), (1, 0.01, 80)])
def test_it_is_the_game(num_rocks, speed, limit, count):
    """Each step, from wherever the last one led to, and episodes to their end, either one."""
    kwargs = {"num_rocks": num_rocks, "rock_speed": speed}
    vector = shoal.vectorize("asteroids", count, env_kwargs={**kwargs, "max_steps": limit}, seed=7)
    observations, _ = vector.reset()
    random = np.random.default_rng(0)
    states, doubtful, over, scores, alive = (
        states_of(vector, STATE),
        0,
        np.zeros(count, bool),
        [],
        0,
    )
    for _ in range(300):
        actions = aim(observations, random)
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        before, states = states, states_of(vector, STATE)
        for e, state in enumerate(states):
            game = Game(before[e], num_rocks, speed)
            expected = 0
            if over[e]:
                game.reset()
            else:
                expected = game.step(actions[e])
            seen = game.seen()
            if game.doubtful:
                doubtful += 1
                continue
            assert rewards[e] == expected
            assert terminations[e] == (game.dead or not game.rocks)
            assert state["rng"].tolist() == game.chance.s and state["num_rocks"] == len(game.rocks)
            np.testing.assert_allclose(observations[e], seen, atol=2e-4)
            flying = [bullet for bullet in game.bullets if bullet]
            moving = state["bullets"][state["bullets"]["left"] > 0]
            np.testing.assert_allclose(
                way(plane(moving["at"]) - [bullet[0] for bullet in flying]), 0, atol=1e-5
            )
            assert moving["left"].tolist() == [bullet[2] for bullet in flying]
            if terminations[e] or truncations[e]:
                assert infos["hit"][e] == game.hit and infos["alive"][e] == (not game.dead)
                assert infos["score"][e] == np.float32(game.hit / (7 * num_rocks))
                scores.append(infos["score"][e])
                alive += not game.dead
        over = terminations | truncations
    assert doubtful < 30 and len(scores) > count / 2 and alive > 0
    assert min(scores) < 0.8 < max(scores)
    vector.close()


def test_chance_hits_rocks():
    vector = shoal.vectorize("asteroids", 64, seed=0)
    vector.reset()
    random = np.random.default_rng(0)
    total = sum(vector.step(random.integers(0, (2, 3, 2), (64, 3)))[1].sum() for _ in range(200))
    assert total > 200
    vector.close()
