"""The inner loop over the environments of one process: in a worker, or of the serial backend.

`Stepper` runs one operation on one environment (step, reset, or keep what it last returned) and
writes the result to a place of the arena. What an environment raises never leaves it: the place is
filled with an invalid row and the failure is recorded, so that whoever waits for the batch gets it,
with the error beside it.

`serve` is a worker's life: wait for entries of its ring (see c/sync.h), run them in order, claim a
place for each when its step has returned, and report it.
"""

import time

import numpy as np

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from shoal.emulation.loop cimport Buffers, EnvLoop, Rows

__all__ = ["Stepper", "STEP", "RESET", "KEEP"]

STEP, RESET, KEEP = 0, 1, 2
cdef enum:
    OP_STEP = 0
    OP_RESET = 1
    OP_KEEP = 2

# An environment that fails this often in a row, with fewer than GOOD_STEPS steps between, is not
# worth restarting.
cdef int MOST_FAILURES = 5
cdef int GOOD_STEPS = 10


cdef class Stepper:
    """Runs the environments of one group, and writes to one arena.

    Args:
        group: an `EnvGroup`.
        arena: an attached `Arena`.
        worker: index of this process; 0 in the serial backend.
        restart: recreate an environment that raises, instead of reporting the error.
        profile: keep the times of `Arena` up to date.

    Attributes:
        failure: the first exception that an environment raised, with a note on where; or None.
        infos: (row of the arena, info) of what was written since the list was last taken.
    """

    cdef readonly object group, arena
    cdef public object failure
    cdef public list infos
    cdef EnvLoop loop
    cdef Rows* rows
    cdef Py_ssize_t agents, first
    cdef int worker
    cdef bint restart, profile
    cdef object buffers
    cdef int64_t[::1] counters, steps, failures
    cdef uint8_t[::1] lost
    cdef list seeds

    def __cinit__(self, group, arena, int worker, bint restart, bint profile):
        self.group = group
        self.arena = arena
        self.worker = worker
        self.restart = restart
        self.profile = profile
        self.loop = group.loop
        self.buffers = arena.buffers
        self.rows = &(<Buffers>arena.buffers).rows
        self.agents = arena.agents_per_env
        self.first = group.first
        self.counters = arena.arrays["counters"][worker]
        self.infos = []
        n = len(group.envs)
        self.seeds = [None] * n
        self.steps = np.zeros(n, np.int64)
        self.failures = np.zeros(n, np.int64)
        self.lost = np.zeros(n, np.uint8)

    def run_all(self, ops, dict requests, Py_ssize_t first_place):
        """One operation on every environment, to consecutive places.

        Args:
            ops: the operation, or one for each environment.
            requests: for each environment that is reset: (seed, options).
            first_place: of the first environment's results.
        """
        cdef Py_ssize_t env, end = self.first + len(self.seeds)
        cdef int op = -1 if isinstance(ops, np.ndarray) else ops
        for env in range(self.first, end):
            self.advance(ops[env] if op < 0 else op, env, requests)
            self.deliver(env, first_place + env - self.first)

    def take_infos(self):
        """The infos written since the last call: a list of (row, info)."""
        infos, self.infos = self.infos, []
        return infos

    cdef int advance(self, int op, Py_ssize_t env, dict requests) except -1:
        """Let the environment act; `deliver` writes what came of it."""
        cdef Py_ssize_t i = env - self.first
        cdef int64_t start = time.perf_counter_ns() if self.profile else 0
        try:
            if op == OP_STEP:
                self.loop.advance(i, self.rows, env * self.agents)
                self.steps[i] += 1
            elif op == OP_RESET:
                seed, options = requests[env]
                self.loop.begin(i, seed, options)
                self.seeds[i] = seed
                self.steps[i] = 0
        except Exception as error:
            self._failed(i, error)
        if self.profile:
            self.counters[0] += time.perf_counter_ns() - start
        return 0

    cdef int deliver(self, Py_ssize_t env, Py_ssize_t place) except -1:
        """Write what the environment holds into its rows of `place`."""
        cdef Py_ssize_t i = env - self.first
        cdef int64_t start = time.perf_counter_ns() if self.profile else 0
        if not self.lost[i]:
            try:
                self.loop.deliver(i, self.rows, place * self.agents)
                if self.loop.any_info or self.loop.any_final:
                    self._keep_infos(i, place)
            except Exception as error:
                self._failed(i, error)
        if self.lost[i]:
            lose_rows(self.rows, place * self.agents, self.agents)
            self.lost[i] = False
        if self.profile:
            self.counters[1] += time.perf_counter_ns() - start
        return 0

    cdef int _keep_infos(self, Py_ssize_t i, Py_ssize_t place) except -1:
        infos, final_infos = self.loop.take_infos()
        info = infos[i] if infos is not None else None
        if final_infos is not None:
            info = {"final_info": final_infos[i], **(info or {})}
        self.infos.append((place, info))
        return 0

    cdef int _failed(self, Py_ssize_t i, error) except -1:
        """The environment raised `error`: its rows are lost, and it is recreated or reported."""
        self.lost[i] = True
        self.failures[i] = self.failures[i] + 1 if self.steps[i] < GOOD_STEPS else 1
        if self.restart and self.failures[i] < MOST_FAILURES:
            self.counters[3] += 1
            try:
                self.group.recreate(i)
                self.steps[i] = 0
                return 0
            except Exception as another:
                error = another
        row = (self.first + i) * self.agents
        env = self.group.envs[i]
        action = self.arena.arrays["actions"][row : row + self.agents]
        error.add_note(
            f"raised by environment {self.first + i} (seed {self.seeds[i]}, "
            f"step {self.steps[i] + 1} since its reset, last action {action.tolist()})"
        )
        if self.failure is None:
            self.failure = error
        return 0


cdef void lose_rows(Rows* to, Py_ssize_t row, Py_ssize_t count) noexcept:
    """Write rows that carry nothing: invalid, and the episode cut off."""
    cdef Py_ssize_t i
    memset(to.observations + row * to.observation_nbytes, 0, count * to.observation_nbytes)
    memset(to.action_masks + row * to.num_masked, 1, count * to.num_masked)
    for i in range(row, row + count):
        to.rewards[i] = 0
        to.terminations[i] = False
        to.truncations[i] = True
        to.masks[i] = False
        to.acting[i] = False
        to.finals[i] = False
        to.agent_ids[i] = -1
        to.episode_returns[i] = 0
        to.episode_lengths[i] = 0
