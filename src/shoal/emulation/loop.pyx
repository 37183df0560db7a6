"""The compiled step loop: environments on one side, rows of arrays on the other.

`EnvLoop` steps environments one after the other and applies an autoreset mode. It decides nothing
about rows: `advance` runs the environment and holds what it returned, `deliver` writes that into
whichever rows the caller picks. So one loop serves a fixed row for each environment as well as
first-come batches, whose rows are known only when a step has ended.

Invariants:
- Between `advance` and `deliver` of an environment, no other environment of the loop is advanced
  (there is one scratch row for final observations).
- A true final observation is packed, and its info copied, before its environment is reset, because
  environments reuse their buffers.
"""

from cpython.dict cimport PyDict_Check, PyDict_CheckExact
from cpython.float cimport PyFloat_AsDouble, PyFloat_CheckExact
from cpython.object cimport PyObject, PyObject_IsTrue
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport numpy as cnp

from shoal.rows.borrowed cimport (
    PyArray_TYPE,
    PyDict_GET_SIZE,
    PyDict_Next,
    PyFloat_AS_DOUBLE,
    PyObject_CallMethodOneArg,
)
from shoal.rows.buffers cimport Buffers
from shoal.rows.codec cimport Decoder, MaskWriter, find
from shoal.rows.pack cimport Packer
from shoal.rows.rows cimport SHOAL_DISABLED, SHOAL_OWN, SHOAL_SAME_STEP, Rows

import copy
import warnings

import numpy as np

from shoal.errors import EmulationError

cnp.import_array()

__all__ = [
    "MAX_DICTS",
    "Driver",
    "EnvLoop",
    "SingleDriver",
    "checked_info",
    "copy_value",
    "items_of",
]

cdef enum:
    REPLACED = 2  # pending, and not by the end of an episode

# Types whose values never change, and need no copy.
cdef object UNCHANGING = frozenset(
    [bool, int, float, str, bytes, type(None), np.bool_, np.int64, np.float32, np.float64]
)

MAX_DICTS = 64  # of an info, one in the other
cdef int DEEPEST = MAX_DICTS

cdef object STEP = "step"
cdef object ACTION_MASK = "action_mask"
cdef object NOTHING = object()


cdef class Driver:
    """One environment as the loop sees it. Subclasses fill in the methods."""

    cdef int step(self, const Rows* source, Py_ssize_t row) except -1:
        raise NotImplementedError

    cdef int give(self, action) except -1:
        """Let the next step use the object `action` instead of the action in the row."""
        raise EmulationError("only single-agent environments take actions as objects")

    cdef int reset(self, seed, options, bint explicit) except -1:
        """Reset the environment and hold its first observations.

        The transition of the last step is kept (a SAME_STEP reset delivers both together). Without
        `explicit`, seed and options are passed on only if they are given.
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
        """Return what this driver remembers of the episode, the last observation included."""
        raise NotImplementedError

    cdef int set_state(self, state) except -1:
        """Continue from what `get_state` returned."""
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


cdef double as_number(value) except? -1:
    """Return a reward as a float; an array of one element counts as its element."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    try:
        return PyFloat_AsDouble(value)
    except TypeError:
        raise EmulationError(
            f"reward: expected a number, got {value!r} ({type(value).__name__})"
        ) from None


cpdef dict checked_info(object info):
    """Return an info as a dict: itself, if it is one.

    Raises:
        EmulationError: `info` is not a dict (and has no `items` that gives one), or dicts in it are
            nested deeper than `MAX_DICTS`.
    """
    cdef dict checked = <dict>info if PyDict_CheckExact(info) else dict_of(info)
    check_dicts(checked, 1)
    return checked


cdef int check_dicts(dict info, int depth) except -1:
    cdef Py_ssize_t position = 0
    cdef PyObject* key
    cdef PyObject* value
    if depth > DEEPEST:
        raise EmulationError(f"info: dicts may be nested {MAX_DICTS} deep, this one goes deeper")
    while PyDict_Next(<PyObject*>info, &position, &key, &value):
        if PyDict_CheckExact(<object>value):
            check_dicts(<dict><object>value, depth + 1)
        elif PyDict_Check(<object>value):
            check_dicts(dict_of(<object>value), depth + 1)
    return 0


cdef dict dict_of(info):
    try:
        return dict(items_of(info))
    except EmulationError:
        raise
    except Exception as error:
        raise EmulationError(
            f"info: expected a dict, got {type(info).__name__}, whose items can't be read "
            f"({type(error).__name__}: {error})"
        ) from error


def items_of(info):
    """Return ``info.items()``; raise EmulationError if `info` has none."""
    try:
        return info.items()
    except AttributeError:
        raise EmulationError(f"info: expected a dict, got {type(info).__name__}") from None


cpdef object copy_value(value):
    """Return a copy of `value` that stays as it is when an environment writes into `value` again.

    An object that can't be copied becomes its repr, with a warning, as in infos from workers. Dicts
    must not be nested deeper than `checked_info` allows.
    """
    kind = type(value)
    if kind in UNCHANGING:
        return value
    if kind is cnp.ndarray and cnp.PyArray_TYPE(value) != cnp.NPY_OBJECT:
        return value.copy()
    if isinstance(value, dict):
        return {key: copy_value(item) for key, item in value.items()}
    try:
        return copy.deepcopy(value)
    except Exception as error:
        warnings.warn(
            f"info: {kind.__module__}.{kind.__qualname__} cannot be copied and is replaced by its "
            f"repr: {error}",
            RuntimeWarning,
        )
        return repr(value)


cdef class EnvLoop:
    """Steps environments one after the other, with one autoreset mode.

    Args:
        drivers: one `Driver` for each environment, all with the same number of agents and layouts.
        observation_nbytes: bytes of one row of observations.
        mode: of `shoal.rows.fields`. ``NEXT_STEP``, ``SAME_STEP`` and ``DISABLED`` have
            Gymnasium's meaning. In ``OWN``, environments are never reset, and stepped from the
            start and past ends of episodes.
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
        memset(self.pending, mode != SHOAL_OWN, self.num_envs)

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
        """Return what the loop remembers of environment `i`."""
        return {"pending": self.pending[i], "options": self.options[i],
                "driver": (<Driver>self.drivers[i]).get_state()}

    def set_state(self, Py_ssize_t i, state):
        """Continue from what `get_state` returned."""
        self.pending[i] = state["pending"]
        self.options[i] = state["options"]
        (<Driver>self.drivers[i]).set_state(state["driver"])

    def take_infos(self):
        """Return (infos, final infos) of the steps since the last call; None if there are none."""
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
            if self.mode == SHOAL_DISABLED and self.pending[i] != REPLACED:
                raise EmulationError(
                    "step: the episode is over (or never began); reset the environment first"
                )
            driver.reset(None, self.options[i], False)
            driver.clear(False)
            self.pending[i] = False
        else:
            if self.mode == SHOAL_OWN and driver.done:
                driver.clear(True)  # statistics are those of the next episode
            driver.step(source, row)
            if driver.done:
                if self.mode == SHOAL_SAME_STEP:
                    driver.write_observations(self.finals)
                    self.finished[i] = True
                    self.final_infos[i] = self._last_info(driver.info)
                    self.any_final = True
                    driver.reset(None, self.options[i], False)
                elif self.mode != SHOAL_OWN:
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

    cdef object _last_info(self, info):
        """Return a copy of the info that ended an episode: the reset may write into it."""
        if self.agents_per_env == 1 and info is not None:
            return copy_value(checked_info(info))
        return {slot: copy_value(checked_info(one)) for slot, one in (info or {}).items()}

    cdef int _keep_info(self, Py_ssize_t i, info) except -1:
        if info is not None and (not PyDict_Check(info) or PyDict_GET_SIZE(<PyObject*>info)):
            self.infos[i] = info
            self.any_info = True
        return 0
