"""`shoal sweep`: search options of the trainer and of the environment."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from shoal.errors import ConfigError, RunError
from shoal.registry.names import split
from shoal.trainers.command import (
    Options,
    check_names,
    parse,
    parse_options,
    read_file,
    tuned_file,
)
from shoal.trainers.config import to_dict
from shoal.trainers.dashboard import duration
from shoal.trainers.runs import read_config, to_toml, write_whole
from shoal.trainers.sweep import show as shows
from shoal.trainers.sweep.run import config_of
from shoal.trainers.sweep.run import sweep as run_sweep
from shoal.trainers.sweep.space import default_tables, read_space
from shoal.trainers.sweep.study import (
    Plan,
    create,
    find_sweep,
    open_study,
    parse_duration,
    read_plan,
    write_plan,
)

__all__ = ["sweep"]

HELP = """\
usage: shoal sweep ENV [--config FILE] (--budget 2h | --runs N) [--parallel K] [--OPTION VALUE ...]
       shoal sweep resume NAME [--budget 2h] [--runs N] [--parallel K]
       shoal sweep show NAME           what it has found: table and pictures
       shoal sweep best NAME [--cost 60s] > best.toml
       shoal sweep apply NAME [--cost 60s]

Search options of the trainer and of the environment. What to change stands in tables
[sweep.OPTION] of the TOML file; with none, what usually matters is changed.

  --budget TIME      Seconds, or 30m, 2h: how long the sweep may take.
  --runs N           How many runs it may begin.
  --parallel K       Runs at once, each with its share of the cores and a GPU of its own. Default: 1
  --metric NAME      What to compare; default: episode/score, or episode/return.
  --goal GOAL        maximize (default) or minimize.
  --window WINDOW    final (default): the mean of the last tenth of a run; best: the best tenth.
  --sampler NAME     shoal (default), tpe, gp or random.
  --no-early-stop    Let poor runs go on to their end.
  --name NAME        Of the sweep; default: environment and time.
  --runs-dir FOLDER  Where the sweep's folder is made. Default: runs

All options of shoal train apply to every run."""


@dataclass(frozen=True)
class SweepOptions(Options):
    """Search options of the trainer and of the environment."""

    budget: str | None = None
    """How long the sweep may take: 2h, 30m, 90s."""
    runs: int | None = None
    """How many runs it may begin."""
    parallel: int = 1
    """Runs at once."""
    metric: str | None = None
    """What to compare."""
    goal: Literal["maximize", "minimize"] = "maximize"
    """Of the metric."""
    window: Literal["final", "best"] = "final"
    """Where in a run the metric counts."""
    sampler: Literal["shoal", "tpe", "gp", "random"] = "shoal"
    """What chooses the next run."""
    early_stop: bool = True
    """Stop poor runs early."""


@dataclass(frozen=True)
class NamedOptions:
    """Look at a sweep, go on with it, or use what it has found."""

    name: tyro.conf.Positional[str]
    """Its folder, or its name in --runs-dir."""
    runs_dir: str = "runs"
    """Where sweeps are."""
    cost: str | None = None
    """For best and apply: a run that took at most this long."""
    budget: str | None = None
    """For resume: how long the whole sweep may take, if not as long as before."""
    runs: int | None = None
    """For resume: how many runs the whole sweep may have."""
    parallel: int = 1
    """For resume: runs at once."""


def sweep(arguments: Sequence[str]) -> int:
    """Run `shoal sweep` with what follows it; return the exit status."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    actions = {"resume": resume, "show": show, "best": best, "apply": apply}
    if arguments[0] in actions:
        options = parse(NamedOptions, f"shoal sweep {arguments[0]}", arguments[1:])
        folder = find_sweep(options.name, options.runs_dir)
        return actions[arguments[0]](read_plan(folder), options)
    return begin(arguments)


def begin(arguments: Sequence[str]) -> int:
    """Begin a sweep, and run it."""
    config, options = parse_options(SweepOptions, "shoal sweep", arguments)
    if options.budget is None and options.runs is None:
        raise ConfigError("--budget or --runs is missing: when is the sweep over?")
    check_counts(options)
    check_names(config)
    tables = {} if options.config is None else read_file(options.config).get("sweep", {})
    tables = tables or default_tables(config)
    read_space(tables, config)
    file = Path(split(config.env)[0])
    env = re.sub(r"[^\w.-]+", "-", file.stem if file.suffix else config.env)
    name = config.name or f"{env}-sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    if Path(name).name != name:
        raise ConfigError(f"name must be the name of a folder, got {name!r}")
    plan = Plan(
        Path(config.runs_dir).absolute() / name,
        dataclasses.replace(config, name=None),
        tables,
        options.metric,
        options.goal,
        options.window,
        options.sampler,
        options.early_stop,
        options.runs,
        None if options.budget is None else parse_duration(options.budget),
    )
    create(plan)
    return go(plan, options.parallel)


def check_counts(options: Any) -> None:
    """Raise ConfigError unless the counts are at least 1."""
    for name in ("runs", "parallel"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def resume(plan: Plan, options: NamedOptions) -> int:
    """Go on with a sweep."""
    check_counts(options)
    if options.budget is not None:
        plan = dataclasses.replace(plan, budget=parse_duration(options.budget))
    if options.runs is not None:
        plan = dataclasses.replace(plan, runs=options.runs)
    write_plan(plan)
    return go(plan, options.parallel)


def go(plan: Plan, parallel: int) -> int:
    """Run a sweep to its end or to Ctrl-C; draw what it has found."""
    print(f"sweep {plan.folder.name}, in {plan.folder}", flush=True)
    whole = run_sweep(plan, parallel, shows.live(plan))
    for path in shows.draw(plan, open_study(plan)):
        print(path)
    print(f"  shoal sweep {'best' if whole else 'resume'} {plan.folder.name}")
    return 0 if whole else 130


def show(plan: Plan, options: NamedOptions) -> int:
    """Print what a sweep has found, and draw it."""
    study = open_study(plan)
    print(shows.report(plan, study.get_trials(deepcopy=False), time.time()))
    for path in shows.draw(plan, study):
        print(path)
    return 0


def best_config(plan: Plan, options: NamedOptions) -> tuple[str, dict[str, Any]]:
    """Return what the best run is, and the options that repeat it bit for bit."""
    cost = None if options.cost is None else parse_duration(options.cost)
    trial = shows.best_trial(plan, open_study(plan).get_trials(deepcopy=False), cost)
    folder = plan.folder / f"{trial.number:04}"
    try:
        config = read_config(folder)
    except RunError:  # the run's folder was removed: the journal still knows
        config = config_of(plan, trial)
    what = (
        f"run {plan.folder.name}/{trial.number:04}: score {trial.value:.6g} "
        f"in {duration(shows.cost_of(trial))}"
    )
    kept = dataclasses.replace(
        config, name=None, group=None, runs_dir=plan.config.runs_dir, display=plan.config.display
    )
    return what, to_dict(kept)


def best(plan: Plan, options: NamedOptions) -> int:
    """Print the config of the best run."""
    what, values = best_config(plan, options)
    print(f"# {what}\n{to_toml(values)}", end="")
    return 0


def apply(plan: Plan, options: NamedOptions) -> int:
    """Keep the swept options of the best run beside the environment, where `shoal train` looks."""
    path = tuned_file(plan.config.env)
    if path is None:
        name = plan.folder.name
        raise RunError(
            f"{plan.config.env} has no file to put the options beside; "
            f"shoal sweep best {name} > best.toml, then shoal train --config best.toml"
        )
    what, values = best_config(plan, options)
    names = {each.name.partition(".")[0] for each in plan.space}
    chosen = {name: values[name] for name in values if name in names}
    write_whole(path, f"# {what}\n{to_toml(chosen)}".encode())
    print(f"{path}: {', '.join(sorted(chosen))}")
    return 0
