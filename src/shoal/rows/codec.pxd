from cpython.dict cimport PyDict_Check
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from shoal.rows.pack cimport Packer

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(PyObject* mapping, PyObject* key) except? NULL
    Py_ssize_t PyDict_GET_SIZE(PyObject* mapping)


cdef inline PyObject* find(mapping, key) except? NULL:
    """``mapping.get(key)`` of a dict, else NULL; borrowed."""
    if PyDict_Check(mapping) and PyDict_GET_SIZE(<PyObject*>mapping):
        return PyDict_GetItemWithError(<PyObject*>mapping, <PyObject*>key)
    return NULL


cdef struct Run:
    # Consecutive elements of a flat action row and where they go in the native row.
    int from_type
    int to_type
    Py_ssize_t from_offset
    Py_ssize_t to_offset
    Py_ssize_t count
    double* low
    double* high


cdef class Decoder:
    # Flat action rows into the environment's own actions.
    cdef Packer packer
    cdef bint identity
    cdef object layout          # the ActionLayout, where compiled runs don't cover its dtypes
    cdef Run* runs
    cdef Py_ssize_t num_runs
    cdef double* bounds
    cdef char* native
    cdef object flat_array, native_array
    cdef object decode(self, const char* row)


cdef class MaskWriter:
    # Action masks, in whichever form environments give them, as rows of bools.
    cdef object layout
    cdef list parts
    cdef Py_ssize_t num_masked
    cdef int write(self, PyObject* mask, uint8_t* to) except -1
    cdef bint _write_parts(self, mask, uint8_t* to) except -1
