"""What follows from breakout.c's rules."""

import numpy as np
import pytest

import shoal

ROWS, COLUMNS = 6, 18
PADDLE, WIDTH, BALL, RIGHT, ABOVE, SPEED_X, SPEED_Y, SPEED, HITS, LIVES, BRICKS = range(11)
POINTS = np.repeat([7, 7, 4, 4, 1, 1], COLUMNS)


def follow(seen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """To the ball, aside by chance, so that it doesn't go in circles."""
    aim = seen[:, RIGHT] + random.uniform(-0.18, 0.18, len(seen))
    return np.where(aim > 0.09, 2, np.where(aim < -0.09, 1, 0))


@pytest.mark.parametrize("width, best", [(3, 0.8), (7, 1)])
def test_rewards_are_the_bricks_that_break(width, best):
    """Also that all numbers of the observation agree with each other, in games to their end."""
    vector = shoal.vectorize("breakout", 64, env_kwargs={"paddle_width": width}, seed=0)
    assert vector.single_observation_space.shape == (118,)
    old, _ = vector.reset()
    assert (old[:, BRICKS:] == 0).all() and (old[:, LIVES] == 1).all()
    random = np.random.default_rng(0)
    over, points, scores, short = np.zeros(64, bool), np.zeros(64), [], 0
    for _ in range(2500):
        new, rewards, terminations, truncations, infos = vector.step(follow(old, random))
        gone = new[:, BRICKS:]
        assert np.isin(gone, [0, 1]).all()
        broken = (new - old)[:, BRICKS:]
        assert (broken[~over] >= 0).all()
        assert (rewards == broken @ POINTS)[~over].all()
        points = np.where(over, 0, points + broken @ POINTS)
        aside = (new[:, BALL] - new[:, PADDLE]) * COLUMNS / 2 / 4
        np.testing.assert_allclose(new[:, RIGHT], aside.clip(-1, 1), atol=1e-5)
        assert (terminations == ((new[:, LIVES] == 0) | gone.all(1))).all()
        speed = np.hypot(new[:, SPEED_X], new[:, SPEED_Y])
        np.testing.assert_allclose(speed, new[:, SPEED], rtol=1e-4)
        # It has been at the top, and has not been lost since.
        narrow = new[:, WIDTH] == 0.5
        assert (narrow | (new[:, WIDTH] == 1)).all()
        lost = (new[:, LIVES] < old[:, LIVES]) & ~over
        np.testing.assert_allclose((old - new)[lost, LIVES], 0.2, rtol=1e-5)
        short += narrow.sum()
        for i in np.flatnonzero(terminations | truncations):
            assert infos["points"][i] == points[i] == gone[i] @ POINTS
            assert infos["score"][i] == np.float32(points[i] / 432)
            assert infos["bricks"][i] == gone[i].sum()
            scores.append(infos["score"][i])
        over = terminations | truncations
        old = new
    assert best <= max(scores) <= 1 and len(scores) > 10 and short > 1000
    vector.close()


def test_the_ball_gets_faster():
    """After 4 and 12 hits, and at the upper rows; never slower before it is lost."""
    vector = shoal.vectorize("breakout", 64, seed=0)
    old, _ = vector.reset()
    random = np.random.default_rng(0)
    seen_speeds = set()
    for _ in range(1500):
        new, _, terminations, truncations, _ = vector.step(follow(old, random))
        same = (new[:, LIVES] == old[:, LIVES]) & new[:, BRICKS:].any(1)
        same &= ~terminations & ~truncations
        speed, hits = (new[:, SPEED] * 1.75).round(5), (new[:, HITS] * 12).round().astype(int)
        assert (new[:, SPEED] >= old[:, SPEED])[
            same & (new[:, BRICKS:] >= old[:, BRICKS:]).all(1)
        ].all()
        assert (speed >= np.select([hits >= 12, hits >= 4], [1.5, 1.25], 1))[same].all()
        upper = same & ((new - old)[:, BRICKS : BRICKS + 2 * COLUMNS] > 0).any(1)
        assert (speed[upper] == 1.75).all()
        seen_speeds |= set(speed.tolist())
        old = new
    assert seen_speeds == {1, 1.25, 1.5, 1.75}
    vector.close()


def test_a_frame_skip_is_as_many_steps_with_the_same_action():
    whole = shoal.vectorize("breakout", 64, env_kwargs={"frame_skip": 4})
    single = shoal.vectorize("breakout", 64, env_kwargs={"frame_skip": 1})
    seen, _ = whole.reset(seed=0)
    assert (seen == single.reset(seed=0)[0]).all()
    random, alive, broken = np.random.default_rng(0), np.ones(64, bool), 0.0
    for _ in range(400):
        actions = follow(seen, random)
        seen, rewards, terminations, *_ = whole.step(actions)
        total = np.zeros(64)
        for _ in range(4):
            single_seen, single_rewards, *_ = single.step(actions)
            total += single_rewards
        alive &= ~terminations
        assert (seen == single_seen)[alive].all()
        np.testing.assert_allclose(rewards[alive], total[alive], rtol=1e-6)
        broken += total.sum()
    assert alive.sum() > 10 and broken > 500
    whole.close(), single.close()


def test_chance_breaks_bricks():
    vector = shoal.vectorize("breakout", 256, seed=0)
    vector.reset()
    random = np.random.default_rng(0)
    total = sum(vector.step(random.integers(0, 3, 256))[1].sum() for _ in range(200))
    assert total > 20
    vector.close()
