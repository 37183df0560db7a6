"""The compiled step loop: environments on one side, rows of arrays on the other.

`EnvLoop` steps environments one after the other and applies an autoreset mode. It decides nothing
about rows: `advance` runs the environment and holds what it returned, `deliver` writes that into
whichever rows the caller picks. So one loop serves a fixed row for each environment as well as
first-come batches, whose rows are known only when a step has ended.

Invariants:
- Between `advance` and `deliver` of an environment, no other environment of the loop is advanced
  (there is one scratch row for final observations).
- A true final observation is packed before its environment is reset, because environments reuse
  their buffers.
"""

from cpython.dict cimport PyDict_Check
from cpython.float cimport PyFloat_AsDouble, PyFloat_CheckExact
from cpython.object cimport PyObject, PyObject_IsTrue
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport rint
from libc.stdint cimport (
    int8_t,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport numpy as cnp

import numpy as np

from shoal.rows import actions as action_rules
from shoal.rows.fields import row_fields
from shoal.errors import EmulationError, LayoutError

cnp.import_array()

__all__ = [
    "Bounds",
    "Buffers",
    "Decoder",
    "Driver",
    "EnvLoop",
    "SingleDriver",
    "NEXT_STEP",
    "SAME_STEP",
    "DISABLED",
    "OWN",
]

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(PyObject* mapping, PyObject* key) except? NULL
    Py_ssize_t PyDict_GET_SIZE(PyObject* mapping)
    object PyObject_CallMethodOneArg(object target, object name, object argument)
    double PyFloat_AS_DOUBLE(PyObject* value)

NEXT_STEP, SAME_STEP, DISABLED, OWN = 0, 1, 2, 3
cdef enum:
    MODE_NEXT_STEP = 0
    MODE_SAME_STEP = 1
    MODE_DISABLED = 2
    MODE_OWN = 3
    REPLACED = 2  # pending, and not by the end of an episode

cdef object STEP = "step"
cdef object ACTION_MASK = "action_mask"
cdef object NOTHING = object()


cdef class Buffers:
    """Rows of agents for the loop to read and write.

    Args:
        observation_layout, action_layout: what the rows hold.
        arrays: for each name of `row_fields`, an array of shape ``(num_rows, *shape)``:
            C-contiguous, aligned, writeable. They are kept alive, not copied. ``actions`` may have
            another number of rows, where results don't go to the rows their actions came from.

    Raises:
        LayoutError: an array is missing or unsuitable; nothing is written.
    """

    def __cinit__(self, observation_layout, action_layout, dict arrays):
        fields = row_fields(observation_layout, action_layout)
        self.num_rows = len(arrays["observations"])
        self.arrays = arrays
        for name, (dtype, shape) in fields.items():
            array = arrays.get(name)
            count = self.num_rows
            if name == "actions" and isinstance(array, np.ndarray):
                count = len(array)
            wanted = (count, *shape)
            if not isinstance(array, np.ndarray) or array.shape != wanted or array.dtype != dtype:
                got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else array
                raise LayoutError(f"buffer {name!r}: expected {dtype} {wanted}, got {got}")
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned and flags.writeable):
                raise LayoutError(
                    f"buffer {name!r}: expected a C-contiguous, aligned, writeable array"
                )
        self.rows.observations = address(arrays["observations"])
        self.rows.final_observations = address(arrays["final_observations"])
        self.rows.actions = address(arrays["actions"])
        self.rows.rewards = <double*>address(arrays["rewards"])
        self.rows.terminations = <uint8_t*>address(arrays["terminations"])
        self.rows.truncations = <uint8_t*>address(arrays["truncations"])
        self.rows.masks = <uint8_t*>address(arrays["masks"])
        self.rows.acting = <uint8_t*>address(arrays["acting"])
        self.rows.occupants = <int64_t*>address(arrays["occupants"])
        self.rows.action_masks = <uint8_t*>address(arrays["action_masks"])
        self.rows.finals = <uint8_t*>address(arrays["finals"])
        self.rows.episode_returns = <double*>address(arrays["episode_returns"])
        self.rows.episode_lengths = <int64_t*>address(arrays["episode_lengths"])
        self.rows.observation_nbytes = observation_layout.nbytes
        self.rows.action_nbytes = action_layout.flat.nbytes
        self.rows.num_masked = action_layout.num_masked


cdef char* address(cnp.ndarray array):
    return cnp.PyArray_BYTES(array)


ctypedef fused number:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double


cdef bint inside(const number* at, const char* low, const char* high, Py_ssize_t count) noexcept:
    cdef Py_ssize_t i
    for i in range(count):  # NaN compares as False, and so is outside
        if not (at[i] >= (<const number*>low)[i] and at[i] <= (<const number*>high)[i]):
            return False
    return True


cdef bint within(const Range* leaf, const char* at) noexcept:
    cdef int kind = leaf.type_num
    if kind == cnp.NPY_INT64:
        return inside(<const int64_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_FLOAT32:
        return inside(<const float*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_FLOAT64:
        return inside(<const double*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_INT8:
        return inside(<const int8_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT8 or kind == cnp.NPY_BOOL:
        return inside(<const uint8_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_INT16:
        return inside(<const int16_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT16:
        return inside(<const uint16_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_INT32:
        return inside(<const int32_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT32:
        return inside(<const uint32_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT64:
        return inside(<const uint64_t*>at, leaf.low, leaf.high, leaf.count)
    return False  # float16: C has no such type


cdef bint all_inside(
    const uint64_t* at, uint64_t low, uint64_t high, Py_ssize_t count
) noexcept:
    """`inside` for rows of one int64 with a range of less than 2**62, without a branch: outside of
    it one of the two differences is negative."""
    cdef Py_ssize_t i
    cdef uint64_t signs = 0
    if high - low >= <uint64_t>1 << 62:
        for i in range(count):
            if not (<int64_t>low <= <int64_t>at[i] <= <int64_t>high):
                return False
        return True
    for i in range(count):
        signs |= (at[i] - low) | (high - at[i])
    return signs >> 63 == 0


cdef class Bounds:
    """Tells whether rows are within the bounds of their layout, a whole batch at a time.

    Args:
        layout: a `Layout` in the ``bytes`` form.
    """

    def __cinit__(self, layout):
        cdef Py_ssize_t i
        self.keep = []
        self.dtype = layout.dtype
        self.num_dims = len(layout.shape)
        self.num_ranges = len(layout.leaves)
        self.row_nbytes = layout.nbytes
        self.alignment = 1
        self.shape = <Py_ssize_t*>calloc(self.num_dims + 1, sizeof(Py_ssize_t))
        self.ranges = <Range*>calloc(self.num_ranges + 1, sizeof(Range))
        if self.shape == NULL or self.ranges == NULL:
            raise MemoryError
        for i in range(self.num_dims):
            self.shape[i] = layout.shape[i]
        for i in range(self.num_ranges):
            leaf = layout.leaves[i]
            low, high = (
                np.ascontiguousarray(np.broadcast_to(bound, leaf.shape), leaf.dtype)
                for bound in (leaf.low, leaf.high)
            )
            self.keep += [low, high]
            self.ranges[i].type_num = low.dtype.num
            self.ranges[i].offset = leaf.offset
            self.ranges[i].count = leaf.count
            self.ranges[i].low = address(low)
            self.ranges[i].high = address(high)
            self.alignment = max(self.alignment, low.dtype.alignment)

    def __dealloc__(self):
        free(self.shape)
        free(self.ranges)

    cpdef bint hold(self, array):
        """True if `array` has shape ``(*batch, *layout.shape)`` and all of it is within bounds.

        False also where this can't tell: arrays of float16, or not contiguous, or misaligned.
        """
        cdef Py_ssize_t i, row, num_rows, batch_dims
        cdef const char* at
        if type(array) is not cnp.ndarray or array.dtype is not self.dtype:
            return False
        batch_dims = cnp.PyArray_NDIM(array) - self.num_dims
        if batch_dims < 0 or not cnp.PyArray_IS_C_CONTIGUOUS(array):
            return False
        for i in range(self.num_dims):
            if cnp.PyArray_DIM(array, batch_dims + i) != self.shape[i]:
                return False
        at = cnp.PyArray_BYTES(array)
        if <size_t>at % <size_t>self.alignment:
            return False
        num_rows = cnp.PyArray_NBYTES(array) // self.row_nbytes if self.row_nbytes else 0
        if self.num_ranges == 1 and self.row_nbytes == 8 and (
            self.ranges[0].type_num == cnp.NPY_INT64
        ):
            return all_inside(
                <const uint64_t*>at, (<uint64_t*>self.ranges[0].low)[0],
                (<uint64_t*>self.ranges[0].high)[0], num_rows,
            )
        for row in range(num_rows):
            for i in range(self.num_ranges):
                if not within(&self.ranges[i], at + self.ranges[i].offset):
                    return False
            at += self.row_nbytes
        return True


cdef class Decoder:
    """Makes the environment's own actions from flat rows; see `ActionLayout.decode`."""

    def __cinit__(self, layout):
        cdef Py_ssize_t i, j, count, at = 0
        self.packer = layout.native.packer
        self.identity = layout.identity
        if layout.identity:
            return
        runs = layout.runs()
        if any(run[0] not in COMPILED or run[1] not in COMPILED for run in runs):
            self.layout = layout
        self.flat_array = layout.flat.zeros()
        self.native_array = np.zeros(max(layout.native.native_nbytes, 1), np.uint8)
        self.native = address(self.native_array)
        self.num_runs = len(runs)
        self.runs = <Run*>calloc(len(runs) + 1, sizeof(Run))
        self.bounds = <double*>calloc(2 * sum(run[4] for run in runs) + 1, sizeof(double))
        if self.runs == NULL or self.bounds == NULL:
            raise MemoryError
        for i, (source, target, source_offset, target_offset, count, low, high) in enumerate(runs):
            self.runs[i].from_type = np.dtype(source).num
            self.runs[i].to_type = np.dtype(target).num
            self.runs[i].from_offset = source_offset
            self.runs[i].to_offset = target_offset
            self.runs[i].count = count
            self.runs[i].low = self.bounds + at
            self.runs[i].high = self.bounds + at + count
            for j in range(count):
                self.bounds[at + j] = low[j]
                self.bounds[at + count + j] = high[j]
            at += 2 * count

    def __dealloc__(self):
        free(self.runs)
        free(self.bounds)

    cdef object decode(self, const char* row):
        cdef Py_ssize_t i
        if self.identity:
            return self.packer.unpack_row(row)
        if self.layout is not None:
            memcpy(address(self.flat_array), row, self.flat_array.nbytes)
            return self.layout.decode(self.flat_array)
        for i in range(self.num_runs):
            convert(&self.runs[i], row, self.native)
        return self.packer.unpack_row(self.native)


COMPILED = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    + ["float32", "float64"]
)


cdef void convert(const Run* run, const char* flat, char* native) noexcept nogil:
    """Convert one run. Discrete values (int64) were checked; continuous ones are clipped.

    The bounds, which are floats, lie within those of the type: see `float_bounds`.
    """
    cdef Py_ssize_t i
    cdef const char* source = flat + run.from_offset
    cdef char* to = native + run.to_offset
    cdef double value
    cdef int64_t number
    for i in range(run.count):
        if run.from_type == cnp.NPY_INT64:
            number = (<const int64_t*>source)[i]
        else:
            if run.from_type == cnp.NPY_FLOAT32:
                value = (<const float*>source)[i]
            else:
                value = (<const double*>source)[i]
            value = min(max(value, run.low[i]), run.high[i])
            if run.to_type == cnp.NPY_FLOAT32:
                (<float*>to)[i] = <float>value
                continue
            if run.to_type == cnp.NPY_FLOAT64:
                (<double*>to)[i] = value
                continue
            if run.to_type == cnp.NPY_UINT64:  # the only type whose values int64 can't hold
                (<uint64_t*>to)[i] = <uint64_t>rint(value)
                continue
            number = <int64_t>rint(value)
        if run.to_type == cnp.NPY_INT64 or run.to_type == cnp.NPY_UINT64:
            (<int64_t*>to)[i] = number
        elif run.to_type == cnp.NPY_INT32 or run.to_type == cnp.NPY_UINT32:
            (<int32_t*>to)[i] = <int32_t>number
        elif run.to_type == cnp.NPY_INT16 or run.to_type == cnp.NPY_UINT16:
            (<int16_t*>to)[i] = <int16_t>number
        else:
            (<int8_t*>to)[i] = <int8_t>number


cdef class MaskWriter:
    """Writes action masks as rows of bools, one entry for each category of each discrete leaf."""

    def __cinit__(self, layout):
        self.layout = layout
        self.num_masked = layout.num_masked
        self.parts = layout.mask_parts if self.num_masked else []  # together not longer than that

    cdef int write(self, PyObject* mask, uint8_t* to) except -1:
        if mask == NULL or <object>mask is None:
            memset(to, 1, self.num_masked)
            return 0
        value = <object>mask
        if not (copy_mask(value, self.num_masked, to) or self._write_parts(value, to)):
            copy_mask(action_rules.flat_mask(self.layout, value), self.num_masked, to)
        return 0

    cdef bint _write_parts(self, mask, uint8_t* to) except -1:
        """Write a mask that is nested as the actions are, if all its parts can be copied."""
        cdef Py_ssize_t count
        cdef PyObject* found
        for keys, _, count in self.parts:
            part = mask
            for key in keys:
                found = find(part, key)
                if found == NULL:
                    return False
                part = <object>found
            if not copy_mask(part, count, to):
                return False
            to += count
        return True


cdef bint copy_mask(mask, Py_ssize_t count, uint8_t* to) noexcept:
    """Write a mask of `count` entries, if it is a contiguous array of bytes."""
    cdef Py_ssize_t i
    cdef const int8_t* entries
    if type(mask) is not cnp.ndarray or cnp.PyArray_ITEMSIZE(mask) != 1 or (
        cnp.PyArray_SIZE(mask) != count or not cnp.PyArray_IS_C_CONTIGUOUS(mask)
    ):
        return False
    entries = <const int8_t*>cnp.PyArray_BYTES(mask)
    for i in range(count):
        to[i] = entries[i] != 0
    return True


cdef class Driver:
    """One environment as the loop sees it. Subclasses fill in the methods."""

    cdef int step(self, const Rows* source, Py_ssize_t row) except -1:
        raise NotImplementedError

    cdef int give(self, action) except -1:
        """Let the next step use this action as it stands, instead of that in the row."""
        raise EmulationError("only single-agent environments take actions as objects")

    cdef int reset(self, seed, options, bint explicit) except -1:
        """Reset the environment and hold its first observations.

        The transition of the last step is kept (a SAME_STEP reset delivers both together). Without
        `explicit`, seed and options are passed on only where they are given.
        """
        raise NotImplementedError

    cdef int clear(self, bint valid) except -1:
        """Forget the last transition: rewards and flags are zero, masks are `valid`."""
        raise NotImplementedError

    cdef int write(self, Rows* to, Py_ssize_t row) except -1:
        """Write everything held into `agents_per_env` rows of `to`, from `row` on."""
        raise NotImplementedError

    cdef int write_observations(self, char* to) except -1:
        """Write only the observations, to consecutive rows at `to`."""
        raise NotImplementedError

    cdef object get_state(self):
        """What this driver itself remembers of the episode, the last observation included."""
        raise NotImplementedError

    cdef int set_state(self, state) except -1:
        """Go on from what `get_state` returned."""
        raise NotImplementedError


cdef class SingleDriver(Driver):
    """Drives an environment with Gymnasium's interface.

    Args:
        env: has ``reset(seed=, options=)`` with two results and ``step(action)`` with five.
        observation_layout, action_layout: of its spaces.
    """

    cdef public object env
    cdef readonly double reward
    cdef readonly bint terminated, truncated
    cdef Packer packer
    cdef Decoder decoder
    cdef MaskWriter masks
    cdef object observation
    cdef object given           # the next action, as an object; NOTHING: it is in the row
    cdef double episode_return
    cdef int64_t episode_length
    cdef bint valid

    def __cinit__(self, env, observation_layout, action_layout):
        self.env = env
        self.agents_per_env = 1
        self.given = NOTHING
        self.packer = observation_layout.packer
        self.decoder = Decoder(action_layout)
        self.masks = MaskWriter(action_layout)

    cdef int step(self, const Rows* source, Py_ssize_t row) except -1:
        cdef PyObject* reward
        if self.given is NOTHING:
            action = self.decoder.decode(source.actions + row * source.action_nbytes)
        else:
            action, self.given = self.given, NOTHING
        result = PyObject_CallMethodOneArg(self.env, STEP, action)
        if not PyTuple_CheckExact(result) or PyTuple_GET_SIZE(result) != 5:
            raise EmulationError(
                "step: expected (observation, reward, terminated, truncated, info), got "
                + (f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__)
            )
        self.observation = <object>PyTuple_GET_ITEM(result, 0)
        reward = <PyObject*>PyTuple_GET_ITEM(result, 1)
        if PyFloat_CheckExact(<object>reward):
            self.reward = PyFloat_AS_DOUBLE(reward)
        else:
            self.reward = as_number(<object>reward)
        self.terminated = PyObject_IsTrue(<object>PyTuple_GET_ITEM(result, 2))
        self.truncated = PyObject_IsTrue(<object>PyTuple_GET_ITEM(result, 3))
        self.info = <object>PyTuple_GET_ITEM(result, 4)
        self.done = self.terminated or self.truncated
        self.valid = True
        self.episode_return += self.reward
        self.episode_length += 1
        return 0

    cdef int give(self, action) except -1:
        self.given = action
        return 0

    cdef int reset(self, seed, options, bint explicit) except -1:
        if explicit:
            result = self.env.reset(seed=seed, options=options)
        elif options is not None:
            result = self.env.reset(options=options)
        else:
            result = self.env.reset()
        if not isinstance(result, tuple) or len(result) != 2:
            raise EmulationError(
                f"reset: expected (observation, info), got {type(result).__name__}"
            )
        self.observation, self.info = result
        self.given = NOTHING  # was for a step, which has become this reset
        self.done = False
        return 0

    cdef int clear(self, bint valid) except -1:
        self.reward = 0
        self.episode_return = 0
        self.episode_length = 0
        self.terminated = self.truncated = False
        self.valid = valid
        return 0

    cdef int write(self, Rows* to, Py_ssize_t row) except -1:
        cdef PyObject* mask
        self.write_observations(to.observations + row * to.observation_nbytes)
        to.rewards[row] = self.reward
        to.terminations[row] = self.terminated
        to.truncations[row] = self.truncated
        to.masks[row] = self.valid
        to.acting[row] = not self.done
        to.occupants[row] = 0
        to.episode_returns[row] = self.episode_return
        to.episode_lengths[row] = self.episode_length
        if to.num_masked:
            mask = find(self.observation, ACTION_MASK)
            if mask == NULL:
                mask = find(self.info, ACTION_MASK)
            self.masks.write(mask, to.action_masks + row * to.num_masked)
        return 0

    cdef int write_observations(self, char* to) except -1:
        return self.packer.pack_row(<PyObject*>self.observation, to)

    cdef object get_state(self):
        return [self.observation, self.reward, self.terminated, self.truncated, self.info,
                self.episode_return, self.episode_length]

    cdef int set_state(self, state) except -1:
        (self.observation, self.reward, self.terminated, self.truncated, self.info,
         self.episode_return, self.episode_length) = state
        self.done = self.terminated or self.truncated
        return 0


cdef PyObject* find(mapping, key) except? NULL:
    """``mapping.get(key)`` of a dict, else NULL; borrowed."""
    if PyDict_Check(mapping) and PyDict_GET_SIZE(<PyObject*>mapping):
        return PyDict_GetItemWithError(<PyObject*>mapping, <PyObject*>key)
    return NULL


cdef double as_number(value) except? -1:
    try:
        return PyFloat_AsDouble(value)
    except TypeError:
        raise EmulationError(
            f"reward: expected a number, got {value!r} ({type(value).__name__})"
        ) from None


cdef object copy_info(info):
    """An info that outlives the reset: some environments fill the same dict again.

    Two levels, since the info of several agents is a dict of their infos.
    """
    if not isinstance(info, dict):
        return info
    return {key: dict(value) if isinstance(value, dict) else value for key, value in info.items()}


cdef class EnvLoop:
    """Steps environments one after the other, with one autoreset mode.

    Args:
        drivers: one `Driver` for each environment, all with the same number of agents and layouts.
        observation_nbytes: bytes of one row of observations.
        mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``, with Gymnasium's meaning; or ``OWN``:
            environments are never reset, and stepped from the start and past ends of episodes.
    """

    def __cinit__(self, list drivers, Py_ssize_t observation_nbytes, int mode):
        cdef Driver first = drivers[0]
        self.drivers = drivers
        self.num_envs = len(drivers)
        self.agents_per_env = first.agents_per_env
        self.mode = mode
        self.infos = [None] * self.num_envs
        self.final_infos = [None] * self.num_envs
        self.options = [None] * self.num_envs
        self.finals_nbytes = observation_nbytes * self.agents_per_env
        self.pending = <uint8_t*>calloc(self.num_envs + 1, 1)
        self.finished = <uint8_t*>calloc(self.num_envs + 1, 1)
        self.finals = <char*>calloc(self.finals_nbytes + 1, 1)
        if self.pending == NULL or self.finished == NULL or self.finals == NULL:
            raise MemoryError
        memset(self.pending, mode != MODE_OWN, self.num_envs)

    def __dealloc__(self):
        free(self.pending)
        free(self.finished)
        free(self.finals)

    def reset(self, Py_ssize_t i, seed, options, Buffers to, Py_ssize_t row):
        """Reset environment `i` on request and write its rows from `row` on."""
        self.begin(i, seed, options)
        self.deliver(i, &to.rows, row)

    def step(self, Buffers rows):
        """Step all environments; environment i has rows ``i * agents_per_env`` and on."""
        cdef Py_ssize_t i
        for i in range(self.num_envs):
            self.advance(i, &rows.rows, i * self.agents_per_env)
            self.deliver(i, &rows.rows, i * self.agents_per_env)

    def replace(self, Py_ssize_t i, Driver driver):
        """Put another environment in the place of number `i`; its next step resets it."""
        self.drivers[i] = driver
        self.pending[i] = REPLACED
        self.finished[i] = False

    def get_state(self, Py_ssize_t i):
        """What the loop remembers of environment `i`."""
        return {"pending": self.pending[i], "options": self.options[i],
                "driver": (<Driver>self.drivers[i]).get_state()}

    def set_state(self, Py_ssize_t i, state):
        """Go on from what `get_state` returned."""
        self.pending[i] = state["pending"]
        self.options[i] = state["options"]
        (<Driver>self.drivers[i]).set_state(state["driver"])

    def take_infos(self):
        """(infos, final infos) of the steps since the last call; None where there are none."""
        infos = final_infos = None
        if self.any_info:
            infos, self.infos, self.any_info = self.infos, [None] * self.num_envs, False
        if self.any_final:
            final_infos, self.final_infos = self.final_infos, [None] * self.num_envs
            self.any_final = False
        return infos, final_infos

    cdef int begin(self, Py_ssize_t i, seed, options) except -1:
        """Reset environment `i` on request; `deliver` writes its first observations."""
        cdef Driver driver = self.drivers[i]
        self.current = i
        driver.reset(seed, options, True)
        driver.clear(True)
        self.pending[i] = False
        self.finished[i] = False
        self._keep_info(i, driver.info)
        return 0

    cdef int advance(self, Py_ssize_t i, const Rows* source, Py_ssize_t row) except -1:
        """Step environment `i` with the actions in its rows of `source` (or reset it, if due)."""
        cdef Driver driver = <Driver>self.drivers[i]
        self.current = i
        if self.pending[i]:
            if self.mode == MODE_DISABLED and self.pending[i] != REPLACED:
                raise EmulationError(
                    "step: the episode is over (or never began); reset the environment first"
                )
            driver.reset(None, self.options[i], False)
            driver.clear(False)
            self.pending[i] = False
        else:
            if self.mode == MODE_OWN and driver.done:
                driver.clear(True)  # statistics are those of the next episode
            driver.step(source, row)
            if driver.done:
                if self.mode == MODE_SAME_STEP:
                    driver.write_observations(self.finals)
                    self.finished[i] = True
                    self.final_infos[i] = copy_info(driver.info)
                    self.any_final = True
                    driver.reset(None, self.options[i], False)
                elif self.mode != MODE_OWN:
                    self.pending[i] = True
        self._keep_info(i, driver.info)
        return 0

    cdef int give(self, Py_ssize_t i, action) except -1:
        """Let environment `i` use this action in its next step."""
        return (<Driver>self.drivers[i]).give(action)

    cdef int deliver(self, Py_ssize_t i, Rows* to, Py_ssize_t row) except -1:
        """Write what environment `i` holds into its rows of `to`, from `row` on."""
        cdef Driver driver = <Driver>self.drivers[i]
        driver.write(to, row)
        memset(to.finals + row, self.finished[i], self.agents_per_env)
        if self.finished[i]:
            memcpy(to.final_observations + row * to.observation_nbytes, self.finals,
                   self.finals_nbytes)
            self.finished[i] = False
            driver.clear(True)  # a new episode: its statistics start at zero
        return 0

    cdef int _keep_info(self, Py_ssize_t i, info) except -1:
        if info is not None and (not PyDict_Check(info) or PyDict_GET_SIZE(<PyObject*>info)):
            self.infos[i] = info
            self.any_info = True
        return 0
