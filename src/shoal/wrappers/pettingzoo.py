"""PettingZoo: vectors as a ``ParallelEnv``, and as rows for libraries without agents.

- `ShoalParallelEnv`: an environment of a vector as a PettingZoo ``ParallelEnv``.
- `AgentRows`: each agent of a vector as if it were an environment of its own.
- `ParallelActionRepeat`, `ParallelTimeLimit`: see `shoal.wrappers.single`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper

from shoal.errors import ActionError, LayoutError, PendingCallError, ResetNeededError
from shoal.vectorization.vector import Batch, check_reset_mask
from shoal.wrappers.base import Wrapper, info_of, rows_of, settle

__all__ = ["AgentRows", "ParallelActionRepeat", "ParallelTimeLimit", "ShoalParallelEnv"]


class ShoalParallelEnv(ParallelEnv):
    """One environment of a vector as a PettingZoo ``ParallelEnv``.

    Agents have the vector's spaces, that is, flat ones that all share (`shoal.vectorize` pads
    where they differ); ``vector.observation_layout`` nests observations again. In a turn-based
    game every live agent is in each step's dictionaries, and of their actions only that of the
    agent to move counts. The other environments of the vector stay as they are.

    An agent that ends and respawns at once stays in `agents`: PettingZoo does not allow an agent
    to return, so its end is not flagged, and its info has ``respawned``.

    Args:
        vector: made by `shoal.vectorize`, or a wrapper of `shoal.wrappers` around it, in any
            autoreset mode; not a pool. Or a function that makes one: only then can this be pickled
            and copied, which makes another vector, as PettingZoo's ``EzPickle`` does.
        index: of the environment in the vector.

    Attributes:
        agents: the names of the agents that are alive.
        possible_agents: the names of the environment's agents, as text; absent if it has none.

    Raises:
        ValueError: `vector` is a pool, or has no such environment.
    """

    def __init__(self, vector: Any, index: int = 0):
        self._maker: Callable[[], Any] | None = vector if callable(vector) else None
        vector = vector if self._maker is None else self._maker()
        if vector.batch_size != vector.num_envs:
            raise ValueError(
                "ShoalParallelEnv: expected a vector whose batch is all environments, but this one "
                f"receives {vector.batch_size} of {vector.num_envs}"
            )
        if not 0 <= index < vector.num_envs:
            raise ValueError(
                f"ShoalParallelEnv: expected index 0 to {vector.num_envs - 1}, got {index}"
            )
        self.vector, self.index = vector, index
        self.metadata = {"name": "shoal", **vector.metadata}
        self.render_mode = vector.render_mode
        self.agents: list[str] = []
        size = vector.agents_per_env
        self._names: list[str] | None = None
        if len(vector.agents) > 1 or size == 1:  # else they are not known beforehand
            self._names = self.possible_agents = list(vector.agents)
        self._mine = slice(index * size, (index + 1) * size)
        self._slots: dict[str, int] = {}
        self._occupants = b""  # as the last batch had them
        # What agents send that need not act is of no consequence, but must be an action.
        flat = vector.action_layout.flat
        self._actions = flat.zeros(size)
        self._actions[...] = flat.pack(vector.single_action_space.sample())

    def __reduce__(self) -> tuple:
        if self._maker is None:
            raise TypeError(
                "ShoalParallelEnv: a vector can't be pickled or copied; give a function that makes "
                "it, as in ShoalParallelEnv(functools.partial(shoal.vectorize, env))"
            )
        return type(self), (self._maker, self.index)

    def observation_space(self, agent: Any) -> Any:
        """Return the vector's space of one agent, the same object for all."""
        return self.vector.single_observation_space

    def action_space(self, agent: Any) -> Any:
        """Return the vector's space of one agent's actions, the same object for all."""
        return self.vector.single_action_space

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict, dict]:
        """Begin an episode: (observations, infos), by agent.

        Native environments have no options and ignore them.
        """
        vector = self.vector
        settle(vector)
        options = None if vector.backend == "native" else options
        only = np.arange(vector.num_envs) == self.index
        seeds = None if seed is None else [seed if mine else None for mine in only]
        try:
            vector.async_reset(seed=seeds, options={**(options or {}), "reset_mask": only})
        except PendingCallError as error:
            if error.name != "reset":
                raise
            vector.async_reset(seed=seeds, options=options)  # the first of all
        batch = vector.recv()
        self._take_agents(batch)
        rows = {agent: self._mine.start + slot for agent, slot in self._slots.items()}
        observations = {agent: batch.observations[row].copy() for agent, row in rows.items()}
        return observations, {agent: info_of(batch.infos, row) for agent, row in rows.items()}

    def step(self, actions: Mapping[Any, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Step all agents: observations, rewards, terminations, truncations, infos, by agent.

        They are of all agents that were alive before the step or are after it.

        Raises:
            ActionError: the action of an agent that acts is missing or wrong; nothing was stepped.
            ResetNeededError: the episode is over.
        """
        if not self.agents:
            raise ResetNeededError("step: the episode is over, or none has begun; call reset")
        vector, mine = self.vector, self._mine
        self._take_actions(actions)
        rows = vector.action_layout.flat.view(self._actions)
        if vector.num_envs == 1:
            vector.send(rows)
        else:
            vector.send(rows, [self.index], keep_others=True)
        batch = vector.recv()
        before, infos, observations = self._slots, batch.infos, batch.observations
        final = infos.get("_final_obs") if infos else None
        if final is not None and final[mine.start]:  # SAME_STEP: the next episode has begun already
            infos, observations = infos.get("final_info", {}), vector.final_observations
            self.agents, self._slots = [], {}
            told = before
        else:
            self._take_agents(batch)
            told = before if self._slots is before else before | self._slots
        if True not in vector.acting[mine].tolist():
            self.agents, self._slots = [], {}
        own = observations[mine].copy()
        rewards, terminations, truncations = (each[mine].tolist() for each in batch[1:4])
        named = {agent: info_of(infos, mine.start + slot) for agent, slot in told.items()}
        for agent, slot in self._slots.items():
            if terminations[slot] or truncations[slot]:  # and yet alive
                terminations[slot] = truncations[slot] = False
                named[agent]["respawned"] = True
        return (
            {agent: own[slot] for agent, slot in told.items()},
            {agent: rewards[slot] for agent, slot in told.items()},
            {agent: terminations[slot] for agent, slot in told.items()},
            {agent: truncations[slot] for agent, slot in told.items()},
            named,
        )

    def _take_actions(self, actions: Mapping[Any, Any]) -> None:
        """Write the actions of the agents that act into their rows.

        Raises:
            ActionError: an action is missing, or does not fit its row.
        """
        slots, target = self._slots, self._actions
        if len(slots) == len(target):  # everybody is there, as nearly always: all at once
            try:
                rows = np.array([actions[agent] for agent in slots])
            except (KeyError, ValueError):  # one is missing; they are of several parts
                pass
            else:
                if rows.dtype == target.dtype and rows.shape == target.shape:
                    target[list(slots.values())] = rows
                    return
        flat, acting = self.vector.action_layout.flat, self.vector.acting[self._mine]
        for agent, slot in slots.items():
            if agent in actions:
                try:
                    target[slot] = flat.pack(actions[agent])
                except LayoutError as error:
                    raise ActionError(f"agent {agent!r}: {error}") from None
            elif acting[slot]:
                raise ActionError(f"step: no action for agent {agent!r}, which is to act")

    def _take_agents(self, batch: Batch) -> None:
        """Find the agents that are alive: present, and without an end or respawned after it."""
        mine, names = self._mine, self._names
        occupants = self.vector.occupants[mine]
        ended = (batch.terminations[mine] | batch.truncations[mine]) & ~self.vector.acting[mine]
        before, self._occupants = self._occupants, occupants.tobytes()
        if self._slots and self._occupants == before and True not in ended.tolist():
            return  # the same as before
        self._slots = {}
        for slot in np.argsort(occupants):  # in the order in which they joined
            who = int(occupants[slot])
            if who < 0 or ended[slot]:
                continue
            self._slots[names[who] if names else f"agent_{who}"] = int(slot)
        self.agents = list(self._slots)

    def render(self) -> Any:
        """Return what the environment renders."""
        return self.vector.render(self.index)

    def state(self) -> np.ndarray:
        """Return the environment's global state."""
        return self.vector.call("state")[self.index]

    def close(self) -> None:
        """Close the vector, all of it."""
        self.vector.close()


class AgentRows(Wrapper):
    """A vector whose every agent row counts as an environment, for libraries without agents.

    ``num_envs`` is the number of agent rows, so that anything which trains on a
    ``gymnasium.vector.VectorEnv`` trains one policy for all agents. Nothing has to be wrapped
    before: `shoal.vectorize` has padded agents that differ, and dead ones have rows already. A row
    whose agent has died has zeros for observations and rewards until its environment begins anew,
    and is truncated then, so that every row's episodes end where its environment's do.

    Seeds are still of environments: a number gives environment *i* ``seed + i``, a list has one
    for each; and so are `call`, `get_attr`, `set_attr` and snapshots. ``options["reset_mask"]``
    must agree for all agents of an environment.

    Args:
        env: see `Wrapper`. It goes around other wrappers, whose batches have the same rows.
    """

    def __init__(self, env: Any):
        super().__init__(env)
        self.agents_per_env = 1
        self.batch_size = env.batch_size * env.agents_per_env
        self._group = env.agents_per_env

    @property
    def num_envs(self) -> int:  # type: ignore[override]
        """Number of agent rows."""
        return self.env.num_rows

    @property
    def env_ids(self) -> np.ndarray:
        """Agent rows of the last batch."""
        return rows_of(self.env.env_ids, self._group)

    def async_reset(self, *, seed: Any = None, options: Any = None) -> None:
        if isinstance(options, Mapping) and "reset_mask" in options:
            mask = check_reset_mask(options["reset_mask"], self.num_envs).reshape(-1, self._group)
            if (mask.any(axis=1) != mask.all(axis=1)).any():
                raise ValueError(
                    "reset_mask: the agents of an environment can only be reset together; got "
                    f"{options['reset_mask']}"
                )
            options = {**options, "reset_mask": mask[:, 0].copy()}
        self.env.async_reset(seed=seed, options=options)

    def send(self, actions: Any, env_ids: Any = None, *, keep_others: bool = False) -> None:
        if env_ids is not None:
            envs = np.asarray(env_ids)[:: self._group] // self._group
            if not np.array_equal(rows_of(envs, self._group), env_ids):
                raise ValueError(f"env_ids: expected all agents of environments, got {env_ids}")
            env_ids = envs
        self.env.send(actions, env_ids, keep_others=keep_others)

    def receive(self, batch: Batch) -> Batch:
        over = batch.infos.get("_final_obs")
        if over is None:
            acting = self.vector.acting
            if acting.all():
                return batch
            over = np.repeat(~acting.reshape(-1, self._group).any(axis=1), self._group)
        ended = batch.terminations | batch.truncations
        return batch._replace(truncations=batch.truncations | (over & ~ended))

    def render(self, index: int | None = None) -> Any:
        """Return what the environment of agent row `index` renders, or a tuple of all."""
        return self.env.render(None if index is None else index // self._group)


class ParallelActionRepeat(BaseParallelWrapper):
    """See `shoal.wrappers.single.repeat_action`."""

    def __init__(self, env: Any, times: int):
        super().__init__(env)
        self.times = times

    def step(self, actions: Any) -> tuple[dict, dict, dict, dict, dict]:
        totals: dict[Any, float] = {}
        alive = list(self.env.agents)
        for _ in range(self.times):
            observations, rewards, terminations, truncations, infos = self.env.step(actions)
            for agent, reward in rewards.items():
                totals[agent] = totals.get(agent, 0.0) + reward
            ended = any(terminations.values()) or any(truncations.values())
            if ended or list(self.env.agents) != alive:
                break
        return observations, totals, terminations, truncations, infos


class ParallelTimeLimit(BaseParallelWrapper):
    """See `shoal.wrappers.single.time_limit`."""

    def __init__(self, env: Any, max_steps: int):
        super().__init__(env)
        self.max_steps = max_steps
        self.agents: list = []
        self._steps = 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        self._steps = 0
        result = self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        return result

    def step(self, actions: Any) -> tuple[dict, dict, dict, dict, dict]:
        self._steps += 1
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        self.agents = list(self.env.agents)
        if self._steps >= self.max_steps:
            truncations = {**truncations, **dict.fromkeys(self.agents, True)}
            self.agents = []
        return observations, rewards, terminations, truncations, infos
