"""What the commands `shoal describe`, `run` and `check` ask of an environment.

Questions are asked where the environment is, perhaps in a worker under another interpreter (Python
3.8 or newer, without our packages). So answers are plain: numbers, text, lists and dicts of them.
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
    """How the observations and actions of an environment's agents lie in rows.

    Args:
        env: as for `shoal.emulate`, whose arguments `emulation` are.

    Returns:
        ``agents_per_env``, ``nbytes`` (of a row of observations), and ``kinds`` of agents: for
        each, who they are, and the layouts of their observations and of their own actions as JSON.
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
    """The answer of `layouts_of` for people; `name` is the environment's."""
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
    """One line: what emulation adds to a step of an environment; see `measure_overhead`."""
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
    """The report of `shoal.check_env`, for `report_from`."""
    from shoal.emulation.check.check_env import check_env

    return dataclasses.asdict(check_env(original(env), steps, seed))


def report_from(answer: Mapping[str, Any]) -> Report:
    """The report that `faults_of` took apart."""
    findings = tuple([Finding(**each) for each in answer["findings"]])
    return Report(**{**answer, "findings": findings})


def emulated(env: Any, emulation: Mapping[str, Any]) -> Any:
    """What a loop needs of an environment."""
    return Core(original(env), EmulationOptions(**emulation))


def original(env: Any) -> Any:
    """An environment of old ``gym`` without the interface that a worker has given it."""
    return env.env if isinstance(env, OldEnv) else env
