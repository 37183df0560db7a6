"""Wrappers of whole vectors, and adapters to other libraries.

The wrappers here take and return vectors of `shoal.vectorize`. Each adapter is a module of its own,
which imports the library that it adapts to.
"""

from shoal.wrappers.actions import ClipAction, RescaleAction, StickyAction
from shoal.wrappers.base import Wrapper, load_state_dicts, state_dicts
from shoal.wrappers.episodes import EpisodeStatistics, RecordVideo
from shoal.wrappers.observations import (
    FrameStack,
    NormalizeObservation,
    OneHot,
    TimeAwareObservation,
)
from shoal.wrappers.rewards import (
    ClipReward,
    DeltaReward,
    NormalizeReward,
    RewardComponents,
    ScaleReward,
)
from shoal.wrappers.single import atari, repeat_action, time_limit

__all__ = [
    "ClipAction",
    "ClipReward",
    "DeltaReward",
    "EpisodeStatistics",
    "FrameStack",
    "NormalizeObservation",
    "NormalizeReward",
    "OneHot",
    "RecordVideo",
    "RescaleAction",
    "RewardComponents",
    "ScaleReward",
    "StickyAction",
    "TimeAwareObservation",
    "Wrapper",
    "atari",
    "load_state_dicts",
    "repeat_action",
    "state_dicts",
    "time_limit",
]
