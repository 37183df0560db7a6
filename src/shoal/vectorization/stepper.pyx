"""The inner loop over the environments of one process: in a worker, or of the serial backend.

`Stepper` runs one operation on one environment (step, reset, or keep what it last returned) and
writes the result to a place of the arena. What an environment raises never leaves it: the place is
filled with an invalid row and the failure is recorded, so that whoever waits for the batch gets it,
with the error beside it.

`serve` is a worker's life: wait for entries of its ring (see c/sync.h), run them in order, claim a
place for each when its step has returned, and report it.
"""

import time
from collections.abc import Callable

import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cimport numpy as cnp

from shoal.emulation.loop cimport EnvLoop, copy_value
from shoal.rows.bounds cimport Bounds
from shoal.rows.buffers cimport Buffers
from shoal.rows.rows cimport SHOAL_GIVEN, SHOAL_KEEP, SHOAL_RESET, SHOAL_STEP, Rows
from shoal.vectorization.info_slots cimport InfoWriter
from shoal.vectorization.infos cimport add_info, checked_info
from shoal.vectorization.sync cimport Worker

from shoal.vectorization.sync import COMMAND, INTERRUPTED, OK
from shoal.vectorization.workers.group import add_note

cnp.import_array()

__all__ = [
    "EpisodeLog",
    "Stepper",
    "collect",
    "serve",
    "lose_places",
    "put_actions",
    "CALL",
    "GOOD_STEPS",
    "MOST_FAILURES",
    "TOO_MANY",
]

CALL = 0  # the one command that a worker knows

# An environment that fails this often in a row, with fewer than GOOD_STEPS steps between, is not
# worth restarting.
MOST_FAILURES = 5
GOOD_STEPS = 10
TOO_MANY = (
    f"on_error='restart' gave up: {MOST_FAILURES} failures in a row, with fewer than "
    f"{GOOD_STEPS} steps between"
)


cdef int64_t nanoseconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef struct Env:
    # What is remembered of one environment.
    int64_t steps       # since it was told to reset
    int64_t failures    # in a row
    int64_t good        # steps since the last failure
    bint lost           # its next result carries nothing
    bint owing          # its next step only says that an episode has been lost


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
        infos: (row of the arena, info) of what was delivered since the list was last taken.
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
    cdef int64_t* counters
    cdef list seeds
    cdef Env* envs

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
        counters = arena.arrays["counters"][worker]
        self.counters = <int64_t*>cnp.PyArray_DATA(counters)
        self.infos = []
        n = len(group.envs)
        self.seeds = [None] * n
        self.envs = <Env*>calloc(n + 1, sizeof(Env))
        if self.envs == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.envs)

    def owe(self, envs):
        """Let the next step of these environments only say that an episode has been lost."""
        for env in envs:
            self.envs[env - self.first].owing = True

    def run_all(self, ops, dict requests, Py_ssize_t first_place):
        """One operation on every environment, to consecutive places.

        Args:
            ops: the operation, or one for each environment.
            requests: for each environment that is reset: (seed, options); that is given an action:
                the action.
            first_place: of the first environment's results.
        """
        cdef Py_ssize_t env, end = self.first + len(self.seeds)
        cdef int op = -1 if isinstance(ops, np.ndarray) else ops
        for env in range(self.first, end):
            self.advance(ops[env] if op < 0 else op, env, requests)
            self.deliver(ops[env] if op < 0 else op, env, first_place + env - self.first)

    def take_infos(self, Py_ssize_t first_row, Py_ssize_t num_rows):
        """The infos delivered since the last call, as Gymnasium's vectors give them."""
        infos = {}
        for row, info in self.infos:
            if info:
                # A copy, because the environment may write into its values again.
                add_info(infos, copy_value(info), row - first_row, num_rows)
        self.infos.clear()
        return infos

    def take_each_info(self, Py_ssize_t first_row, Py_ssize_t num_rows):
        """The same as a list: for each row, a copy of the dict that the environment returned."""
        each = [{} for _ in range(num_rows)]
        for row, info in self.infos:
            if info:
                each[row - first_row] = copy_value(info)
        self.infos.clear()
        return each

    cdef int advance(self, int op, Py_ssize_t env, dict requests) except -1:
        """Let the environment act; `deliver` writes what came of it."""
        cdef Py_ssize_t i = env - self.first
        cdef int64_t start = nanoseconds() if self.profile else 0
        if self.envs[i].owing:
            self.envs[i].owing = False
            if op != SHOAL_RESET:
                self.envs[i].lost = True
                return 0
        try:
            if op == SHOAL_STEP or op == SHOAL_GIVEN:
                if op == SHOAL_GIVEN:
                    self.loop.give(i, requests[env])
                self.loop.advance(i, self.rows, env * self.agents)
                self.envs[i].steps += 1
                self.envs[i].good += 1
            elif op == SHOAL_RESET:
                seed, options = requests[env]
                self.seeds[i] = seed
                self.envs[i].steps = -1
                self.loop.begin(i, seed, options)
                self.envs[i].steps = 0
        except Exception as error:
            self.envs[i].steps += 1
            self._failed(i, error)
        if self.profile:
            self.counters[0] += nanoseconds() - start
        return 0

    cdef int deliver(self, int op, Py_ssize_t env, Py_ssize_t place) except -1:
        """Write what the environment holds into its rows of `place`."""
        cdef Py_ssize_t i = env - self.first
        cdef int64_t start = nanoseconds() if self.profile else 0
        if not self.envs[i].lost:
            try:
                self.loop.deliver(i, self.rows, place * self.agents)
                if op == SHOAL_KEEP:  # its transition has been delivered before
                    memset(self.rows.masks + place * self.agents, False, self.agents)
                if self.loop.any_info or self.loop.any_final:
                    self._keep_infos(i, place)
            except Exception as error:
                self._failed(i, error)
        if self.envs[i].lost:
            lose_rows(self.rows, place * self.agents, self.agents)
            self.envs[i].lost = False
        if self.profile:
            self.counters[1] += nanoseconds() - start
        return 0

    cdef int _keep_infos(self, Py_ssize_t i, Py_ssize_t place) except -1:
        infos, final_infos = self.loop.take_infos()
        info = infos[i] if infos is not None else None
        final = final_infos[i] if final_infos is not None else None
        if self.agents == 1:
            info = None if info is None else checked_info(info)
            if final is not None:
                info = {"final_info": checked_info(final), **(info or {})}
            self.infos.append((place, info))
            return 0
        # Multi-agent environments have an info for each slot that has one.
        each = {slot: checked_info(one) for slot, one in (info or {}).items()}
        for slot, one in (final or {}).items():
            each[slot] = {"final_info": checked_info(one), **each.get(slot, {})}
        for slot, one in each.items():
            self.infos.append((place * self.agents + slot, one))
        return 0

    cdef int _failed(self, Py_ssize_t i, error) except -1:
        """The environment raised `error`: its rows are lost, and it is recreated or reported."""
        self.envs[i].lost = True
        row = (self.first + i) * self.agents
        action = self.arena.arrays["actions"][row : row + self.agents]
        add_note(
            error,
            f"raised by environment {self.first + i} (seed {self.seeds[i]}, step "
            f"{self.envs[i].steps} since it was told to reset, last action {action.tolist()})",
        )
        self.envs[i].failures = self.envs[i].failures + 1 if self.envs[i].good < GOOD_STEPS else 1
        self.envs[i].good = 0
        while self.restart:
            if self.envs[i].failures >= MOST_FAILURES:
                add_note(error, TOO_MANY)
                break
            try:
                self.group.recreate(i)
                self.counters[3] += 1
                self.envs[i].steps = 0
                return 0
            except Exception as another:
                add_note(another, f"raised while environment {self.first + i} was created again")
                error = another
                self.envs[i].failures += 1
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
        to.occupants[i] = -1
        to.episode_returns[i] = 0
        to.episode_lengths[i] = 0


def lose_places(arena, Py_ssize_t place):
    """Fill the rows of a place with what `on_error="restart"` delivers for a lost step."""
    cdef Py_ssize_t agents = arena.agents_per_env
    lose_rows(&(<Buffers>arena.buffers).rows, place * agents, agents)
    arena.arrays["infos"][place * agents : (place + 1) * agents] = 0


def serve(
    Stepper stepper,
    memory,
    int worker,
    InfoWriter writer,
    command: Callable[[int], None],
    requests: Callable[[], dict],
    spill: Callable[[int, bytes], None],
    failed: Callable[[Exception], None],
):
    """Do what the parent posts, until it closes the vector or is gone.

    Args:
        stepper: has the environments of this worker.
        memory: the arena's, which begins with the control block.
        worker: this worker's index.
        writer: of infos, into the slots of the arena.
        command: called with the argument of each command.
        requests: receives the (seed, options) of environments that are to be reset, or the actions
            of those that are given one.
        spill: called with a row of the arena and a message that its info slot can't hold.
        failed: called with what an environment has raised.
    """
    cdef Worker me = Worker(memory, worker)
    cdef int code, op, ok = OK, interrupted = INTERRUPTED, first_command = COMMAND
    cdef Py_ssize_t env, row, place, agents = stepper.agents
    cdef int64_t start
    cdef dict known = {}
    cdef list infos
    cdef bint reported = False
    while True:
        start = nanoseconds() if stepper.profile else 0
        with nogil:
            code = me.wait()
        if stepper.profile:
            stepper.counters[2] += nanoseconds() - start
        if code == interrupted:
            PyErr_CheckSignals()
            continue
        if code != ok:
            return
        while True:
            code = me.next()
            if code == interrupted:
                break
            if code != ok:
                return
            op, env = me.op, me.env
            if op >= first_command:
                command(env)
                me.finish()
                continue
            if (op == SHOAL_RESET or op == SHOAL_GIVEN) and env not in known:
                known.update(requests())
            stepper.advance(op, env, known)
            if op == SHOAL_RESET or op == SHOAL_GIVEN:
                del known[env]
            place = me.claim()
            stepper.deliver(op, env, place)
            infos = stepper.infos
            if agents == 1:
                message = writer.write(infos[0][1] if infos else None, place)
                if message is not None:
                    spill(place, message)
            else:
                by_row = dict(infos)
                for row in range(place * agents, place * agents + agents):
                    message = writer.write(by_row.get(row), row)
                    if message is not None:
                        spill(row, message)
            if infos:
                infos.clear()
            if stepper.failure is not None and not reported:
                # The parent reads the first one while more may follow, and closes the vector.
                reported = True
                failed(stepper.failure)
                me.fail(1)
            me.complete(place)


def put_actions(cnp.ndarray target, actions, Bounds bounds, bint copy=True):
    """Copy a batch of actions to where environments find them, if it is in order as it stands.

    Args:
        target: where they find them.
        actions: anything.
        bounds: of `target`.
        copy: False only to look whether they are in order.

    Returns:
        False if it isn't, or if it must be converted first; nothing was copied.
    """
    if type(actions) is not cnp.ndarray or not bounds.hold(actions):
        return False
    cdef cnp.ndarray array = actions
    cdef int i, ndim = cnp.PyArray_NDIM(target)
    if cnp.PyArray_NDIM(array) != ndim:
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(array, i) != cnp.PyArray_DIM(target, i):
            return False
    if copy:
        memcpy(cnp.PyArray_DATA(target), cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(target))
    return True


cdef class EpisodeLog:
    """Sums over the episodes that have ended, whoever of `num_rows` agents they were of."""

    cdef Py_ssize_t episodes, agents_per_env
    cdef double returns, seconds
    cdef int64_t lengths
    cdef cnp.ndarray begun      # of each agent's episode: when (float64)
    cdef dict metrics           # name: [sum, count]

    def __cinit__(self, Py_ssize_t num_rows, Py_ssize_t agents_per_env):
        self.agents_per_env = agents_per_env
        self.begun = np.full(num_rows, time.perf_counter())
        self.metrics = {}

    def restart(self, agents):
        """These agents begin an episode now."""
        self.begun[agents] = time.perf_counter()

    cdef int add(self, dict block, const int64_t* env_ids, Py_ssize_t num_envs) except -1:
        """Count the episodes that have ended in these rows: those of `env_ids`, in order."""
        cdef double* begun = <double*>cnp.PyArray_DATA(self.begun)
        cdef const uint8_t* terminated = data(block, "terminations")
        cdef const uint8_t* truncated = data(block, "truncations")
        cdef const uint8_t* masks = data(block, "masks")
        cdef const double* returns = <const double*>data(block, "episode_returns")
        cdef const int64_t* lengths = <const int64_t*>data(block, "episode_lengths")
        cdef Py_ssize_t n = num_envs * self.agents_per_env
        cdef Py_ssize_t agent, row = next_set(terminated, truncated, 0, n)
        cdef double now = time.perf_counter()
        while row < n:
            if masks[row]:
                agent = env_ids[row // self.agents_per_env] * self.agents_per_env
                agent += row % self.agents_per_env
                self.episodes += 1
                self.returns += returns[row]
                self.lengths += lengths[row]
                self.seconds += now - begun[agent]
                begun[agent] = now
            row = next_set(terminated, truncated, row + 1, n)
        return 0

    def add_infos(self, infos, rows):
        """Count the numbers in the infos of these rows (bool), whose episodes have ended."""
        cdef const uint8_t* chosen = <const uint8_t*>cnp.PyArray_BYTES(rows)
        cdef const uint8_t* present
        cdef const double* numbers
        cdef Py_ssize_t row, count, n = len(rows)
        cdef double sum
        for key, values in infos.items():
            mask = infos.get(f"_{key}")
            if not isinstance(values, np.ndarray) or values.ndim != 1:
                continue
            if not isinstance(mask, np.ndarray) or mask.dtype != bool:
                continue
            if values.dtype.kind == "O":
                values, mask = numbers_among(values, mask)
            elif values.dtype.kind not in "biuf":
                continue
            values = np.ascontiguousarray(values, np.float64)
            mask = np.ascontiguousarray(mask)
            present = <const uint8_t*>cnp.PyArray_BYTES(mask)
            numbers = <const double*>cnp.PyArray_BYTES(values)
            sum, count = 0, 0
            row = next_set(present, present, 0, n)
            while row < n:
                if chosen[row]:
                    sum += numbers[row]
                    count += 1
                row = next_set(present, present, row + 1, n)
            total = self.metrics.setdefault(key, [0.0, 0])
            total[0] += sum
            total[1] += count

    def take(self):
        """Means since the last call."""
        if self.episodes == 0:
            return {"episodes": 0}
        means = {
            "episodes": self.episodes,
            **{name: total / count for name, (total, count) in self.metrics.items() if count},
            "return": self.returns / self.episodes,
            "length": self.lengths / self.episodes,
            "time": self.seconds / self.episodes,
        }
        self.episodes = self.lengths = 0
        self.returns = self.seconds = 0
        self.metrics.clear()
        return means


def numbers_among(values, mask):
    """Return the real numbers among objects as float64, and the mask of the rows that have one."""
    numbers, rows = np.zeros(len(values)), np.zeros(len(values), bool)
    for row in mask.nonzero()[0].tolist():
        value = values[row]
        if isinstance(value, (int, float, np.bool_, np.integer, np.floating)):
            try:
                numbers[row] = float(value)
                rows[row] = True
            except (OverflowError, TypeError, ValueError):  # an int past 1e308; a timedelta
                pass
    return numbers, rows


cdef Py_ssize_t next_set(
    const uint8_t* one, const uint8_t* other, Py_ssize_t i, Py_ssize_t n
) noexcept:
    """The first index from `i` on where one of two arrays is not 0; `n` if there is none."""
    cdef uint64_t a, b
    while i < n:
        if i + 8 <= n:  # eight at a time, since most are 0
            memcpy(&a, one + i, 8)
            memcpy(&b, other + i, 8)
            if (a | b) == 0:
                i += 8
                continue
        if one[i] | other[i]:
            return i
        i += 1
    return n


cdef const uint8_t* data(dict block, str name):
    return <const uint8_t*>cnp.PyArray_BYTES(block[name])


def collect(dict block, cnp.ndarray env_ids, EpisodeLog log):
    """What the caller of `recv` gets for his own, copies of a block's small arrays; and count.

    Args:
        block: the rows of `env_ids`, in order.
        env_ids: contiguous int64.
        log: is told of the episodes that have ended.

    Returns:
        (rewards, terminations, truncations, masks, whether an episode has ended in any row).
    """
    cdef cnp.ndarray terminations = block["terminations"], truncations = block["truncations"]
    cdef Py_ssize_t n = cnp.PyArray_DIM(terminations, 0)
    cdef bint ended = next_set(data(block, "terminations"), data(block, "truncations"), 0, n) < n
    if ended:
        log.add(block, <const int64_t*>cnp.PyArray_DATA(env_ids), len(env_ids))
    return (
        cnp.PyArray_NewCopy(block["rewards"], cnp.NPY_CORDER),
        cnp.PyArray_NewCopy(terminations, cnp.NPY_CORDER),
        cnp.PyArray_NewCopy(truncations, cnp.NPY_CORDER),
        cnp.PyArray_NewCopy(block["masks"], cnp.NPY_CORDER),
        ended,
    )
