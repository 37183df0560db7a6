"""What `shoal.emulate` makes, less all that needs Gymnasium or PettingZoo.

Workers under another interpreter step these: perhaps only old ``gym`` is there, or neither.
"""

from __future__ import annotations

from typing import Any

from shoal.emulation import is_multi_agent, require_environment
from shoal.emulation.agent_spaces import AgentSpaces, agents_of
from shoal.emulation.interfaces import OldEnv, is_of_gymnasium, reproducible
from shoal.emulation.loop import SingleDriver
from shoal.emulation.multi_loop import MultiDriver
from shoal.emulation.options import EmulationOptions
from shoal.errors import EmulationError
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout

__all__ = ["BareEnv", "BareMultiEnv", "bare"]


def bare(env: Any, options: EmulationOptions) -> Any:
    """What a loop needs of an environment; see `shoal.emulate` for the arguments."""
    require_environment(env)
    if is_multi_agent(env):
        return BareMultiEnv(env, options)
    if options.max_agents is not None or options.pad:
        raise EmulationError("max_agents and pad are for multi-agent environments only")
    return BareEnv(env, options)


class BareEnv:
    """A single-agent environment with its layouts.

    Attributes:
        env: the environment, in an `OldEnv` unless it is one of Gymnasium's.
        observation_layout, action_layout, agents_per_env: as of `EmulatedEnv`.
    """

    agents_per_env = 1
    spec = None  # another Gymnasium's would not be understood

    def __init__(self, env: Any, options: EmulationOptions):
        self.env = env if is_of_gymnasium(env, "Env") else OldEnv(env)
        self.metadata = getattr(env, "metadata", None) or {"render_modes": []}
        self.render_mode = getattr(env, "render_mode", None)
        self.observation_layout = Layout.from_space(
            env.observation_space,
            options.form,
            one_hot=options.one_hot,
            max_len=options.max_len,
            name="obs",
        )
        self.action_layout = ActionLayout.from_space(env.action_space, options.max_len)

    def driver(self) -> Any:
        """What a loop needs to step this environment."""
        return SingleDriver(reproducible(self.env), self.observation_layout, self.action_layout)

    def kinds(self) -> list[tuple[list, Layout, ActionLayout]]:
        """Agents (none are named here) and their layouts."""
        return [([], self.observation_layout, self.action_layout)]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class BareMultiEnv:
    """A multi-agent environment with its layouts; see `BareEnv`."""

    spec = None

    def __init__(self, env: Any, options: EmulationOptions):
        self.agents_per_env, possible, known = agents_of(env, options.max_agents)
        self.possible_agents = possible or ["agent"]
        self.metadata = getattr(env, "metadata", None) or {"render_modes": []}
        self.render_mode = getattr(env, "render_mode", None)
        self._spaces = AgentSpaces(env, possible, known, options)
        self.observation_layout = self._spaces.observation_layout
        self.action_layout = self._spaces.action_layout

    @property
    def env(self) -> Any:
        """The environment inside; may be replaced by a copy."""
        return self._spaces.env

    @env.setter
    def env(self, env: Any) -> None:
        self._spaces.env = env

    def driver(self) -> Any:
        """What a loop needs to step this environment."""
        return MultiDriver(self._spaces, self.agents_per_env)

    def kinds(self) -> list[tuple[list, Layout, ActionLayout]]:
        """For agents whose spaces are laid out alike: who they are, and their layouts.

        Those of the rows, without names, where it is not known which agents there may be.
        """
        groups = self._spaces.alike(self._spaces.index or ())
        layouts = self.observation_layout, self.action_layout
        return [(each, *self._spaces.layouts(each[0])) for each in groups] or [([], *layouts)]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
