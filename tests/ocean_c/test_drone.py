"""drone.c beside the same body with rotation matrices, in doubles and with 20 times finer steps."""

import numpy as np
import pytest

import shoal
from tests.ocean_c.chance import Chance
from tests.ocean_c.states import states_of

RING = np.dtype([("at", "f4", 3), ("normal", "f4", 3)])
STATE = np.dtype(
    [
        ("rng", "u4", 4),
        ("num_rings", "i4"),
        ("substeps", "i4"),
        ("passed", "i4"),
        ("crashed", "i4"),
        ("params", "f4", 6),
        ("at", "f4", 3),
        ("speed", "f4", 3),
        ("attitude", "f4", 4),
        ("spin", "f4", 3),
        ("thrust", "f4", 4),
        ("rings", RING, 64),
    ],
    align=True,
)
ARM, POWER, FINE = 0.25, 1.6, 20
# Ahead and to the left, of front left, front right, back left, back right; which way they turn.
ROTORS = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]) * ARM / 2**0.5
TWIST = np.array([1, -1, -1, 1])
INERTIA = np.array([0.25, 0.25, 0.5]) * ARM**2  # of a mass of 1
TORQUE = 0.2 * ARM  # of a rotor's force, about its axis


def matrix(q: np.ndarray) -> np.ndarray:
    """The rotation from the body to the world, of w, x, y, z."""
    w, x, y, z = q.T.astype(float)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


class Flight:
    """Many environments, which go on from their states; `doubtful` where rounding may decide."""

    def __init__(self, states: np.ndarray, gravity: float, drag: float):
        self.gravity, self.drag = gravity, drag
        self.at, self.speed = states["at"].astype(float), states["speed"].astype(float)
        self.turn, self.spin = matrix(states["attitude"]), states["spin"].astype(float)
        self.rings, self.num_rings = states["rings"], states["num_rings"]
        self.passed, self.crashed = states["passed"].copy(), states["crashed"] != 0
        self.doubtful = np.zeros(len(states), bool)

    def ring(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each environment the k-th from the next on."""
        rows = self.rings[np.arange(len(self.at)), np.minimum(self.passed + k, self.num_rings - 1)]
        return rows["at"].astype(float), rows["normal"].astype(float)

    def rates(self, turn, speed, spin, force):
        """Newton, Euler, and how the matrix changes."""
        lift = turn[:, :, 2] * force.sum(1, keepdims=True)
        speeding = lift - [0, 0, self.gravity] - self.drag * speed
        torque = np.cross(ROTORS, force[..., None] * np.array([0, 0, 1])).sum(1)
        torque[:, 2] += TORQUE * (TWIST * force).sum(1)
        spinning = (torque - np.cross(spin, INERTIA * spin)) / INERTIA - 2 * spin
        x, y, z = spin.T
        o = np.zeros_like(x)
        cross = np.moveaxis(np.array([[o, -z, y], [z, o, -x], [-y, x, o]]), 2, 0)
        return turn @ cross, speeding, spinning

    def fly(self, force: np.ndarray, time: float) -> None:
        """By the midpoint method."""
        for _ in range(FINE):
            half, rates = time / FINE / 2, self.rates(self.turn, self.speed, self.spin, force)
            now = self.turn, self.speed, self.spin
            middle = [each + half * rate for each, rate in zip(now, rates)]
            self.at = self.at + 2 * half * middle[1]
            rates = self.rates(*middle, force)
            self.turn, self.speed, self.spin = (
                each + 2 * half * rate for each, rate in zip(now, rates)
            )

    def step(self, actions: np.ndarray) -> np.ndarray:
        force = self.gravity / 4 * (1 + (POWER - 1) * actions.astype(float))
        rewards = np.zeros(len(actions))
        for _ in range(2):
            on = ~self.crashed & (self.passed < self.num_rings)
            kept = self.at, self.turn, self.speed, self.spin
            (ring, normal), before = self.ring(0), self.at
            self.fly(force, 0.02)
            for name, old in zip(("at", "turn", "speed", "spin"), kept):
                new = getattr(self, name)
                new[~on] = old[~on]
            sides = [((at - ring) * normal).sum(1) for at in (before, self.at)]
            moved = np.where(sides[1] == sides[0], 1, sides[1] - sides[0])
            share = np.clip(-sides[0] / moved, 0, 1)[:, None]
            off = np.linalg.norm(before + share * (self.at - before) - ring, axis=1)
            through = on & (sides[0] < 0) & (sides[1] >= 0)
            away = [np.linalg.norm(at - ring, axis=1) for at in (before, self.at)]
            spinning = np.linalg.norm(self.spin, axis=1)
            self.crashed |= on & ((away[1] > 12) | (self.at[:, 2] < 0.1) | (spinning > 25))
            close = (through & (abs(off - 1) < 1e-3)) | (np.abs(sides).min(0) < 1e-4)
            close |= (abs(away[1] - 12) < 1e-3) | (abs(self.at[:, 2] - 0.1) < 1e-3)
            self.doubtful |= on & (close | (abs(spinning - 25) < 1e-2))
            rewards += on * 0.1 * (away[0] - away[1]) + (through & (off < 1))
            self.passed += through & (off < 1)
        return rewards

    def seen(self) -> np.ndarray:
        def body(vectors):
            return np.einsum("eij,ei->ej", self.turn, vectors)

        parts = [body(self.speed) / 10, self.spin / 10, self.turn[:, 2]]
        for k in range(2):
            at, normal = self.ring(k)
            parts += [body(at - self.at) / 6, body(normal)]
        return np.concatenate(parts, 1).clip(-2, 2)


def pilot(seen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Leans towards the acceleration that it wants, which is towards the ring."""
    speed, spin, up, ring, normal = np.split(seen[:, :15].astype(float), 5, axis=1)
    way, speed, spin = 6 * ring, 10 * speed, 10 * spin
    # To a point before the ring while aside of it, so as to come from the right side.
    along = (way * normal).sum(1, keepdims=True)
    aside = np.linalg.norm(way - along * normal, axis=1, keepdims=True)
    aim = way + normal * np.where(aside < 0.5, 1, -1.5 * aside)
    wanted = 2 * (3 * aim / np.maximum(np.linalg.norm(aim, axis=1, keepdims=True), 1) - speed)
    size = np.linalg.norm(wanted, axis=1, keepdims=True)
    lift = wanted * np.minimum(1, 4 / size) + 9.81 * up
    strength = np.linalg.norm(lift, axis=1)
    x, y, _ = (lift / strength[:, None]).T
    base, roll, pitch = (strength / 9.81 - 1) / 0.6, -y - 0.25 * spin[:, 0], x - 0.25 * spin[:, 1]
    yaw = -0.5 * spin[:, 2]
    left, right = base + roll, base - roll
    front, back = (
        [left - pitch + yaw, right - pitch - yaw],
        [left + pitch - yaw, right + pitch + yaw],
    )
    actions = np.stack([*front, *back], axis=1)
    return (actions + random.normal(0, 0.1, actions.shape)).clip(-1, 1).astype(np.float32)


def course(chance: Chance, count: int) -> tuple[float, np.ndarray]:
    """The yaw of the body, and places and directions of the rings."""
    yaw, heading, place, rings = chance.between(-0.3, 0.3), 0.0, np.array([0, 0, 3.0]), []
    for k in range(count):
        far = chance.between(4, 7) if k else 4
        heading += chance.between(-0.7, 0.7) if k else 0
        normal = np.array([np.cos(heading), np.sin(heading), 0])
        place = place + far * normal
        place[2] = np.clip(place[2] + chance.between(-1, 1), 2, 6)
        rings.append([place, normal])
    return yaw, np.array(rings)


@pytest.mark.parametrize("count", [24, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("gravity, drag, piloted", [(9.81, 0.3, 1.0), (5, 0, 0.5)])
def test_it_is_the_flight(gravity, drag, piloted, count):
    """Each step, from wherever the last one led to; some of them fly by chance, and crash."""
    kwargs = {"gravity": gravity, "drag": drag, "num_rings": 3}
    vector = shoal.vectorize("drone", count, env_kwargs=kwargs, seed=3)
    observations, _ = vector.reset()
    random = np.random.default_rng(0)
    states, over, doubtful, scores = states_of(vector, STATE), np.zeros(count, bool), 0, []
    by_chance = random.random(count) >= piloted
    for _ in range(220):
        actions = pilot(observations, random)
        actions[by_chance] = random.uniform(-1, 1, (by_chance.sum(), 4))
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        before, states = states, states_of(vector, STATE)
        for e in np.flatnonzero(over):
            chance = Chance.at(before[e]["rng"])
            yaw, rings = course(chance, 3)
            state = states[e]
            assert state["rng"].tolist() == chance.s and rewards[e] == state["passed"] == 0
            np.testing.assert_allclose(state["at"], [0, 0, 3])
            np.testing.assert_allclose(state["speed"], [3, 0, 0])
            half = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
            np.testing.assert_allclose(state["attitude"], half, atol=1e-6)
            np.testing.assert_allclose(state["rings"]["at"][:3], rings[:, 0], atol=1e-5)
            np.testing.assert_allclose(state["rings"]["normal"][:3], rings[:, 1], atol=1e-5)
            before[e] = state
        flight = Flight(before, gravity, drag)
        flight.crashed |= over  # stays where it is
        expected = flight.step(actions)
        flight.crashed &= ~over
        sure = ~flight.doubtful
        doubtful += flight.doubtful.sum()
        np.testing.assert_allclose(rewards[sure], expected[sure], atol=1e-5)
        np.testing.assert_allclose(observations[sure], flight.seen()[sure], atol=2e-4)
        ended = flight.crashed | (flight.passed == 3)
        assert (terminations == ended)[sure].all()
        over = terminations | truncations
        for e in np.flatnonzero(over & sure):
            assert (
                infos["rings"][e] == flight.passed[e] and infos["crashed"][e] == flight.crashed[e]
            )
            assert infos["score"][e] == np.float32(flight.passed[e] / 3)
            scores.append(float(infos["score"][e]))
    assert doubtful < 60
    if piloted == 1:
        assert scores.count(1) > count / 4
    else:
        assert scores.count(0) > count / 4
    vector.close()


def test_chance_passes_rings():
    vector = shoal.vectorize("drone", 64, seed=0)
    vector.reset()
    random = np.random.default_rng(0)
    rewards = [vector.step(random.uniform(-1, 1, (64, 4)).astype("f4"))[1] for _ in range(200)]
    assert (np.array(rewards) > 0.9).sum() > 10
    vector.close()
