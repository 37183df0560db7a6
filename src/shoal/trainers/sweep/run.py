"""The loop of a sweep: take a run, look after it until it ends, say what came of it.

Each run is a `shoal train` in a process of its own. What this process knows of it is what the run
writes: metrics.jsonl and its exit status. So nothing but a run in progress is lost with a process,
and even that goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from shoal.errors import ConfigError, RunError
from shoal.trainers.config import Config, to_dict
from shoal.trainers.interrupts import interruptible
from shoal.trainers.runs import checkpoints, read_metrics, to_toml, write_whole
from shoal.trainers.sweep.sampler import CostSampler
from shoal.trainers.sweep.space import configured
from shoal.trainers.sweep.study import (
    Plan,
    claim,
    elapsed,
    flocked,
    open_study,
    score_of,
)

__all__ = ["config_of", "sweep"]

POLL = 0.2  # seconds
FIRST_PART = 0.2  # of a run's steps, before which it is not stopped early
LONGEST = 0.25  # of the budget that a run may take
SHORTEST = 3.0  # seconds a run must have left to be worth starting
HOPELESS = 5  # first runs that fail before the sweep gives up
ROOM = 32 * 2**20  # bytes of disk below which a failed run is the disk's fault
PATIENCE = 30.0  # seconds that a run has to stop when it is told to


class Active:
    """A run that this process looks after.

    Args:
        plan, study: of the sweep.
        trial: the run's.
        held: its claim, a file descriptor.
        slot: which share of the machine it has.
        parallel: shares.
    """

    def __init__(
        self,
        plan: Plan,
        study: optuna.Study,
        trial: FrozenTrial,
        held: int,
        slot: int,
        parallel: int,
    ):
        self.plan, self.study, self.trial = plan, study, trial
        self.held, self.slot = held, slot
        self.storage: Any = study._storage
        self.folder = plan.folder / f"{trial.number:04}"
        self.log = plan.folder / "logs" / f"{trial.number:04}.log"
        self.history: list[dict[str, float]] = []
        self.curve: list[list[float]] = []  # [steps, cost, score]
        self.stopped = ""  # why this process has ended the run
        self._read = 0  # bytes of metrics.jsonl
        self._seen = 0  # updates that the curve knows
        self._step = -1  # of the curve's last point, on the grid of costs
        self._kill_at = math.inf
        self.process: subprocess.Popen[bytes] | None = None
        self.begin = time.time()
        self.note(begin=self.begin)
        self.config = plan.config  # until its own is known
        try:
            self.config = config_of(plan, trial)
            wait_until_free(self.folder)
            command = self._command()
            if command is not None:
                self.process = start(command, self.log, slot, parallel, self.config.device)
        except ConfigError as error:
            self.log.write_text(f"{error}\n")

    def _command(self) -> list[str] | None:
        """Return what goes on with the run, or begins it; None if it is complete."""
        with contextlib.suppress(RunError):
            self.history = read_metrics(self.folder)
        saved = checkpoints(self.folder)
        if saved and self.history:
            whole = self.history[-1]["steps"] >= self.config.total_steps
            if whole and int(saved[-1].stem) == len(self.history):
                return None
            self.history = []
            return ["resume", str(self.folder)]
        self.history = []
        shutil.rmtree(self.folder, ignore_errors=True)
        path = self.plan.folder / "configs" / f"{self.trial.number:04}.toml"
        write_whole(path, to_toml(to_dict(self.config)).encode())
        return ["train", "--config", str(path)]

    def note(self, **attributes: Any) -> None:
        """Write attributes of the trial into the journal."""
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(self.trial._trial_id, name, value)

    def poll(self) -> bool:
        """Look at the run; return whether it has ended, and then it is in the journal."""
        ended = self.process is None or self.process.poll() is not None
        self._read_metrics()
        news = self._extend_curve()
        if self.process is not None and not ended:
            if news and self._is_poor():
                self.stop("below the 30 % quantile of scores at its cost")
            if time.monotonic() > self._kill_at:
                self.kill()
            return False
        self._finish()
        return True

    def _read_metrics(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "metrics.jsonl").open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._read:  # a resume has cut it
                self._read = self._seen = 0
                self.history = []
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                with contextlib.suppress(ValueError):
                    self.history.append(json.loads(line))

    def _extend_curve(self) -> bool:
        """Add a point for each cost of 1, 1.4, 2, 2.8, ... s that the run has passed since."""
        before = len(self.curve)
        while self._seen < len(self.history):
            last = self.history[self._seen]
            self._seen += 1
            step = math.floor(2 * math.log2(max(last["seconds"], 1e-9)))
            if step <= self._step:
                continue
            score = score_of(self.plan, self.history[: self._seen])
            if score is not None:
                self._step = step
                self.curve.append([last["steps"], last["seconds"], score])
                self.storage.set_trial_intermediate_value(self.trial._trial_id, step, score)
        return len(self.curve) > before

    def _is_poor(self) -> bool:
        if self.history[-1]["steps"] < FIRST_PART * self.config.total_steps:
            return False
        return self.study.pruner.prune(self.study, self.storage.get_trial(self.trial._trial_id))

    def stop(self, why: str) -> None:
        """Tell the run to end after its update; it is killed if it does not."""
        if self.stopped:
            return
        self.stopped = why
        self._kill_at = time.monotonic() + PATIENCE
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the run's processes now."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _finish(self) -> None:
        """Write what came of the run into the journal.

        Raises:
            RunError: the disk is full, which is no fault of the run: it stays to be gone on with.
        """
        status = 0 if self.process is None else self.process.returncode
        score = score_of(self.plan, self.history)
        whole = bool(self.history) and self.history[-1]["steps"] >= self.config.total_steps
        failure = None
        stopped = self.stopped if status or not whole else ""
        if not stopped and (status or not whole):
            failure = last_line(self.log) or f"exit status {status}"
            free = shutil.disk_usage(self.plan.folder).free
            if free < ROOM:
                raise RunError(
                    f"run {self.folder} failed with {free / 1e6:.1f} MB of disk left: {failure}"
                )
        elif not stopped and score is None:
            failure = f"no finite {self.plan.metric or 'score or return'} at its end"
        attributes: dict[str, Any] = {"wall": time.time() - self.begin}
        if self.history:
            attributes["cost"] = self.history[-1]["seconds"]
        if self.curve:
            attributes["curve"] = self.curve
        if failure or stopped:
            attributes["failure"] = failure or stopped
        self.note(**attributes)
        state = TrialState.PRUNED if stopped else TrialState.COMPLETE
        state = TrialState.FAIL if failure else state
        values = [score] if state == TrialState.COMPLETE and score is not None else None
        self.study.tell(self.trial.number, values, state)


def config_of(plan: Plan, trial: FrozenTrial) -> Config:
    """Return the config of a run.

    Raises:
        ConfigError: its values don't fit to each other.
    """
    values = {each.name: each.decode(trial.params[each.label]) for each in plan.space}
    made = configured(plan.config, values)
    seed = made.seed if "seed" in values else made.seed + trial.number
    return dataclasses.replace(
        made,
        seed=seed,
        name=f"{trial.number:04}",
        group=plan.folder.name,
        runs_dir=str(plan.folder),
        display="lines",
    )


def start(
    command: list[str], log: Path, slot: int, parallel: int, device: str
) -> subprocess.Popen[bytes]:
    """Start a run in a process and a session of its own: Ctrl-C is for the sweep alone."""
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = every[slot % max(1, len(every)) :: parallel] if parallel > 1 else every
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, len(cores)))}
    if device == "auto" and (gpus := visible_gpus()):
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    pinned = ",".join(map(str, cores)) if parallel > 1 else ""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "shoal.trainers.sweep.launch", pinned, *command],
            stdin=subprocess.PIPE,  # never written: its end is the end of this process
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def wait_until_free(folder: Path) -> None:
    """Wait until no process writes to a run: that of a sweep which was killed is about to end.

    Raises:
        RunError: one still does, after a while.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with (folder / "metrics.jsonl").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(f"run {folder} is being written by another process") from error
            time.sleep(POLL)


def last_line(path: Path) -> str:
    """Return the last line of a log that has text, or nothing."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")


def sweep(
    plan: Plan, parallel: int = 1, show: Callable[[optuna.Study, bool], None] = lambda s, e: None
) -> bool:
    """Run a sweep, or go on with one, until its runs or its budget are used up.

    Args:
        plan: of the sweep.
        parallel: runs at once.
        show: is called with the study a few times a second, and with True at the end.

    Returns:
        Whether it came to its end; False after Ctrl-C.

    Raises:
        RunError: the first runs have all failed, or the disk is full.
    """
    study = open_study(plan)
    ended = {t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()}
    active: list[Active] = []
    with interruptible("stopping after the current runs; Ctrl-C again stops now") as stopping:
        try:
            while True:
                for run in [run for run in active if run.poll()]:
                    active.remove(run)
                    os.close(run.held)
                trials = study.get_trials(deepcopy=False)
                give_up_if_hopeless(plan, [t for t in trials if t.number not in ended])
                spent = elapsed(plan, trials, time.time())
                left = math.inf if plan.budget is None else plan.budget - spent
                for run in active:
                    if left <= 0:
                        run.stop("the budget was used up")
                    elif time.time() - run.begin > LONGEST * (plan.budget or math.inf):
                        run.stop(f"a run may take {LONGEST:.0%} of the budget")
                while len(active) < parallel and not stopping():
                    used = {run.slot for run in active}
                    slot = next(i for i in range(parallel) if i not in used)
                    taken = take(plan, study, slot, parallel, left)
                    if taken is None:
                        break
                    active.append(taken)
                show(study, False)
                if not active:
                    break
                time.sleep(POLL)
        finally:
            for run in active:
                run.kill()
                os.close(run.held)
    show(study, True)
    return not stopping()


def take(plan: Plan, study: optuna.Study, slot: int, parallel: int, left: float) -> Active | None:
    """Return a run that has lost its process, or else a new one; None if there is none to do."""
    with flocked(plan.folder / "lock"):
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            held = claim(plan, trial.number)
            if held is None:
                continue
            if trial.params.keys() >= {each.label for each in plan.space}:
                return Active(plan, study, trial, held, slot, parallel)
            # Killed while it was being made: no run has begun.
            study._storage.set_trial_user_attr(
                trial._trial_id, "failure", "the sweep ended before this run began"
            )
            study.tell(trial.number, state=TrialState.FAIL)
            os.close(held)
        begun = sum("begin" in trial.user_attrs for trial in trials)
        if left < SHORTEST or (plan.runs is not None and begun >= plan.runs):
            return None
        if isinstance(study.sampler, CostSampler):
            study.sampler.limit = min(left, LONGEST * (plan.budget or math.inf))
        asked = study.ask({each.label: each.distribution for each in plan.space})
        held = claim(plan, asked.number)
        assert held is not None  # nobody else knows of it yet
        trial = study._storage.get_trial(asked._trial_id)
        return Active(plan, study, trial, held, slot, parallel)


def give_up_if_hopeless(plan: Plan, trials: list[FrozenTrial]) -> None:
    """Raise RunError if all runs that have ended here have failed, and they are several."""
    ended = [trial for trial in trials if trial.state.is_finished() and "begin" in trial.user_attrs]
    failed = [trial for trial in ended if trial.state == TrialState.FAIL]
    if len(failed) == len(ended) >= HOPELESS:
        last = failed[-1]
        raise RunError(
            f"the first {len(failed)} runs have all failed; the last one: "
            f"{last.user_attrs.get('failure')}; see {plan.folder / 'logs'}"
        )
