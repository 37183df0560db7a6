"""The inner loop over the environments of one process: in a worker, or of the serial backend.

`Stepper` runs one operation on one environment (step, reset, or keep what it last returned) and
writes the result to a place of the arena. What an environment raises never leaves it: the place is
filled with an invalid row and the failure is recorded, so that whoever waits for the batch gets it,
with the error beside it.

`serve` is a worker's life: wait for entries of its ring (see c/sync.h), run them in order, claim a
place for each when its step has returned, and report it.
"""

import threading
from collections.abc import Callable

import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.signal cimport sigaction, sigaction_t, sigemptyset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cimport numpy as cnp

from shoal.emulation.loop cimport EnvLoop, checked_info, copy_value
from shoal.rows.buffers cimport Buffers
from shoal.rows.rows cimport SHOAL_GIVEN, SHOAL_KEEP, SHOAL_RESET, SHOAL_STEP, Rows
from shoal.vectorization.info_slots cimport InfoWriter
from shoal.vectorization.infos cimport add_info
from shoal.vectorization.sync cimport Worker

from shoal.vectorization.sync import COMMAND, INTERRUPTED, OK
from shoal.vectorization.workers.group import add_note

from shoal.errors import ClosedError, EmulationError

cnp.import_array()

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident()

cdef extern from *:
    """
    #include <signal.h>
    typedef void (*shoal_handler)(int);
    static volatile sig_atomic_t shoal_noted; /* interrupts since `Deferral.enter` */
    static volatile shoal_handler shoal_answer;  /* what answers a second one at once */

    static void shoal_note(int number) {
        if (++shoal_noted > 1 && shoal_answer)
            shoal_answer(number);
    }
    """
    ctypedef void (*shoal_handler)(int)
    int SIGINT, SA_SIGINFO
    shoal_handler SIG_DFL, SIG_IGN
    int shoal_noted
    shoal_handler shoal_answer
    void shoal_note(int number) noexcept nogil
    int c_raise "raise"(int number) nogil

__all__ = [
    "Deferral",
    "Stepper",
    "serve",
    "lose_places",
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


cdef class Deferral:
    """Lets Ctrl-C wait until no environment is in the middle of a step.

    Between `enter` and `leave` the first SIGINT is only noted, and `leave` raises it again. A second
    one is answered at once, so that an environment that does not return can be interrupted. Only in
    the main thread, where alone handlers in Python run. May be nested.
    """

    cdef unsigned long main_thread
    cdef sigaction_t theirs
    cdef int outer_caught
    cdef shoal_handler outer_next
    cdef bint active

    def __cinit__(self):
        self.main_thread = threading.main_thread().ident

    cdef void enter(self) noexcept:
        cdef sigaction_t ours
        self.active = False
        if PyThread_get_thread_ident() != self.main_thread:
            return
        memset(&ours, 0, sizeof(ours))
        sigemptyset(&ours.sa_mask)
        ours.sa_handler = shoal_note
        self.outer_caught, self.outer_next = shoal_noted, shoal_answer
        global shoal_noted, shoal_answer
        shoal_noted, shoal_answer = 0, NULL
        if sigaction(SIGINT, &ours, &self.theirs) != 0:
            return
        self.active = True
        shoal_answer = self.theirs.sa_handler
        if (self.theirs.sa_flags & SA_SIGINFO or shoal_answer == SIG_DFL
                or shoal_answer == SIG_IGN):  # nothing in Python answers
            self.restore()

    cdef bint caught(self) noexcept nogil:
        return self.active and shoal_noted != 0

    cdef void restore(self) noexcept:
        """Answer signals as before, and first the one that was noted."""
        global shoal_noted, shoal_answer
        sigaction(SIGINT, &self.theirs, NULL)
        cdef bint noted = self.caught()  # only now can't there be more
        self.active = False
        shoal_noted, shoal_answer = self.outer_caught, self.outer_next
        if noted:
            c_raise(SIGINT)

    cdef int leave(self) except -1:
        """Answer signals as before; raises what the handler of a noted one raises."""
        if self.active:
            self.restore()
        PyErr_CheckSignals()
        return 0

    def __enter__(self):
        self.enter()

    def __exit__(self, kind, error, trace):
        self.leave()


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
        infos: (row of the arena, info) of what was delivered since the list was last cleared.
        stop: set it from another thread to let `run_all` end after the environment it is at.
    """

    cdef readonly object group, arena
    cdef public object failure
    cdef public list infos
    cdef public bint stop
    cdef Deferral deferral
    cdef Py_ssize_t turn, at    # of `run_all`: the batch, and the environment that comes next
    cdef bint inside            # ... or is being run
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
        self.deferral = Deferral()
        self.turn = -1
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

    def run_all(self, ops, dict requests, Py_ssize_t first_place, Py_ssize_t turn):
        """Run one operation on every environment, with the results in consecutive places.

        KeyboardInterrupt comes between two environments; called again with the same `turn`, this
        goes on after the last one that was run.

        Args:
            ops: the operation, or one for each environment.
            requests: for each environment that is reset: (seed, options); that is given an action:
                the action.
            first_place: of the first environment's results.
            turn: number of the batch.

        Raises:
            ClosedError: `stop` was set.
            EmulationError: an environment was interrupted in the middle of a step before.
        """
        cdef Py_ssize_t env, end = self.first + len(self.seeds)
        cdef int each, op = -1 if isinstance(ops, cnp.ndarray) else ops
        if self.inside:
            raise EmulationError(
                f"environment {self.at} was interrupted in the middle of a step, so what it holds "
                "is unknown; make the vector again"
            )
        if turn != self.turn:
            self.turn, self.at = turn, self.first
            self.infos.clear()
        while self.at < end:
            if self.stop:
                raise ClosedError("this vector is closed")
            self.deferral.enter()
            try:
                while self.at < end and not self.deferral.caught() and not self.stop:
                    self.inside = True
                    env = self.at
                    each = ops[env] if op < 0 else op
                    self.advance(each, env, requests)
                    self.deliver(each, env, first_place + env - self.first)
                    self.at += 1
                    self.inside = False
            finally:
                self.deferral.leave()

    def take_infos(self, Py_ssize_t first_row, Py_ssize_t num_rows):
        """Return the infos of the last `run_all`, as Gymnasium's vectors give them."""
        infos = {}
        for row, info in self.infos:
            if info:
                # A copy, because the environment may write into its values again.
                add_info(infos, copy_value(info), row - first_row, num_rows)
        return infos

    def take_each_info(self, Py_ssize_t first_row, Py_ssize_t num_rows):
        """Return the infos as a list: for each row, a copy of what the environment returned."""
        each = [{} for _ in range(num_rows)]
        for row, info in self.infos:
            if info:
                each[row - first_row] = copy_value(info)
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
                info = {"final_info": final, **(info or {})}
            self.infos.append((place, info))
            return 0
        # Multi-agent environments have an info for each slot that has one.
        each = {slot: checked_info(one) for slot, one in (info or {}).items()}
        for slot, one in (final or {}).items():
            each[slot] = {"final_info": one, **each.get(slot, {})}
        for slot, one in each.items():
            self.infos.append((place * self.agents + slot, one))
        return 0

    cdef int _failed(self, Py_ssize_t i, error) except -1:
        """Give up the rows of an environment that raised `error`, and recreate or report it."""
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
