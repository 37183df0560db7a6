"""Convert flat action rows to an environment's own actions, and action masks to rows of bools."""

from cpython.object cimport PyObject
from libc.math cimport rint
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
from libc.string cimport memcpy, memset

cimport numpy as cnp

import numpy as np

from shoal.rows.actions import flat_mask

cnp.import_array()

__all__ = ["Decoder", "MaskWriter"]


cdef class Decoder:
    """Makes the environment's own actions of flat rows; see `ActionLayout.decode`.

    Args:
        layout: the `ActionLayout`.
    """

    def __cinit__(self, layout):
        cdef Py_ssize_t i, j, count, at = 0
        self.packer = layout.native.packer
        self.identity = layout.identity
        if layout.identity:
            return
        runs = layout.runs()
        if any(run[0] not in C_TYPES or run[1] not in C_TYPES for run in runs):
            self.layout = layout
        self.flat_array = layout.flat.zeros()
        self.native_array = np.zeros(max(layout.native.native_nbytes, 1), np.uint8)
        self.native = cnp.PyArray_BYTES(self.native_array)
        self.num_runs = len(runs)
        self.runs = <Run*>calloc(len(runs) + 1, sizeof(Run))
        self.bounds = <double*>calloc(2 * sum(run[4] for run in runs) + 1, sizeof(double))
        if self.runs == NULL or self.bounds == NULL:
            raise MemoryError
        for i, (source, target, source_offset, target_offset, count, low, high) in enumerate(runs):
            self.runs[i].from_type = np.dtype(source).num
            self.runs[i].to_type = np.dtype(target).num
            self.runs[i].from_offset = source_offset
            self.runs[i].to_offset = target_offset
            self.runs[i].count = count
            self.runs[i].low = self.bounds + at
            self.runs[i].high = self.bounds + at + count
            for j in range(count):
                self.bounds[at + j] = low[j]
                self.bounds[at + count + j] = high[j]
            at += 2 * count

    def __dealloc__(self):
        free(self.runs)
        free(self.bounds)

    cdef object decode(self, const char* row):
        cdef Py_ssize_t i
        if self.identity:
            return self.packer.unpack_row(row)
        if self.layout is not None:
            memcpy(cnp.PyArray_BYTES(self.flat_array), row, self.flat_array.nbytes)
            return self.layout.decode(self.flat_array)
        for i in range(self.num_runs):
            convert(&self.runs[i], row, self.native)
        return self.packer.unpack_row(self.native)


# Dtypes that `convert` handles. float16 is not one: C has no such type.
C_TYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    + ["float32", "float64"]
)


cdef void convert(const Run* run, const char* flat, char* native) noexcept nogil:
    """Convert one run. Discrete values (int64) were checked before; continuous ones are clipped.

    The bounds are floats within the range of the type: see `float_bounds`.
    """
    cdef Py_ssize_t i
    cdef const char* source = flat + run.from_offset
    cdef char* to = native + run.to_offset
    cdef double value
    cdef int64_t number
    for i in range(run.count):
        if run.from_type == cnp.NPY_INT64:
            number = (<const int64_t*>source)[i]
        else:
            if run.from_type == cnp.NPY_FLOAT32:
                value = (<const float*>source)[i]
            else:
                value = (<const double*>source)[i]
            value = min(max(value, run.low[i]), run.high[i])
            if run.to_type == cnp.NPY_FLOAT32:
                (<float*>to)[i] = <float>value
                continue
            if run.to_type == cnp.NPY_FLOAT64:
                (<double*>to)[i] = value
                continue
            if run.to_type == cnp.NPY_UINT64:  # the only type whose values int64 can't hold
                (<uint64_t*>to)[i] = <uint64_t>rint(value)
                continue
            number = <int64_t>rint(value)
        if run.to_type == cnp.NPY_INT64 or run.to_type == cnp.NPY_UINT64:
            (<int64_t*>to)[i] = number
        elif run.to_type == cnp.NPY_INT32 or run.to_type == cnp.NPY_UINT32:
            (<int32_t*>to)[i] = <int32_t>number
        elif run.to_type == cnp.NPY_INT16 or run.to_type == cnp.NPY_UINT16:
            (<int16_t*>to)[i] = <int16_t>number
        else:
            (<int8_t*>to)[i] = <int8_t>number


cdef class MaskWriter:
    """Writes action masks as rows of bools: one entry for each category of each discrete leaf.

    Args:
        layout: the `ActionLayout`.
    """

    def __cinit__(self, layout):
        self.layout = layout
        self.num_masked = layout.num_masked
        self.parts = layout.mask_parts if self.num_masked else []  # together num_masked entries

    cdef int write(self, PyObject* mask, uint8_t* to) except -1:
        if mask == NULL or <object>mask is None:
            memset(to, 1, self.num_masked)
            return 0
        value = <object>mask
        if not (copy_mask(value, self.num_masked, to) or self._write_parts(value, to)):
            copy_mask(flat_mask(self.layout, value), self.num_masked, to)
        return 0

    cdef bint _write_parts(self, mask, uint8_t* to) except -1:
        """Write a mask that is nested as the actions are; return False if a part can't be copied."""
        cdef Py_ssize_t count
        cdef PyObject* found
        for keys, _, count in self.parts:
            part = mask
            for key in keys:
                found = find(part, key)
                if found == NULL:
                    return False
                part = <object>found
            if not copy_mask(part, count, to):
                return False
            to += count
        return True


cdef bint copy_mask(mask, Py_ssize_t count, uint8_t* to) noexcept:
    """Write a mask that is a contiguous array of `count` bytes; return False for any other."""
    cdef Py_ssize_t i
    cdef const int8_t* entries
    if type(mask) is not cnp.ndarray or cnp.PyArray_ITEMSIZE(mask) != 1 or (
        cnp.PyArray_SIZE(mask) != count or not cnp.PyArray_IS_C_CONTIGUOUS(mask)
    ):
        return False
    entries = <const int8_t*>cnp.PyArray_BYTES(mask)
    for i in range(count):
        to[i] = entries[i] != 0
    return True
