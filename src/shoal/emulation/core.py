"""The core of an emulated environment: the environment, its layouts, and what steps it.

Loops need no more than this. `single.py` and `multi.py` show a core as an environment of Gymnasium
or PettingZoo; nothing here needs either, since workers under another interpreter may have neither.
"""

from __future__ import annotations

from typing import Any

from shoal.emulation.agent_spaces import AgentSpaces
from shoal.emulation.interfaces import OldEnv, is_multi_agent, is_of_gymnasium, require_environment
from shoal.emulation.loop import SingleDriver
from shoal.emulation.multi_loop import MultiDriver
from shoal.emulation.options import EmulationOptions
from shoal.emulation.seeding import reproducible
from shoal.errors import EmulationError
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout

__all__ = ["Core", "core_of"]


class Core:
    """An environment with the layouts of its rows.

    Attributes:
        env: the environment (in an `OldEnv` if it is a single-agent one, but not of Gymnasium's);
            may be replaced by a copy of itself.
        options: how it is emulated.
        agent_spaces: the spaces of its agents; None for an environment of Gymnasium's interface.
        agents_per_env: number of rows.
        possible_agents: the agents there may be; ``["agent"]`` if they have no names.
        observation_layout, action_layout: of a row.
        metadata, render_mode, spec: those of the environment, or the usual defaults.

    Raises:
        EmulationError, LayoutError: see `shoal.emulate`.
    """

    agent_spaces: AgentSpaces | None = None
    agents_per_env = 1

    def __init__(self, env: Any, options: EmulationOptions):
        require_environment(env)
        self.env = env
        self.options = options
        self.possible_agents: list = ["agent"]
        self.metadata = getattr(env, "metadata", None) or {"render_modes": []}
        self.render_mode = getattr(env, "render_mode", None)
        self.spec = getattr(env, "spec", None)
        self.observation_layout: Layout
        self.action_layout: ActionLayout
        if is_multi_agent(env):
            self.agent_spaces = spaces = AgentSpaces(env, options)
            self.agents_per_env = spaces.num_slots
            self.possible_agents = list(spaces.index or self.possible_agents)
            self.observation_layout = spaces.observation_layout
            self.action_layout = spaces.action_layout
            return
        for name in ("max_agents", "pad"):
            if getattr(options, name):
                raise EmulationError(
                    f"{name} is for multi-agent environments only; {type(env).__name__} has "
                    "Gymnasium's interface"
                )
        if not is_of_gymnasium(env, "Env"):
            self.env = OldEnv(env)
        self.observation_layout = options.lay_out(env.observation_space)
        self.action_layout = ActionLayout.from_space(env.action_space, options.max_len)

    def driver(self, growable: bool = False) -> SingleDriver | MultiDriver:
        """Return a new driver, through which a loop steps this environment.

        Args:
            growable: see `MultiDriver`.
        """
        env = reproducible(self.env)
        if self.options.debug:
            from shoal.emulation.check.checking_envs import checked

            env = checked(env)
        if self.agent_spaces is None:
            return SingleDriver(env, self.observation_layout, self.action_layout)
        self.agent_spaces.env = self.env
        return MultiDriver(env, self.agent_spaces, growable)

    def kinds(self) -> list[tuple[list, Layout, ActionLayout]]:
        """Return (agents, observation layout, action layout) of each group of agents.

        The agents of a group have equal layouts. If no agent is known by name, there is one group
        without names, with the layouts of the rows.
        """
        spaces = self.agent_spaces
        if spaces is None or spaces.index is None:
            return [([], self.observation_layout, self.action_layout)]
        return [(each, *spaces.layouts(each[0])) for each in spaces.alike(spaces.index)]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def core_of(env: Any, options: EmulationOptions) -> Core:
    """Return the core of `env`: its own if it is emulated, else a new one with these options."""
    core = getattr(env, "core", None)
    return core if isinstance(core, Core) else Core(env, options)
