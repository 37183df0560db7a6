"""The layouts of a multi-agent environment's agents, and the common ones that rows have.

If all agents have equal layouts, the common layout equals them. Otherwise:

- A common observation is a vector as long as the longest agent's (of bytes, if their dtypes
  differ). Each agent's own row lies at its beginning; the rest is zero.
- A common action has as many continuous elements as the agent with the most of them, with bounds
  that include every agent's, and likewise discrete elements, whose categories are counted from 0.
  Each agent uses the first elements of both parts: continuous elements are clipped to the agent's
  bounds, and a category beyond the agent's is taken modulo their number.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.emulation.interfaces import unwrapped
from shoal.emulation.options import EmulationOptions
from shoal.emulation.parallel import as_parallel, space_of
from shoal.errors import EmulationError
from shoal.rows.actions import ActionLayout, choices, is_discrete
from shoal.rows.layout import Layout
from shoal.rows.spec import box_spec, choice_spec

__all__ = ["AgentSpaces"]

if TYPE_CHECKING:
    Layouts = tuple[Layout, ActionLayout]


@dataclass(frozen=True)
class Member:
    """The layouts of one agent, and the spaces (observation, action) they are made from."""

    observation_layout: Layout
    action_layout: ActionLayout
    own: tuple[Any, Any]

    @functools.cached_property
    def shown(self) -> tuple[Any, Any]:
        """The spaces of the agent's flat rows; always the same objects.

        A space that is flat already is shown itself, so that seeding it keeps its effect.
        """
        flat = self.observation_layout.flat_space, self.action_layout.flat_space
        observation, action = (
            mine if mine == theirs else theirs for mine, theirs in zip(self.own, flat)
        )
        return observation, action


class AgentSpaces:
    """The agents of an environment: who they are, their spaces, and the layouts of their rows.

    Args:
        env: has ``observation_space(agent)`` and ``action_space(agent)``, or, as in old PettingZoo,
            dictionaries ``observation_spaces`` and ``action_spaces``. It is reset if it has no
            ``possible_agents``, because only a reset shows what its agents are like.
        options: see `shoal.emulate`. With `pad`, every agent has the common spaces; a pair of
            layouts there is held by the common ones.

    Attributes:
        index: the slot of every possible agent; None if the environment has no
            ``possible_agents``.
        num_slots: number of rows.
        observation_layout, action_layout: the common layouts.
        padded: every agent has the common spaces.

    Raises:
        EmulationError: `max_agents` is missing or too small.
    """

    def __init__(self, env: Any, options: EmulationOptions):
        self.env = env
        self.padded = bool(options.pad)
        self._options = options
        self._members: dict[Any, Member] = {}
        # By the identity of both spaces, which the entry keeps alive: agents often share them.
        self._by_space: dict[tuple[int, int], Member] = {}
        agents = list(getattr(env, "possible_agents", None) or ())
        self.index = {agent: i for i, agent in enumerate(agents)} or None
        self.num_slots = count_slots(env, len(agents), options.max_agents)
        if self.index is None:
            as_parallel(env).reset()
            agents = list(env.agents)
        found = [self.layouts(agent) for agent in agents]
        if isinstance(options.pad, tuple):
            observation, action = (layout.spec for layout in options.pad)
            found.append(
                (
                    Layout(observation, options.form, options.one_hot, "obs"),
                    ActionLayout(Layout(action, name="action")),
                )
            )
        self.observation_layout, self.action_layout = common_layouts(found)

    def slot(self, agent: Any) -> int:
        """Return the slot of `agent`; -1 if the agent may have any free slot.

        Raises:
            EmulationError: `agent` is not in ``possible_agents``.
        """
        if self.index is None:
            return -1
        if agent not in self.index:
            raise EmulationError(
                f"agent {agent!r} is in env.agents, but not in env.possible_agents "
                f"{list(self.index)}"
            )
        return self.index[agent]

    def new_episode(self) -> None:
        """Forget agents that are not possible agents, because their spaces may change."""
        if self.index is None:
            self._members.clear()
            self._by_space.clear()

    def layouts(self, agent: Any) -> Layouts:
        """Return the (observation, action) layouts of one agent."""
        member = self.member(agent)
        return member.observation_layout, member.action_layout

    def alike(self, agents: Iterable) -> list[list]:
        """Return these agents in groups that have equal layouts."""
        found: dict[Any, list] = {}
        for agent in agents:
            observation, action = self.layouts(agent)
            found.setdefault((observation, action.native), []).append(agent)
        return list(found.values())

    def member(self, agent: Any) -> Member:
        """Return the layouts and spaces of one agent; always the same object."""
        member = self._members.get(agent)
        if member is None:
            observation = space_of(self.env, agent, "observation_space")
            action = space_of(self.env, agent, "action_space")
            key = (id(observation), id(action))
            if key not in self._by_space:
                layouts = self._lay_out(observation, action)
                self._by_space[key] = Member(*layouts, (observation, action))
            member = self._members[agent] = self._by_space[key]
        return member

    def _lay_out(self, observation: Any, action: Any) -> Layouts:
        options = self._options
        return options.lay_out(observation), ActionLayout.from_space(action, options.max_len)


def count_slots(env: Any, num_possible: int, max_agents: int | None) -> int:
    """Return the number of rows for the agents of `env`."""
    name = type(unwrapped(env)).__name__
    if max_agents is None and not num_possible:
        raise EmulationError(
            f"{name} has no possible_agents, so it doesn't say how many agents there may be; "
            "give max_agents=N"
        )
    if max_agents is not None and max_agents < num_possible:
        raise EmulationError(
            f"max_agents must be an integer of at least {num_possible} for {name}, got {max_agents}"
        )
    return num_possible if max_agents is None else max_agents


def common_layouts(layouts: list[Layouts]) -> Layouts:
    """Return layouts of rows that hold the observations and actions of all of `layouts`."""
    observations, actions = zip(*layouts)
    first = layouts[0]
    return (
        first[0]
        if all(each == first[0] for each in observations)
        else wide_observation(observations),
        first[1]
        if all(each.native == first[1].native for each in actions)
        else wide_action(actions),
    )


def wide_observation(layouts: Iterable[Layout]) -> Layout:
    """Return the layout of a vector that holds a row of any of `layouts` at its beginning."""
    layouts = list(layouts)
    dtype = layouts[0].dtype
    if any(layout.dtype != dtype for layout in layouts):
        low = np.zeros(-(-max(layout.nbytes for layout in layouts) // 8) * 8, np.uint8)
        high = np.full_like(low, 255)
    else:
        size = max(layout.zeros().size for layout in layouts)
        low, high = np.zeros(size, dtype), np.zeros(size, dtype)
        for layout in layouts:
            floor, roof = (bound.reshape(-1) for bound in row_bounds(layout))
            n = floor.size
            # An element that an agent lacks is zero.
            low[:n] = np.minimum(low[:n], floor)
            high[:n] = np.maximum(high[:n], roof)
    return Layout(box_spec(low, high), name="obs")


def row_bounds(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return the inclusive bounds of each element of a row: two arrays of `layout.shape`."""
    if layout.form == "bytes" and any(leaf.dtype != layout.dtype.name for leaf in layout.leaves):
        return np.zeros(layout.shape, np.uint8), np.full(layout.shape, 255, np.uint8)
    return layout.flat_bounds()


def wide_action(layouts: Iterable[ActionLayout]) -> ActionLayout:
    """Return the layout of actions of which each of `layouts` uses the first elements of a part."""
    layouts = list(layouts)
    counts = longest([categories(layout)[1] for layout in layouts], np.int64)
    bounds = [continuous(layout) for layout in layouts]
    dtype = np.result_type(np.float32, *[low.dtype for low, _ in bounds])
    low = -longest([-low for low, _ in bounds], dtype)
    high = longest([high for _, high in bounds], dtype)
    if len(counts) == 1 and all(layout.flat.shape == () for layout in layouts):
        counts = counts[0]
    discrete, box = choice_spec(np.zeros_like(counts), counts), box_spec(low, high)
    spec = {"kind": "Dict", "items": [["continuous", box], ["discrete", discrete]]}
    if not low.size:
        spec = discrete
    elif not counts.size:
        spec = box
    return ActionLayout(Layout(spec, name="action"))


def longest(vectors: list[np.ndarray], dtype: Any) -> np.ndarray:
    """Return the elementwise maximum of vectors of different lengths."""
    size = max(vector.size for vector in vectors)
    result = np.zeros(size, dtype)
    for i in range(size):
        result[i] = max(vector[i] for vector in vectors if i < vector.size)
    return result


def categories(layout: ActionLayout) -> tuple[np.ndarray, np.ndarray]:
    """Return (first category, number of categories) of a flat action's discrete elements.

    Both are int64 arrays with one entry for each element.
    """
    found = [choices(leaf) for leaf in layout.flat.leaves if is_discrete(leaf)]
    empty = np.zeros(0, np.int64)
    return (
        np.concatenate([empty, *[low for low, _ in found]]),
        np.concatenate([empty, *[count for _, count in found]]),
    )


def continuous(layout: ActionLayout) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds (low, high) of a flat action's continuous elements, float32 or float64."""
    leaves = [leaf for leaf in layout.flat.leaves if not is_discrete(leaf)]
    if not leaves:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    (leaf,) = leaves
    low, high = (np.broadcast_to(b, leaf.shape).reshape(-1) for b in (leaf.low, leaf.high))
    return low.astype(np.result_type(np.float32, leaf.dtype)), high.astype(low.dtype)


def widened(own: ActionLayout, common: ActionLayout) -> ActionLayout:
    """Return the layout of one agent's actions that reads rows of the common layout."""
    wide = copy.copy(own)
    wide.flat = common.flat
    wide.identity = False
    return wide


def widen_action(own: ActionLayout, common: ActionLayout, action: Any, out: np.ndarray) -> None:
    """Check one agent's own flat action, and write it into a row of the common layout.

    Args:
        out: one contiguous row, which is overwritten.

    Raises:
        ActionError: the action is not in the agent's own flat space.
    """
    row = own.flat.zeros()
    own.encode(action, row)
    out[...] = 0
    into = parts(common, out)
    for name, values in parts(own, row).items():
        if name == "discrete":
            values = values - categories(own)[0]
        into[name][: values.size] = values


def parts(layout: ActionLayout, row: np.ndarray) -> dict[str, np.ndarray]:
    """Return views of the ``"discrete"`` and ``"continuous"`` elements of a flat row."""
    memory = row.reshape(-1).view(np.uint8)
    return {
        "discrete" if is_discrete(leaf) else "continuous": memory[
            leaf.offset : leaf.offset + leaf.nbytes
        ].view(leaf.dtype)
        for leaf in layout.flat.leaves
    }


def own_row(layout: Layout, row: Any) -> Any:
    """Return an agent's own row from the beginning of each row of a common layout.

    Args:
        row: ``(*batch, n)``, rows of the common layout.

    Returns:
        ``(*batch, *layout.shape)`` of `layout.dtype`; a view if `row` is contiguous.
    """
    batch = row.shape[:-1]
    flat = np.ascontiguousarray(row).view(np.uint8)[..., : layout.nbytes]
    return flat.view(layout.dtype).reshape(*batch, *layout.shape)
