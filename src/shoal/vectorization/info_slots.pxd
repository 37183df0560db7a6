from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport numpy as cnp

cdef enum:
    MAX_NDIM = 4                # of arrays that lie in a slot


cdef struct Field:
    # One key of an info, or of a dict inside it; all objects are borrowed from the `Schema`.
    int kind
    int type_num                # NumPy's number of the dtype
    int ndim
    Py_ssize_t count            # a dict's entries; theirs are the next fields, in depth-first order
    Py_ssize_t offset           # in the slot
    Py_ssize_t nbytes
    PyObject* key
    PyObject* mask_key          # "_" + key
    PyObject* type              # exact type of the value; NULL for constants, which are themselves
    # Writer: the constant seen last and its number.
    PyObject* constant
    Py_ssize_t number
    # Reader: where this batch's values go. shape[0] is the number of rows.
    cnp.npy_intp shape[MAX_NDIM + 1]
    char* column
    uint8_t* mask


cdef class Schema:
    cdef readonly tuple signature
    cdef readonly Py_ssize_t nbytes     # of the slot, without the text at its end
    cdef Field* fields                  # the first is the info itself
    cdef Py_ssize_t num_fields
    cdef list keep
    cdef uint64_t batch                 # the reader's batch that the columns belong to
    cdef bint direct                    # they can be stored into as they are


cdef class InfoWriter:
    cdef object slots_array
    cdef char* slots
    cdef Py_ssize_t num_slots, stride, capacity, last
    cdef readonly uint32_t number
    cdef list schemas, constants, new_schemas, new_constants, notes
    cdef object dumps
    cdef dict fits                      # signature -> whether slots have room for it
    cdef set noted
    cpdef object write(self, object info, Py_ssize_t slot)
    cdef Py_ssize_t _match(self, PyObject* info, char* slot) except -2
    cdef Py_ssize_t _fill(
        self, Schema schema, Py_ssize_t at, PyObject* mapping, char* slot, Py_ssize_t* end
    ) except -1
    cdef int _learn(self, dict info) except -1


cdef class InfoReader:
    cdef dict schemas                   # signature -> Schema, one for all writers
    cdef dict known                     # number of a writer -> its schemas, its constants
    cdef uint64_t batch
    cdef int64_t writer                 # of the slot read last, or -1
    cdef Py_ssize_t capacity            # of the slots
    cdef object loads
    cdef list announced, constants      # its schemas and constants
    cpdef object learn(self, bytes message)
    cpdef dict read(self, cnp.ndarray slots, fetch)
    cpdef list read_each(self, cnp.ndarray slots, fetch)
    cdef dict _fetch_spilled(self, const char* start, cnp.ndarray slots, fetch)
    cdef Schema _schema(self, const char* slot, Py_ssize_t row)
