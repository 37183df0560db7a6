"""Where the time of training goes, by phase, and what would make it shorter."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shoal.trainers import ppo
from shoal.trainers.config import Config
from shoal.trainers.defaults import filled
from shoal.trainers.flops import model_flops, peak_flops
from shoal.trainers.phases import LEARNING, PHASES
from shoal.trainers.processes import current_device

__all__ = ["Profile", "advice", "measure", "report"]

MUCH = 0.35  # of the time: worth advice
IDLE = 0.15  # of the peak: calls cost more than what they compute


@dataclass(frozen=True)
class Profile:
    """What some updates took.

    Attributes:
        config: of the run, with everything that was chosen.
        device: its name.
        steps: transitions learnt from.
        wall: seconds of all updates.
        seconds: of each phase; they add up to `wall`.
        flops: of the policy in these updates, forward and backward.
        peak: FLOP/s of the device, by a matrix product in the run's precision.
    """

    config: Config
    device: str
    steps: int
    wall: float
    seconds: dict[str, float]
    flops: float
    peak: float


def measure(config: Config, updates: int = 5, trace: Path | None = None) -> Profile:
    """Train for a few updates after one to warm up, and return where the time went.

    Args:
        config: of a run; nothing is written to its folder.
        updates: how many are measured.
        trace: where to write a Chrome trace of one more update.
    """
    config = filled(config)
    device = ppo.choose_device(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(current_device(device))
        stack.enter_context(ppo.torch_settings(config))
        vector = stack.enter_context(contextlib.closing(ppo.make_vector(config)))
        trainer = ppo.Trainer(config, config, None, vector, device)
        if device.type == "cuda":
            trainer.phases.wait = lambda: torch.cuda.synchronize(device)
        trainer.update()
        before, seconds = trainer.steps, dict.fromkeys(PHASES, 0.0)
        begun = time.perf_counter()
        for _ in range(updates):
            trainer.update()
            trainer.phases.enter("rest")
            for name, taken in trainer.phases.seconds.items():
                seconds[name] += taken
        wall = time.perf_counter() - begun
        steps = trainer.steps - before
        if trace is not None:
            write_trace(trainer, trace, device)
        config = trainer.config
        flops = model_flops(config, trainer.policy, vector.observation_layout, device)
        return Profile(
            config=config,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "processor",
            steps=steps,
            wall=wall,
            seconds=seconds,
            flops=steps * flops,
            peak=peak_flops(device, config.precision),
        )


def write_trace(trainer: Any, path: Path, device: torch.device) -> None:
    """Write a Chrome trace of one update: for chrome://tracing or ui.perfetto.dev."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        trainer.update()
    recorded.export_chrome_trace(str(path))


def report(profile: Profile) -> str:
    """Return a table of the phases, the share of the peak, and one sentence of advice."""
    config, wall = profile.config, profile.wall
    lines = [
        f"{config.env}, {config.num_envs} environments, memory {config.memory}, "
        f"{config.precision} on the {profile.device}",
        f"{profile.steps:,} steps in {wall:.2f} s: {profile.steps / wall:,.0f} steps/s",
        "",
    ]
    for name, taken in [*profile.seconds.items(), ("all", sum(profile.seconds.values()))]:
        label = f"learn: {name}" if name in LEARNING else name
        lines.append(f"{label:<20}{taken * 1e3:>10,.1f} ms{taken / wall:>8.1%}")
    speed = profile.flops / wall
    lines += [
        "",
        f"networks: {speed / 1e9:,.1f} GFLOP/s, {speed / profile.peak:.0%} of the "
        f"{profile.peak / 1e9:,.0f} GFLOP/s of one large matrix product",
        f"advice: {advice(profile)}",
    ]
    return "\n".join(lines)


def advice(profile: Profile) -> str:
    """Return one sentence: what to change first."""
    config = profile.config
    share: Mapping[str, float] = {n: s / profile.wall for n, s in profile.seconds.items()}
    learning = sum(share[name] for name in LEARNING)
    if share["environment"] > MUCH:
        return (
            f"the environment takes {share['environment']:.0%}: use more --num-workers "
            "(shoal bench finds how many), or a pool (--batch-size of half --num-envs)"
        )
    reached = profile.flops / profile.wall / profile.peak
    if share["act"] + learning > MUCH and reached < IDLE:
        return (
            f"the networks reach {reached:.0%} of the peak: use more --num-envs and a larger "
            "--minibatch-size, so that each call has more rows"
        )
    if share["act"] > MUCH and share["act"] > learning:
        return (
            f"acting takes {share['act']:.0%}: use more --num-envs, so that each call of the "
            "policy has more rows"
        )
    if learning > MUCH and config.memory == "lstm":
        return f"learning takes {learning:.0%}: use --memory mingru, or none, if it learns as well"
    if learning > MUCH and config.update_epochs > 1:
        return (
            f"learning takes {learning:.0%}: use fewer --update-epochs, or a larger "
            "--minibatch-size"
        )
    if learning > MUCH:
        return f"learning takes {learning:.0%}: use a smaller --hidden-size, or a GPU"
    if share["copy"] > MUCH:
        return f"copying takes {share['copy']:.0%}: make the observation smaller"
    return "no phase stands out; nothing simple would make it much faster"
