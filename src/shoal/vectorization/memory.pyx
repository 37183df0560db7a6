"""Shared memory that needs no descriptor once it is mapped, and is unmapped with its last view.

The standard library's ``mmap`` keeps a descriptor for as long as an array looks into it.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_SetFromErrno

__all__ = ["map_memory"]

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* at, size_t nbytes, int protection, int flags, int descriptor, long offset)
    int munmap(void* at, size_t nbytes)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED


cdef class Mapping:
    """A writeable buffer over the memory behind a descriptor."""

    cdef void* start
    cdef size_t nbytes

    def __cinit__(self, int descriptor, size_t nbytes):
        self.start = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        if self.start == MAP_FAILED:
            self.start = NULL
            PyErr_SetFromErrno(OSError)
        self.nbytes = nbytes

    def __dealloc__(self):
        if self.start != NULL:
            munmap(self.start, self.nbytes)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.nbytes, False, flags)


def map_memory(descriptor: int, nbytes: int) -> Mapping:
    """Map the first `nbytes` behind a descriptor, shared with all who map it."""
    return Mapping(descriptor, nbytes)
