"""Checked arrays of rows as one C struct."""

from libc.string cimport memcpy

cimport numpy as cnp

import numpy as np

from shoal.errors import LayoutError
from shoal.rows.fields import row_fields

cnp.import_array()

__all__ = ["Buffers"]


cdef class Buffers:
    """Arrays of agent rows that compiled code reads and writes.

    Args:
        observation_layout, action_layout: layouts of the rows.
        arrays: for each name of `row_fields`, an array of shape ``(num_rows, *shape)``:
            C-contiguous, aligned, writeable. `Buffers` keeps references to the arrays and copies
            nothing. ``actions`` may have another number of rows, if results don't go to the rows
            that their actions came from. Other names are ignored.

    Raises:
        LayoutError: an array is missing or unsuitable; nothing is written.
    """

    def __cinit__(self, observation_layout, action_layout, dict arrays):
        cdef char* first_row
        cdef Py_ssize_t i
        observations = arrays.get("observations")
        self.num_rows = np.shape(observations)[0] if np.ndim(observations) else 0
        self.arrays = arrays
        fields = row_fields(observation_layout, action_layout)
        for i, (name, (dtype, shape)) in enumerate(fields.items()):
            array = arrays.get(name)
            count = self.num_rows
            if name == "actions" and isinstance(array, np.ndarray):
                count = len(array)
            wanted = (count, *shape)
            if not isinstance(array, np.ndarray) or array.shape != wanted or array.dtype != dtype:
                got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else array
                raise LayoutError(f"buffer {name!r}: expected {dtype} {wanted}, got {got}")
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned and flags.writeable):
                raise LayoutError(
                    f"buffer {name!r}: expected a C-contiguous, aligned, writeable array"
                )
            # `Rows` begins with one pointer for each field, in the same order.
            first_row = cnp.PyArray_BYTES(array)
            memcpy(<char*>&self.rows + i * sizeof(first_row), &first_row, sizeof(first_row))
        self.rows.observation_nbytes = observation_layout.nbytes
        self.rows.action_nbytes = action_layout.flat.nbytes
        self.rows.num_masked = action_layout.num_masked
