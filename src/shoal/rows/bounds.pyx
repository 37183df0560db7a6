"""Check a whole batch of rows against the bounds of their layout."""

from libc.stdint cimport (
    int8_t,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from libc.stdlib cimport calloc, free

cimport numpy as cnp

import numpy as np

cnp.import_array()

__all__ = ["Bounds"]


ctypedef fused number:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double


cdef bint inside(const number* at, const char* low, const char* high, Py_ssize_t count) noexcept:
    cdef Py_ssize_t i
    for i in range(count):  # NaN compares as False, and so is outside
        if not (at[i] >= (<const number*>low)[i] and at[i] <= (<const number*>high)[i]):
            return False
    return True


cdef bint within(const Range* leaf, const char* at) noexcept:
    cdef int kind = leaf.type_num
    if kind == cnp.NPY_INT64:
        return inside(<const int64_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_FLOAT32:
        return inside(<const float*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_FLOAT64:
        return inside(<const double*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_INT8:
        return inside(<const int8_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT8 or kind == cnp.NPY_BOOL:
        return inside(<const uint8_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_INT16:
        return inside(<const int16_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT16:
        return inside(<const uint16_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_INT32:
        return inside(<const int32_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT32:
        return inside(<const uint32_t*>at, leaf.low, leaf.high, leaf.count)
    if kind == cnp.NPY_UINT64:
        return inside(<const uint64_t*>at, leaf.low, leaf.high, leaf.count)
    return False  # float16: C has no such type


cdef bint all_inside(
    const uint64_t* at, uint64_t low, uint64_t high, Py_ssize_t count
) noexcept:
    """Return whether all rows of one int64 are within bounds that are less than 2**62 apart.

    Without a branch: for a value out of bounds, one of the two differences is negative.
    """
    cdef Py_ssize_t i
    cdef uint64_t signs = 0
    for i in range(count):
        signs |= (at[i] - low) | (high - at[i])
    return signs >> 63 == 0


cdef class Bounds:
    """Bounds of the rows of one layout.

    Args:
        layout: a `Layout` in the ``bytes`` form.
    """

    def __cinit__(self, layout):
        cdef Py_ssize_t i
        self.keep = []
        self.dtype = layout.dtype
        self.num_dims = len(layout.shape)
        self.num_ranges = len(layout.leaves)
        self.row_nbytes = layout.nbytes
        self.alignment = 1
        self.shape = <Py_ssize_t*>calloc(self.num_dims + 1, sizeof(Py_ssize_t))
        self.ranges = <Range*>calloc(self.num_ranges + 1, sizeof(Range))
        if self.shape == NULL or self.ranges == NULL:
            raise MemoryError
        for i in range(self.num_dims):
            self.shape[i] = layout.shape[i]
        for i in range(self.num_ranges):
            leaf = layout.leaves[i]
            low, high = (
                np.ascontiguousarray(np.broadcast_to(bound, leaf.shape), leaf.dtype)
                for bound in (leaf.low, leaf.high)
            )
            self.keep += [low, high]
            self.ranges[i].type_num = low.dtype.num
            self.ranges[i].offset = leaf.offset
            self.ranges[i].count = leaf.count
            self.ranges[i].low = cnp.PyArray_BYTES(low)
            self.ranges[i].high = cnp.PyArray_BYTES(high)
            self.alignment = max(self.alignment, low.dtype.alignment)

    def __dealloc__(self):
        free(self.shape)
        free(self.ranges)

    cpdef bint hold(self, array):
        """Return whether all rows of `array` are known to be within bounds.

        Args:
            array: anything. True only for a NumPy array of shape ``(*batch, *layout.shape)`` and
                dtype ``layout.dtype``. False also for arrays that can't be checked here: of
                float16, not contiguous, or misaligned.
        """
        cdef Py_ssize_t i, row, num_rows, batch_dims
        cdef uint64_t low, high
        cdef const char* at
        if type(array) is not cnp.ndarray or array.dtype is not self.dtype:
            return False
        batch_dims = cnp.PyArray_NDIM(array) - self.num_dims
        if batch_dims < 0 or not cnp.PyArray_IS_C_CONTIGUOUS(array):
            return False
        for i in range(self.num_dims):
            if cnp.PyArray_DIM(array, batch_dims + i) != self.shape[i]:
                return False
        at = cnp.PyArray_BYTES(array)
        if <size_t>at % <size_t>self.alignment:
            return False
        num_rows = cnp.PyArray_NBYTES(array) // self.row_nbytes if self.row_nbytes else 0
        if self.num_ranges == 1 and self.row_nbytes == 8 and (
            self.ranges[0].type_num == cnp.NPY_INT64
        ):
            low = (<uint64_t*>self.ranges[0].low)[0]
            high = (<uint64_t*>self.ranges[0].high)[0]
            if high - low < <uint64_t>1 << 62:
                return all_inside(<const uint64_t*>at, low, high, num_rows)
        for row in range(num_rows):
            for i in range(self.num_ranges):
                if not within(&self.ranges[i], at + self.ranges[i].offset):
                    return False
            at += self.row_nbytes
        return True
