"""The C engine (c/sync.h, which has the protocol) for Python: a parent's end and a worker's end.

Both lie over the same memory, `control_nbytes` of it, starting on a 128-byte boundary. All waits
release the GIL and run signal handlers. One thread at a time may use an end.
"""

import fcntl
import math
import os
import tempfile

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t, uintptr_t

cimport numpy as cnp

import numpy as np

from shoal.errors import ClosedError, WorkerDied

cnp.import_array()

__all__ = [
    "Parent",
    "Worker",
    "COMMAND",
    "OK",
    "INTERRUPTED",
    "TIMEOUT",
    "DEAD",
    "FAILED",
    "CLOSED",
    "num_blocks",
    "control_nbytes",
    "create_memory",
    "usable_cores",
    "die_with_parent",
    "above_standard",
]

cdef extern from "c/sync.h" nogil:
    enum:
        SHOAL_FIXED, SHOAL_FIRST, SHOAL_NO_ENV, SHOAL_COMMAND, SHOAL_MAX_WORKERS
        SHOAL_OK, SHOAL_INTERRUPTED, SHOAL_TIMEOUT, SHOAL_DEAD, SHOAL_FAILED, SHOAL_CLOSED
        SHOAL_RANGE, SHOAL_BUSY, SHOAL_FULL, SHOAL_STARVED
    uint32_t shoal_entry_env(uint64_t entry)
    uint32_t shoal_entry_op(uint64_t entry)
    uint32_t shoal_num_blocks(uint32_t num_envs, uint32_t batch_size)
    uint32_t shoal_first_env(const shoal_config* config, uint32_t worker)
    size_t shoal_size(const shoal_config* config)
    void shoal_init(void* memory, const shoal_config* config)
    void shoal_parent_attach(shoal_parent* parent, void* memory)
    void shoal_set_peer(shoal_parent* parent, uint32_t worker, int32_t pid, int32_t pidfd)
    int shoal_post(shoal_parent* parent, const int64_t* envs, uint32_t count, uint32_t op)
    int shoal_command(
        shoal_parent* parent, uint32_t worker, uint32_t command, uint32_t argument
    )
    int shoal_drained(shoal_parent* parent, uint32_t worker)
    uint32_t shoal_num_done(const shoal_parent* parent, uint32_t worker)
    void shoal_close(shoal_parent* parent)
    int shoal_wait_block(shoal_parent* parent, int64_t deadline, uint32_t* block)
    void shoal_block_envs(const shoal_parent* parent, uint32_t block, int64_t* envs)
    uint32_t shoal_current_env(const shoal_parent* parent, uint32_t worker)
    void shoal_bury(shoal_parent* parent, uint32_t worker)
    uint32_t shoal_outstanding(const shoal_parent* parent, uint32_t worker, int64_t* envs)
    uint32_t shoal_place_of(shoal_parent* parent, uint32_t env)
    void shoal_complete_for(shoal_parent* parent, uint32_t env)
    int shoal_revive(shoal_parent* parent, uint32_t worker, int32_t pid, int32_t pidfd)
    void shoal_worker_attach(shoal_worker* worker, void* memory, uint32_t id)
    int shoal_wait_work(shoal_worker* worker)
    int shoal_next(shoal_worker* worker, uint64_t* entry)
    uint32_t shoal_claim(shoal_worker* worker, uint64_t entry)
    void shoal_complete(shoal_worker* worker, uint32_t place)
    void shoal_finish(shoal_worker* worker)
    void shoal_fail(shoal_worker* worker, uint32_t code)
    int64_t shoal_clock()
    int shoal_die_with_parent(int signal_number)

COMMAND = SHOAL_COMMAND  # ops from here on are commands
OK = SHOAL_OK
INTERRUPTED = SHOAL_INTERRUPTED
# What `Parent.wait_block` returns instead of a block, negated, and `Worker.wait_work` as it is.
TIMEOUT = SHOAL_TIMEOUT
DEAD = SHOAL_DEAD
FAILED = SHOAL_FAILED
CLOSED = SHOAL_CLOSED

MODES = {"fixed": SHOAL_FIXED, "first": SHOAL_FIRST}


def num_blocks(num_envs: int, batch_size: int) -> int:
    """Blocks that are needed, so that each stays as it is while the next one is received as well."""
    return shoal_num_blocks(num_envs, batch_size)


cdef shoal_config make_config(
    num_workers, num_envs, batch_size, mode, num_blocks, cores, epoch
) except *:
    cdef shoal_config config
    if mode not in MODES:
        raise ValueError(f"expected mode 'fixed' or 'first', got {mode!r}")
    config.num_workers = num_workers
    config.num_envs = num_envs
    config.batch_size = batch_size
    config.num_blocks = num_blocks or shoal_num_blocks(num_envs, batch_size)
    config.mode = MODES[mode]
    config.cores = cores
    config.parent_pid = os.getpid()
    config.epoch = epoch
    if shoal_size(&config) == 0:
        raise ValueError(
            f"expected 1 to {SHOAL_MAX_WORKERS} workers and at least as many environments, batches"
            " of at most all environments (of a divisor of their number in fixed order) and at"
            f" least num_blocks() blocks, got {num_workers} workers, {num_envs} environments,"
            f" batches of {batch_size} in {mode} order and {config.num_blocks} blocks"
        )
    return config


def control_nbytes(num_workers: int, num_envs: int, batch_size: int, mode: str,
                   num_blocks: int = 0) -> int:
    """Bytes of the control block, for the arguments of `Parent`."""
    cdef shoal_config config = make_config(
        num_workers, num_envs, batch_size, mode, num_blocks, 0, 0
    )
    return shoal_size(&config)


cdef class Parent:
    """The end that posts environments and receives blocks of results. Initialises the memory.

    Args:
        memory: writeable buffer, shared with the workers.
        num_workers: worker w has environments ``first_env(w)`` to ``first_env(w + 1) - 1``.
        num_envs, batch_size: environments in all, and of one block.
        mode: ``"fixed"`` (groups of `batch_size` environments, in turn) or ``"first"`` (whichever
            are ready).
        num_blocks: at least `num_blocks`, and 0 for that number.
        cores: how many processors parent and workers have between them; waits spin only while
            that takes a processor from nobody. 0: never spin.
        epoch: where all counters start, for tests.

    Attributes:
        culprit: the worker that `wait_block` or `post` complained of.
        error: the code that this worker failed with.
        num_posted, num_received: environments posted and blocks received so far. They change with
            the post or the receipt itself: an interrupt can't come between.
    """

    def __cinit__(
        self,
        memory,
        num_workers: int,
        num_envs: int,
        batch_size: int,
        mode: str = "fixed",
        num_blocks: int = 0,
        cores: int = 0,
        epoch: int = 0,
    ):
        self.config = make_config(
            num_workers, num_envs, batch_size, mode, num_blocks, cores, epoch
        )
        self.mode = mode
        self.memory = checked_memory(memory, shoal_size(&self.config))
        shoal_init(cnp.PyArray_DATA(self.memory), &self.config)
        shoal_parent_attach(&self.c, cnp.PyArray_DATA(self.memory))

    @property
    def culprit(self) -> int:
        return self.c.culprit

    @property
    def error(self) -> int:
        return self.c.error

    @property
    def num_blocks(self) -> int:
        return self.config.num_blocks

    def first_env(self, worker: int) -> int:
        return shoal_first_env(&self.config, worker)

    cdef int check(self) except -1:
        if self.memory is None:
            raise ClosedError("the memory has been released")
        if self.waiting:
            raise RuntimeError("another thread is in wait_block")
        return 0

    cdef int check_worker(self, Py_ssize_t worker) except -1:
        self.check()
        if not 0 <= worker < self.config.num_workers:
            raise IndexError(f"expected a worker below {self.config.num_workers}, got {worker}")
        return 0

    def set_peer(self, Py_ssize_t worker, int pid, int pidfd=-1) -> None:
        """Name a worker's process, so that waits notice its death. The descriptor stays open."""
        self.check_worker(worker)
        shoal_set_peer(&self.c, worker, pid, pidfd)

    def post(self, env_ids: np.ndarray, uint32_t op=0) -> None:
        """Give each of these environments (int64) to its worker, with this op (below COMMAND).

        An environment that has been posted must be received before it is posted again. Nothing is
        posted when this raises.

        Raises:
            IndexError, ValueError: an environment is out of range, or still in flight.
            WorkerDied: it is one of a dead worker.
        """
        self._check_op(op)
        if len(env_ids):
            self._posted(shoal_post(&self.c, int64s(env_ids), len(env_ids), op), len(env_ids))

    def post_each(self, ops: np.ndarray) -> None:
        """Do `post` for every environment, with one op for each (``(num_envs,)``)."""
        groups = [(int(op), np.flatnonzero(ops == op)) for op in np.unique(ops)]
        for op, env_ids in groups:  # no code in Python runs from here on
            self.post(env_ids, op)

    def post_all(self, uint32_t op=0) -> None:
        """Do `post` for every environment."""
        self._check_op(op)
        self._posted(shoal_post(&self.c, NULL, self.config.num_envs, op), self.config.num_envs)

    def _check_op(self, op):
        self.check()
        if op >= SHOAL_COMMAND:
            raise ValueError(f"expected an op below {SHOAL_COMMAND}, got {op}")

    def _posted(self, int result, Py_ssize_t count):
        if result == SHOAL_RANGE:
            raise IndexError(
                f"expected environments below {self.config.num_envs}, got another"
            )
        if result == SHOAL_BUSY:
            raise ValueError(
                f"environment {self.c.culprit} was posted again before it had been received"
            )
        if result == SHOAL_DEAD:
            raise WorkerDied(f"worker {self.c.culprit} is dead, its environments take no actions")
        self.num_posted += count

    def command(self, Py_ssize_t worker, uint32_t code, uint32_t argument=0) -> None:
        """Give a worker the op ``COMMAND + code`` (code < 128), behind what it has to do already.

        Raises:
            WorkerDied: there is no such worker any more.
            BlockingIOError: it has not got to the last eight commands yet.
        """
        self.check_worker(worker)
        if code >= 128 or argument >= 1 << 24:
            raise ValueError(f"expected a code < 128 with an argument < 2^24, got {code, argument}")
        result = shoal_command(&self.c, worker, code, argument)
        if result == SHOAL_DEAD:
            raise WorkerDied(f"worker {worker} is dead, it takes no commands")
        if result == SHOAL_FULL:
            raise BlockingIOError(f"worker {worker} has not got to its last commands yet")

    def drained(self, Py_ssize_t worker) -> bool:
        """Has the worker done everything that it was given?"""
        self.check_worker(worker)
        return shoal_drained(&self.c, worker)

    def num_done(self, Py_ssize_t worker) -> int:
        """Count the entries that the worker has done, mod 2^32; those that `revive` drops, too."""
        self.check_worker(worker)
        return shoal_num_done(&self.c, worker)

    def close(self) -> None:
        """Let the next call of every worker return CLOSED, whatever it still has to do.

        This may be called while another thread is in `wait_block`.
        """
        if self.memory is None:
            raise ClosedError("the memory has been released")
        shoal_close(&self.c)

    def wait_block(self, timeout: float | None = None) -> int:
        """Wait for the next block, `timeout` seconds at most.

        Returns:
            The block: its places are ``block * batch_size`` and on, and stay as they are until the
            second next `wait_block` is called. Or ``-TIMEOUT``; ``-DEAD``: the worker `culprit` has
            died (see `outstanding`); ``-FAILED``: it has called `fail` with the code `error`.
            After any of these, `wait_block` may be called again.

        Raises:
            ValueError: too few environments are in flight for the block ever to be complete.
        """
        cdef int result
        cdef uint32_t block = 0
        cdef int64_t deadline = INT64_MAX
        self.check()
        if timeout is not None and timeout < 1e9:
            deadline = shoal_clock() + <int64_t>(max(timeout, 0) * 1e9)
        while True:
            if self.memory is None:  # a signal handler or another thread has released it
                raise ClosedError("the memory has been released")
            self.waiting = True
            with nogil:
                result = shoal_wait_block(&self.c, deadline, &block)
            self.waiting = False
            if result == SHOAL_OK:
                self.num_received += 1
                return block
            if result == SHOAL_STARVED:
                raise ValueError("too few environments have been posted for the next batch")
            if result != SHOAL_INTERRUPTED:
                return -result
            PyErr_CheckSignals()

    def block_envs(self, uint32_t block, env_ids: np.ndarray) -> None:
        """Write the environment in each slot of a received block to `env_ids` (int64)."""
        self.check()
        if block >= self.config.num_blocks or len(env_ids) != self.config.batch_size:
            raise ValueError(
                f"expected a block below {self.config.num_blocks} and room for"
                f" {self.config.batch_size} environments, got block {block} and room for"
                f" {len(env_ids)}"
            )
        shoal_block_envs(&self.c, block, int64s(env_ids))

    def current_env(self, Py_ssize_t worker) -> int | None:
        """Return the environment that the worker is at, to name one that is stuck."""
        self.check_worker(worker)
        env = shoal_current_env(&self.c, worker)
        return None if env == SHOAL_NO_ENV else env

    def bury(self, Py_ssize_t worker) -> None:
        """Take the worker for dead; for callers that know before `wait_block` does."""
        self.check_worker(worker)
        shoal_bury(&self.c, worker)

    def outstanding(self, Py_ssize_t worker) -> list[int]:
        """Return the environments of a dead worker that owe a result.

        For each of them, get its `place_of`, write what the user shall see there, and
        `complete_for` it; then `revive` the worker.
        """
        self.check_worker(worker)
        envs = np.empty(self.config.num_envs, np.int64)
        return envs[:shoal_outstanding(&self.c, worker, int64s(envs))].tolist()

    def place_of(self, uint32_t env) -> int:
        """Return the place (``block * batch_size + slot``) of an outstanding result."""
        self._check_outstanding(env)
        return shoal_place_of(&self.c, env)

    def complete_for(self, uint32_t env) -> None:
        """Note that the place of this outstanding environment has been written."""
        self._check_outstanding(env)
        shoal_complete_for(&self.c, env)

    def _check_outstanding(self, env):
        for worker in range(self.config.num_workers):
            if env < self.first_env(worker + 1):
                break
        if env not in self.outstanding(worker):
            raise ValueError(f"environment {env} owes no result")

    def revive(self, Py_ssize_t worker, int pid, int pidfd=-1) -> None:
        """Another process has taken the place of a dead worker: it may attach from now on.

        Raises:
            ValueError: it is not dead, or its environments still owe results.
        """
        self.check_worker(worker)
        if shoal_revive(&self.c, worker, pid, pidfd) != SHOAL_OK:
            raise ValueError(
                f"expected worker {worker} to be dead and to owe nothing; environments"
                f" {self.outstanding(worker)} owe a result"
            )

    def release(self) -> bool:
        """Let go of the memory; nothing else may be called any more.

        Returns:
            False if nothing was done, because another thread is in `wait_block`.
        """
        if self.waiting:
            return False
        self.memory = None
        return True


cdef class Worker:
    """The end of worker number `worker`, over memory that a `Parent` has initialised.

    The life of a worker::

        while (result := end.wait_work()) == OK:
            while end.next_entry() == OK:
                if end.op >= COMMAND:
                    ...; end.finish_command()
                else:
                    ...  # step environment end.env
                    place = end.claim_place()
                    ...  # write the result to its place
                    end.complete_place(place)

    Attributes:
        op, env: of the entry taken last; for a command, `env` is its argument.
    """

    def __cinit__(self, memory, uint32_t worker):
        self.memory = checked_memory(memory, sizeof(shoal_config))
        config = <shoal_config*>cnp.PyArray_DATA(self.memory)
        if worker >= config.num_workers or shoal_size(config) > <size_t>len(self.memory):
            raise ValueError(f"expected memory of a parent with worker {worker}")
        shoal_worker_attach(&self.c, cnp.PyArray_DATA(self.memory), worker)

    cdef int wait(self) noexcept nogil:
        return shoal_wait_work(&self.c)

    cdef int next(self) noexcept nogil:
        cdef int result = shoal_next(&self.c, &self.entry)
        if result == SHOAL_OK:
            self.op = shoal_entry_op(self.entry)
            self.env = shoal_entry_env(self.entry)
        return result

    cdef Py_ssize_t claim(self) noexcept nogil:
        return shoal_claim(&self.c, self.entry)

    cdef void complete(self, Py_ssize_t place) noexcept nogil:
        shoal_complete(&self.c, place)

    cdef void finish(self) noexcept nogil:
        shoal_finish(&self.c)

    cdef void fail(self, uint32_t code) noexcept nogil:
        shoal_fail(&self.c, code)

    cdef int check(self) except -1:
        if self.memory is None:
            raise ClosedError("the memory has been released")
        return 0

    def wait_work(self) -> int:
        """Wait until there is an entry: OK, CLOSED, or DEAD when the parent has died."""
        cdef int result
        self.check()
        while True:
            with nogil:
                result = shoal_wait_work(&self.c)
            if result != SHOAL_INTERRUPTED:
                return result
            PyErr_CheckSignals()

    def next_entry(self) -> int:
        """Take the next entry: OK, INTERRUPTED when there is none now, or CLOSED."""
        self.check()
        return self.next()

    def claim_place(self) -> int:
        """Return the place for this entry's result; once per entry, when its step has returned."""
        self.check()
        return shoal_claim(&self.c, self.entry)

    def complete_place(self, uint32_t place) -> None:
        """Report that the result has been written to its place."""
        self.check()
        shoal_complete(&self.c, place)

    def finish_command(self) -> None:
        """Report that the command has been carried out."""
        self.check()
        shoal_finish(&self.c)

    def report_failure(self, uint32_t code) -> None:
        """Let the parent's `wait_block` return ``-FAILED``, with this code (not 0)."""
        self.check()
        shoal_fail(&self.c, code)

    def release(self) -> None:
        """Let go of the memory; nothing else may be called any more."""
        self.memory = None


cdef cnp.ndarray checked_memory(memory, size_t nbytes):
    """Return a writeable buffer as an array of bytes, which keeps it alive."""
    cdef cnp.ndarray array = np.frombuffer(memory, np.uint8)
    cdef uintptr_t start = <uintptr_t>cnp.PyArray_DATA(array)
    if not cnp.PyArray_ISWRITEABLE(array):
        raise BufferError("expected writeable memory")
    if <size_t>len(array) < nbytes or start % 128:
        raise ValueError(
            f"expected {nbytes} bytes on a 128-byte boundary, got {len(array)} at {start:#x}"
        )
    return array


cdef int64_t* int64s(cnp.ndarray array) except NULL:
    """Return the elements of an array, which must be int64 and contiguous."""
    if cnp.PyArray_TYPE(array) != cnp.NPY_INT64 or not cnp.PyArray_IS_C_CONTIGUOUS(array):
        raise ValueError(f"expected a contiguous array of int64, got {array.dtype}")
    return <int64_t*>cnp.PyArray_DATA(array)


def create_memory(nbytes: int) -> int:
    """Return a descriptor of fresh zeroed memory without a name, so that nothing is left behind.

    A forked child has it as well; to another program it must be handed explicitly.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("shoal")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, nbytes)
    except OSError:
        os.close(descriptor)
        raise
    return above_standard(descriptor)


def above_standard(descriptor: int) -> int:
    """Return the descriptor, or a copy above 2 in its place.

    A process without open stdin, stdout or stderr is given their numbers for whatever it opens, and
    programs that it starts take that for the standard streams.
    """
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def usable_cores() -> int:
    """Processors that this process may use: its affinity, and no more than its control group's."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # as seen in a container
            quota, period = file.read().split()
        return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def die_with_parent(signal_number: int) -> bool:
    """Let the kernel send this signal when the thread that started this process ends.

    Returns:
        Whether the system can do that. The caller must look whether its parent has ended already.
    """
    return shoal_die_with_parent(signal_number) == 0
