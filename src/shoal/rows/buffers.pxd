from shoal.rows.rows cimport Rows


cdef class Buffers:
    cdef Rows rows
    cdef readonly Py_ssize_t num_rows
    cdef readonly dict arrays
