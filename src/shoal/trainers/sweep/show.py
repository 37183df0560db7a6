"""What a sweep has found, for people: a table, and three pictures."""

from __future__ import annotations

import io
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from shoal.errors import RunError
from shoal.trainers.command import table
from shoal.trainers.dashboard import duration
from shoal.trainers.runs import write_whole
from shoal.trainers.sweep.study import Plan, elapsed, is_claimed

__all__ = ["best_trial", "draw", "front", "live", "report"]

EVERY = 1.0  # seconds between pictures of the live table
LINE = 10.0  # seconds between lines where there is no terminal
SHOWN = 12  # runs of the front


def front(plan: Plan, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete runs that no cheaper one equals, the cheapest first."""
    found: list[FrozenTrial] = []
    for trial in sorted(complete(trials), key=cost_of):
        if not found or plan.better(value_of(trial), value_of(found[-1])):
            found.append(trial)
    return found


def best_trial(plan: Plan, trials: Sequence[FrozenTrial], cost: float | None = None) -> FrozenTrial:
    """Return the run of the best score, of those that took at most `cost` seconds.

    Raises:
        RunError: there is none.
    """
    found = [each for each in front(plan, trials) if cost is None or cost_of(each) <= cost]
    if not found:
        limit = "" if cost is None else f" within {duration(cost)}"
        raise RunError(f"no run of sweep {plan.folder.name} is complete{limit} yet")
    return found[-1]


def complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials whose runs have come to their end, with a score and a cost."""
    return [t for t in trials if t.state == TrialState.COMPLETE and "cost" in t.user_attrs]


def cost_of(trial: FrozenTrial) -> float:
    """Return the seconds that a run has trained for."""
    return float(trial.user_attrs["cost"])


def value_of(trial: FrozenTrial) -> float:
    """Return the score of a complete run."""
    return math.nan if trial.value is None else trial.value


def settings_of(plan: Plan, trial: FrozenTrial) -> str:
    """Return what was swept and what the run had, as text."""
    parts = []
    for each in plan.space:
        if each.label in trial.params:
            value = each.decode(trial.params[each.label])
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            parts.append(f"{each.name.removeprefix('env_kwargs.')}={text}")
    return " ".join(parts)


def report(plan: Plan, trials: Sequence[FrozenTrial], now: float) -> str:
    """Return the state of a sweep as a table: the front, the counts, what is left of the budget."""
    count = dict.fromkeys(TrialState, 0)
    for trial in trials:
        count[trial.state] += 1
    running = [t for t in trials if t.state == TrialState.RUNNING and is_claimed(plan, t.number)]
    waiting = count[TrialState.RUNNING] - len(running)
    spent = elapsed(plan, trials, now)
    begun = sum("begin" in trial.user_attrs for trial in trials)
    lines = [
        f"sweep {plan.folder.name} on {plan.config.env}: {begun} runs"
        + (f" of {plan.runs}" if plan.runs is not None else "")
        + f", {count[TrialState.COMPLETE]} complete, {count[TrialState.PRUNED]} stopped early, "
        f"{count[TrialState.FAIL]} failed, {len(running)} running"
        + (f", {waiting} to go on with" if waiting else ""),
        f"{duration(spent)} so far"
        + (f", {duration(max(0.0, plan.budget - spent))} left" if plan.budget else ""),
    ]
    shown = front(plan, trials)[-SHOWN:]
    if shown:
        best = shown[::-1]
        rows = [("run", "score", "cost")]
        rows += [(f"{t.number:04}", f"{t.value:.4g}", duration(cost_of(t))) for t in best]
        settings = ["", *(settings_of(plan, trial) for trial in best)]
        lines += ["", "the front: no cheaper run scores as well"]
        lines += [
            f"{line}  {text}".rstrip()
            for line, text in zip(table(rows, left=1).split("\n"), settings)
        ]
    failures = [t for t in trials if t.state == TrialState.FAIL]
    for trial in failures[-3:]:
        lines.append(f"run {trial.number:04} failed: {trial.user_attrs.get('failure')}")
    return "\n".join(lines)


def live(plan: Plan) -> Callable[[optuna.Study, bool], None]:
    """Return what shows a sweep while it runs: in place in a terminal, as lines elsewhere."""
    if not sys.stdout.isatty():
        return lines_of(plan)
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    shown = Live(console=Console(), auto_refresh=False, vertical_overflow="crop")
    after = 0.0

    def show(study: optuna.Study, end: bool) -> None:
        nonlocal after
        if not shown.is_started:
            shown.start()
        if end or time.monotonic() >= after:
            after = time.monotonic() + EVERY
            text = report(plan, study.get_trials(deepcopy=False), time.time())
            shown.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
        if end:
            shown.stop()

    return show


def lines_of(plan: Plan) -> Callable[[optuna.Study, bool], None]:
    """Return what prints a line when a run ends, and now and then one that all is well."""
    said: set[int] = set()
    after = time.monotonic() + LINE

    def show(study: optuna.Study, end: bool) -> None:
        nonlocal after
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in said:
                said.add(trial.number)
                after = time.monotonic() + LINE
                print(line_of(plan, trial), flush=True)
        if end:
            print(report(plan, trials, time.time()), flush=True)
        elif time.monotonic() >= after:
            after = time.monotonic() + LINE
            print(report(plan, trials, time.time()).partition("\n")[0], flush=True)

    return show


def line_of(plan: Plan, trial: FrozenTrial) -> str:
    """Return what came of a run in one line."""
    cost = duration(trial.user_attrs["cost"]) if "cost" in trial.user_attrs else "–"
    if trial.state == TrialState.COMPLETE:
        result = f"score {trial.value:.4g}"
    else:
        verb = "failed" if trial.state == TrialState.FAIL else "stopped"
        result = f"{verb}: {trial.user_attrs.get('failure')}"
    return f"run {trial.number:04}  {cost:>8}  {result}  {settings_of(plan, trial)}"


def draw(plan: Plan, study: optuna.Study) -> list[Path]:
    """Write front.png, importance.png and parallel.png, as far as there are runs enough.

    Returns:
        What was written.
    """
    trials = study.get_trials(deepcopy=False)
    if len(complete(trials)) < 2:
        return []
    written = [save(plan.folder / "front.png", front_figure(plan, trials))]
    from optuna.visualization import matplotlib as pictures

    with warnings.catch_warnings(action="ignore"):  # they are called experimental
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        drawers: dict[str, Callable[[], Any]] = {
            "parallel.png": lambda: pictures.plot_parallel_coordinate(study),
            "importance.png": lambda: pictures.plot_param_importances(study, evaluator=evaluator),
        }
        for name, make in drawers.items():
            try:
                figure = make().figure
            except (ValueError, RuntimeError):  # too few runs, or all of the same score
                continue
            figure.set_size_inches(12, 6)
            written.append(save(plan.folder / name, figure))
            from matplotlib import pyplot

            pyplot.close(figure)
    return written


def save(path: Path, figure: Any) -> Path:
    """Write a figure to a file; return its path."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, format="png", bbox_inches="tight")
    write_whole(path, picture.getvalue())
    return path


def front_figure(plan: Plan, trials: Sequence[FrozenTrial]) -> Any:
    """Return a figure of score against cost: all runs, the front, and those stopped early."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    done, best = complete(trials), front(plan, trials)
    numbers = [trial.number for trial in done]
    points = axes.scatter(
        [cost_of(t) for t in done], [value_of(t) for t in done], c=numbers, cmap="viridis", s=24
    )
    figure.colorbar(points, label="run")
    early = [t for t in trials if t.state == TrialState.PRUNED and t.user_attrs.get("curve")]
    axes.scatter(
        [t.user_attrs["curve"][-1][1] for t in early],
        [t.user_attrs["curve"][-1][2] for t in early],
        marker="x",
        color="tab:gray",
        label="stopped early",
    )
    costs, values = [cost_of(t) for t in best], [value_of(t) for t in best]
    axes.step(costs, values, where="post", color="tab:red", label="front")
    for trial in best:
        axes.annotate(f"{trial.number:04}", (cost_of(trial), value_of(trial)), fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("cost: seconds of training")
    axes.set_ylabel(plan.metric or "score")
    axes.set_title(f"{plan.folder.name}: {plan.config.env}", loc="left", fontweight="bold")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure
