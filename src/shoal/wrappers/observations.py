"""Wrappers that change observations, a batch at a time. The final ones are changed alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space

from shoal.rows.layout import Layout
from shoal.rows.spec import is_hot, join, key_from_json, step
from shoal.wrappers.base import ObservationWrapper
from shoal.wrappers.statistics import RunningMeanVar

__all__ = ["FrameStack", "NormalizeObservation", "OneHot", "TimeAwareObservation"]


class NormalizeObservation(ObservationWrapper):
    """Observations less their running mean, divided by their running standard deviation.

    Each leaf of the observation has statistics of its own, element by element, over all rows
    together, without padding; they belong in checkpoints (`state_dict`). The leaves become
    float32, others stay what they are. Invert with `unnormalize`, as long as no further batch
    came.

    Args:
        env: see `Wrapper`.
        epsilon: added to the variance; positive.
        leaves: paths of Box leaves, such as ``["position", "sensors[2]"]``; by default all that
            are always present (not within a Sequence, Graph or OneOf).
        update: whether batches still change the statistics; an attribute, False for evaluation.

    Attributes:
        running: for each of these leaves' paths, a `RunningMeanVar`.

    Raises:
        ValueError: there is no such leaf, or none at all.
    """

    def __init__(
        self,
        env: Any,
        epsilon: float = 1e-8,
        *,
        leaves: Sequence[str] | None = None,
        update: bool = True,
    ):
        if not epsilon > 0:
            raise ValueError(f"NormalizeObservation: expected a positive epsilon, got {epsilon}")
        source = env.observation_layout
        able = [leaf.path for leaf in source.leaves if leaf.kind == "box" and not leaf.optional]
        chosen = able if leaves is None else list(leaves)
        if not chosen or not set(chosen) <= set(able):
            raise ValueError(f"NormalizeObservation: expected some of {able}, got {leaves}")
        spec = float_boxes(source.spec, "", frozenset(chosen))
        super().__init__(env, Layout(spec, source.form, source.one_hot, source.name))
        self.epsilon, self.update = epsilon, update
        self.running = {
            leaf.path: RunningMeanVar(leaf.shape) for leaf in source.leaves if leaf.path in chosen
        }

    def observe(
        self, observations: np.ndarray, rows: np.ndarray, times: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        out = self.observation_layout.zeros(len(rows))
        for path, old, new in self._leaves(self.env.observation_layout, observations, out):
            statistics = self.running.get(path)
            if statistics is None:
                new[...] = old
                continue
            if self.update:
                statistics.update(old[fresh])
            new[...] = (old - statistics.mean) / np.sqrt(statistics.var + self.epsilon)
        return out

    def unnormalize(self, observations: np.ndarray) -> np.ndarray:
        """Return observations as the environment gave them, up to float32's precision."""
        out = self.env.observation_layout.zeros(len(observations))
        for path, old, new in self._leaves(self.env.observation_layout, out, observations):
            statistics = self.running.get(path)
            if statistics is None:
                old[...] = new
                continue
            values = new * np.sqrt(statistics.var + self.epsilon) + statistics.mean
            old[...] = values if old.dtype.kind == "f" else np.rint(values)
        return out

    def _leaves(self, layout: Layout, old: np.ndarray, new: np.ndarray) -> Any:
        """Return (path, view, view) of each leaf of rows of `layout` and of the new layout."""
        views = (leaf_views(layout, old), leaf_views(self.observation_layout, new))
        return zip([leaf.path for leaf in layout.leaves], *views)

    def state_dict(self) -> dict[str, Any]:
        return {path: each.state_dict() for path, each in self.running.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for path, statistics in self.running.items():
            statistics.load_state_dict(state[path])


class FrameStack(ObservationWrapper):
    """The last observations of each row together, the newest last.

    Older frames are not copied: each row has a ring of places, every new frame is written once,
    and the stack is a view of the ring. Only where an episode begins (or the ring's end is reached)
    do all rows move on to fresh places, with a copy. So a stack stays as it is until the second
    batch after it, as observations do. In a pool, whose batches have other rows every time, stacks
    are copied together.

    An observation that is one array becomes one of shape ``(num_frames, *shape)``, a nested one the
    tuple of its frames, and `frames` shows both with the frames as an axis of each leaf.

    Args:
        env: see `Wrapper`.
        num_frames: how many.
        padding: what stands before an episode's first observation: ``"reset"``, that itself, or
            ``"zero"``.
    """

    def __init__(self, env: Any, num_frames: int, padding: str = "reset"):
        if not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f"FrameStack: expected num_frames of 1 or more, got {num_frames!r}")
        if padding not in ("reset", "zero"):
            raise ValueError(f'FrameStack: expected padding "reset" or "zero", got {padding!r}')
        frame = self.frame_layout = env.observation_layout
        if frame.form == "bytes" and len(frame.leaves) == 1:
            stacked = Layout.from_space(batch_space(frame.flat_space, num_frames), name=frame.name)
        else:
            spec = {"kind": "Tuple", "items": [frame.spec] * num_frames}
            stacked = Layout(spec, frame.form, frame.one_hot, frame.name)
        super().__init__(env, stacked)
        self.num_frames, self.padding = num_frames, padding
        # Four stacks long: where all move on, the last two that were returned are left alone.
        self._pool = env.batch_size != env.num_envs
        self._ring = frame.zeros(env.num_rows, num_frames if self._pool else 4 * num_frames)
        self._at = 0  # where the rows' stacks begin

    def observe(
        self, observations: np.ndarray, rows: np.ndarray, times: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        ring, n, at = self._ring, self.num_frames, self._at
        begins = times == 0
        if len(rows) < len(ring):  # a pool's batch, or the ends of some episodes
            stacks = self._advance(ring[rows, at : at + n], observations, begins, fresh)
            if self._pool:
                ring[rows] = stacks
        else:
            if not begins.any() and fresh.all() and at + n < ring.shape[1]:
                ring[:, at + n] = observations
                self._at = at + 1
            else:
                self._at = at + n if at + 2 * n <= ring.shape[1] else 0
                old = ring[:, at : at + n]
                ring[:, self._at : self._at + n] = self._advance(
                    old.copy(), observations, begins, fresh
                )
            stacks = ring[:, self._at : self._at + n]
        return stacks.reshape(len(rows), *self.observation_layout.shape)

    def _advance(
        self, stacks: np.ndarray, observations: np.ndarray, begins: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        """Push observations into these stacks, in place."""
        moved = stacks[fresh]
        moved[:, :-1] = moved[:, 1:].copy()
        moved[:, -1] = observations[fresh]
        stacks[fresh] = moved
        first = observations[begins]
        stacks[begins] = first[:, None] if self.padding == "reset" else 0
        stacks[begins, -1] = first
        return stacks

    def frames(self, observations: Any) -> Any:
        """Return stacks as nested arrays of shape ``(rows, num_frames, *leaf.shape)``; no copy.

        Args:
            observations: NumPy array or torch tensor, ``(rows, *observation_layout.shape)``.
        """
        shape = (observations.shape[0], self.num_frames, *self.frame_layout.shape)
        return self.frame_layout.view(observations.reshape(shape))


class TimeAwareObservation(ObservationWrapper):
    """Observations with the number of steps since the episode began, as a leaf ``time``.

    It is float32 of shape (1,). A Dict gets it as its last entry, a Tuple as its last item, and
    any other observation becomes ``{"obs": ..., "time": ...}``. To invert, leave it away.

    Args:
        env: see `Wrapper`.
        max_steps: of an episode; by default what the environment's spec says.
        normalize: the time as a share of `max_steps`, from 0 to 1.
        key: what it is called.

    Raises:
        ValueError: `max_steps` is missing, or `key` is taken.
    """

    def __init__(
        self,
        env: Any,
        max_steps: int | None = None,
        *,
        normalize: bool = False,
        key: str = "time",
    ):
        inner = env.observation_layout
        max_steps = max_steps or (env.env_spec and env.env_spec.max_episode_steps)
        if not max_steps:
            raise ValueError("TimeAwareObservation: the environment has no time limit; max_steps?")
        most = 1.0 if normalize else float(max_steps)
        time = {"kind": "Box", "dtype": "float32", "shape": [1], "low": 0.0, "high": most}
        spec = inner.spec
        if spec["kind"] == "Tuple":
            spec = {"kind": "Tuple", "items": [*spec["items"], time]}
        else:
            items = spec["items"] if spec["kind"] == "Dict" else [["obs", spec]]
            if key in [key_from_json(each) for each, _ in items]:
                raise ValueError(f"TimeAwareObservation: {key!r} is in the observation already")
            spec = {"kind": "Dict", "items": [*items, [key, time]]}
        super().__init__(env, Layout(spec, inner.form, inner.one_hot, inner.name))
        self.max_steps, self.normalize = max_steps, normalize

    def observe(
        self, observations: np.ndarray, rows: np.ndarray, times: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        out = self.observation_layout.zeros(len(rows))
        # What was there keeps its place, since the time is the last leaf.
        old = np.ascontiguousarray(observations).reshape(len(rows), -1).view(np.uint8)
        out.reshape(len(rows), -1).view(np.uint8)[:, : old.shape[1]] = old
        *_, time = leaf_views(self.observation_layout, out)
        time[:, 0] = times / self.max_steps if self.normalize else times
        return out


class OneHot(ObservationWrapper):
    """Observations as one float32 vector, with discrete values one-hot, as Gymnasium flattens them.

    The layout has the form ``"float32"``; ``observation_layout.unpack`` inverts (up to float32's
    precision). Where nothing else needs the bytes, ``vectorize(..., form="float32", one_hot=True)``
    does the same in the workers.

    Raises:
        ValueError: the observations are in the float32 form already.
    """

    def __init__(self, env: Any):
        inner = env.observation_layout
        if inner.form != "bytes":
            raise ValueError(f'OneHot: expected observations in the form "bytes", got {inner}')
        super().__init__(env, Layout(inner.spec, "float32", True, inner.name))

    def observe(
        self, observations: np.ndarray, rows: np.ndarray, times: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        out = self.observation_layout.zeros(len(rows))
        inner = self.env.observation_layout
        for leaf, values in zip(self.observation_layout.leaves, leaf_views(inner, observations)):
            part = out[:, leaf.start : leaf.start + leaf.size]
            values = values.reshape(len(rows), -1)
            if not is_hot(leaf, True):
                part[...] = values
                continue
            n = leaf.num_categories.reshape(-1)
            chosen = values - np.broadcast_to(leaf.low, leaf.shape).reshape(-1)
            there = (chosen >= 0) & (chosen < n)  # what is absent has no category
            at = np.cumsum(n) - n + chosen
            part[np.nonzero(there)[0], at[there]] = 1
        return out


def leaf_views(layout: Layout, array: np.ndarray) -> list[np.ndarray]:
    """Return a view of each leaf of a batch of rows, ``(n, *leaf.shape)``, in the table's order."""
    return [layout._leaf_view(array, leaf, array.shape[:1]) for leaf in layout.leaves]


def float_boxes(spec: Mapping[str, Any], path: str, chosen: frozenset[str]) -> Mapping[str, Any]:
    """Return a layout's spec with the Boxes of the paths in `chosen` as unbounded float32 ones."""
    if spec["kind"] == "Dict":
        items: list[Any] = []
        for key, child in spec["items"]:
            inner = join(path, step(key_from_json(key)))
            items.append([key, float_boxes(child, inner, chosen)])
        return {**spec, "items": items}
    if spec["kind"] == "Tuple":
        parts = enumerate(spec["items"])
        items = [float_boxes(child, join(path, f"[{i}]"), chosen) for i, child in parts]
        return {**spec, "items": items}
    if spec["kind"] == "Box" and path in chosen:
        return {**spec, "dtype": "float32", "low": -np.inf, "high": np.inf}
    return spec
