"""Multi-agent environments: PettingZoo environments whose agents are rows of fixed arrays.

Each agent has a slot, one row of every array: its index in ``possible_agents``, or, in environments
without ``possible_agents``, the lowest slot that was free when it joined. Invariants:

- Parallel environments: ``acting`` is true exactly for the agents in ``env.agents`` after the step,
  ``masks`` exactly for those that were in it before (after a reset: for those present).
- Turn-based environments: ``acting`` is true for the one agent to move; ``masks`` for the agents
  whose transition was completed in this step: the one to move, if it has moved before, and those
  whose episode ended. An agent's reward is the sum since its last move.
- A row never mixes two agents: a slot is freed at the step after the one that reported its agent's
  end. An agent that leaves without a flag is truncated.
- A row without an agent, or without an observation of it, is zero; its action mask is all True.
- An episode is over when no agent is left, or when all that are left are flagged.

An agent that is alive must have an observation and a reward; an agent that has ended may lack both
(zeros then). Missing flags are False, missing infos empty. Entries of other agents are ignored
(``debug=True`` raises), but their infos are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from shoal.emulation.agent_spaces import own_row
from shoal.emulation.core import Core
from shoal.emulation.interfaces import unwrapped
from shoal.emulation.options import EmulationOptions
from shoal.errors import ActionError, LayoutError
from shoal.rows.actions import ActionLayout
from shoal.rows.buffers import Buffers
from shoal.rows.fields import zero_rows
from shoal.rows.layout import Layout

__all__ = ["EmulatedMultiEnv", "Group"]


@dataclass(frozen=True, eq=False)
class Group:
    """Agents that have equal layouts.

    Attributes:
        agents, slots: their names, and their rows in each environment's block.
        observation_layout, action_layout: how the agents' own observations and actions lie at the
            beginning of the common rows.
    """

    agents: tuple
    slots: tuple[int, ...]
    observation_layout: Layout
    action_layout: ActionLayout

    def observations(self, rows: np.ndarray) -> np.ndarray:
        """Return this group's part of an environment's observations, in the group's layout.

        Args:
            rows: ``(agents_per_env, ...)``, one environment's observations.

        Returns:
            An array ``(len(slots), *observation_layout.shape)`` of `observation_layout.dtype`: a
            view if the slots are consecutive, else a copy.
        """
        first, n = self.slots[0], len(self.slots)
        consecutive = self.slots == tuple(range(first, first + n))
        part = rows[first : first + n] if consecutive else rows[list(self.slots)]
        if part.dtype == self.observation_layout.dtype and (
            part.shape[1:] == self.observation_layout.shape
        ):
            return part
        return own_row(self.observation_layout, part)


class EmulatedMultiEnv(ParallelEnv):
    """A PettingZoo ``ParallelEnv`` whose observations and actions are flat arrays.

    Made by `shoal.emulate` from a ``ParallelEnv`` or an ``AECEnv``. In a turn-based environment,
    every live agent is in each step's dictionaries; only the action of the agent to move is used
    (``rows["acting"]``), other actions are ignored and may be missing.

    Attributes:
        core: what loops step, see `shoal.emulation.core.Core`.
        agents: the agents alive, as in the environment inside.
        possible_agents: those of the environment inside; missing if it has none.
        agents_per_env: number of slots: `max_agents`, or the number of possible agents.
        observation_layout, action_layout: of a row. If agents' spaces differ, a common layout that
            holds each agent's own (see `shoal.emulation.agent_spaces`).
        rows: the arrays that hold the last step's results, one row for each slot: see
            `shoal.rows.fields.row_fields`.
    """

    def __init__(self, env: Any, options: EmulationOptions):
        self.core = Core(env, options)
        assert self.core.agent_spaces is not None
        self._spaces: Any = self.core.agent_spaces
        self.agents_per_env = self.core.agents_per_env
        if self._spaces.index is not None:
            self.possible_agents = self.core.possible_agents
        self._driver: Any = self.core.driver(
            growable=self._spaces.index is None and not options.pad
        )
        self.agents: list = []
        self.metadata = self.core.metadata
        self.render_mode = self.core.render_mode
        self._take_layouts()

    @property
    def env(self) -> Any:
        """The environment inside."""
        return self.core.env

    def bind(self, rows: dict[str, np.ndarray]) -> None:
        """Write results straight into these arrays from now on.

        Args:
            rows: for each name of `row_fields`, a C-contiguous array of shape
                ``(agents_per_env, *shape)``.

        Raises:
            LayoutError: an array is missing or has another shape or dtype.
        """
        buffers = Buffers(self.observation_layout, self.action_layout, rows)
        if buffers.num_rows != self.agents_per_env:
            raise LayoutError(
                f"expected buffers of {self.agents_per_env} rows, got {buffers.num_rows}"
            )
        self._buffers, self.rows = buffers, rows

    def _take_layouts(self) -> None:
        """Make rows for the driver's layouts."""
        self.observation_layout = self._driver.observation_layout
        self.action_layout = self._driver.action_layout
        # Always the same objects, as PettingZoo requires.
        self._common = (self.observation_layout.flat_space, self.action_layout.flat_space)
        self.bind(zero_rows(self.observation_layout, self.action_layout, self.agents_per_env))

    @property
    def groups(self) -> list[Group]:
        """Agents in groups of equal layouts: all possible agents, or, if unknown, those present."""
        if self._spaces.index is not None:
            slots = self._spaces.index
        else:
            slots = {a: i for i, a in enumerate(self._driver.occupants) if a is not None}
        return [
            Group(tuple(agents), tuple(slots[a] for a in agents), *self._spaces.layouts(agents[0]))
            for agents in self._spaces.alike(slots)
        ]

    def observation_space(self, agent: Any) -> Any:
        """Return the space of `agent`'s flat observations: the common space if padded."""
        if self._spaces.padded:
            return self._common[0]
        return self._spaces.member(agent).shown[0]

    def action_space(self, agent: Any) -> Any:
        """Return the space of `agent`'s flat actions: the common space if padded."""
        if self._spaces.padded:
            return self._common[1]
        return self._spaces.member(agent).shown[1]

    @property
    def observation_spaces(self) -> dict:
        """The observation space of every possible agent."""
        return {agent: self.observation_space(agent) for agent in self.possible_agents}

    @property
    def action_spaces(self) -> dict:
        """The action space of every possible agent."""
        return {agent: self.action_space(agent) for agent in self.possible_agents}

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict, dict]:
        """Begin an episode.

        Returns:
            Flat observations (copies) and infos, by agent.
        """
        self._driver.begin(seed, options)
        self._deliver()
        return self._observations(), self._infos()

    def step(self, actions: Mapping[Any, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Step the environment with a flat action of each acting agent.

        Returns:
            Observations (copies), rewards, terminations, truncations and infos of every agent that
            was alive before or is alive after the step.

        Raises:
            ActionError: an acting agent's action is missing, or not in the agent's action space;
                the environment was not stepped.
            EmulationError: the episode is over, or the environment broke its interface.
        """
        self._encode(actions)
        self._driver.advance(self._buffers)
        self._deliver()
        return (
            self._observations(),
            self._by_agent("rewards"),
            self._by_agent("terminations"),
            self._by_agent("truncations"),
            self._infos(),
        )

    def _deliver(self) -> None:
        driver = self._driver
        if (driver.observation_layout, driver.action_layout) != (
            self.observation_layout,
            self.action_layout,
        ):
            self._take_layouts()  # agents joined that nobody announced, and fit no row so far
        self._driver.deliver(self._buffers)
        self.agents = list(self._driver.agents)

    def _encode(self, actions: Mapping[Any, Any]) -> None:
        """Put the actions into the rows, all checked before anything is stepped."""
        self._driver.encode(actions, self._buffers)
        acting = self.rows["acting"]
        try:
            self.action_layout.check(self.rows["actions"][acting])
        except ActionError:
            for slot in np.flatnonzero(acting):  # again, to tell whose action it is
                row = self.rows["actions"][slot : slot + 1]
                try:
                    self.action_layout.check(row.reshape(self.action_layout.flat.shape))
                except ActionError as error:
                    agent = self._driver.occupants[slot]
                    raise ActionError(f"agent {agent!r}: {error}") from None

    def _present(self) -> list[tuple[int, Any]]:
        """Return (slot, agent) of every slot that is taken."""
        return [(i, agent) for i, agent in enumerate(self._driver.occupants) if agent is not None]

    def _observations(self) -> dict:
        rows = self.rows["observations"].copy()
        if self._spaces.padded or not self._driver.mixed:
            return {agent: rows[slot] for slot, agent in self._present()}
        return {
            agent: own_row(self._spaces.layouts(agent)[0], rows[slot])
            for slot, agent in self._present()
        }

    def _by_agent(self, name: str) -> dict:
        values = self.rows[name].tolist()
        return {agent: values[slot] for slot, agent in self._present()}

    def _infos(self) -> dict:
        infos: dict = {agent: {} for _, agent in self._present()}
        return infos | self._driver.all_infos

    def decode(self, agent: Any, observation: np.ndarray) -> Any:
        """Return the wrapped environment's observation for a flat one of `agent`."""
        layout = self._spaces.layouts(agent)[0]
        if self._spaces.padded and layout != self.observation_layout:
            observation = own_row(layout, np.asarray(observation))
        return layout.unpack(np.asarray(observation))

    def render(self) -> Any:
        """Return what the wrapped environment renders."""
        return self.env.render()

    def state(self) -> np.ndarray:
        """Return the wrapped environment's global state."""
        return self.env.state()

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()

    @property
    def unwrapped(self) -> Any:
        """The innermost environment."""
        return unwrapped(self.env)

    def __reduce__(self) -> Any:
        """Let copies and pickles hold the environment as it is; they begin with a reset."""
        return EmulatedMultiEnv, (self.env, self.core.options)

    def __repr__(self) -> str:
        return f"<EmulatedMultiEnv{self.env!r}>"
