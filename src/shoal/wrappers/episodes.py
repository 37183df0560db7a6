"""Wrappers that watch episodes: their statistics, and videos of them. They change nothing."""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import install_extra
from shoal.ocean_c.film import Film, as_picture
from shoal.vectorization.vector import Batch
from shoal.wrappers.base import Wrapper, rows_of

__all__ = ["EpisodeStatistics", "RecordVideo"]


class EpisodeStatistics(Wrapper):
    """Return, length and time of each episode, where Gymnasium's wrapper puts them.

    Where an episode ends in a batch, ``infos["episode"]`` is ``{"r": returns, "l": lengths,
    "t": seconds}`` (arrays; 0 for rows whose episode goes on), and ``infos["_episode"]`` tells the
    rows. Returns are of the rewards that come from the vector inside: put this wrapper below those
    that change rewards to have the environment's own.

    Args:
        env: see `Wrapper`.
        buffer_length: how many episodes the three queues remember.
        key: of the infos.

    Attributes:
        return_queue, length_queue, time_queue: of the last episodes.
        episode_count: how many episodes have ended.
    """

    def __init__(self, env: Any, buffer_length: int = 100, key: str = "episode"):
        super().__init__(env)
        self.key = key
        self.episode_count = 0
        self.return_queue: deque[float] = deque(maxlen=buffer_length)
        self.length_queue: deque[int] = deque(maxlen=buffer_length)
        self.time_queue: deque[float] = deque(maxlen=buffer_length)
        self._returns = np.zeros(env.num_rows)
        self._begun = np.full(env.num_rows, time.perf_counter())

    def receive(self, batch: Batch) -> Batch:
        rows, valid, now = batch.agent_ids, self.transitions(batch), time.perf_counter()
        lengths = self.vector.episode_lengths
        first = valid & (lengths == 1)
        self._returns[rows[first]] = 0
        self._returns[rows[valid]] += batch.rewards[valid]
        self._begun[rows[lengths == 0]] = now
        ended = (batch.terminations | batch.truncations) & valid
        if not ended.any():
            return batch
        if self.key in batch.infos:
            raise ValueError(
                f"EpisodeStatistics: the environment's infos have {self.key!r} already; "
                "give another key"
            )
        returns = np.where(ended, self._returns[rows], 0)
        counts = np.where(ended, lengths, 0)
        seconds = np.where(ended, now - self._begun[rows], 0)
        batch.infos[self.key] = {"r": returns, "l": counts, "t": seconds}
        batch.infos[f"_{self.key}"] = ended
        self.episode_count += int(ended.sum())
        self.return_queue.extend(returns[ended].tolist())
        self.length_queue.extend(counts[ended].tolist())
        self.time_queue.extend(seconds[ended].tolist())
        self._begun[rows[ended]] = now
        return batch


class RecordVideo(Wrapper):
    """A video of every n-th episode of one environment: ``folder/episode-0.mp4`` and so on.

    The environments must be made with ``render_mode="rgb_array"``. Only while an episode is
    recorded, each step asks that one environment for a frame. In SAME_STEP mode the next episode
    has begun before the last frame of one could be seen, so that frame is missing.

    Args:
        env: see `Wrapper`; not a pool, whose environments can't be asked while others are on
            their way (Gymnasium's own ``RecordVideo`` can be put around the environment there).
        folder: is made where there is none.
        index: which environment.
        every: every how many of its episodes; the first is recorded.
        suffix: ``".mp4"`` (needs ``imageio[ffmpeg]``) or ``".gif"`` (needs ``imageio``).
        fps: frames a second; by default as the environment says, else 30.
        max_frames: the rest of a longer episode is left out.

    Attributes:
        files: the videos written so far.

    Raises:
        ValueError: an argument, or the vector's render mode, doesn't fit.
        ImportError: what writes such files is not installed.
    """

    def __init__(
        self,
        env: Any,
        folder: str | Path,
        *,
        index: int = 0,
        every: int = 1,
        suffix: str = ".mp4",
        fps: float | None = None,
        max_frames: int = 10_000,
    ):
        if env.render_mode != "rgb_array":
            raise ValueError(
                f'RecordVideo: expected render_mode="rgb_array", got {env.render_mode!r}; '
                'vectorize(..., env_kwargs={"render_mode": "rgb_array"})'
            )
        if env.batch_size != env.num_envs:
            raise ValueError("RecordVideo: the environments of a pool can't be rendered")
        if not 0 <= index < env.num_envs:
            raise ValueError(f"RecordVideo: expected index 0 to {env.num_envs - 1}, got {index}")
        if every < 1 or suffix not in (".mp4", ".gif"):
            raise ValueError(f'RecordVideo: every >= 1, suffix ".mp4" or ".gif"; {every}, {suffix}')
        needed = "imageio" if suffix == ".gif" else "imageio_ffmpeg"
        if importlib.util.find_spec(needed) is None:
            raise ImportError(f"RecordVideo: {suffix} needs {needed}: {install_extra('video')}")
        super().__init__(env)
        self.folder, self.suffix = Path(folder), suffix
        self.index, self.every, self.max_frames = index, every, max_frames
        self.fps = fps or env.metadata.get("render_fps") or 30
        self.files: list[Path] = []
        self._mine = rows_of([index], self.agents_per_env)
        self._episode = -1
        self._frames: list[np.ndarray] | None = None  # None: this episode is not recorded

    def receive(self, batch: Batch) -> Batch:
        if self._kept[self._mine].any():  # it stood still
            return batch
        final = batch.infos.get("_final_obs")
        again = final is not None and final[self._mine].any()
        begins = again or not self.vector.episode_lengths[self._mine].any()
        if begins:
            self.save()
            self._episode += 1
            self._frames = [] if self._episode % self.every == 0 else None
        if self._frames is not None and len(self._frames) < self.max_frames:
            self._frames.append(as_picture(self.env.render(self.index)))  # copied
            if not self.vector.acting[self._mine].any():
                self.save()
        return batch

    def save(self) -> None:
        """Write the frames recorded so far, if any; the rest of the episode is left out."""
        frames, self._frames = self._frames, None
        if not frames:
            return
        path = self.folder / f"episode-{self._episode}{self.suffix}"
        with Film(path, self.fps) as film:
            for frame in frames:
                film.add(frame)
        self.files.append(path)

    def close(self, **kwargs: Any) -> None:
        """Write the video that is being recorded, and close the vector."""
        self.save()
        super().close(**kwargs)
