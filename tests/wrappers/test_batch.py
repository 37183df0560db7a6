"""The batch wrappers, beside Gymnasium's wrappers of one environment or a NumPy oracle."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers as gym_wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as gym_vector_wrappers

import shoal
from shoal.errors import ActionError, CheckpointError, PendingCallError
from shoal.wrappers import (
    ClipAction,
    ClipReward,
    DeltaReward,
    EpisodeStatistics,
    FrameStack,
    NormalizeObservation,
    NormalizeReward,
    OneHot,
    RecordVideo,
    RescaleAction,
    RewardComponents,
    ScaleReward,
    StickyAction,
    TimeAwareObservation,
    Wrapper,
    atari,
    load_state_dicts,
    repeat_action,
    state_dicts,
    time_limit,
)
from tests.vectorization.environments import Crowd, Everything
from tests.wrappers.environments import Nested, Walk

MODES = ["next_step", "same_step", "disabled"]
STEPS = 1500  # of all environments together


def vector(env, num_envs, mode="next_step", **kwargs):
    return shoal.vectorize(env, num_envs, **{"backend": "serial", **kwargs}, autoreset=mode)


def sync(make, num_envs, mode):
    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode[mode.upper()])


def play(vector, actions, steps, mode):
    """(observations, rewards, terminations, truncations, infos) of a reset and `steps` steps."""
    observations, infos = vector.reset(seed=3)
    yield observations, None, None, None, infos
    for i in range(steps // vector.num_envs):
        batch = vector.step(actions[i % len(actions)])
        yield batch
        ended = batch[2] | batch[3]
        if mode == "disabled" and ended.any():
            observations, infos = vector.reset(options={"reset_mask": ended})
            yield observations, None, None, None, infos


def assert_same(ours, theirs, rtol):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key], rtol)
    elif isinstance(theirs, tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_same(one, other, rtol)
    else:
        assert (np.abs(ours - np.asarray(theirs)) <= rtol * (1 + np.abs(theirs))).all()


# Where Gymnasium has a wrapper of one environment: that, ours, the environment, how many of them,
# and how exact. Running statistics are of all rows here, of each environment there: with one
# environment they are the same, up to float32 in theirs.
SAME = {
    "clip reward": (
        lambda env: gym_wrappers.ClipReward(env, -1.0, 2.0),
        lambda v: ClipReward(v, -1.0, 2.0),
        Walk,
        2,
        0,
    ),
    "scale reward": (
        lambda env: gym_wrappers.TransformReward(env, lambda r: 0.25 * r),
        lambda v: ScaleReward(v, 0.25),
        Walk,
        2,
        0,
    ),
    "normalize reward": (gym_wrappers.NormalizeReward, NormalizeReward, Walk, 1, 1e-9),
    "normalize observation": (
        gym_wrappers.NormalizeObservation,
        NormalizeObservation,
        Walk,
        1,
        1e-3,
    ),
    "frame stack": (
        lambda env: gym_wrappers.FrameStackObservation(env, 4),
        lambda v: FrameStack(v, 4),
        Walk,
        2,
        0,
    ),
    "frame stack, zeros before": (
        lambda env: gym_wrappers.FrameStackObservation(env, 3, padding_type="zero"),
        lambda v: FrameStack(v, 3, padding="zero"),
        Walk,
        2,
        0,
    ),
    "frame stack, nested": (
        lambda env: gym_wrappers.FrameStackObservation(env, 3),
        lambda v: FrameStack(v, 3),
        Nested,
        2,
        0,
    ),
    "time aware": (
        lambda env: gym_wrappers.TimeAwareObservation(env, flatten=False, normalize_time=True),
        lambda v: TimeAwareObservation(v, normalize=True),
        Walk,
        2,
        1e-7,
    ),
    "time aware, nested": (
        lambda env: gym_wrappers.TimeAwareObservation(env, flatten=False),
        TimeAwareObservation,
        Nested,
        2,
        0,
    ),
    "one-hot": (gym_wrappers.FlattenObservation, OneHot, Nested, 2, 1e-7),
    "clip action": (gym_wrappers.ClipAction, ClipAction, Walk, 2, 0),
    "rescale action": (
        lambda env: gym_wrappers.RescaleAction(env, -1.0, 1.0),
        RescaleAction,
        Walk,
        2,
        1e-4,
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SAME)
def test_equal_to_gymnasiums_wrapper_of_one_environment(name, mode):
    gymnasium_wrapper, wrapper, env, num_envs, rtol = SAME[name]
    theirs = sync(lambda: gymnasium_wrapper(env()), num_envs, mode)
    ours = wrapper(vector(env, num_envs, mode))
    rng = np.random.default_rng(0)
    if env is Nested:
        actions = rng.integers(3, size=(64, num_envs))
    elif name == "clip action":
        actions = rng.normal(0, 3, (64, num_envs, 2)).astype(np.float32)
    else:  # small enough for the rescaled range too, and its ends
        actions = rng.uniform(-1, 1, (64, num_envs, 2)).astype(np.float32)
        actions[0] = 1
    show = ours.observation_layout.view
    if isinstance(ours, FrameStack):
        show = ours.frames
    elif isinstance(ours, OneHot):
        show = np.asarray
    episodes = 0
    for one, other in zip(
        play(ours, actions, STEPS, mode), play(theirs, actions, STEPS, mode), strict=True
    ):
        assert_same(show(one[0]), other[0], rtol)
        if other[1] is None:
            continue
        assert_same(one[1], other[1], rtol)
        assert (one[2] == other[2]).all() and (one[3] == other[3]).all()
        ended = other[2] | other[3]
        episodes += ended.sum()
        assert ("final_obs" in one[4]) == ("final_obs" in other[4])
        for row in np.flatnonzero(ended):
            if mode == "same_step":
                expected = other[4]["final_obs"][row]
                for last in (one[4]["final_obs"][row], ours.final_observations[row]):
                    assert_same(show(last[None]), batch_of_one(expected), rtol)
    assert episodes > 60
    ours.close()
    theirs.close()


def batch_of_one(value):
    if isinstance(value, dict):
        return {key: batch_of_one(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(batch_of_one(each) for each in value)
    return np.asarray(value)[None]


@pytest.mark.parametrize("mode", MODES)
def test_sticky_actions_equal_gymnasiums(mode):
    """With one environment, whose generator (that Gymnasium's wrapper draws from) starts alike."""
    for duration in (1, (1, 4)):
        env = gym_wrappers.StickyAction(Nested(), 0.4, duration)
        theirs = sync(lambda env=env: env, 1, mode)
        ours = StickyAction(vector(Nested, 1, mode), 0.4, duration)
        actions = np.random.default_rng(1).integers(3, size=(STEPS, 1))
        pairs = zip(play(ours, actions, STEPS, mode), play(theirs, actions, STEPS, mode))
        for i, (one, other) in enumerate(pairs):
            if i == 0:
                env.unwrapped.np_random = np.random.default_rng(7)
                ours.rng = np.random.default_rng(7)
                continue
            assert (show_one(ours, one[0]) == other[0]["at"]).all()
        ours.close()


def show_one(vector, observations):
    return vector.observation_layout.view(observations)["at"]


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics_equal_gymnasiums(mode):
    theirs = sync(lambda: gym_wrappers.RecordEpisodeStatistics(Walk()), 2, mode)
    ours = EpisodeStatistics(vector(Walk, 2, mode))
    actions = np.zeros((1, 2, 2), np.float32)
    returns, lengths = [], []
    for one, other in zip(play(ours, actions, STEPS, mode), play(theirs, actions, STEPS, mode)):
        infos = other[4].get("final_info", other[4])
        assert ("episode" in one[4]) == ("episode" in infos)
        if "episode" in infos:
            ended = infos["_episode"]
            assert (one[4]["_episode"] == ended).all()
            for key in "rl":
                np.testing.assert_allclose(one[4]["episode"][key], infos["episode"][key], rtol=1e-6)
            assert (one[4]["episode"]["t"][ended] > 0).all()
            returns += infos["episode"]["r"][ended].tolist()
            lengths += infos["episode"]["l"][ended].tolist()
    assert ours.episode_count == len(lengths) > 60
    np.testing.assert_allclose(ours.return_queue, returns[-100:], rtol=1e-6)
    assert list(ours.length_queue) == lengths[-100:]


@pytest.mark.parametrize("mode", MODES)
def test_delta_reward_and_components_by_an_oracle(mode):
    """What one environment at a time, stepped by hand, says that they should be."""
    num_envs = 3
    ours = DeltaReward(RewardComponents(vector(Walk, num_envs, mode), {"forward": 2, "cost": -1}))
    parts = ours.env
    last, sums = [None] * num_envs, np.zeros((num_envs, 2))
    reference = vector(Walk, num_envs, mode)
    actions = np.random.default_rng(0).uniform(-1, 1, (64, num_envs, 2)).astype(np.float32)
    pairs = zip(play(ours, actions, STEPS, mode), play(reference, actions, STEPS, mode))
    over = np.zeros(num_envs, bool)
    for one, other in pairs:
        if one[1] is None:
            continue
        infos = other[4]
        for row in range(num_envs):
            if mode == "next_step" and over[row]:  # this step only reset
                assert one[1][row] == 0
                last[row], sums[row] = None, 0
                continue
            final = mode == "same_step" and (other[2] | other[3])[row]
            source = infos["final_info"] if final else infos
            pair = np.array([source["forward"][row], source["cost"][row]])
            assert (parts.components[row] == pair).all()
            reward = pair @ [2, -1]
            assert np.isclose(one[1][row], 0 if last[row] is None else reward - last[row])
            last[row] = reward
            sums[row] += pair
            if (other[2] | other[3])[row]:
                assert one[4]["_episode_components"][row]
                told = one[4]["episode_components"]
                assert np.allclose([told["forward"][row], told["cost"][row]], sums[row])
                last[row], sums[row] = None, 0
        over = other[2] | other[3]


def test_statistics_of_many_rows_by_an_oracle():
    """Padding, dead agents and rows of mere resets are left out; all else is in, just once."""
    ours = NormalizeReward(NormalizeObservation(vector(lambda: Crowd(dying=True), 3)))
    reference = vector(lambda: Crowd(dying=True), 3)
    seen, returns, all_returns, invalid = [], np.zeros(12), [], 0
    reference.reset(seed=0)
    ours.reset(seed=0)
    seen.append(reference._arrays["observations"].copy())
    for _ in range(1000):
        actions = np.ones(12, np.int64)
        ours.step(actions)
        reference.send(actions)
        batch = reference.recv()
        seen.append(batch.observations[batch.masks | reference.acting].copy())
        valid = batch.masks
        returns[valid] = returns[valid] * 0.99 * ~batch.terminations[valid] + batch.rewards[valid]
        all_returns.append(returns[valid])
        invalid += (~valid).sum()
    assert invalid > 1000
    values = np.concatenate(seen)
    (statistics,) = ours.env.running.values()
    assert statistics.count == pytest.approx(len(values) + 1e-4)
    np.testing.assert_allclose(statistics.mean, values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(statistics.var, values.var(axis=0), rtol=1e-5)
    flat = np.concatenate(all_returns)
    np.testing.assert_allclose(ours.running.mean, flat.mean(), rtol=1e-6)
    np.testing.assert_allclose(ours.running.var, flat.var(), rtol=1e-6)


def test_a_partial_reset_counts_nothing_twice():
    ours = FrameStack(NormalizeObservation(vector(Walk, 3, "disabled")), 2)
    (statistics,) = ours.env.running.values()
    ours.reset(seed=0)
    mask = np.array([False, True, False])
    first, _ = ours.reset(options={"reset_mask": mask})
    assert statistics.count == pytest.approx(3 + 1 + 1e-4)
    frames = first.copy()
    ours.step(np.zeros((3, 2), np.float32))
    assert statistics.count == pytest.approx(3 + 1 + 3 + 1e-4)
    again, _ = ours.reset(options={"reset_mask": mask})
    assert statistics.count == pytest.approx(3 + 1 + 3 + 1 + 1e-4)
    assert (again[1, 0] == again[1, 1]).all()  # this one begins
    assert (again[0, 0] == frames[0, 1]).all()  # and those go on where they were
    assert not (again[0, 0] == again[0, 1]).all()


WRAPPED = {
    "frame stack": lambda v: FrameStack(v, 3),
    "time aware": TimeAwareObservation,
    "delta reward": DeltaReward,
    "clip action": ClipAction,
    "statistics": EpisodeStatistics,
    "components": lambda v: RewardComponents(v, ["forward"]),
    "stack": lambda v: FrameStack(DeltaReward(OneHot(ClipReward(v))), 2),
}


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize("name", WRAPPED)
def test_pools_see_the_same(name, mode):
    """Each row of a pool gets what it gets where all rows come together."""
    num_envs, steps = 4, 200
    whole = WRAPPED[name](vector(Walk, num_envs, mode))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (steps, num_envs, 2)).astype(np.float32)
    expected = [list(each) for each in zip(*rows_of(play(whole, actions, steps * num_envs, "")))]
    pool = WRAPPED[name](
        vector(
            Walk, num_envs, mode, backend="pool", num_workers=2, batch_size=2, start_method="fork"
        )
    )
    got = [[] for _ in range(num_envs)]
    pool.async_reset(seed=3)
    with pytest.raises(PendingCallError, match="send and recv"):
        pool.step(actions[0, :2])
    while min(map(len, got)) <= steps:
        batch = pool.recv()
        for i, row in enumerate(batch.agent_ids):
            first = not got[row]
            got[row].append((batch.observations[i].copy(), None if first else batch.rewards[i]))
        # Environments that are far enough still act, so that the others can go on.
        at = [min(len(got[row]), steps) - 1 for row in batch.agent_ids]
        pool.send(actions[at, batch.agent_ids])
    pool.close()
    for row in range(num_envs):
        for (observation, reward), (other, its) in zip(got[row], expected[row]):
            assert (observation == other).all() and reward == its


def rows_of(batches):
    for batch in batches:
        rewards = [None] * len(batch[0]) if batch[1] is None else batch[1]
        yield zip(batch[0].copy(), rewards)


def test_frame_stacks_are_views_that_live_as_long_as_observations():
    ours = FrameStack(vector(Walk, 3), 4)
    held = []
    observations, _ = ours.reset(seed=0)
    held.append((observations, observations.copy()))
    shared = 0
    for _ in range(500):
        observations = ours.step(np.zeros((3, 2), np.float32))[0]
        shared += np.shares_memory(observations, held[-1][0])
        held = [*held[-1:], (observations, observations.copy())]
        for array, then in held:
            assert (array == then).all()
    assert shared > 300  # most steps write one frame and copy none


def test_invertible_wrappers_invert():
    plain = vector(Nested, 3)
    ours = OneHot(vector(Nested, 3))
    one, _ = plain.reset(seed=0)
    other, _ = ours.reset(seed=0)
    for row in range(3):
        expected = plain.observation_layout.unpack(one[row])
        found = ours.observation_layout.unpack(other[row])
        assert gymnasium.spaces.utils.flatten(Nested.observation_space, found) == pytest.approx(
            gymnasium.spaces.utils.flatten(Nested.observation_space, expected)
        )
    ours = NormalizeObservation(vector(Nested, 3), leaves=["at", "pixels"])
    other, _ = ours.reset(seed=0)
    seen = ours.observation_layout.view(other)
    assert seen["at"].dtype == seen["pixels"].dtype == np.float32
    assert (seen["dice"] == plain.observation_layout.view(one)["dice"]).all()
    back = plain.observation_layout.view(ours.unnormalize(other))
    for key, values in plain.observation_layout.view(one).items():
        np.testing.assert_allclose(back[key], values, rtol=1e-5)
    ours = RescaleAction(vector(Walk, 2), 0.0, 1.0)
    wide = np.float32([[-2, -1], [1.5, 3]])
    narrow = ours.rescale(wide)
    np.testing.assert_allclose(narrow, [[0, 0], [0.875, 1]])
    assert (ours.change(narrow) == wide).all()
    ours = NormalizeReward(vector(Walk, 2))
    plain = vector(Walk, 2)
    for each in (ours, plain):
        each.reset(seed=0)
    for _ in range(10):
        rewards, expected = (each.step(wide)[1] for each in (ours, plain))
        np.testing.assert_allclose(ours.unnormalize(rewards), expected)


def test_statistics_go_on_from_a_checkpoint():
    def make():
        return NormalizeReward(DeltaReward(NormalizeObservation(vector(Walk, 2))))

    actions = np.zeros((1, 2, 2), np.float32)
    first = make()
    for _ in play(first, actions, 50, "next_step"):
        pass
    second = make()
    second.reset(seed=9)
    load_state_dicts(second, state_dicts(first))
    second.set_state(first.get_state())
    for _ in range(30):
        one, other = first.step(actions[0]), second.step(actions[0])
        assert (one[0] == other[0]).all()
    first.update = first.env.env.update = False
    before = first.state_dict()["running"]
    first.step(actions[0])
    assert first.state_dict()["running"] == before
    with pytest.raises(CheckpointError, match="NormalizeReward"):
        load_state_dicts(DeltaReward(vector(Walk, 2)), state_dicts(first))
    with pytest.raises(CheckpointError, match="shape"):
        load_state_dicts(make(), [{**each} for each in wrong_shape(state_dicts(first))])


def wrong_shape(states):
    states[2][""]["mean"] = np.zeros(3)
    return states


def test_a_wrapper_is_a_vector():
    inner = vector(Walk, 3)
    ours = ClipReward(FrameStack(inner, 2))
    assert isinstance(ours, gymnasium.vector.VectorEnv) and ours.unwrapped is inner
    assert (ours.num_rows, ours.batch_size, ours.agents_per_env) == (3, 3, 1)
    assert ours.single_observation_space.shape == (2, 2, 3)
    assert ours.observation_space.shape == (3, 2, 2, 3)
    observations, _ = ours.reset(seed=0)
    assert observations in ours.observation_space
    assert (ours.final_observations == observations).all()
    assert ours.get_attr("steps") == (0, 0, 0)
    assert ours.statistics() == {"episodes": 0}
    ours = gym_vector_wrappers.RecordEpisodeStatistics(ours)  # Gymnasium's go around it
    ours.reset(seed=0)
    ours.step(np.zeros((3, 2), np.float32))
    ours.close()
    assert inner.closed
    with pytest.raises(TypeError, match=r"shoal\.vectorize"):
        ClipReward(sync(Walk, 1, "next_step"))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ClipReward(vector(Walk, 1)).nonsense


def test_a_wrapper_that_is_dropped_leaves_the_vector_alone():
    inner = vector(Walk, 1)
    ClipReward(inner).reset(seed=0)
    inner.step(np.zeros((1, 2), np.float32))


WRONG = {
    "no bounds": lambda v: ClipReward(v, None, None),
    "empty bounds": lambda v: ClipReward(v, 1.0, 0.0),
    "scale 0": lambda v: ScaleReward(v, 0),
    "gamma": lambda v: NormalizeReward(v, gamma=1.5),
    "epsilon": lambda v: NormalizeObservation(v, epsilon=0),
    "no such leaf": lambda v: NormalizeObservation(v, leaves=["nothing"]),
    "no frames": lambda v: FrameStack(v, 0),
    "padding": lambda v: FrameStack(v, 2, padding="some"),
    "probability": lambda v: StickyAction(v, 1.0),
    "duration": lambda v: StickyAction(v, 0.5, (3, 2)),
    "same bounds": lambda v: RescaleAction(v, 1.0, 1.0),
    "infinite bounds": lambda v: RescaleAction(v, -np.inf, 1.0),
    "no render mode": lambda v: RecordVideo(v, "."),
    "float32 already": lambda v: OneHot(OneHot(v)),
    "time twice": lambda v: TimeAwareObservation(TimeAwareObservation(v)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    with pytest.raises(ValueError, match=r"expected|already|every"):
        WRONG[name](vector(Walk, 2))


def test_wrong_actions_change_nothing():
    sticky = StickyAction(vector(Nested, 2), 0.5, seed=0)
    sticky.reset(seed=0)
    sticky.step(np.array([0, 1]))
    before = sticky.rng.bit_generator.state, sticky._last.copy(), sticky._left.copy()
    for wrong in (np.array([0, 3]), np.array([0, 1, 2]), np.array([0.5, 1])):
        with pytest.raises(ActionError):
            sticky.step(wrong)
    assert sticky.rng.bit_generator.state == before[0]
    assert (sticky._last == before[1]).all() and (sticky._left == before[2]).all()
    rescaled = RescaleAction(vector(Walk, 1))
    rescaled.reset(seed=0)
    with pytest.raises(ActionError, match="expected Box"):
        rescaled.step(np.float32([[0, 1.01]]))
    with pytest.raises(TypeError, match="continuous"):
        ClipAction(vector(Nested, 1))


def test_actions_that_are_mixed():
    """Only the continuous part is clipped or rescaled; a repeated action is both parts of it."""
    made = functools.partial(vector, Everything, 2, max_len=100)
    plain, clipped, rescaled = made(), ClipAction(made()), RescaleAction(made(), 0.0, 10.0)
    rng = np.random.default_rng(0)
    for each in (plain, clipped, rescaled):
        each.reset(seed=0)
    for _ in range(20):
        discrete = rng.integers(1, 4, (2, 1))
        force = rng.normal(0, 2, (2, 2)).astype(np.float32)
        inside = np.clip(force, -1, 1)
        expected = plain.step({"continuous": inside, "discrete": discrete})[0]
        one = clipped.step({"continuous": force, "discrete": discrete})[0]
        other = rescaled.step({"continuous": (inside + 1) * 5, "discrete": discrete})[0]
        assert (one == expected).all()
        states = (plain.observation_layout.view(each)["state"] for each in (other, expected))
        np.testing.assert_allclose(*states, atol=1e-5)
    with pytest.raises(ActionError, match="continuous"):
        clipped.step({"discrete": discrete})
    sticky = StickyAction(made(), 0.5, seed=0)
    sticky.reset(seed=0)
    sent = []
    for _ in range(50):
        sent.append(sticky.action_space.sample())
        sticky.step(sent[-1])
        taken = sticky.taken
        for row in range(2):
            origins = {
                i
                for i, action in enumerate(sent)
                if (action["continuous"][row] == taken["continuous"][row]).all()
                and (action["discrete"][row] == taken["discrete"][row]).all()
            }
            assert origins  # one action, both parts of it


def test_sticky_actions_of_many_rows():
    sticky = StickyAction(vector(lambda: Crowd(dying=True), 3), 0.3, seed=0)
    sticky.reset(seed=0)
    rng = np.random.default_rng(0)
    repeated, possible, over = 0, 0, np.ones(12, bool)
    last = np.zeros(12, np.int64)
    for _ in range(1500):
        actions = rng.integers(3, size=12)
        _, _, terminations, truncations, _ = sticky.step(actions)
        taken = sticky.taken
        assert ((taken == actions) | (~over & (taken == last))).all()
        different = ~over & (last != actions)
        repeated += (taken != actions).sum()
        possible += different.sum()
        over = terminations | truncations | (sticky.episode_lengths == 0)
        last = taken.copy()
    assert repeated / possible == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_videos(tmp_path, mode, suffix):
    imageio = pytest.importorskip("imageio.v3")
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    made = vector(functools.partial(Walk, "rgb_array"), 2, mode)
    ours = RecordVideo(made, tmp_path / "videos", index=1, every=2, suffix=suffix)
    lengths, length = [], 0
    for _, reward, terminated, truncated, _ in play(
        ours, np.zeros((1, 2, 2), np.float32), 240, mode
    ):
        if reward is None:
            continue
        length += 1
        if terminated[1] or truncated[1]:
            lengths.append(length)
            length = -1 if mode == "next_step" else 0  # the next step only resets
    ours.close()
    names = sorted(path.name for path in (tmp_path / "videos").iterdir())
    count = (len(lengths) + 2) // 2  # the last one was still going on
    assert names == sorted(f"episode-{2 * i}{suffix}" for i in range(count))
    assert [path.name for path in ours.files] == [f"episode-{2 * i}{suffix}" for i in range(count)]
    frames = imageio.imread(ours.files[0], index=None if suffix == ".gif" else ...)
    shown = lengths[0] + (0 if mode == "same_step" else 1)  # and the first observation
    assert len(frames) == shown
    assert frames.shape[1:] == (32, 48, 3)


class OneScreen(Walk):
    """Renders into the same array each time, or what is no picture."""

    def __init__(self, screen):
        super().__init__("rgb_array")
        self.screen, self.steps_taken = screen, 0

    def render(self):
        if self.screen is not None:
            self.screen[:] = 40 * self.steps_taken
            self.steps_taken += 1
        return self.screen


def test_a_video_of_an_environment_that_renders_into_one_array(tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    screen = np.zeros((8, 8, 3), np.uint8)
    ours = RecordVideo(
        vector(functools.partial(OneScreen, screen), 1), tmp_path, suffix=".gif", max_frames=5
    )
    ours.reset(seed=0)
    for _ in range(4):
        ours.step(np.zeros((1, 2), np.float32))
    ours.close()
    assert imageio.imread(ours.files[0], index=None)[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160]


def test_a_video_of_nothing_is_an_error(tmp_path):
    ours = RecordVideo(vector(functools.partial(OneScreen, None), 1), tmp_path, suffix=".gif")
    with pytest.raises(shoal.EmulationError, match=r"render: expected a picture .* got None"):
        ours.reset(seed=0)
    ours.close()


def test_repeating_actions_and_limiting_time():
    """In the environment's own loop: one environment beside Gymnasium's, and agents by hand."""
    for mode in MODES:
        pairs = [
            (functools.partial(time_limit, max_steps=7), "TimeLimit", {"max_episode_steps": 7}),
            (functools.partial(repeat_action, times=3), "RepeatAction", {"num_repeats": 3}),
        ]
        for ours, name, kwargs in pairs:
            if not hasattr(gym_wrappers, name):
                continue  # Gymnasium < 1.3
            actions = np.zeros((1, 2, 2), np.float32)
            one = vector(lambda ours=ours: ours(Walk()), 2, mode)
            other = sync(lambda n=name, k=kwargs: getattr(gym_wrappers, n)(Walk(), **k), 2, mode)
            ends = 0
            for got, expected in zip(
                play(one, actions, STEPS, mode), play(other, actions, STEPS, mode), strict=True
            ):
                for array, its in zip(got[:4], expected[:4]):
                    assert its is None or (array == its).all()
                ends += 0 if expected[1] is None else (expected[2] | expected[3]).sum()
            assert ends > 60
    for make in (repeat_action, time_limit):
        with pytest.raises(ValueError, match="1 or more"):
            make(Walk(), 0)


def test_the_base_changes_nothing():
    actions = np.zeros((1, 2, 2), np.float32)
    ours, plain = Wrapper(vector(Walk, 2)), vector(Walk, 2)
    for one, other in zip(play(ours, actions, 50, ""), play(plain, actions, 50, "")):
        assert (one[0] == other[0]).all()


def test_atari():
    pytest.importorskip("cv2")
    pytest.importorskip("ale_py")
    make = functools.partial(atari, "Pong", noop_max=0, repeat_action_probability=0.0)
    ours = FrameStack(vector(make, 2), 4)
    observations, _ = ours.reset(seed=0)
    assert observations.shape == (2, 4, 84, 84) and observations.dtype == np.uint8
    env = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
    env = gym_wrappers.AtariPreprocessing(env, noop_max=0)
    env = gym_wrappers.FrameStackObservation(env, 4)
    expected, _ = env.reset(seed=0)
    for action in [0, 2, 2, 3, 3, 3, 2, 0]:
        assert (observations[0] == expected).all()
        observations = ours.step(np.full(2, action))[0]
        expected = env.step(action)[0]
    ours.close()
