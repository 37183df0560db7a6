"""The driver of multi-agent environments without compiled code: the twin of `multi_loop.pyx`.

What that says of slots and their invariants holds here too. Rows of arrays take the place of its
C arrays; `values`, `occupants` and the rest mean the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.emulation import agent_spaces as common
from shoal.emulation.loop_numpy import Buffers, Decoder, Driver, call_reset, find_mask
from shoal.emulation.parallel import OldParallelEnv, TurnBasedEnv, as_parallel
from shoal.errors import EmulationError, LayoutError
from shoal.rows.actions import ActionLayout, flat_mask
from shoal.rows.layout import Layout

__all__ = ["MultiDriver"]


class Codec:
    """How one kind of agent goes into rows of the common layouts, and its actions out of them."""

    def __init__(self, layout: Layout, action_layout: ActionLayout, rows_action: ActionLayout):
        self.layout, self.action_layout, self.rows_action = layout, action_layout, rows_action
        self.mask_in_observation = layout.spec["kind"] == "Dict" and any(
            key == "action_mask" for key, _ in layout.spec["items"]
        )
        # The common action row is not the agent's own: its categories are counted from 0, and
        # there may be more of them than the agent has; too large ones are taken modulo the agent's.
        self.padded = rows_action.native != action_layout.native
        if not self.padded:
            self.decode_own = Decoder(action_layout).decode
            return
        self.decode_own = Decoder(common.widened(action_layout, rows_action)).decode
        self.start, self.count = common.categories(action_layout)
        self.wide = common.categories(rows_action)[1]

    def decode(self, row: Any) -> Any:
        """The agent's own action in a row of the common layout."""
        if not self.padded:
            return self.decode_own(row)
        row = np.array(row)
        values = common.parts(self.rows_action, row).get("discrete")
        if values is not None:
            n = len(self.count)
            values[:n] = self.start + values[:n] % self.count
        return self.decode_own(row)

    def mask(self, mask: Any) -> Any:
        """An action mask as a row of the common layout has it."""
        if not self.padded:
            return True if mask is None else flat_mask(self.action_layout, mask)
        if mask is None:
            own = np.ones(self.action_layout.num_masked, bool)
        else:
            own = flat_mask(self.action_layout, mask)
        row, at, taken = np.zeros(self.rows_action.num_masked, bool), 0, 0
        for i, wide in enumerate(self.wide.tolist()):
            if i < len(self.count):
                n = int(self.count[i])
                row[at : at + n] = own[taken : taken + n]
                taken += n
            else:  # an element that this agent lacks has one legal value: it adds no entropy
                row[at] = True
            at += wide
        return row


class MultiDriver(Driver):
    """Drives an environment with one of PettingZoo's interfaces; in rows that never widen."""

    def __init__(self, env: Any, spaces: Any, growable: bool = False):
        num_slots = spaces.num_slots
        self.spaces, self.agents_per_env = spaces, num_slots
        self.observation_layout, self.action_layout = (
            spaces.observation_layout,
            spaces.action_layout,
        )
        self.env = env
        self.codecs: dict[Any, Codec] = {}
        self.has_masks = False
        self.slots: list[int] = []  # of each of `agents`
        self.agents: list[Any] = []
        self.occupants: list[Any] = []
        self.values: list[Any] = []  # the observation of each slot, or None
        self.codec_of: list[Any] = []  # of each slot, or None
        self.slot_of: dict[Any, int] = {}
        self.serials: dict[Any, int] = {}
        self.rewards, self.returns = np.zeros(num_slots), np.zeros(num_slots)
        self.lengths, self.ids = np.zeros(num_slots, np.int64), np.zeros(num_slots, np.int64)
        self.terminated, self.truncated, self.valid, self.acting, self.leaving = np.zeros(
            (5, num_slots), bool
        )
        self._vacate()
        self.done = True

    @property
    def env(self) -> Any:
        return self._env

    @env.setter
    def env(self, env: Any) -> None:
        self._env = env
        self.parallel = as_parallel(env)
        self.turns = self.parallel if isinstance(self.parallel, TurnBasedEnv) else None

    # -- Driver -------------------------------------------------------------------------------

    def step(self, source: Any, row: int) -> None:
        if self.done:
            raise EmulationError(
                "step: the episode is over (or never began); reset the environment first"
            )
        actions = {
            agent: self.codec_of[slot].decode(source.actions[row + slot])
            for agent, slot in zip(self.agents, self.slots)
            if self.acting[slot]
        }
        result = self.parallel.step(actions)
        if not all_dicts(result, 5):
            result = self._old().modern_step(result)
        self._take(*result)

    def reset(self, seed: Any, options: Any, explicit: bool) -> None:
        result = call_reset(self.parallel, seed, options, explicit)
        if not all_dicts(result, 2):
            result = self._old().modern_reset(result)
        observations, infos = result
        self._vacate()
        self.done = True
        self.spaces.new_episode()
        agents = self._unique(self.parallel.agents)
        if not agents:
            raise EmulationError("reset: no agent is in env.agents")
        self.slots = [self._admit(agent) for agent in agents]
        self.agents, self.done = agents, False
        self._mark_acting()
        self._observe(observations, infos)

    def clear(self, valid: bool) -> None:
        for array in (self.rewards, self.returns, self.lengths, self.terminated, self.truncated):
            array[:] = 0
        self.valid[:] = valid & (self.ids >= 0)

    def write(self, to: Any, row: int) -> None:
        self.write_observations(to, row)
        rows = slice(row, row + self.agents_per_env)
        to.rewards[rows] = self.rewards
        to.episode_returns[rows] = self.returns
        to.episode_lengths[rows] = self.lengths
        to.occupants[rows] = self.ids
        to.terminations[rows] = self.terminated
        to.truncations[rows] = self.truncated
        to.masks[rows] = self.valid
        to.acting[rows] = self.acting
        if not self.action_layout.num_masked:
            return
        to.action_masks[rows] = True
        if not self.has_masks and self.info is None:
            return
        for slot in np.flatnonzero(self.acting).tolist():
            codec, found = self.codec_of[slot], None
            if codec.mask_in_observation:
                found = find_mask(self.values[slot])
            if found is None and self.info is not None:
                found = find_mask(self.info.get(slot))
            try:
                to.action_masks[row + slot] = codec.mask(found)
            except Exception as error:
                raise EmulationError(f"agent {self.occupants[slot]!r}: {error}") from error

    def write_observations(self, to: Buffers, row: int) -> None:
        rows = to.arrays["observations"]
        empty = [row + slot for slot, value in enumerate(self.values) if value is None]
        if empty:
            rows[empty] = 0
        for slot, value in enumerate(self.values):
            if value is None:
                continue
            layout = self.codec_of[slot].layout
            if layout.nbytes < self.observation_layout.nbytes:
                rows[row + slot] = 0
            try:
                to.packer(layout).pack(value, row + slot)
            except LayoutError as error:
                raise LayoutError(f"agent {self.occupants[slot]!r}: {error}") from None

    def get_state(self) -> Any:
        columns = self.ids, self.returns, self.lengths, self.leaving, self.terminated
        slots = [list(each) for each in zip(*[c.tolist() for c in (*columns, self.truncated)])]
        turns = None if self.turns is None else self.turns.get_state()
        return [
            list(self.agents),
            list(self.occupants),
            dict(self.serials),
            slots,
            turns,
            self.done,
            list(self.values),
            self.info,
        ]

    def set_state(self, state: Any) -> None:
        agents, occupants, serials, slots, turns, done, values, info = state
        self._vacate()
        self.spaces.new_episode()
        self.agents[:], self.occupants[:], self.values[:] = agents, occupants, values
        self.serials.update(serials)
        self.done, self.info = done, info
        if self.turns is not None:
            self.turns.set_state(turns)
        columns = self.ids, self.returns, self.lengths, self.leaving, self.terminated
        for column, stored in zip((*columns, self.truncated), zip(*slots)):
            column[:] = stored
        for slot, agent in enumerate(self.occupants):
            if self.ids[slot] >= 0:
                self.slot_of[agent] = slot
                self.codec_of[slot] = self._codec(agent)
        self.slots = [self.slot_of[agent] for agent in self.agents]
        self._mark_acting()

    def _old(self) -> Any:
        """The environment behind an adaptor, since it turned out to have an old interface."""
        if not isinstance(self.parallel, OldParallelEnv):
            self.parallel = OldParallelEnv(self.parallel)
        return self.parallel

    # -- agents and slots ---------------------------------------------------------------------

    def _take(
        self, observations: Any, rewards: Any, terminations: Any, truncations: Any, infos: Any
    ) -> None:
        """Hold the results of a step: first the transitions, then who is there now."""
        before = list(zip(self.agents, self.slots))
        # Until all is well: what raises below leaves an episode that can't go on.
        self.agents, self.done = [], True
        for slot in np.flatnonzero(self.leaving | self.terminated | self.truncated).tolist():
            if self.leaving[slot]:
                self._free(slot)
            else:
                self.returns[slot] = self.lengths[slot] = 0  # flagged, but it stayed: a new life
        for array in (self.rewards, self.terminated, self.truncated, self.valid):
            array[:] = 0
        after = self._unique(self.parallel.agents)
        here = set(after)
        for agent, slot in before:
            self.valid[slot] = self.turns is None or agent in self.turns.ended
            self.terminated[slot] = bool(terminations.get(agent, False))
            self.truncated[slot] = bool(truncations.get(agent, False))
            if agent not in here:
                self.leaving[slot] = True
                if not self.terminated[slot]:
                    self.truncated[slot] = True
            self.rewards[slot] = self._reward(rewards, agent, slot)
            self.returns[slot] += self.rewards[slot]
            self.lengths[slot] += self.valid[slot]
        self.slots = [
            self.slot_of[agent] if agent in self.slot_of else self._admit(agent) for agent in after
        ]
        if (self.terminated | self.truncated)[self.slots].all():
            # Some environments flag everybody at the end, but leave the list as it was.
            self.leaving[self.slots] = True
        else:
            self.agents, self.done = after, False
        self._mark_acting()
        self._observe(observations, infos)

    def _observe(self, observations: Any, infos: Any) -> None:
        """Hold observations and infos of all occupants."""
        self.info = None
        for slot in np.flatnonzero(self.ids >= 0).tolist():
            agent = self.occupants[slot]
            if agent not in observations and self.acting[slot]:
                raise EmulationError(
                    f"agent {agent!r} is in env.agents, but has no observation; the observations "
                    f"are of {list(observations)}"
                )
            self.values[slot] = observations.get(agent)
            info = infos.get(agent)
            if isinstance(info, dict) and info:
                if self.info is None:
                    self.info = {}
                self.info[slot] = info

    def _reward(self, rewards: Any, agent: Any, slot: int) -> float:
        try:
            value = rewards[agent]  # a defaultdict may know more
        except KeyError:
            if self.terminated[slot] or self.truncated[slot]:
                return 0.0
            raise EmulationError(
                f"agent {agent!r} is alive, but has no reward; the rewards are of {list(rewards)}"
            ) from None
        try:
            return float(value)
        except TypeError:
            raise EmulationError(
                f"agent {agent!r}: reward: expected a number, got {value!r} "
                f"({type(value).__name__})"
            ) from None

    def _mark_acting(self) -> None:
        self.acting[:] = False
        for agent, slot in zip(self.agents, self.slots):
            self.acting[slot] = self.turns is None or agent == self.turns.acting

    def _unique(self, agents: Any) -> list[Any]:
        """A copy of ``env.agents``, checked."""
        copy = list(agents)
        if len(set(copy)) != len(copy):
            raise EmulationError(f"env.agents lists an agent twice: {copy}")
        return copy

    def _admit(self, agent: Any) -> int:
        """Give `agent` a slot."""
        slot = self.spaces.slot(agent)
        if slot < 0:
            free = np.flatnonzero(self.ids < 0)
            if not len(free):
                ended = int(self.leaving.sum())
                raise EmulationError(
                    f"no slot for agent {agent!r}: all {self.agents_per_env} are taken"
                    + (f", {ended} of them by agents whose last row is due" if ended else "")
                    + "; give a larger max_agents"
                )
            slot = int(free[0])
            self.ids[slot] = self.serials.setdefault(agent, len(self.serials))
        else:
            self.ids[slot] = slot
        self.occupants[slot] = agent
        self.slot_of[agent] = slot
        self.codec_of[slot] = self._codec(agent)
        return slot

    def _free(self, slot: int) -> None:
        del self.slot_of[self.occupants[slot]]
        self.occupants[slot] = self.values[slot] = self.codec_of[slot] = None
        self.leaving[slot] = False
        self.ids[slot] = -1
        self.returns[slot] = self.lengths[slot] = 0

    def _vacate(self) -> None:
        """Free every slot; rewards, flags and statistics stay until `clear`."""
        self.occupants = [None] * self.agents_per_env
        self.values = [None] * self.agents_per_env
        self.codec_of = [None] * self.agents_per_env
        self.agents, self.slots, self.slot_of, self.serials = [], [], {}, {}
        self.leaving[:] = self.acting[:] = False
        self.ids[:] = -1

    def _codec(self, agent: Any) -> Codec:
        layouts = self.spaces.layouts(agent)
        key = layouts[0], layouts[1].native
        if key not in self.codecs:
            rows = self.observation_layout, self.action_layout
            wider = common.common_layouts([rows, layouts])
            if wider[0] != rows[0] or wider[1].native != rows[1].native:
                raise EmulationError(
                    f"agent {agent!r}: its spaces don't fit the rows' layouts, which were made "
                    "for the agents known when the environment was emulated; give "
                    "pad=(observation_space, action_space) that are large enough"
                )
            codec = self.codecs[key] = Codec(layouts[0], layouts[1], self.action_layout)
            self.has_masks = self.has_masks or codec.mask_in_observation or codec.padded
        return self.codecs[key]


def all_dicts(result: Any, count: int) -> bool:
    """Whether `result` is a tuple of `count` dictionaries."""
    return (
        type(result) is tuple
        and len(result) == count
        and all(isinstance(part, dict) for part in result)
    )
