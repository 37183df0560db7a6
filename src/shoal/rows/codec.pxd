from cpython.dict cimport PyDict_Check
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from shoal.rows.borrowed cimport PyDict_GET_SIZE, PyDict_GetItemWithError
from shoal.rows.pack cimport Packer


cdef inline PyObject* find(mapping, key) except? NULL:
    """Return ``mapping.get(key)`` of a dict, borrowed; NULL for anything else."""
    if PyDict_Check(mapping) and PyDict_GET_SIZE(<PyObject*>mapping):
        return PyDict_GetItemWithError(<PyObject*>mapping, <PyObject*>key)
    return NULL


cdef struct Run:
    # Consecutive elements of a flat action row, and their place in the native row.
    int from_type
    int to_type
    Py_ssize_t from_offset
    Py_ssize_t to_offset
    Py_ssize_t count
    double* low
    double* high


cdef class Decoder:
    cdef Packer packer
    cdef bint identity
    cdef object layout          # the ActionLayout, if `convert` lacks one of its dtypes; else None
    cdef Run* runs
    cdef Py_ssize_t num_runs
    cdef double* bounds
    cdef char* native
    cdef object flat_array, native_array
    cdef object decode(self, const char* row)


cdef class MaskWriter:
    cdef object layout
    cdef list parts
    cdef Py_ssize_t num_masked
    cdef int write(self, PyObject* mask, uint8_t* to) except -1
    cdef bint _write_parts(self, mask, uint8_t* to) except -1
