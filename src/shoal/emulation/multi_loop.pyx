"""The compiled driver of multi-agent environments: agents on one side, fixed rows on the other.

Each agent has a slot, which is a row of its environment's block of rows: its index in
``possible_agents``, or, in environments without them, the lowest slot that was free when it joined.

Invariants, after `step` (parallel environments; see `parallel.TurnBasedEnv` for the others):
- ``acting`` is true exactly for the agents in ``env.agents`` after the step, unless the episode is
  over; ``valid`` (what `write` puts into ``masks``) exactly for those that were in it before.
- A slot has one occupant. It is freed at the step after the one whose row told that its occupant's
  life ended, so no row ever mixes two agents (but for SAME_STEP autoreset, where by definition
  rewards and flags are of the old episode and the rest is of the new one).
- An agent that left ``env.agents`` without a flag is truncated.
- What was held for an agent is a strong reference in `values`, so that `write` reads no freed
  memory whatever the environment does with its dictionaries.
"""

from cpython.dict cimport PyDict_Check, PyDict_SetItem
from cpython.float cimport PyFloat_CheckExact
from cpython.list cimport PyList_Check, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject, PyObject_IsTrue
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport numpy as cnp

from shoal.emulation.loop cimport Driver, as_number
from shoal.rows.borrowed cimport (
    PyDict_GET_SIZE,
    PyDict_GetItemWithError,
    PyFloat_AS_DOUBLE,
    PyObject_CallMethodOneArg,
)
from shoal.rows.buffers cimport Buffers
from shoal.rows.codec cimport Decoder, MaskWriter, find
from shoal.rows.pack cimport Packer
from shoal.rows.rows cimport Rows

import numpy as np

from shoal.emulation import agent_spaces as common
from shoal.emulation.parallel import OldParallelEnv, TurnBasedEnv, as_parallel
from shoal.errors import ActionError, EmulationError, LayoutError

cnp.import_array()

__all__ = ["MultiDriver"]

cdef object STEP = "step"
cdef object ACTION_MASK = "action_mask"


cdef class Codec:
    """How one kind of agent goes into rows of the common layouts, and its actions out of them."""

    cdef Packer packer
    cdef Decoder decoder
    cdef MaskWriter masks
    cdef Py_ssize_t nbytes          # of an observation; the rest of a row is zero
    cdef bint mask_in_observation   # ... as its part "action_mask"
    # Where the common action row is not the agent's own: its categories are counted from 0, and
    # there may be more of them than the agent has; too large ones are taken modulo the agent's.
    cdef bint padded
    cdef char* scratch
    cdef int64_t* choices           # of each discrete element: start, count, count in common
    cdef Py_ssize_t num_choices, num_common, action_nbytes, discrete_offset
    cdef uint8_t* own_mask

    def __cinit__(self, observation_layout, action_layout, rows_action):
        cdef Py_ssize_t i
        self.packer = observation_layout.packer
        self.masks = MaskWriter(action_layout)
        self.nbytes = observation_layout.nbytes
        spec = observation_layout.spec
        self.mask_in_observation = spec["kind"] == "Dict" and any(
            key == ACTION_MASK for key, _ in spec["items"]
        )
        self.padded = rows_action.native != action_layout.native
        if not self.padded:
            self.decoder = Decoder(action_layout)
            return
        self.decoder = Decoder(common.widened(action_layout, rows_action))
        own, wide = common.categories(action_layout), common.categories(rows_action)
        self.num_choices, self.num_common = len(own[0]), len(wide[0])
        self.action_nbytes = rows_action.flat.nbytes
        for leaf in rows_action.flat.leaves:
            if leaf.dtype == "int64":
                self.discrete_offset = leaf.offset
        self.scratch = <char*>calloc(self.action_nbytes + 1, 1)
        self.choices = <int64_t*>calloc(3 * self.num_common + 1, sizeof(int64_t))
        self.own_mask = <uint8_t*>calloc(action_layout.num_masked + 1, 1)
        if self.scratch == NULL or self.choices == NULL or self.own_mask == NULL:
            raise MemoryError
        for i in range(self.num_common):
            if i < self.num_choices:
                self.choices[3 * i] = own[0][i]
                self.choices[3 * i + 1] = own[1][i]
            self.choices[3 * i + 2] = wide[1][i]

    def __dealloc__(self):
        free(self.scratch)
        free(self.choices)
        free(self.own_mask)

    cdef object decode(self, const char* row):
        cdef Py_ssize_t i
        cdef int64_t* values
        if not self.padded:
            return self.decoder.decode(row)
        memcpy(self.scratch, row, self.action_nbytes)
        values = <int64_t*>(self.scratch + self.discrete_offset)
        for i in range(self.num_choices):
            values[i] = self.choices[3 * i] + values[i] % self.choices[3 * i + 1]
        return self.decoder.decode(self.scratch)

    cdef int write_mask(self, PyObject* mask, uint8_t* to) except -1:
        cdef Py_ssize_t i, n, wide
        cdef const uint8_t* entries = self.own_mask
        if not self.padded:
            return self.masks.write(mask, to)
        self.masks.write(mask, self.own_mask)
        for i in range(self.num_common):
            # An element that this agent lacks has one legal value, so that it adds no entropy.
            n = self.choices[3 * i + 1]
            wide = self.choices[3 * i + 2]
            memset(to, 0, wide)
            if i < self.num_choices:
                memcpy(to, entries, n)
                entries += n
            else:
                to[0] = 1
            to += wide
        return 0


cdef class MultiDriver(Driver):
    """Drives an environment with one of PettingZoo's interfaces.

    Args:
        env: the environment.
        spaces: the `AgentSpaces` of its agents.
        growable: agents that don't fit the rows' common layouts widen them (the caller then has to
            bring wider rows) instead of being refused.

    Attributes:
        env: the environment; may be replaced.
        agents: those alive; empty once the episode is over.
        occupants: for each slot the agent in it, or None.
        observation_layout, action_layout: of the rows that `write` expects.
        mixed: some agent's own layouts are not those of the rows.
        info: of each slot whose agent has a non-empty info: a dict by slot, or None.
        all_infos: the infos as the environment gave them.
    """

    cdef object _env
    cdef object parallel            # the environment, with a modern parallel interface
    cdef object spaces
    cdef object turns               # the TurnBasedEnv, or None
    cdef readonly bint mixed
    cdef bint growable, has_masks
    cdef readonly list agents, occupants
    cdef readonly object observation_layout, action_layout
    cdef readonly object all_infos
    cdef dict slot_of, serials, codecs
    cdef dict wide_masks            # of slots whose infos have masks that were padded, by slot
    cdef list values                # observation of each slot, or None
    cdef list codec_of              # of each slot, or None
    cdef Py_ssize_t* slots          # of each of `agents`
    cdef Py_ssize_t num_slots, row_nbytes, action_nbytes
    # One entry for each slot, as `write` copies them.
    cdef void* memory
    cdef double* rewards
    cdef double* returns
    cdef int64_t* lengths
    cdef int64_t* ids
    cdef uint8_t* terminated
    cdef uint8_t* truncated
    cdef uint8_t* valid
    cdef uint8_t* acting
    cdef uint8_t* leaving           # the occupant's life ended in the last step

    def __cinit__(self, env, spaces, bint growable=False):
        cdef Py_ssize_t n = spaces.num_slots
        self.spaces = spaces
        self.env = env
        self.agents_per_env = self.num_slots = n
        self.growable = growable
        self.codecs = {}
        self.wide_masks = {}
        self.memory = calloc(n + 1, 2 * sizeof(double) + 2 * sizeof(int64_t) + sizeof(Py_ssize_t)
                             + 5)
        if self.memory == NULL:
            raise MemoryError
        self.rewards = <double*>self.memory
        self.returns = self.rewards + n
        self.lengths = <int64_t*>(self.returns + n)
        self.ids = self.lengths + n
        self.slots = <Py_ssize_t*>(self.ids + n)
        self.terminated = <uint8_t*>(self.slots + n)
        self.truncated = self.terminated + n
        self.valid = self.truncated + n
        self.acting = self.valid + n
        self.leaving = self.acting + n
        self._use(spaces.observation_layout, spaces.action_layout)
        self._vacate()
        self.done = True

    def __dealloc__(self):
        free(self.memory)

    @property
    def env(self):
        return self._env

    @env.setter
    def env(self, env):
        self._env = env
        self.parallel = as_parallel(env)
        self.turns = self.parallel if isinstance(self.parallel, TurnBasedEnv) else None

    # -- for use without an EnvLoop -----------------------------------------------------------

    def begin(self, seed, options):
        """Reset on request; then `deliver` writes the first rows."""
        self.reset(seed, options, True)
        self.clear(True)

    def advance(self, Buffers rows):
        """Step with the actions in `rows`; then `deliver` writes the results."""
        self.step(&rows.rows, 0)

    def deliver(self, Buffers rows):
        """Write what is held into `rows`."""
        self.write(&rows.rows, 0)
        memset(rows.rows.finals, 0, self.num_slots)

    def encode(self, actions, Buffers rows):
        """Write each acting agent's flat action into `rows`; ranges are not checked.

        Raises:
            ActionError: an action is missing, or of another shape or dtype.
        """
        cdef Py_ssize_t i, slot
        cdef Codec codec
        cdef Packer packer = self.action_layout.flat.packer
        for i, agent in enumerate(self.agents):
            slot = self.slots[i]
            if not self.acting[slot]:
                continue
            try:
                action = actions[agent]
            except KeyError:
                raise ActionError(
                    f"agent {agent!r}: no action; got actions of {list(actions)}"
                ) from None
            codec = self.codec_of[slot]
            try:
                if self.spaces.padded or not codec.padded:
                    packer.pack_row(<PyObject*>action, rows.rows.actions + slot * self.action_nbytes)
                else:
                    common.widen_action(self.spaces.layouts(agent)[1], self.action_layout, action,
                                        rows.arrays["actions"][slot:slot + 1])
            except (ActionError, LayoutError) as error:
                raise ActionError(f"agent {agent!r}: {error}") from None

    # -- Driver -------------------------------------------------------------------------------

    cdef int step(self, const Rows* source, Py_ssize_t row) except -1:
        cdef Py_ssize_t i, slot
        cdef dict actions = {}
        if self.done:
            raise EmulationError(
                "step: the episode is over (or never began); reset the environment first"
            )
        if source.action_nbytes != self.action_nbytes:
            raise EmulationError(f"step: rows of {source.action_nbytes} action bytes, expected "
                                 f"{self.action_nbytes}")
        for i in range(PyList_GET_SIZE(self.agents)):
            slot = self.slots[i]
            if self.acting[slot]:
                action = (<Codec>self.codec_of[slot]).decode(
                    source.actions + (row + slot) * source.action_nbytes
                )
                PyDict_SetItem(actions, <object>PyList_GET_ITEM(self.agents, i), action)
        result = PyObject_CallMethodOneArg(self.parallel, STEP, actions)
        if not all_dicts(result, 5):
            result = self._old().modern_step(result)
        observations, rewards, terminations, truncations, infos = result
        self._take(observations, rewards, terminations, truncations, infos)
        return 0

    cdef int reset(self, seed, options, bint explicit) except -1:
        cdef Py_ssize_t i
        if explicit:
            result = self.parallel.reset(seed=seed, options=options)
        elif options is not None:
            result = self.parallel.reset(options=options)
        else:
            result = self.parallel.reset()
        if not all_dicts(result, 2):
            result = self._old().modern_reset(result)
        observations, infos = result
        self._vacate()
        self.done = True
        self.spaces.new_episode()
        agents = self._unique(self.parallel.agents)
        if not agents:
            raise EmulationError("reset: no agent is in env.agents")
        for i, agent in enumerate(agents):
            self.slots[i] = self._admit(agent)
        self.agents, self.done = agents, False
        self._mark_acting()
        self._observe(observations, infos)
        return 0

    cdef int clear(self, bint valid) except -1:
        cdef Py_ssize_t slot
        memset(self.rewards, 0, self.num_slots * sizeof(double))
        memset(self.returns, 0, self.num_slots * sizeof(double))
        memset(self.lengths, 0, self.num_slots * sizeof(int64_t))
        memset(self.terminated, 0, self.num_slots)
        memset(self.truncated, 0, self.num_slots)
        for slot in range(self.num_slots):
            self.valid[slot] = valid and self.ids[slot] >= 0
        return 0

    cdef int write(self, Rows* to, Py_ssize_t row) except -1:
        cdef Py_ssize_t slot, n = self.num_slots
        cdef uint8_t* mask
        cdef PyObject* found
        cdef Codec codec
        if to.observation_nbytes != self.row_nbytes:
            raise EmulationError(f"write: rows of {to.observation_nbytes} observation bytes, "
                                 f"expected {self.row_nbytes}")
        self.write_observations(to.observations + row * to.observation_nbytes)
        memcpy(to.rewards + row, self.rewards, n * sizeof(double))
        memcpy(to.episode_returns + row, self.returns, n * sizeof(double))
        memcpy(to.episode_lengths + row, self.lengths, n * sizeof(int64_t))
        memcpy(to.occupants + row, self.ids, n * sizeof(int64_t))
        memcpy(to.terminations + row, self.terminated, n)
        memcpy(to.truncations + row, self.truncated, n)
        memcpy(to.masks + row, self.valid, n)
        memcpy(to.acting + row, self.acting, n)
        if not to.num_masked:
            return 0
        mask = to.action_masks + row * to.num_masked
        memset(mask, 1, n * to.num_masked)
        if not self.has_masks and self.info is None:
            return 0
        for slot in range(n):
            if self.acting[slot]:
                codec = <Codec>self.codec_of[slot]
                found = NULL
                if codec.mask_in_observation:
                    found = find(self.values[slot], ACTION_MASK)
                if found == NULL and slot in self.wide_masks:
                    memcpy(mask + slot * to.num_masked,
                           cnp.PyArray_DATA(<cnp.ndarray>self.wide_masks[slot]), to.num_masked)
                    continue
                if found == NULL and self.info is not None:
                    found = find((<dict>self.info).get(slot), ACTION_MASK)
                try:
                    codec.write_mask(found, mask + slot * to.num_masked)
                except Exception as error:
                    raise EmulationError(f"agent {self.occupants[slot]!r}: {error}") from error
        return 0

    cdef int write_observations(self, char* to) except -1:
        cdef Py_ssize_t slot = 0
        cdef PyObject* value
        cdef Codec codec
        try:
            for slot in range(self.num_slots):
                value = <PyObject*>PyList_GET_ITEM(self.values, slot)
                if value == <PyObject*>None:
                    memset(to, 0, self.row_nbytes)
                else:
                    codec = <Codec>self.codec_of[slot]
                    codec.packer.pack_row(value, to)
                    if codec.nbytes < self.row_nbytes:
                        memset(to + codec.nbytes, 0, self.row_nbytes - codec.nbytes)
                to += self.row_nbytes
        except LayoutError as error:
            raise LayoutError(f"agent {self.occupants[slot]!r}: {error}") from None
        return 0

    cdef object get_state(self):
        cdef Py_ssize_t slot
        slots = [
            [self.ids[slot], self.returns[slot], self.lengths[slot], bool(self.leaving[slot]),
             bool(self.terminated[slot]), bool(self.truncated[slot])]
            for slot in range(self.num_slots)
        ]
        turns = None if self.turns is None else self.turns.get_state()
        return [list(self.agents), list(self.occupants), dict(self.serials), slots, turns, self.done,
                list(self.values), self.info, self.wide_masks]

    cdef int set_state(self, state) except -1:
        cdef Py_ssize_t slot, i
        agents, occupants, serials, slots, turns, done, values, info, masks = state
        self._vacate()
        self.spaces.new_episode()
        self.agents, self.occupants = list(agents), list(occupants)
        self.serials, self.done = dict(serials), done
        self.values, self.info, self.wide_masks = list(values), info, dict(masks)
        if turns is not None:
            self.turns.set_state(turns)
        for slot in range(self.num_slots):
            (self.ids[slot], self.returns[slot], self.lengths[slot], self.leaving[slot],
             self.terminated[slot], self.truncated[slot]) = slots[slot]
            if self.ids[slot] >= 0:
                self.slot_of[self.occupants[slot]] = slot
                self.codec_of[slot] = self._codec(self.occupants[slot])
        for i, agent in enumerate(self.agents):
            self.slots[i] = self.slot_of[agent]
        self._mark_acting()
        return 0

    cdef object _old(self):
        """Put the environment into an adaptor, because it has an old interface, and return that."""
        if not isinstance(self.parallel, OldParallelEnv):
            self.parallel = OldParallelEnv(self.parallel)
        return self.parallel

    # -- agents and slots ---------------------------------------------------------------------

    cdef int _take(self, observations, rewards, terminations, truncations, infos) except -1:
        """Hold the results of a step: first the transitions, then who is there now."""
        cdef Py_ssize_t i, slot, n = self.num_slots
        cdef bint all_flagged = True
        cdef list before = self.agents
        # Until all is well: what raises below leaves an episode that can't go on.
        self.agents, self.done = [], True
        for slot in range(n):
            if self.leaving[slot]:
                self._free(slot)
            elif self.terminated[slot] or self.truncated[slot]:
                self.returns[slot] = 0  # flagged, but it stayed: a new life
                self.lengths[slot] = 0
        memset(self.rewards, 0, n * sizeof(double))
        memset(self.terminated, 0, n)
        memset(self.truncated, 0, n)
        memset(self.valid, 0, n)
        now = self.parallel.agents
        here = None if same(before, now) else set(now)
        for i in range(PyList_GET_SIZE(before)):
            agent = <object>PyList_GET_ITEM(before, i)
            slot = self.slots[i]
            self.valid[slot] = self.turns is None or agent in self.turns.ended
            self.terminated[slot] = flag(terminations, agent)
            self.truncated[slot] = flag(truncations, agent)
            if here is not None and agent not in here:
                self.leaving[slot] = True
                if not self.terminated[slot]:
                    self.truncated[slot] = True
            self.rewards[slot] = self._reward(rewards, agent, slot)
            self.returns[slot] += self.rewards[slot]
            self.lengths[slot] += self.valid[slot]
        after = before if here is None else self._unique(now)
        if here is not None:
            for i, agent in enumerate(after):
                found = self.slot_of.get(agent)
                self.slots[i] = self._admit(agent) if found is None else found
        for i in range(len(after)):
            slot = self.slots[i]
            all_flagged = all_flagged and (self.terminated[slot] or self.truncated[slot])
        if all_flagged:  # some environments flag everybody at the end, but leave the list as it was
            for i in range(len(after)):
                self.leaving[self.slots[i]] = True
        else:
            self.agents, self.done = after, False
        self._mark_acting()
        self._observe(observations, infos)
        return 0

    cdef int _observe(self, observations, infos) except -1:
        """Hold observations and infos of all occupants."""
        cdef Py_ssize_t slot
        cdef PyObject* found
        self.all_infos = infos
        self.info = None
        self.wide_masks = {}
        for slot in range(self.num_slots):
            if self.ids[slot] < 0:
                continue
            agent = self.occupants[slot]
            found = PyDict_GetItemWithError(<PyObject*>observations, <PyObject*>agent)
            if found == NULL and self.acting[slot]:
                raise EmulationError(
                    f"agent {agent!r} is in env.agents, but has no observation; the observations "
                    f"are of {list(observations)}"
                )
            self.values[slot] = None if found == NULL else <object>found
            found = PyDict_GetItemWithError(<PyObject*>infos, <PyObject*>agent)
            if found != NULL and PyDict_Check(<object>found) and PyDict_GET_SIZE(found):
                if self.info is None:
                    self.info = {}
                self.info[slot] = <object>found
                if self.spaces.padded and (<Codec>self.codec_of[slot]).padded:
                    self._widen_mask(slot, agent)
        return 0

    cdef int _widen_mask(self, Py_ssize_t slot, agent) except -1:
        """Pad the action mask in an agent's info as its action space is padded."""
        cdef dict info = <dict>self.info[slot]
        cdef cnp.ndarray wide
        cdef Codec codec = <Codec>self.codec_of[slot]
        cdef Py_ssize_t num_masked = self.action_layout.num_masked
        mask = info.get(ACTION_MASK)
        if mask is None or not num_masked:
            return 0
        wide = np.zeros(num_masked, np.uint8)
        try:
            codec.write_mask(<PyObject*>mask, <uint8_t*>cnp.PyArray_DATA(wide))
        except Exception as error:
            raise EmulationError(f"agent {agent!r}: {error}") from error
        self.wide_masks[slot] = wide
        wide = wide.astype(mask.dtype if isinstance(mask, np.ndarray) else np.int8)
        self.info[slot] = {**info, ACTION_MASK: wide}
        self.all_infos = {**self.all_infos, agent: self.info[slot]}
        return 0

    cdef double _reward(self, rewards, agent, Py_ssize_t slot) except? -1:
        cdef PyObject* found = PyDict_GetItemWithError(<PyObject*>rewards, <PyObject*>agent)
        if found != NULL and PyFloat_CheckExact(<object>found):
            return PyFloat_AS_DOUBLE(found)
        try:
            value = rewards[agent]  # a defaultdict may know more
        except KeyError:
            if self.terminated[slot] or self.truncated[slot]:
                return 0
            raise EmulationError(
                f"agent {agent!r} is alive, but has no reward; the rewards are of {list(rewards)}"
            ) from None
        try:
            return as_number(value)
        except EmulationError as error:
            raise EmulationError(f"agent {agent!r}: {error}") from None

    cdef int _mark_acting(self) except -1:
        cdef Py_ssize_t i
        memset(self.acting, 0, self.num_slots)
        for i in range(PyList_GET_SIZE(self.agents)):
            self.acting[self.slots[i]] = self.turns is None or (
                self.agents[i] == self.turns.acting
            )
        return 0

    cdef list _unique(self, agents):
        """Return a checked copy of ``env.agents``."""
        copy = list(agents)
        if len(set(copy)) != len(copy):
            raise EmulationError(f"env.agents lists an agent twice: {copy}")
        return copy

    cdef Py_ssize_t _admit(self, agent) except -1:
        """Give `agent` a slot and return the slot."""
        cdef Py_ssize_t slot = self.spaces.slot(agent)
        if slot < 0:
            slot = 0
            while slot < self.num_slots and self.ids[slot] >= 0:
                slot += 1
            if slot == self.num_slots:
                ended = sum(self.leaving[i] for i in range(slot))
                raise EmulationError(
                    f"no slot for agent {agent!r}: all {slot} are taken"
                    + (f", {ended} of them by agents whose last row is due" if ended else "")
                    + "; give a larger max_agents"
                )
            self.ids[slot] = self.serials.setdefault(agent, len(self.serials))
        else:
            self.ids[slot] = slot
        self.occupants[slot] = agent
        self.slot_of[agent] = slot
        self.codec_of[slot] = self._codec(agent)
        return slot

    cdef int _free(self, Py_ssize_t slot) except -1:
        del self.slot_of[self.occupants[slot]]
        self.occupants[slot] = self.values[slot] = self.codec_of[slot] = None
        self.leaving[slot] = False
        self.ids[slot] = -1
        self.returns[slot] = 0
        self.lengths[slot] = 0
        return 0

    cdef int _vacate(self) except -1:
        """Free every slot; rewards, flags and statistics stay until `clear`."""
        cdef Py_ssize_t slot
        self.occupants = [None] * self.num_slots
        self.values = [None] * self.num_slots
        self.codec_of = [None] * self.num_slots
        self.agents = []
        self.slot_of = {}
        self.serials = {}
        memset(self.leaving, 0, self.num_slots)
        memset(self.acting, 0, self.num_slots)
        for slot in range(self.num_slots):
            self.ids[slot] = -1
        return 0

    cdef Codec _codec(self, agent):
        cdef Codec codec
        observation, action = layouts = self.spaces.layouts(agent)
        key = (observation, action.native)
        codec = self.codecs.get(key)
        if codec is None:
            wider = common.common_layouts([(self.observation_layout, self.action_layout), layouts])
            if wider[0] != self.observation_layout or wider[1].native != self.action_layout.native:
                if not self.growable:
                    raise EmulationError(
                        f"agent {agent!r}: its spaces don't fit the rows' layouts, which were made "
                        "for the agents known when the environment was emulated; give "
                        "pad=(observation_space, action_space) that are large enough"
                    )
                self._use(wider[0], wider[1])
            codec = Codec(observation, action, self.action_layout)
            self.codecs[key] = codec
            self.has_masks = self.has_masks or codec.mask_in_observation or codec.padded
            if observation != self.observation_layout or codec.padded:
                self.mixed = True
        return codec

    cdef int _use(self, observation_layout, action_layout) except -1:
        """Write rows of these layouts from now on."""
        self.observation_layout = observation_layout
        self.action_layout = action_layout
        self.row_nbytes = observation_layout.nbytes
        self.action_nbytes = action_layout.flat.nbytes
        self.codecs = {}
        for slot, agent in enumerate(self.occupants or ()):
            if self.codec_of[slot] is not None:
                self.codec_of[slot] = self._codec(agent)
        return 0


cdef bint all_dicts(result, Py_ssize_t count) noexcept:
    """Return whether `result` is a tuple of `count` dictionaries."""
    cdef Py_ssize_t i
    if not PyTuple_CheckExact(result) or PyTuple_GET_SIZE(result) != count:
        return False
    for i in range(count):
        if not PyDict_Check(<object>PyTuple_GET_ITEM(result, i)):
            return False
    return True


cdef bint same(list before, now) noexcept:
    """Return whether `now` lists the objects of `before`, in their order."""
    cdef Py_ssize_t i, n = PyList_GET_SIZE(before)
    if not PyList_Check(now) or PyList_GET_SIZE(now) != n:
        return False
    for i in range(n):
        if PyList_GET_ITEM(before, i) != PyList_GET_ITEM(now, i):
            return False
    return True


cdef bint flag(flags, agent) except -1:
    cdef PyObject* found = PyDict_GetItemWithError(<PyObject*>flags, <PyObject*>agent)
    return found != NULL and PyObject_IsTrue(<object>found)
