"""Gymnasium's own wrappers of vectors, around Shoal's, do what they do around `SyncVectorEnv`."""

import functools
import importlib

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

from shoal import vectorize
from shoal.wrappers.gymnasium import ShoalAsyncVectorEnv, ShoalSyncVectorEnv
from tests.wrappers.test_gymnasium import Nested, same

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NEXT, SAME = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP
STEPS = 250


def vectorized(creators, autoreset_mode, backend):
    workers = {} if backend == "serial" else {"num_workers": 2, "start_method": "fork"}
    return vectorize(creators, backend=backend, autoreset=autoreset_mode, **workers)


VECTORS = {
    "serial": functools.partial(vectorized, backend="serial"),
    "multiprocess": functools.partial(vectorized, backend="multiprocess"),
    "ShoalSyncVectorEnv": ShoalSyncVectorEnv,
    "ShoalAsyncVectorEnv": functools.partial(ShoalAsyncVectorEnv, context="fork"),
}
VECTOR = pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)


class Picture(gymnasium.Env):
    """Colour pictures; episodes of random length."""

    observation_space = spaces.Box(0, 255, (12, 10, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    render_mode = "rgb_array"
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def draw(self):
        self.picture = self.np_random.integers(0, 256, (12, 10, 3), np.uint8)
        return self.picture

    def step(self, action):
        end = self.np_random.random()
        reward = float(action @ np.array([3.0, 1.0]) + end)
        return self.draw(), reward, end < 0.05, end > 0.97, {"end": end}

    def render(self):
        return np.repeat(np.repeat(self.picture, 4, 0), 4, 1)


def cartpole():
    return gymnasium.make("CartPole-v1")


def pendulum():
    return gymnasium.make("Pendulum-v1", max_episode_steps=21)


CASES = {
    # name: (wrapper, environment, autoreset modes)
    "RecordEpisodeStatistics": (wrappers.RecordEpisodeStatistics, cartpole, [NEXT, SAME]),
    "DictInfoToList": (wrappers.DictInfoToList, Picture, [NEXT, SAME]),
    "statistics in a list": (
        lambda env: wrappers.DictInfoToList(wrappers.RecordEpisodeStatistics(env)),
        cartpole,
        [NEXT, SAME],
    ),
    "NormalizeObservation": (wrappers.NormalizeObservation, cartpole, [NEXT]),
    "NormalizeReward": (wrappers.NormalizeReward, pendulum, [NEXT, SAME]),
    "ClipReward": (lambda env: wrappers.ClipReward(env, -3, -1), pendulum, [NEXT, SAME]),
    "TransformReward": (lambda env: wrappers.TransformReward(env, np.sin), pendulum, [NEXT, SAME]),
    "VectorizeTransformReward": (
        lambda env: wrappers.VectorizeTransformReward(
            env, gymnasium.wrappers.TransformReward, func=lambda reward: reward / 2
        ),
        pendulum,
        [NEXT, SAME],
    ),
    "TransformObservation": (
        lambda env: wrappers.TransformObservation(env, lambda obs: obs[:, ::-1] * 2),
        cartpole,
        [NEXT],
    ),
    "FlattenObservation": (wrappers.FlattenObservation, Picture, [NEXT]),
    "GrayscaleObservation": (wrappers.GrayscaleObservation, Picture, [NEXT]),
    "ReshapeObservation": (
        lambda env: wrappers.ReshapeObservation(env, (5, 24, 3)),
        Picture,
        [NEXT],
    ),
    "ResizeObservation": (lambda env: wrappers.ResizeObservation(env, (6, 5)), Picture, [NEXT]),
    "RescaleObservation": (
        lambda env: wrappers.RescaleObservation(env, np.float32(-1), np.float32(1)),
        pendulum,
        [NEXT],
    ),
    "DtypeObservation": (
        lambda env: wrappers.DtypeObservation(env, np.float64),
        cartpole,
        [NEXT],
    ),
    "TransformAction": (
        lambda env: wrappers.TransformAction(env, lambda actions: -actions),
        pendulum,
        [NEXT, SAME],
    ),
    "ClipAction": (wrappers.ClipAction, pendulum, [NEXT, SAME]),
    "RescaleAction": (lambda env: wrappers.RescaleAction(env, -1, 1), pendulum, [NEXT, SAME]),
    "NumpyToTorch": (lambda env: wrappers.NumpyToTorch(env), pendulum, [NEXT]),
    "all at once": (
        lambda env: wrappers.NormalizeReward(
            wrappers.NormalizeObservation(
                wrappers.ClipAction(wrappers.RecordEpisodeStatistics(env))
            )
        ),
        pendulum,
        [NEXT],
    ),
}
# What Gymnasium needs for some of them, and does not install by itself.
NEEDS = {"ResizeObservation": ["cv2"], "NumpyToTorch": ["torch", "array_api_compat"]}


def timeless(value):
    """Without the seconds that episodes have taken."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in ("t", "_t")}
    if isinstance(value, (list, tuple)):
        return type(value)(timeless(part) for part in value)
    return value.numpy() if hasattr(value, "numpy") else value


@VECTOR
@pytest.mark.parametrize("name", CASES)
def test_a_wrapper_does_what_it_does_to_gymnasiums_own(make, name):
    wrap, env, modes = CASES[name]
    for needed in NEEDS.get(name, []):
        pytest.importorskip(needed)
    for mode in modes:
        ours, theirs = (
            wrap(vector([env] * 3, autoreset_mode=mode)) for vector in (make, SyncVectorEnv)
        )
        for kind in ("observation_space", "action_space", "single_observation_space", "num_envs"):
            assert getattr(ours, kind) == getattr(theirs, kind), kind
        same(timeless(ours.reset(seed=3)), timeless(theirs.reset(seed=3)))
        theirs.action_space.seed(0)
        ends = 0
        for _ in range(STEPS):
            actions = theirs.action_space.sample()
            if name == "NumpyToTorch":
                actions = importlib.import_module("torch").from_numpy(actions)
            results = [timeless(envs.step(actions)) for envs in (ours, theirs)]
            same(*results)
            ends += int((results[1][2] | results[1][3]).sum())
        assert ends > 5
        ours.close(), theirs.close()
        assert ours.closed


@VECTOR
def test_statistics_are_those_of_the_episodes(make):
    """The wrapper above, whose times are left out there, has times too."""
    envs = wrappers.RecordEpisodeStatistics(make([cartpole] * 2, autoreset_mode=NEXT))
    envs.reset(seed=0)
    for _ in range(60):
        *_, infos = envs.step(np.array([1, 1]))
        if "episode" in infos:
            ended = infos["_episode"]
            assert (infos["episode"]["l"][ended] == infos["episode"]["r"][ended]).all()
            assert (infos["episode"]["t"][ended] >= 0).all()
    assert len(envs.return_queue) > 5 and set(envs.return_queue) <= {8.0, 9.0, 10.0, 11.0}
    envs.close()


@VECTOR
def test_filter_of_a_dictionary(make):
    """Of the drop-in classes, whose observations are nested."""
    if make in (VECTORS["serial"], VECTORS["multiprocess"]):
        pytest.skip("observations are flat; observation_layout.view nests them")
    ours, theirs = (
        wrappers.FilterObservation(vector([Nested] * 2, autoreset_mode=NEXT), ["z", "dice"])
        for vector in (make, SyncVectorEnv)
    )
    same(ours.reset(seed=0), theirs.reset(seed=0))
    for _ in range(40):
        actions = theirs.action_space.sample()
        same(ours.step(actions), theirs.step(actions))
    ours.close(), theirs.close()


@VECTOR
def test_videos(make, tmp_path):
    pytest.importorskip("moviepy")
    ours, theirs = (
        wrappers.RecordVideo(
            vector([Picture] * 4, autoreset_mode=NEXT),
            str(tmp_path / name),
            step_trigger=lambda step: step == 5,
            video_length=20,
        )
        for name, vector in (("ours", make), ("theirs", SyncVectorEnv))
    )
    frames = []
    for envs in (ours, theirs):
        envs.reset(seed=0)
        for _ in range(15):
            envs.step(np.zeros((4, 2), np.float32))
        frames.append(np.array(envs.recorded_frames))
        for _ in range(20):
            envs.step(np.zeros((4, 2), np.float32))
        envs.close()
    assert len(frames[0]) and (frames[0] == frames[1]).all()
    assert [f.suffix for f in (tmp_path / "ours").iterdir()] == [".mp4"]


@VECTOR
def test_a_window(make):
    pytest.importorskip("pygame")
    pytest.importorskip("cv2")
    envs = wrappers.HumanRendering(make([Picture] * 2, autoreset_mode=NEXT))
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(np.zeros((2, 2), np.float32))
    envs.close()
