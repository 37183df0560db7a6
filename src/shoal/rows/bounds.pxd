cdef struct Range:
    # One leaf of a flat action row, with bounds in its own dtype.
    int type_num
    Py_ssize_t offset
    Py_ssize_t count
    char* low
    char* high


cdef class Bounds:
    cdef Range* ranges
    cdef Py_ssize_t num_ranges, num_dims, alignment, row_nbytes
    cdef object dtype, keep
    cdef Py_ssize_t* shape
    cpdef bint hold(self, array)
