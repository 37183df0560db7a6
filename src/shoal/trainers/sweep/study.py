"""A sweep's folder: what is swept, the study, and which runs are whose.

    runs/NAME/
        sweep.toml       config of the runs, space, score: what `resume` needs
        journal.log      Optuna's study, append-only; optuna-dashboard reads it
        configs/0007.toml, logs/0007.log   what run 7 was told, and what it said
        0007/            run 7, a run like any other: `shoal eval NAME/0007`
        claims/0007      locked by the process that looks after run 7
        front.png, importance.png, parallel.png

Invariants:

- The number of a run is that of its trial, which is in the journal once.
- Trials are made and taken over under a lock of the folder. A trial that is RUNNING in the journal
  without a lock on its claim has lost its process, and the next sweep that looks takes it over.
- The journal holds whole lines: what a crash or a full disk has torn is cut off before the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial

from shoal.errors import ConfigError, RunError
from shoal.trainers.config import Config, from_dict, kept, require_secrets
from shoal.trainers.runs import find_folder, to_toml, write_whole
from shoal.trainers.sweep.sampler import CostSampler
from shoal.trainers.sweep.space import Dimension, read_space

__all__ = [
    "SAMPLERS",
    "Plan",
    "claim",
    "create",
    "elapsed",
    "find_sweep",
    "flocked",
    "is_claimed",
    "open_study",
    "read_plan",
    "parse_duration",
    "score_of",
    "write_plan",
]

SAMPLERS = ("shoal", "tpe", "gp", "random")
GRACE = 10  # seconds after which the lock of a process that was killed while writing is broken
KEEP = 70.0  # percent of runs that go on at each cost


@dataclass(frozen=True)
class Plan:
    """What a sweep does.

    Attributes:
        folder: of the sweep; its name is the sweep's.
        config: of all runs; each has a seed of its own.
        tables: ``[sweep.NAME]``, see `read_space`.
        metric: of metrics.jsonl; None: the environment's score, or the return if it has none.
        goal: ``"maximize"`` or ``"minimize"``.
        window: ``"final"``, the mean over the last tenth of a run, or ``"best"``, the best mean
            over a tenth.
        sampler: one of `SAMPLERS`.
        early_stop: whether runs below the 30 % quantile for their cost so far are stopped.
        runs: how many; None: as many as the budget allows.
        budget: seconds; None: no limit.
    """

    folder: Path
    config: Config
    tables: dict[str, Any]
    metric: str | None = None
    goal: Literal["maximize", "minimize"] = "maximize"
    window: str = "final"
    sampler: str = "shoal"
    early_stop: bool = True
    runs: int | None = None
    budget: float | None = None

    @functools.cached_property  # a tenth of a second, mostly to check what configs take
    def space(self) -> list[Dimension]:
        """The parameters that are swept."""
        return read_space(self.tables, self.config)

    def better(self, one: float, other: float) -> bool:
        """Return whether a score is better than another."""
        return one > other if self.goal == "maximize" else one < other


def create(plan: Plan) -> None:
    """Make the folder of a new sweep.

    Raises:
        RunError: it exists, or can't be made.
        ConfigError: a value of the environment looks like a secret, which is kept nowhere.
    """
    require_secrets(kept(plan.config)["env_kwargs"])
    try:
        plan.folder.mkdir(parents=True)
        for name in ("configs", "logs", "claims"):
            (plan.folder / name).mkdir()
    except FileExistsError:
        name = plan.folder.name
        raise RunError(
            f"{plan.folder} exists; shoal sweep resume {name}, or another --name"
        ) from None
    except OSError as error:
        raise RunError(f"sweep {plan.folder} can't be made: {error.strerror or error}") from error
    write_plan(plan)


def write_plan(plan: Plan) -> None:
    """Write sweep.toml."""
    names = ["metric", "goal", "window", "sampler", "early_stop", "runs", "budget"]
    values = {name: getattr(plan, name) for name in names}
    values["config"] = {k: v for k, v in kept(plan.config).items() if v is not None}
    values["sweep"] = plan.tables
    write_whole(plan.folder / "sweep.toml", to_toml(values).encode())


def read_plan(folder: Path) -> Plan:
    """Return what a sweep does; RunError if that can't be read."""
    path = folder / "sweep.toml"
    try:
        values = tomllib.loads(path.read_text())
        config, tables = from_dict(values.pop("config")), values.pop("sweep")
        return Plan(folder, config, tables, **values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} can't be read: {error}") from error


def find_sweep(name: str, runs_dir: str = "runs") -> Path:
    """Return the folder of a sweep, given as a path or by its name.

    Raises:
        RunError: there is no such sweep; the message names one that is near.
    """
    return find_folder("sweep", name, runs_dir, "sweep.toml")


class Journal(JournalFileBackend):
    """Optuna's journal file, whose lines are whole whatever happens to a writer."""

    def __init__(self, path: Path):
        self.path = path
        lock = JournalFileSymlinkLock(str(path), grace_period=GRACE)
        super().__init__(str(path), lock_obj=lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, all or none.

        Raises:
            RunError: the file can't be written.
        """
        data = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        lock = JournalFileSymlinkLock(str(self.path), grace_period=GRACE)
        try:
            lock.acquire()
            try:
                append_whole(self.path, data)
            finally:
                lock.release()
        except OSError as error:
            raise RunError(f"{self.path} can't be written: {error.strerror or error}") from error


def append_whole(path: Path, data: bytes) -> None:
    """Append all of `data` to a file, or nothing, after cutting off a last line that is torn."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        size = whole = os.lseek(file, 0, os.SEEK_END)
        while whole:
            begin = max(0, whole - 65536)
            end = os.pread(file, whole - begin, begin).rfind(b"\n")
            if end >= 0:
                whole = begin + end + 1
                break
            whole = begin
        if whole < size:
            os.ftruncate(file, whole)
        try:
            os.lseek(file, whole, os.SEEK_SET)
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, whole)
            raise
    finally:
        os.close(file)


def open_study(plan: Plan) -> optuna.Study:
    """Return the study of a sweep, with its sampler and the rule that stops runs early."""
    journal = Journal(plan.folder / "journal.log")
    seed = plan.config.seed
    samplers: dict[str, Any] = {
        "shoal": lambda: CostSampler(seed, steps="total_steps"),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed),
    }
    pruner = optuna.pruners.PercentilePruner(KEEP, n_startup_trials=10, n_min_trials=5)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with flocked(plan.folder / "lock"):
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(journal),
            study_name=plan.folder.name,
            direction=plan.goal,
            sampler=samplers[plan.sampler](),
            pruner=pruner if plan.early_stop else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if study.get_trials(deepcopy=False):  # a sampler that goes on does not repeat itself
            study.sampler.reseed_rng()
        else:
            # First the options of a run without a sweep; but how long it may be is the sampler's
            # to say, because it could cost all of the budget.
            known = {
                each.label: each.encode(getattr(plan.config, each.name, None))
                for each in plan.space
                if each.name != "total_steps"
            }
            study.enqueue_trial({name: value for name, value in known.items() if value is not None})
    return study


@contextlib.contextmanager
def flocked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; processes wait for each other."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def claim(plan: Plan, number: int) -> int | None:
    """Return a file descriptor that holds the claim on a run; None if another process has it."""
    file = os.open(plan.folder / "claims" / f"{number:04}", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def is_claimed(plan: Plan, number: int) -> bool:
    """Return whether a process looks after a run."""
    file = claim(plan, number)
    if file is not None:
        os.close(file)
    return file is None


def score_of(plan: Plan, history: Sequence[Mapping[str, float]]) -> float | None:
    """Return the score of a run, or of the first part of one; None if it has none yet."""
    values = [value for metrics in history if (value := _value(plan, metrics)) is not None]
    if not values:
        return None
    size = max(1, len(values) // 10)
    if plan.window == "final":
        return sum(values[-size:]) / size
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = [(sums[i + size] - sums[i]) / size for i in range(len(values) - size + 1)]
    return max(means) if plan.goal == "maximize" else min(means)


def _value(plan: Plan, metrics: Mapping[str, float]) -> float | None:
    names = ("episode/score", "episode/return") if plan.metric is None else (plan.metric,)
    for name in names:
        if name in metrics:
            return metrics[name] if math.isfinite(metrics[name]) else None
    return None


def elapsed(plan: Plan, trials: Sequence[FrozenTrial], now: float) -> float:
    """Return how many seconds of a sweep had at least one run under way.

    An attempt that was cut short together with its sweep is not counted.
    """
    spans = []
    for trial in trials:
        begin = trial.user_attrs.get("begin")
        if begin is not None and trial.state.is_finished():
            spans.append((begin, begin + trial.user_attrs.get("wall", 0.0)))
        elif begin is not None and is_claimed(plan, trial.number):
            spans.append((begin, now))
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def parse_duration(text: str) -> float:
    """Return the seconds of "2h", "90s", "1h30m" or "90".

    Raises:
        ConfigError: it is no such text.
    """
    import re

    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip())
    try:
        if found is None or not text.strip():
            raise ValueError
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
    except ValueError:
        raise ConfigError(f"expected a time such as 2h, 30m or 90s, got {text!r}") from None
    return 3600 * hours + 60 * minutes + seconds
