"""Environments whose every value is checked as it comes, leaf by leaf against its space.

`checked` wraps an environment of any interface. Faults go to a `Log`, which collects them
(`shoal.check_env`) or raises (``emulate(env, debug=True)``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from shoal.emulation.check.findings import Log
from shoal.emulation.interfaces import OldEnv, Wrapper, is_multi_agent, is_of_gymnasium
from shoal.emulation.parallel import as_parallel, space_of
from shoal.rows.spec import kind_of, step

__all__ = ["checked"]


# -- values against their spaces --------------------------------------------------------------


def check_value(log: Log, space: Any, value: Any, path: str) -> None:
    """Report every fault by which `value` is not a member of `space`, leaf by leaf."""
    kind = kind_of(space)
    if kind == "Box":
        shape = np.shape(space.low) or tuple(space.shape)
        check_array(log, value, np.dtype(space.dtype), shape, space.low, space.high, path)
    elif kind == "MultiDiscrete":
        first = np.asarray(getattr(space, "start", 0))
        last = first + (np.asarray(space.nvec) - 1)
        dtype = np.dtype(getattr(space, "dtype", None) or np.int64)
        check_array(log, value, dtype, np.shape(space.nvec), first, last, path)
    elif kind == "MultiBinary":
        shape = (space.n,) if np.ndim(space.n) == 0 else tuple(space.n)
        dtype = getattr(value, "dtype", np.dtype(np.int8))  # zeros and ones of any dtype will do
        check_array(log, value, dtype, shape, 0, 1, path)
    elif kind == "Discrete":
        low = int(getattr(space, "start", 0))
        number = value.item() if isinstance(value, (np.ndarray, np.generic)) else value
        if np.shape(value) != () or not isinstance(number, int):
            log.report("type", path, f"expected an integer, got {shown(value)}")
        elif not low <= number < low + int(space.n):
            log.report("bounds", path, f"{number} is not in {low}..{low + int(space.n) - 1}")
    elif kind == "Text":
        check_text(log, space, value, path)
    elif kind == "Dict":
        if not isinstance(value, dict):
            log.report("type", path, f"expected a dict, got {shown(value)}")
            return
        for key in value.keys() - space.spaces.keys():
            log.report("keys", path + step(key), "is not in the space")
        for key, child in space.spaces.items():
            if key in value:
                check_value(log, child, value[key], path + step(key))
            else:
                log.report("keys", path + step(key), f"is missing; the keys are {list(value)}")
    elif kind == "Tuple":
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            log.report("type", path, f"expected a tuple of {len(space.spaces)}, got {shown(value)}")
            return
        for i, (child, part) in enumerate(zip(space.spaces, value)):
            check_value(log, child, part, f"{path}[{i}]")
    elif kind == "Sequence" and not getattr(space, "stack", False):
        if not isinstance(value, tuple):
            log.report("type", path, f"expected a tuple, got {shown(value)}")
            return
        for item in value:
            check_value(log, space.feature_space, item, path + ".items")
    elif kind == "OneOf":
        if not isinstance(value, tuple) or len(value) != 2:
            log.report("type", path, f"expected (index, value), got {shown(value)}")
        elif not isinstance(value[0], (int, np.integer)) or not 0 <= value[0] < len(space.spaces):
            log.report("bounds", path, f"index {value[0]} is not below {len(space.spaces)}")
        else:
            check_value(log, space.spaces[value[0]], value[1], f"{path}[{value[0]}]")
    elif not space.contains(value):  # a stacked Sequence, a Graph, or a space of another kind
        log.report("contains", path, f"{shown(value)} is not in {space}")


def check_array(
    log: Log, value: Any, dtype: np.dtype, shape: tuple, low: Any, high: Any, path: str
) -> None:
    """Report the faults of the array of a Box, MultiDiscrete or MultiBinary."""
    array = value
    if not isinstance(value, (np.ndarray, np.generic)):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, RuntimeError):
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            log.report("type", path, f"expected an array, got {shown(value)}")
            return
        if shape != ():
            log.report("not-array", path, f"expected an array, got {shown(value)}")
    if array.shape != shape:
        log.report("shape", path, f"expected shape {shape}, got {array.shape}")
        return
    if array is not value:  # a list or a number, whose own type says nothing
        pass
    elif array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, dtype):
        log.report("dtype", path, f"expected {dtype}, got {array.dtype}")
    elif array.dtype != dtype:
        log.report("dtype-cast", path, f"expected {dtype}, got {array.dtype}")
    if array.dtype.kind not in "biuf":
        return
    for code, wrong, what in (
        ("nan", array != array, "is NaN"),
        ("bounds", array < low, "is below its bound"),
        ("bounds", array > high, "is above its bound"),
    ):
        if np.any(wrong):
            element, number, index = first_of(array, wrong)
            bound = {"is below its bound": low, "is above its bound": high}.get(what)
            limit = "" if bound is None else f" {np.broadcast_to(bound, shape)[index]}"
            log.report(code, path, f"{element}{number} {what}{limit}{others(wrong)}")
            return
    if array.dtype.kind == "f" and np.any(wrong := np.isinf(array)):
        element, number, _ = first_of(array, wrong)
        log.report("inf", path, f"{element}{number} is within its bounds{others(wrong)}")


def first_of(array: np.ndarray, chosen: np.ndarray) -> tuple[str, Any, tuple[int, ...]]:
    """Return the text, the value and the index of the first chosen element."""
    index = tuple(int(i) for i in np.argwhere(chosen)[0])
    return (f"element {list(index)} = " if index else ""), array[index], index


def others(chosen: np.ndarray) -> str:
    """Return how many more elements than one are chosen, as text."""
    count = int(np.sum(chosen)) - 1
    return f" (and {count} more of {chosen.size} elements)" if count else ""


def check_text(log: Log, space: Any, value: Any, path: str) -> None:
    """Report the faults of the value of a Text."""
    if not isinstance(value, str):
        log.report("type", path, f"expected str, got {shown(value)}")
        return
    if not space.min_length <= len(value) <= space.max_length:
        log.report(
            "bounds",
            path,
            f"{len(value)} characters, expected {space.min_length}..{space.max_length}",
        )
    if strange := set(value) - set(space.character_set):
        log.report("bounds", path, f"characters {sorted(strange)} are not in the charset")


def check_reward(log: Log, reward: Any, path: str) -> None:
    """Report a reward that is not one finite number."""
    if isinstance(reward, np.ndarray) and reward.size == 1 and reward.dtype.kind in "biuf":
        log.report("reward-array", path, f"expected a number, got {shown(reward)}")
        reward = reward.item()
    if not isinstance(reward, (int, float, np.number, np.bool_)) or np.iscomplexobj(reward):
        log.report("reward-type", path, f"expected a number, got {shown(reward)}")
    elif not np.isfinite(reward):
        log.report("reward-nan", path, f"expected a finite number, got {reward}")


def check_flag(log: Log, flag: Any, path: str) -> None:
    """Report a terminated or truncated that is not a bool."""
    if isinstance(flag, (bool, np.bool_)):
        return
    number = isinstance(flag, (int, np.integer, np.ndarray)) and np.size(flag) == 1
    code = "flag-number" if number and np.all(np.equal(flag, 0) | np.equal(flag, 1)) else ""
    log.report(code or "flag-type", path, f"expected a bool, got {shown(flag)}")


def check_info(log: Log, info: Any, path: str) -> None:
    """Report an info that is not a dict."""
    if not isinstance(info, dict):
        log.report("info-type", path, f"expected a dict, got {shown(info)}")


def shown(value: Any) -> str:
    """Return a value in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"


# -- arrays that change after they were returned ----------------------------------------------


def arrays_in(value: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (path, array) of every array inside a value."""
    if isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from arrays_in(part, path + step(key))
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from arrays_in(part, f"{path}[{i}]")


class Kept:
    """Holds the arrays of the last observation, to find those that are overwritten."""

    def __init__(self) -> None:
        self.arrays: list[tuple[str, np.ndarray, bytes]] = []

    def look(self, log: Log, observation: Any) -> None:
        """Report arrays of the previous observation that have changed, and hold the new ones."""
        for path, array, content in self.arrays:
            if array.tobytes() != content:
                log.report(
                    "reused", path, "the array returned by the step before was overwritten by this"
                )
        self.arrays = [(path, a, a.tobytes()) for path, a in arrays_in(observation, "obs")]


# -- environments whose every value is checked ------------------------------------------------


def checked(env: Any, log: Log | None = None) -> Any:
    """Wrap an environment so that every value is checked when the environment returns it.

    Args:
        env: as for `shoal.emulate`.
        log: collects the findings; by default, errors raise EnvCheckError and warnings warn.

    Returns:
        An environment with the interface of `env`, or today's if that is an old one.
    """
    log = Log(raising=True) if log is None else log
    if not is_multi_agent(env):
        return CheckedEnv(env if is_of_gymnasium(env, "Env") else OldEnv(env), log)
    if hasattr(env, "agent_iter"):
        return CheckedAECEnv(env, log)
    return CheckedParallelEnv(env, log)


class CheckedEnv(Wrapper):
    """A Gymnasium environment whose every value is checked; made by `checked`."""

    def __init__(self, env: Any, log: Log):
        super().__init__(env)
        self._log = log
        self._kept = Kept()

    def reset(self, **given: Any) -> Any:
        """Reset the environment and check the first observation."""
        log = self._log
        log.begin()
        result = self.env.reset(**given)
        if not isinstance(result, tuple) or len(result) != 2:
            log.fail("result", "reset", f"expected (observation, info), got {shown(result)}")
        observation, info = result
        check_value(log, self.observation_space, observation, "obs")
        check_info(log, info, "info")
        self._kept.look(log, observation)
        return result

    def step(self, action: Any) -> Any:
        """Step the environment and check all that it returns."""
        log = self._log
        log.advance()
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            got = f"{len(result)} values" if isinstance(result, tuple) else shown(result)
            log.fail("result", "step", f"expected a tuple of 5 values, got {got}")
        observation, reward, terminated, truncated, info = result
        check_value(log, self.observation_space, observation, "obs")
        check_reward(log, reward, "reward")
        check_flag(log, terminated, "terminated")
        check_flag(log, truncated, "truncated")
        check_info(log, info, "info")
        self._kept.look(log, observation)
        return result


class AgentLog:
    """Agents that have ended or left in this episode."""

    def __init__(self, env: Any, log: Log):
        self.env, self.log = env, log
        self.flagged: dict[Any, int] = {}  # the step at which each agent's end was reported
        self.gone: dict[Any, int] = {}  # the step after which each agent was away

    def begin(self) -> None:
        """Note a reset."""
        self.flagged, self.gone = {}, {}
        if not self.env.agents:
            self.log.fail("agents", "agents", "there are none after reset")
        self.look()

    def look(self) -> None:
        """Report the faults of ``env.agents``."""
        agents = list(self.env.agents)
        if len(set(agents)) != len(agents):
            self.log.report("agents", "agents", f"{agents} has duplicates")
        possible = getattr(self.env, "possible_agents", None)
        if possible and (strange := [agent for agent in agents if agent not in possible]):
            self.log.report("agents", "agents", f"{strange} are not in possible_agents")
        for agent in agents:
            if agent in self.gone:
                self.revived(agent, self.gone.pop(agent))

    def revived(self, agent: Any, ended: int) -> None:
        """Report an agent that is back after its end at step `ended`."""
        self.log.report(
            "agent-revived", "agents" + step(agent), f"is back, but had ended at step {ended}"
        )
        self.flagged.pop(agent, None)

    def keys(self, name: str, part: Any, allowed: Iterable, needed: Iterable) -> Iterator[tuple]:
        """Report the faults of a dictionary by agent, and yield its good entries."""
        if not isinstance(part, dict):
            self.log.fail("result", name, f"expected a dict by agent, got {shown(part)}")
        for agent in needed:
            if agent not in part:
                self.log.report("agent-missing", name + step(agent), f"the keys are {list(part)}")
        for agent, value in part.items():
            if agent in allowed:
                yield agent, value
            elif agent in self.gone and name in ("terminated", "truncated") and np.any(value):
                self.done_again(name, agent)
            else:
                self.log.report(
                    "agent-key",
                    name + step(agent),
                    f"{agent!r} takes no part in this step; the agents are {list(allowed)}",
                )

    def done_again(self, name: str, agent: Any) -> None:
        """Report an end that was reported before."""
        ended = self.flagged.get(agent, self.gone.get(agent))
        self.log.report(
            "done-after-done",
            name + step(agent),
            f"its end was already reported at step {ended}",
        )


class CheckedParallelEnv:
    """A PettingZoo parallel environment whose every value is checked; made by `checked`."""

    def __init__(self, env: Any, log: Log):
        self.env = env
        self._parallel = as_parallel(env)
        self._log = log
        self._agents = AgentLog(env, log)
        self._kept = Kept()

    def __getattr__(self, name: str) -> Any:
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        """Reset the environment and check the first observations."""
        log, agents = self._log, self._agents
        log.begin()
        result = self._parallel.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            log.fail("result", "reset", f"expected (observations, infos), got {shown(result)}")
        agents.begin()
        observations, infos = result
        present = dict.fromkeys(self.env.agents)
        for agent, value in agents.keys("obs", observations, present, present):
            check_value(
                log, space_of(self.env, agent, "observation_space"), value, "obs" + step(agent)
            )
        for agent, info in agents.keys("info", infos, present, ()):
            check_info(log, info, "info" + step(agent))
        self._kept.look(log, observations)
        return result

    def step(self, actions: Any) -> Any:
        """Step the environment and check all that it returns."""
        log, agents, env = self._log, self._agents, self.env
        log.advance()
        before = list(env.agents)
        result = self._parallel.step(actions)
        if not isinstance(result, tuple) or len(result) != 5:
            got = f"{len(result)} values" if isinstance(result, tuple) else shown(result)
            log.fail("result", "step", f"expected five dicts by agent, got {got}")
        observations, rewards, terminations, truncations, infos = result
        after = dict.fromkeys(env.agents)
        agents.look()
        allowed = dict.fromkeys([*before, *after])
        staying = [agent for agent in before if agent in after]
        for agent, value in agents.keys("obs", observations, allowed, staying):
            check_value(log, space_of(env, agent, "observation_space"), value, "obs" + step(agent))
        for agent, reward in agents.keys("reward", rewards, allowed, staying):
            check_reward(log, reward, "reward" + step(agent))
        ended = {}
        for name, part in (("terminated", terminations), ("truncated", truncations)):
            needed = staying if self._parallel is env else ()  # old ones know no truncation
            for agent, flag in agents.keys(name, part, allowed, needed):
                check_flag(log, flag, name + step(agent))
                if np.any(flag):
                    ended[agent] = name
        for agent, info in agents.keys("info", infos, allowed, ()):
            check_info(log, info, "info" + step(agent))
        for agent in allowed:
            told = agents.flagged.get(agent)
            if agent in ended and told is not None:
                agents.done_again(ended[agent], agent)
            elif agent in ended:
                agents.flagged[agent] = log.step
                if agent in after:
                    left = shown(list(after))
                    log.report("agent-lingers", "agents" + step(agent), f"is still there: {left}")
            elif told is not None and agent in after:
                agents.revived(agent, told)
            elif agent not in after and told is None:
                log.report(
                    "agent-vanished", "agents" + step(agent), f"is gone: {shown(list(after))}"
                )
            if agent not in after:
                agents.gone[agent] = log.step
        self._kept.look(log, observations)
        return result


class CheckedAECEnv:
    """A PettingZoo turn-based environment whose every value is checked; made by `checked`."""

    def __init__(self, env: Any, log: Log):
        self.env = env
        self._log = log
        self._agents = AgentLog(env, log)
        self._kept = Kept()

    def __getattr__(self, name: str) -> Any:
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, **given: Any) -> None:
        """Reset the environment and check the first agent's turn."""
        self._log.begin()
        self.env.reset(**given)
        self._agents.begin()
        self._look(())

    def step(self, action: Any) -> None:
        """Step the environment and check the next agent's turn."""
        log, agents, env = self._log, self._agents, self.env
        log.advance()
        before, agent = list(env.agents), env.agent_selection
        over = agent in agents.flagged
        env.step(action)
        for other in before:
            if other not in env.agents:
                agents.gone[other] = log.step
                if other not in agents.flagged and not over:
                    log.report("agent-vanished", "agents" + step(other), f"is gone at {agent!r}")
        agents.look()
        if over and agent in env.agents:
            log.report(
                "agent-lingers", "agents" + step(agent), "is still there after its last step"
            )
        self._look(before)

    def _look(self, before: Iterable) -> None:
        log, agents, env = self._log, self._agents, self.env
        present = dict.fromkeys(env.agents)
        allowed = dict.fromkeys([*before, *present])
        for agent, reward in agents.keys("reward", env.rewards, allowed, present):
            check_reward(log, reward, "reward" + step(agent))
        for agent, info in agents.keys("info", env.infos, allowed, present):
            check_info(log, info, "info" + step(agent))
        ended = set()
        for name, part in (("terminated", env.terminations), ("truncated", env.truncations)):
            for agent, flag in agents.keys(name, part, allowed, present):
                check_flag(log, flag, name + step(agent))
                if np.any(flag) and agent in present:
                    ended.add(agent)
                    agents.flagged.setdefault(agent, log.step)
        for agent in present:
            if agent in agents.flagged and agent not in ended:
                agents.revived(agent, agents.flagged[agent])
        if not present:
            return
        agent = env.agent_selection
        if agent not in present:
            log.fail("agents", "agent_selection", f"{agent!r} is not in {list(present)}")
        observation = env.observe(agent)
        check_value(
            log, space_of(env, agent, "observation_space"), observation, "obs" + step(agent)
        )
        self._kept.look(log, {agent: observation})
