"""Questions of the commands `shoal describe`, `run` and `check` to an environment.

Questions run in the environment's process, perhaps a worker under another interpreter (Python 3.8
or newer, without Shoal's dependencies). So answers are numbers, text, lists and dicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from shoal.emulation.check.findings import Finding, Report
from shoal.emulation.core import Core
from shoal.emulation.interfaces import OldEnv
from shoal.emulation.options import EmulationOptions
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout

__all__ = ["faults_of", "layouts_of", "report_from", "show_layouts", "show_overhead"]


def layouts_of(env: Any, emulation: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the observations and actions of an environment's agents lie in rows.

    Args:
        env: as for `shoal.emulate`.
        emulation: options of `shoal.emulate`, by name.

    Returns:
        ``agents_per_env``, ``nbytes`` (of a row of observations), and ``kinds``: for each group of
        agents their names and the JSON of their observation and action layouts.
    """
    made = emulated(env, emulation)
    return {
        "agents_per_env": made.agents_per_env,
        "nbytes": made.observation_layout.nbytes,
        "kinds": [
            [list(map(str, agents)), observation.to_json(), action.native.to_json()]
            for agents, observation, action in made.kinds()
        ],
    }


def show_layouts(name: str, answer: Mapping[str, Any]) -> str:
    """Return the answer of `layouts_of` as text; `name` is the environment's."""
    count, kinds = answer["agents_per_env"], answer["kinds"]
    text = f"{name}: {count} agent" + "s" * (count != 1)
    if len(kinds) > 1:
        size = f"{answer['nbytes']:,} bytes"
        text += f" of {len(kinds)} kinds, each at the beginning of rows of {size}"
    for agents, observation, own_action in kinds:
        action = ActionLayout(Layout.from_json(own_action, "action"))
        if agents:
            text += f"\n\nagents: {', '.join(agents)}"
        text += f"\n\nobservation\n{Layout.from_json(observation, 'obs').describe()}"
        text += f"\n\naction: {action.flat_space}\n{action.native.describe()}"
        if action.num_masked:
            text += f"\naction_masks: {action.num_masked} choices"
    return text


def show_overhead(env: Any, emulation: Mapping[str, Any], seed: int) -> str:
    """Return one line about what emulation adds to a step; see `measure_overhead`."""
    from shoal.emulation.overhead import measure_overhead

    try:
        found = measure_overhead(emulated(env, emulation), seed)
    except ImportError:  # the actions are drawn by Gymnasium
        return "emulation overhead: not measured, for there is no Gymnasium beside the environment"
    if found is None:
        return "emulation overhead: not measured, too few steps within an episode in two seconds"
    if abs(found.added) < found.noise:
        text = f"below the noise of {found.noise:.2f} µs"
    else:
        text = f"{found.added:.2f} µs (± {found.noise:.2f})"
    return f"emulation overhead: {text} per step; the bare step takes {found.bare:.4g} µs"


def faults_of(env: Any, steps: int, seed: int) -> dict[str, Any]:
    """Return the report of `shoal.check_env` as plain data, for `report_from`."""
    from shoal.emulation.check.check_env import check_env

    return dataclasses.asdict(check_env(original(env), steps, seed))


def report_from(answer: Mapping[str, Any]) -> Report:
    """Return the report that `faults_of` turned into plain data."""
    findings = tuple([Finding(**each) for each in answer["findings"]])
    return Report(**{**answer, "findings": findings})


def emulated(env: Any, emulation: Mapping[str, Any]) -> Any:
    """Return the core of an environment."""
    return Core(original(env), EmulationOptions(**emulation))


def original(env: Any) -> Any:
    """Return an environment without the `OldEnv` that a worker has put around it."""
    return env.env if isinstance(env, OldEnv) else env
