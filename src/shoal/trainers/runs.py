"""A run's folder: what was asked for, where it ran, what came of it, and how to go on.

    runs/NAME/
        config.toml      every option; `shoal train --config` with it is the same run again
        system.json      for each start: time, command, git commit, package versions, machine
        metrics.jsonl    one line for each update
        tensorboard/     the same for TensorBoard
        checkpoints/     000050.pt, …: the latest few; best.pt: the one with the best return
        curve.png        the learning curve, made at the end

Invariants:

- A checkpoint, config.toml and system.json are whole or not there: they are written beside, synced,
  and renamed. A checkpoint is a zip file whose every entry has a checksum, verified on reading.
- metrics.jsonl holds whole lines (but for a last one that a crash has torn), and a checkpoint is
  written only after the lines of its update and those before it.
- Resuming cuts off what came after the checkpoint with the first new line and not before, so that
  a resume that fails changes nothing.
- A write that fails (full disk, folder gone read-only) doesn't end training: it is kept in memory
  and tried again. What is left at the end is rescued to the temporary folder, and that is an error.
- One process writes to a run: it holds a lock on metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import io
import json
import math
import os
import pickle
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shoal.errors import CheckpointError, ConfigError, RunError, ShoalError, did_you_mean
from shoal.trainers.config import MASK, SECRET, Config, from_dict, kept
from shoal.trainers.trackers import open_trackers

__all__ = [
    "Run",
    "checkpoints",
    "create",
    "find_folder",
    "find_run",
    "newest_checkpoint",
    "read_checkpoint",
    "read_config",
    "read_metrics",
    "resume",
    "system",
    "to_toml",
    "write_whole",
]

RESERVE = 16 * 2**20  # bytes of disk that a checkpoint leaves free


class Run:
    """A run's folder, open for writing; made by `create` and `resume`.

    `report` and `save` are what `ppo.train` calls.

    Attributes:
        folder: where it is.
        config: what was asked for.
        history: the metrics of all updates so far.
        problems: what can't be written at the moment, and why: for people; empty if all is well.
    """

    def __init__(
        self, folder: Path, config: Config, update: int | None = None, best: float = -math.inf
    ):
        """Open the folder; RunError if it can't be, or if another process has it open.

        Args:
            update: that of the checkpoint which is resumed.
            best: score of the best checkpoint so far.
        """
        self.folder = folder
        self.config = config
        self.problems: dict[str, str] = {}
        self._best = best
        self._returns: list[float] = []  # since the last checkpoint
        self._unwritten: list[bytes] = []  # lines of metrics
        self._unsaved: tuple[str, bytes] | None = None  # a checkpoint's name and bytes
        self._update = update
        try:
            (folder / "checkpoints").mkdir(exist_ok=True)
            self._file = os.open(folder / "metrics.jsonl", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"run {folder} can't be written: {_reason(error)}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise RunError(f"run {folder} is being written by another process") from error
        lines = list(_lines(folder / "metrics.jsonl"))
        kept = [(m, end) for m, end in lines if update is None or m["updates"] <= update]
        self.history = [metrics for metrics, _ in kept]
        self._size = kept[-1][1] if kept else 0  # of the file, as far as it is good
        first = int(self.history[-1]["steps"]) + 1 if self.history else 0
        try:
            self._trackers = open_trackers(folder, config, first)
        except BaseException:
            os.close(self._file)
            raise

    def report(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of one update to the file, and to what else follows the run."""
        if self._update is not None:  # resumed, and now there is something to go on with
            for path in checkpoints(self.folder):
                if _update_of(path) > self._update:
                    path.unlink(missing_ok=True)
            self._update = None
        metrics = dict(metrics)
        self.history.append(metrics)
        if "episode/return" in metrics:
            self._returns.append(metrics["episode/return"])
        self._unwritten.append(json.dumps(metrics).encode() + b"\n")
        self._write_metrics()
        for name, (log, _) in list(self._trackers.items()):
            try:
                log(metrics)
            except Exception as error:  # a picture of the run is not worth the run
                del self._trackers[name]
                self.problems[name] = f"{name} has stopped: {_reason(error)}"

    def save(self, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write a checkpoint of `state`, and remove those that are too many."""
        self._write_metrics()
        with contextlib.suppress(OSError):  # reported by the write
            os.fsync(self._file)
        score = sum(self._returns) / len(self._returns) if self._returns else None
        self._returns.clear()
        name = f"{int(metrics['updates']):06d}.pt"
        data = _serialise({**state, "score": score})
        folder = self.folder / "checkpoints"
        path = folder / name
        try:
            self._make_room(len(data))
            write_whole(path, data)
            if score is not None and score > self._best:
                _copy_whole(path, folder / "best.pt")
                self._best = score
        except OSError as error:
            self._unsaved = name, data
            self.problems["checkpoint"] = (
                f"checkpoint {path} can't be written: {_reason(error)}; training goes on, and the "
                "next one will be tried"
            )
            return
        self._unsaved = None
        self.problems.pop("checkpoint", None)
        for old in checkpoints(self.folder)[: -self.config.keep_checkpoints]:
            old.unlink(missing_ok=True)

    def close(self) -> None:
        """Finish the files and draw the curve.

        Raises:
            RunError: something could not be written into the folder. It says where it is instead.
        """
        self._write_metrics()
        os.close(self._file)
        for name, (_, close) in self._trackers.items():
            try:
                close()
            except Exception as error:
                self.problems[name] = f"{name} did not end well: {_reason(error)}"
        if self._unwritten or self._unsaved:
            raise self._rescue()
        if len(self.history) > 1:
            from shoal.trainers.curve import draw_curve

            with contextlib.suppress(OSError, ImportError):  # no room, or no matplotlib
                write_whole(self.folder / "curve.png", draw_curve(self.history, self.folder.name))

    def discard(self) -> None:
        """Remove the folder of a run that never began."""
        os.close(self._file)
        for _, close in self._trackers.values():
            with contextlib.suppress(Exception):
                close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_metrics(self) -> None:
        """Write the lines that are waiting; those that can't be are kept."""
        try:
            while self._unwritten:
                # Cuts off what a resume leaves behind, and half a line that a full disk has left.
                os.ftruncate(self._file, self._size)
                os.lseek(self._file, self._size, os.SEEK_SET)
                line = memoryview(self._unwritten[0])
                while line:
                    line = line[os.write(self._file, line) :]
                self._size += len(self._unwritten.pop(0))
            self.problems.pop("metrics", None)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            self.problems["metrics"] = (
                f"{self.folder / 'metrics.jsonl'} can't be written: {_reason(error)}; "
                "what is missing is kept in memory and tried again"
            )

    def _make_room(self, size: int) -> None:
        """Remove old checkpoints, all but the last, as far as `size` bytes more need it."""
        for old in [*checkpoints(self.folder)[:-1], None]:
            free = shutil.disk_usage(self.folder).free
            if free >= size + RESERVE:
                return
            if old is None:
                text = f"it takes {size / 1e6:.2f} MB, and {free / 1e6:.2f} MB are free"
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({text})")
            old.unlink(missing_ok=True)

    def _rescue(self) -> RunError:
        """Put what could not be written into the temporary folder; the error that says so."""
        texts = [self.problems[name] for name in ("metrics", "checkpoint") if name in self.problems]
        problems = "; ".join(text.partition("; ")[0] for text in texts)
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"shoal-{self.folder.name}-"))
            if self._unsaved:
                write_whole(folder / self._unsaved[0], self._unsaved[1])
            lines = [json.dumps(metrics) + "\n" for metrics in self.history]
            write_whole(folder / "metrics.jsonl", "".join(lines).encode())
        except OSError as error:
            left = [path.name for path in checkpoints(self.folder)] or ["none"]
            return RunError(
                f"{problems}; nor in the temporary folder: {_reason(error)}; "
                f"the last checkpoint of {self.folder}: {left[-1]}"
            )
        return RunError(
            f"{problems}; the metrics{' and the checkpoint' * bool(self._unsaved)} are in "
            f"{folder}: move them to {self.folder} when it can be written, then shoal resume"
        )


# -- making and finding runs ------------------------------------------------------------------


def create(config: Config, runs_dir: Path | None = None) -> Run:
    """Make the folder of a new run.

    Args:
        config: of the run.
        runs_dir: where; by default the config's.

    Raises:
        RunError: it exists, or can't be made; then nothing of it is left.
    """
    env = re.sub(r"[^\w.-]+", "-", Path(config.env).name if ".py" in config.env else config.env)
    name = config.name or f"{env}-{time.strftime('%Y%m%d-%H%M%S')}-{config.seed}"
    if Path(name).name != name:
        raise ConfigError(f"name: expected the name of a folder, got {name!r}")
    runs_dir = Path(config.runs_dir) if runs_dir is None else runs_dir
    folder = runs_dir / name
    number = 1
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError as error:
            if not folder.is_dir():
                raise RunError(f"run {folder} can't be made: {_reason(error)}") from error
            if config.name:
                raise RunError(f"run {folder} exists; give another --name") from error
            number += 1  # two within a second
            folder = runs_dir / f"{name}-{number}"
        except OSError as error:
            raise RunError(f"run {folder} can't be made: {_reason(error)}") from error
    try:
        write_whole(folder / "config.toml", to_toml(kept(config)).encode())
        _note_start(folder)
        return Run(folder, config)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise RunError(f"run {folder} can't be made: {_reason(error)}") from error
        raise


def resume(
    folder: Path, checkpoint: Path | None = None, config: Config | None = None
) -> tuple[Run, dict[str, Any]]:
    """Open a run to go on with it.

    Args:
        folder: of the run.
        checkpoint: default: the newest one.
        config: what to go on with, and to write to config.toml; default: what is there.

    Returns:
        The run, and the state for `ppo.train`.

    Raises:
        CheckpointError: there is none, or it is broken; the message names those that are intact.
        RunError: the folder can't be read or written, or another process has it open.
    """
    changed = config is not None
    config = config or read_config(folder)
    path = checkpoint or newest_checkpoint(folder)
    state = read_checkpoint(path)
    best = folder / "checkpoints" / "best.pt"
    score = None
    with contextlib.suppress(CheckpointError):
        score = read_checkpoint(best)["score"]
    run = Run(folder, config, int(state["updates"]), -math.inf if score is None else score)
    try:
        if changed:
            write_whole(folder / "config.toml", to_toml(kept(config)).encode())
        _note_start(folder)
    except OSError as error:
        os.close(run._file)
        raise RunError(f"run {folder} can't be written: {_reason(error)}") from error
    return run, state


def find_run(name: str, runs_dir: str = "runs") -> Path:
    """Return the folder of a run, given as a path or by its name.

    Raises:
        RunError: there is no such run; the message names one that is near.
    """
    return find_folder("run", name, runs_dir, "config.toml")


def find_folder(what: str, name: str, runs_dir: str, file: str) -> Path:
    """Return the folder, given as a path or by its name in `runs_dir`, that has a file.

    Raises:
        RunError: there is none; the message says of `what`, and names one that is near.
    """
    for folder in (Path(name), Path(runs_dir) / name):
        if (folder / file).is_file():
            return folder.absolute()
    known = [path.parent.name for path in Path(runs_dir).glob(f"*/{file}")]
    raise RunError(f"there is no {what} {name!r}{did_you_mean(name, known)}")


def read_config(folder: Path) -> Config:
    """Return what a run was asked to do; RunError if that can't be read."""
    path = folder / "config.toml"
    try:
        return from_dict(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as error:  # ConfigError and TOML's own are ValueErrors
        raise RunError(f"{path} can't be read: {_reason(error)}") from error


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of each update of a run; RunError if they can't be read."""
    return [metrics for metrics, _ in _lines(folder / "metrics.jsonl")]


def _lines(path: Path) -> Iterator[tuple[dict[str, float], int]]:
    """Yield each line of metrics with the offset of its end, as far as they are whole."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} can't be read: {_reason(error)}") from error
    end = 0
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        end += len(line)
        if not line.endswith(b"\n"):
            return  # torn by a crash
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}, line {number}: {error}") from error
        if not _is_metrics(metrics):
            raise RunError(
                f"{path}, line {number}: expected an object of numbers with steps, updates and "
                f"seconds, got {line[:60]!r}"
            )
        yield metrics, end


def _is_metrics(value: Any) -> bool:
    """Return whether a value is what `Run.report` writes."""
    return (
        isinstance(value, dict)
        and {"steps", "updates", "seconds"} <= value.keys()
        and all(type(number) in (int, float) for number in value.values())
    )


# -- checkpoints ------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first; without the best one."""
    found = (folder / "checkpoints").glob("*.pt")
    return sorted((path for path in found if path.stem.isdecimal()), key=_update_of)


def _update_of(path: Path) -> int:
    return int(path.stem)


def newest_checkpoint(folder: Path) -> Path:
    """Return the last checkpoint of a run; CheckpointError if there is none."""
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"run {folder} has no checkpoint yet")
    return found[-1]


def _serialise(state: Mapping[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint, on the CPU, after its checksums have been verified.

    Nothing in it is run: a checkpoint holds tensors, numbers, text and bytes, and one that holds
    anything else is refused. (The bytes of an environment's state are unpickled only by a run that
    is resumed.)

    Raises:
        CheckpointError: it is missing or broken; the message names others that are intact.
    """
    try:
        return _verified(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} can't be read: {_reason(error)}") from error
    except CheckpointError as error:
        others = [other for other in checkpoints(path.parent.parent) if other != path]
        intact = [other for other in reversed(others) if _is_intact(other)]
        hint = f"; {intact[0]} is intact: --checkpoint {intact[0].name}" if intact else ""
        raise CheckpointError(f"{error}{hint}") from error


def _verified(path: Path) -> dict[str, Any]:
    import torch

    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"{bad} has a wrong checksum")
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {path} is broken, or it holds more than tensors, numbers and text: it is "
            "not read, since reading could run code"
        ) from error
    except Exception as error:  # whatever the bytes make zipfile, torch or pickle say
        raise CheckpointError(f"checkpoint {path} is broken: {_reason(error)}") from error
    if not isinstance(state, dict) or not {"config", "policy", "updates"} <= state.keys():
        raise CheckpointError(f"{path} is not a checkpoint of a run")
    return state


def _is_intact(path: Path) -> bool:
    try:
        _verified(path)
    except (OSError, CheckpointError):
        return False
    return True


# -- files ------------------------------------------------------------------------------------


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there with all of `data`, or not at all, whatever happens."""
    fresh = path.with_name(f".{path.name}.tmp")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def _copy_whole(source: Path, path: Path) -> None:
    """Give a file another name, without using room if that can be."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # a filesystem without links
        write_whole(path, source.read_bytes())
        return
    fresh.replace(path)


def _reason(error: BaseException) -> str:
    """Say what happened, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text if isinstance(error, ShoalError) else f"{type(error).__name__}: {text}"


def to_toml(values: Mapping[str, Any]) -> str:
    """Plain values as a TOML document; None, which TOML has not, is left out.

    Raises:
        ConfigError: something that TOML can't hold.
    """
    top = [(k, v) for k, v in values.items() if not isinstance(v, Mapping) and v is not None]
    tables = [(k, v) for k, v in values.items() if isinstance(v, Mapping) and v]
    lines = [f"{_toml_key(key)} = {_toml(value, key)}" for key, value in top]
    for name, table in tables:
        lines += ["", f"[{_toml_key(name)}]"]
        lines += [
            f"{_toml_key(key)} = {_toml(value, f'{name}.{key}')}" for key, value in table.items()
        ]
    return "\n".join(lines) + "\n"


def _toml(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(each, where) for each in value) + "]"
    if isinstance(value, Mapping):
        inner = [f"{_toml_key(key)} = {_toml(each, where)}" for key, each in value.items()]
        return "{" + ", ".join(inner) + "}"
    raise ConfigError(f"{where}: {value!r} can't be kept in a TOML file")


def _toml_key(key: Any) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"{key!r} can't be a key of a TOML file, where keys are strings")
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_string(key)


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# -- where a run ran --------------------------------------------------------------------------


def _note_start(folder: Path) -> None:
    """Add this start to system.json."""
    path = folder / "system.json"
    starts = []
    with contextlib.suppress(OSError, ValueError, RecursionError):
        starts = json.loads(path.read_text())
    if not isinstance(starts, list):  # somebody has edited it
        starts = [starts]
    write_whole(path, json.dumps([*starts, system()], indent=1).encode())


def system() -> dict[str, Any]:
    """Return this machine and what is installed on it, as plain values."""
    from shoal.vectorization.sync import usable_cores

    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    torch = sys.modules.get("torch")  # loaded by whoever trains
    gpus = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [_masked(argument) for argument in sys.argv],
        "folder": os.getcwd(),
        "git": git_commit(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": usable_cores(),
        "gpus": gpus,
        "packages": dict(sorted(packages.items(), key=lambda item: str(item[0]).lower())),
    }


def _masked(argument: str) -> str:
    """Return an argument of the command, NAME=VALUE without the value of a secret."""
    name, equals, _ = argument.partition("=")
    return f"{name}={MASK}" if equals and SECRET.search(name) else argument


def git_commit() -> dict[str, Any] | None:
    """Commit of the working directory, and whether files differ from it; None outside of git."""
    said = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", *command], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        said.append(done.stdout.strip())
    return {"commit": said[0], "modified": bool(said[1])}
