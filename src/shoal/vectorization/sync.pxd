from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cimport numpy as cnp


cdef extern from "c/sync.h" nogil:
    ctypedef struct shoal_config:
        uint32_t num_workers, num_envs, batch_size, num_blocks, mode, cores
        int32_t parent_pid
        uint32_t epoch

    ctypedef struct shoal_parent:
        uint32_t culprit, error

    ctypedef struct shoal_worker:
        pass


cdef class Parent:
    cdef shoal_parent c
    cdef shoal_config config
    cdef cnp.ndarray memory     # of bytes; None once released
    cdef bint waiting
    cdef readonly str mode
    cdef readonly uint64_t num_posted, num_received
    cdef int check(self) except -1
    cdef int check_worker(self, Py_ssize_t worker) except -1


cdef class Worker:
    """For compiled loops: these work without the interpreter, and must not run after `release`."""

    cdef shoal_worker c
    cdef cnp.ndarray memory     # of bytes; None once released
    cdef readonly int op            # of the entry that `next` took
    cdef readonly Py_ssize_t env    # of that entry; a command's argument
    cdef uint64_t entry
    cdef int wait(self) noexcept nogil          # OK, INTERRUPTED, DEAD or CLOSED
    cdef int next(self) noexcept nogil          # OK, INTERRUPTED (nothing now) or CLOSED
    cdef Py_ssize_t claim(self) noexcept nogil  # the place for the entry's result
    cdef void complete(self, Py_ssize_t place) noexcept nogil
    cdef void finish(self) noexcept nogil       # the command is carried out
    cdef void fail(self, uint32_t code) noexcept nogil
    cdef int check(self) except -1
