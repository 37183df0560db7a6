"""What follows a run from outside: TensorBoard, Weights & Biases, Neptune, Trackio.

Each is opened by one function that returns two: one that takes the metrics of an update, and one
that ends it. Its library is imported there and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from shoal.errors import ConfigError
from shoal.trainers.config import Config, kept

__all__ = ["open_trackers"]

Tracker = tuple[Callable[[Mapping[str, float]], None], Callable[[], None]]


def open_trackers(folder: Path, config: Config, first_step: int) -> dict[str, Tracker]:
    """Open those that the config asks for.

    Args:
        folder: of the run.
        first_step: what is already known of later steps is left behind.

    Raises:
        ConfigError: one is not installed, or does not start.
    """
    openers = {
        "tensorboard": _tensorboard,
        "wandb": _wandb,
        "neptune": _neptune,
        "trackio": _trackio,
    }
    opened: dict[str, Tracker] = {}
    for name, open_ in openers.items():
        if not getattr(config, name):
            continue
        try:
            opened[name] = open_(folder, config, first_step)
        except Exception as error:
            for _, close in opened.values():
                close()
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                raise ConfigError(f"{name} is not installed: pip install {name}") from error
            raise ConfigError(f"{name} does not start: {type(error).__name__}: {error}") from error
    return opened


def _name(folder: Path, config: Config) -> str:
    """Return the name of a run that no run of another group has."""
    return f"{config.group}-{folder.name}" if config.group else folder.name


def _tensorboard(folder: Path, config: Config, first_step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder / "tensorboard", purge_step=first_step, flush_secs=10)

    def log(metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, int(metrics["steps"]))

    return log, writer.close


def _wandb(folder: Path, config: Config, first_step: int) -> Tracker:
    import wandb

    # One run there for one folder here, resumed or not. Without a login it is kept in the folder,
    # and `wandb sync` sends it later.
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")  # where `wandb login` leaves it
    online = any(name in os.environ for name in ("WANDB_MODE", "WANDB_API_KEY")) or (
        netrc.is_file() and "wandb" in netrc.read_text()
    )
    run = wandb.init(
        project="shoal",
        name=_name(folder, config),
        id=_name(folder, config),
        group=config.group,
        resume="allow",
        dir=folder,
        config=kept(config),
        mode=None if online else "offline",
        settings=wandb.Settings(silent=True),
    )
    return lambda metrics: run.log(dict(metrics), step=int(metrics["steps"])), run.finish


def _neptune(folder: Path, config: Config, first_step: int) -> Tracker:
    import neptune

    online = "NEPTUNE_API_TOKEN" in os.environ
    run = neptune.init_run(
        project=os.environ.get("NEPTUNE_PROJECT"),
        name=_name(folder, config),
        custom_run_id=_name(folder, config)[:36],
        mode=None if online else "offline",
        capture_stdout=False,
        capture_stderr=False,
        capture_hardware_metrics=False,
    )
    if config.group:
        run["sys/group_tags"].add([config.group])
    run["config"] = {name: str(value) for name, value in kept(config).items()}

    def log(metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            run[name].append(value, step=metrics["steps"])

    return log, run.stop


def _trackio(folder: Path, config: Config, first_step: int) -> Tracker:
    import trackio

    group = {"group": config.group} if config.group else {}
    name = _name(folder, config)
    trackio.init(project="shoal", name=name, config=kept(config), resume="allow", **group)
    return lambda metrics: trackio.log(dict(metrics), step=int(metrics["steps"])), trackio.finish
