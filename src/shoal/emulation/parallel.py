"""PettingZoo's interfaces, old, new and turn-based, as one: that of a modern ``ParallelEnv``.

What `as_parallel` returns has ``agents``, ``reset(seed=, options=) -> (observations, infos)`` and
``step(actions)`` with five dictionaries. Attributes decide which interface an environment has, not
its class, so that old environments and look-alikes qualify.
"""

from __future__ import annotations

from typing import Any

from shoal.emulation.interfaces import OldReset, keywords
from shoal.errors import EmulationError

__all__ = ["OldParallelEnv", "TurnBasedEnv", "as_parallel", "space_of"]


def as_parallel(env: Any) -> Any:
    """Return `env` if it has today's parallel interface, else an adaptor around it."""
    if hasattr(env, "agent_iter") or (hasattr(env, "last") and hasattr(env, "observe")):
        return TurnBasedEnv(env)
    return env if keywords(env) == {"seed", "options"} else OldParallelEnv(env)


def space_of(env: Any, agent: Any, name: str) -> Any:
    """Return an agent's ``observation_space`` or ``action_space``.

    Old environments have dictionaries of them instead of methods.
    """
    if callable(getattr(env, name, None)):
        return getattr(env, name)(agent)
    return getattr(env, name + "s")[agent]


class OldParallelEnv:
    """A parallel environment of old PettingZoo with today's interface.

    Takes steps of four dictionaries (``dones`` count as terminations) and of five, ``reset`` with
    or without ``seed`` and ``options`` and with or without infos, and ``seed()`` methods. Warns
    once about each old part.
    """

    def __init__(self, env: Any):
        self.env = env
        self._old = OldReset(env)

    @property
    def agents(self) -> list:
        return self.env.agents

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        return self.modern_reset(self._old.reset(seed, options))

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        return self.modern_step(self.env.step(actions))

    def modern_reset(self, result: Any) -> tuple[dict, dict]:
        """Return the result of a ``reset`` as (observations, infos)."""
        if not isinstance(result, tuple):
            self._old.warn_once("old PettingZoo interface: reset() returns no infos")
            result = result, {}
        return by_agent("reset", result, ("observations", "infos"))

    def modern_step(self, result: Any) -> tuple[dict, dict, dict, dict, dict]:
        """Return the result of a ``step`` as five dictionaries."""
        if isinstance(result, (tuple, list)) and len(result) == 4:
            self._old.warn_once("old PettingZoo interface: step() returns four values")
            observations, rewards, dones, infos = result
            result = observations, rewards, dones, {}, infos
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        return by_agent("step", result, names)


def by_agent(method: str, result: Any, names: tuple[str, ...]) -> Any:
    """Return `result` as a tuple of dictionaries, one for each name.

    Raises:
        EmulationError: `result` is something else.
    """
    if not isinstance(result, (tuple, list)) or len(result) != len(names):
        got = f"{len(result)}" if isinstance(result, (tuple, list)) else type(result).__name__
        raise EmulationError(
            f"{method}: expected {len(names)} dictionaries ({', '.join(names)}), got {got}"
        )
    for name, part in zip(names, result):
        if not isinstance(part, dict):
            raise EmulationError(
                f"{method}: {name}: expected a dictionary by agent, got {type(part).__name__}"
            )
    return tuple(result)


class TurnBasedEnv:
    """An ``AECEnv`` with the methods of a parallel environment, in which one agent acts at a time.

    A step applies the action of the agent to move, and goes on to the next agent that can move.
    On the way, agents that have ended are removed (``step(None)``), each with its final results.
    The dictionaries of a step cover every agent that is alive or was removed.

    An agent's reward is that of ``last()`` at the agent's next turn: the sum since its last action.
    Rewards before an agent's first action are added to its first reward, so that its rewards add up
    to what a loop over ``agent_iter()`` sees.

    Attributes:
        acting: the agent to move, None when the game is over.
        ended: the agents for whom the last step completed a transition: those that were removed,
            and the one to move if it has moved before. The rewards of all others are 0.
    """

    def __init__(self, env: Any):
        self.env = env
        self._old = OldReset(env)
        self.acting: Any = None
        self.ended: set = set()

    @property
    def agents(self) -> list:
        return list(self.env.agents)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        self._old.reset(seed, options)
        self._acted: set = set()  # agents that have moved, in this life
        self._owed: dict = {}  # rewards got before the first action
        observations, _, _, _, infos = self._go_on(())
        return observations, infos

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        before = self.agents
        self._acted.add(self.acting)
        self.env.step(actions[self.acting])
        return self._go_on(before)

    def get_state(self) -> list:
        """Return what is remembered between steps, as plain data."""
        return [self.acting, set(self._acted), dict(self._owed)]

    def set_state(self, state: list) -> None:
        """Continue from what `get_state` returned."""
        self.acting, self._acted, self._owed = state[0], set(state[1]), dict(state[2])

    def _go_on(self, before: Any) -> tuple[dict, dict, dict, dict, dict]:
        env = self.env
        observations: dict = {}
        rewards: dict = {}
        terminations: dict = {}
        truncations: dict = {}
        infos: dict = {}
        self.acting, self.ended = None, set()
        while env.agents:
            agent = env.agent_selection
            reward, terminated, truncated, info = self._last(agent)
            over = terminated or truncated
            if over or agent in self._acted:
                self.ended.add(agent)
                rewards[agent] = reward + self._owed.pop(agent, 0)
            else:
                self._owed[agent] = self._owed.get(agent, 0) + reward
            if not over:
                self.acting = agent
                break
            self._acted.discard(agent)
            observations[agent], infos[agent] = env.observe(agent), info
            terminations[agent], truncations[agent] = terminated, truncated
            env.step(None)
            if agent in env.agents:
                raise EmulationError(
                    f"agent {agent!r} is over, but step(None) left it in env.agents"
                )
        alive = list(env.agents)
        for agent in before:
            if agent not in alive and agent not in terminations:  # vanished
                self.ended.add(agent)
                self._acted.discard(agent)
                rewards[agent], truncations[agent] = self._owed.pop(agent, 0), True
        for agent in alive:
            observation = env.observe(agent)
            if observation is not None:
                observations[agent] = observation
            infos[agent] = dict(env.infos.get(agent) or {})
            rewards.setdefault(agent, 0.0)
        return observations, rewards, terminations, truncations, infos

    def _last(self, agent: Any) -> tuple[Any, bool, bool, dict]:
        if agent not in self.env.agents:
            raise EmulationError(
                f"env.agent_selection is {agent!r}, which is not in env.agents {self.agents}"
            )
        result = self.env.last(observe=False)
        if len(result) == 4:
            self._old.warn_once("old PettingZoo interface: last() returns four values")
            _, reward, terminated, info = result
            return reward, bool(terminated), False, info
        _, reward, terminated, truncated, info = result
        return reward, bool(terminated), bool(truncated), info
