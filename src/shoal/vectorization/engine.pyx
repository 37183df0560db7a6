"""The engine of c/sync.h for Python: the parent's side, and memory to share."""

import os
import signal
import tempfile

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t

cimport numpy as cnp

import numpy as np

from shoal.errors import PendingCallError, WorkerDied

cnp.import_array()

__all__ = [
    "FIRST",
    "FIXED",
    "Control",
    "control_nbytes",
    "create_memory",
    "die_with_parent",
    "map_memory",
    "num_blocks",
    "usable_cores",
]

FIXED, FIRST = SHOAL_FIXED, SHOAL_FIRST

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* at, size_t nbytes, int protection, int flags, int fd, long offset)
    int munmap(void* at, size_t nbytes)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED


cdef class Mapping:
    """Shared memory as a writeable buffer; unmapped with its last view. Holds no descriptor."""

    cdef void* start
    cdef size_t nbytes

    def __cinit__(self, int fd, size_t nbytes):
        self.start = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if self.start == MAP_FAILED:
            self.start = NULL
            PyErr_SetFromErrno(OSError)
        self.nbytes = nbytes

    def __dealloc__(self):
        if self.start != NULL:
            munmap(self.start, self.nbytes)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.nbytes, False, flags)


def map_memory(int fd, size_t nbytes):
    """Map the first `nbytes` of a descriptor, shared."""
    return Mapping(fd, nbytes)


def create_memory():
    """A descriptor of empty anonymous memory that children can inherit; the caller closes it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("shoal")
    file, path = tempfile.mkstemp(prefix="shoal-")
    os.unlink(path)
    return file


def die_with_parent():
    """Ask the kernel to kill this process when the thread that made it ends, where it can."""
    shoal_die_with_parent(signal.SIGKILL)


def usable_cores():
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def num_blocks(uint32_t num_envs, uint32_t batch_size):
    """How many blocks a vector needs so that what was received stays untouched long enough."""
    return shoal_num_blocks(num_envs, batch_size)


def control_nbytes(num_workers, num_envs, batch_size, num_blocks):
    """Bytes of the control block; raises ValueError for numbers that don't fit together."""
    cdef shoal_config config = configure(num_workers, num_envs, batch_size, num_blocks, 1, 0, 0)
    return shoal_size(&config)


cdef shoal_config configure(
    num_workers, num_envs, batch_size, num_blocks, mode, cores, parent_pid
) except *:
    cdef shoal_config config
    config.num_workers = num_workers
    config.num_envs = num_envs
    config.batch_size = batch_size
    config.num_blocks = num_blocks
    config.mode = mode
    config.cores = cores
    config.parent_pid = parent_pid
    config.epoch = 0
    if shoal_size(&config) == 0:
        raise ValueError(
            f"{num_envs} environments, {num_workers} workers and batches of {batch_size} don't fit "
            "together"
        )
    return config


cdef class Control:
    """The parent's side of the engine; see c/sync.h."""

    cdef object memory
    cdef shoal_parent parent
    cdef uint32_t num_envs, batch_size
    cdef int32_t[::1] ids
    cdef object block_ids
    cdef bint fixed

    def __init__(self, memory, *, num_workers, num_envs, batch_size, num_blocks, mode, cores,
                 parent_pid):
        cdef uint8_t[::1] view = memory
        cdef shoal_config config = configure(
            num_workers, num_envs, batch_size, num_blocks, mode, cores, parent_pid
        )
        self.memory = memory
        self.num_envs = num_envs
        self.batch_size = batch_size
        self.ids = np.zeros(num_envs, np.int32)
        shoal_init(&view[0], &config)
        shoal_parent_attach(&self.parent, &view[0])

    def set_peer(self, int worker, int pid, int pidfd):
        """Tell how to see that a worker lives."""
        shoal_set_peer(&self.parent, worker, pid, pidfd)

    def post(self, env_ids, uint32_t op):
        """Post environments (None: all) with one operation."""
        cdef int code
        cdef cnp.ndarray envs
        if env_ids is None:
            with nogil:
                code = shoal_post(&self.parent, NULL, self.num_envs, op)
        else:
            envs = np.ascontiguousarray(env_ids, np.int32)
            code = shoal_post(
                &self.parent, <const int32_t*>cnp.PyArray_DATA(envs), <uint32_t>len(envs), op
            )
        if code == SHOAL_BUSY:
            raise PendingCallError(
                f"environment {self.parent.culprit} has not answered its last call", "step"
            )
        if code == SHOAL_NO_PLACE:
            raise ValueError(f"environment {self.parent.culprit} is out of range")
        return code != SHOAL_DEAD

    def command(self, uint32_t worker, uint32_t command, uint32_t argument=0):
        """Give a worker a command."""
        shoal_command(&self.parent, worker, command, argument)

    def wait_block(self, seconds):
        """("ok", block), ("dead", worker), ("failed", worker) or ("timeout", None)."""
        cdef int64_t deadline = INT64_MAX
        cdef int code
        cdef uint32_t block = 0
        if seconds is not None:
            deadline = shoal_clock() + <int64_t>(max(seconds, 0.0) * 1e9)
        while True:
            with nogil:
                code = shoal_wait_block(&self.parent, deadline, &block)
            if code == SHOAL_OK:
                return "ok", block
            if code == SHOAL_INTERRUPTED:
                PyErr_CheckSignals()
            elif code == SHOAL_DEAD:
                return "dead", self.parent.culprit
            elif code == SHOAL_FAILED:
                return "failed", self.parent.culprit
            else:
                return "timeout", None

    def block_envs(self, uint32_t block):
        """The environment in each slot of a block that has been received (int64)."""
        cdef int32_t[::1] ids = np.empty(self.batch_size, np.int32)
        shoal_block_envs(&self.parent, block, &ids[0])
        return np.asarray(ids, np.int64)

    def current_env(self, uint32_t worker):
        """The environment that a worker is at, or None."""
        env = shoal_current_env(&self.parent, worker)
        return None if env == SHOAL_NO_ENV else env

    def bury(self, uint32_t worker):
        """A worker is dead."""
        shoal_bury(&self.parent, worker)

    def outstanding(self, uint32_t worker):
        """The environments that a dead worker owes a result."""
        count = shoal_outstanding(&self.parent, worker, &self.ids[0])
        return np.asarray(self.ids)[:count].tolist()

    def place_of(self, uint32_t env):
        """The place of the result that a dead worker owes."""
        return shoal_place_of(&self.parent, env)

    def complete_for(self, uint32_t env):
        """That place has been filled."""
        shoal_complete_for(&self.parent, env)

    def revive(self, uint32_t worker, int pid, int pidfd):
        """Another process has taken a dead worker's place."""
        if shoal_revive(&self.parent, worker, pid, pidfd) != SHOAL_OK:
            raise WorkerDied(f"worker {worker} still owes the result of {self.parent.culprit}")

    def close(self):
        """Let every worker's next call return that the vector is closed."""
        shoal_close(&self.parent)
