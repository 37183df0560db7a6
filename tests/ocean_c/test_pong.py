"""What follows from pong.c's rules."""

import numpy as np
import pytest

import shoal

WIDTH, HEIGHT = 160, 120
PADDLE, AHEAD, BELOW, SPEED_X, SPEED_Y, OPPONENT, POINTS, OPPONENT_POINTS = range(8)
STAY, UP, DOWN = range(3)


def finished(count: int, policy, **kwargs) -> list[dict[str, float]]:
    """Log fields of as many games, all of them side by side."""
    vector = shoal.vectorize("pong", count, env_kwargs=kwargs, seed=0)
    seen, _ = vector.reset()
    found: dict[int, dict[str, float]] = {}
    while len(found) < count:
        seen, _, _, _, infos = vector.step(policy(seen))
        for i in np.flatnonzero(infos.get("_score", [])):
            found.setdefault(
                i, {name: infos[name][i] for name in ("score", "points", "opponent_points")}
            )
    vector.close()
    return list(found.values())


def follow(seen: np.ndarray) -> np.ndarray:
    return np.where(seen[:, BELOW] > 0.03, DOWN, np.where(seen[:, BELOW] < -0.03, UP, STAY))


def test_a_frame_skip_is_as_many_steps_with_the_same_action():
    """Bit for bit: so all of the motion is in the frames."""
    whole = shoal.vectorize("pong", 64, env_kwargs={"frame_skip": 8})
    single = shoal.vectorize("pong", 64, env_kwargs={"frame_skip": 1, "max_steps": 0})
    assert (whole.reset(seed=0)[0] == single.reset(seed=0)[0]).all()
    random = np.random.default_rng(0)
    alive = np.ones(64, bool)
    points = 0
    for _ in range(250):
        actions = random.integers(0, 3, 64)
        seen, rewards, terminations, *_ = whole.step(actions)
        total = np.zeros(64)
        for _ in range(8):
            single_seen, single_rewards, *_ = single.step(actions)
            total += single_rewards
        alive &= ~terminations
        assert (rewards == total)[alive].all() and (seen == single_seen)[alive].all()
        points += np.abs(total[alive]).sum()
    assert points > 300
    whole.close(), single.close()


def test_the_ball_flies_straight_and_bounces():
    vector = shoal.vectorize("pong", 256, env_kwargs={"frame_skip": 1}, seed=0)
    old, _ = vector.reset()
    top = 2 * 2  # the fastest ball, twice the serve
    bounces = hits = 0
    for _ in range(600):
        new, rewards, terminations, *_ = vector.step(follow(old))
        speed_x, speed_y = old[:, SPEED_X] * top, old[:, SPEED_Y] * top * 1.25
        x, y = WIDTH * (1 - old[:, AHEAD]) - 10, ball_y(old)
        new_x, new_y = WIDTH * (1 - new[:, AHEAD]) - 10, ball_y(new)
        wall = np.sign(new[:, SPEED_Y]) != np.sign(old[:, SPEED_Y])
        hit = np.sign(new[:, SPEED_X]) != np.sign(old[:, SPEED_X])
        fresh = (rewards != 0) | terminations  # a serve
        free = ~wall & ~hit & ~fresh
        np.testing.assert_allclose((new_x - x)[free], speed_x[free], atol=1e-3)
        np.testing.assert_allclose((new_y - y)[free], speed_y[free], atol=1e-3)
        assert (np.abs(new[free, SPEED_X]) == np.abs(old[free, SPEED_X])).all()
        bounced, hit = wall & ~hit & ~fresh, hit & ~fresh
        assert (np.abs(new_y - HEIGHT / 2)[bounced] > HEIGHT / 2 - 2 - 5).all()
        # Hits are 5 % faster, as far as it goes, and happen at a paddle's face.
        faster = np.minimum(np.abs(speed_x) * 1.05, top)
        np.testing.assert_allclose((np.abs(new[:, SPEED_X]) * top)[hit], faster[hit], rtol=1e-5)
        assert (np.minimum(new_x - 10, 150 - new_x)[hit] < top).all()
        bounces, hits = bounces + bounced.sum(), hits + hit.sum()
        old = new
    assert bounces > 500 and hits > 500
    vector.close()


def ball_y(seen: np.ndarray) -> np.ndarray:
    return seen[:, BELOW] * HEIGHT + (seen[:, PADDLE] + 1) * HEIGHT / 2


@pytest.mark.parametrize("points", [3, 11])
def test_a_game_ends_at_its_points(points):
    for game in finished(32, lambda seen: np.zeros(len(seen), int), points=points):
        assert max(game["points"], game["opponent_points"]) == points
        share = (game["points"] - game["opponent_points"]) / points
        assert game["score"] == pytest.approx(0.5 + share / 2)


def test_who_plays_better_scores_more():
    """Chance does win points, and following the ball wins games."""
    random = np.random.default_rng(0)
    chance = finished(64, lambda seen: random.integers(0, 3, len(seen)))
    good = finished(64, follow)
    unbeatable = finished(64, follow, opponent_speed=10)
    assert np.mean([game["points"] for game in chance]) > 1
    assert np.mean([game["score"] for game in chance]) < 0.3
    assert np.mean([game["score"] for game in good]) > 0.6
    assert max(game["points"] for game in unbeatable) == 0
