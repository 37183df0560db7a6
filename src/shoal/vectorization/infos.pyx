"""Infos as Gymnasium's vector environments give them: one dict of arrays for all rows.

Every key of any row's info becomes an array with one entry for each row, and ``_key`` a mask of the
rows that have the key. Where all rows hold values of one type, the arrays are those of
`gymnasium.vector.VectorEnv._add_info`. Where they don't, Gymnasium converts every value to the type
of the first one (0.5 becomes 0 after an integer); here the array is replaced by a wider one:

- numbers, or arrays of one shape: the dtype that NumPy promotes both to, if it holds every value;
- all else: dtype object, with None in the rows that lack the key.
"""

from cpython.dict cimport PyDict_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

cimport numpy as cnp

from shoal.rows.borrowed cimport (
    PyArrayObject,
    PyArray_BYTES,
    PyArray_CheckExact,
    PyArray_DIMS,
    PyArray_ISCARRAY,
    PyArray_NDIM,
    PyArray_TYPE,
    PyDict_GetItemWithError,
    PyFloat_AS_DOUBLE,
    PyLong_AsLongLongAndOverflow,
)

import numpy as np

from shoal.emulation.loop import items_of

cnp.import_array()

__all__ = ["add_info", "split_infos"]

cdef object DOUBLE = np.float64
cdef object FINAL_OBS = "final_obs"


cpdef int add_info(dict infos, object info, Py_ssize_t row, Py_ssize_t num_rows) except -1:
    """Add the info of one row to the infos of all rows.

    Values under ``"final_obs"`` go into an array of objects, whatever they are.

    Returns:
        1 if an array was replaced by a wider one, else 0.

    Raises:
        EmulationError: `info` is not a dict.
    """
    cdef PyObject* found
    cdef PyObject* mask
    cdef int replaced = 0
    cdef cnp.npy_intp length = num_rows
    for key, value in (info if PyDict_CheckExact(info) else dict(items_of(info))).items():
        mask_key = f"_{key}"
        found = PyDict_GetItemWithError(<PyObject*>infos, <PyObject*>key)
        mask = PyDict_GetItemWithError(<PyObject*>infos, <PyObject*>mask_key)
        nested = isinstance(value, dict) and key != FINAL_OBS
        if nested and (found == NULL or PyDict_CheckExact(<object>found)):
            array = {} if found == NULL else <object>found
            if add_info(array, value, row, num_rows):
                replaced = 1
            if found == NULL:
                infos[key] = array
        else:
            array = new_column(key, value, num_rows) if found == NULL else <object>found
            if not assign(array, row, value):
                if found != NULL and type(key) is str and key[:1] == "_" and key[1:] in infos:
                    array[row] = is_true(value)  # the mask of another key
                else:
                    array = widened(array, mask_of(infos, key), row, value, num_rows)
            if found != <PyObject*>array:
                infos[key] = array
                replaced = replaced or found != NULL
        if mask == NULL:
            masks = cnp.PyArray_ZEROS(1, &length, cnp.NPY_BOOL, 0)
            masks[row] = True
            infos[mask_key] = masks
        elif not assign(<object>mask, row, True):  # a key of the environment's
            (<object>mask)[row] = True
    return replaced


def split_infos(dict infos, Py_ssize_t num_rows):
    """Return one dict for each row: the opposite of `add_info`, without final observations."""
    each = [{} for _ in range(num_rows)]
    for key, values in infos.items():
        mask = mask_of(infos, key)
        if mask is None or key == FINAL_OBS:
            continue
        if isinstance(values, dict):
            values = split_infos(values, num_rows)
        for row in mask.nonzero()[0].tolist():
            each[row][key] = values[row]
    return each


cdef object mask_of(dict infos, key):
    """Return which rows have `key`; None for a mask, and where an environment's key took its place."""
    mask = infos.get(f"_{key}")
    if isinstance(mask, np.ndarray) and mask.dtype == bool and mask.ndim == 1:
        return mask
    return None


cdef object new_column(key, value, cnp.npy_intp num_rows):
    kind = type(value)
    if key != FINAL_OBS:
        if kind is float:
            return cnp.PyArray_ZEROS(1, &num_rows, cnp.NPY_DOUBLE, 0)
        if kind is bool or (kind is int and -(2**63) <= value < 2**63):
            return np.zeros(num_rows, kind)
        if issubclass(kind, np.number):
            return np.zeros(num_rows, value.dtype)
        if isinstance(value, np.ndarray):
            return np.zeros((num_rows, *value.shape), value.dtype)
    return cnp.PyArray_EMPTY(1, &num_rows, cnp.NPY_OBJECT, 0)  # full of None


cdef bint assign(array, Py_ssize_t row, value) except -1:
    """Set ``array[row]`` to `value` if the array can hold just that; return whether it can."""
    cdef PyArrayObject* to = <PyArrayObject*>array
    cdef int type_num, overflow = 0
    cdef long long number
    kind = type(value)
    if not PyArray_CheckExact(<PyObject*>array):
        return False
    if PyArray_ISCARRAY(to) and PyArray_NDIM(to) == 1 and 0 <= row < PyArray_DIMS(to)[0]:
        type_num = PyArray_TYPE(to)
        if type_num == cnp.NPY_OBJECT:
            array[row] = value
            return True
        if type_num == cnp.NPY_BOOL:
            if kind is bool:
                PyArray_BYTES(to)[row] = value is True
                return True
        elif type_num == cnp.NPY_DOUBLE:
            if kind is float or kind is DOUBLE:
                (<double*>PyArray_BYTES(to))[row] = PyFloat_AS_DOUBLE(<PyObject*>value)
                return True
            if kind is int:
                number = PyLong_AsLongLongAndOverflow(<PyObject*>value, &overflow)
                if not overflow and -(<long long>1 << 53) <= number <= <long long>1 << 53:
                    (<double*>PyArray_BYTES(to))[row] = <double>number
                    return True
        elif type_num == cnp.NPY_INT64 and kind is int:
            number = PyLong_AsLongLongAndOverflow(<PyObject*>value, &overflow)
            if not overflow:
                (<int64_t*>PyArray_BYTES(to))[row] = number
                return True
    if isinstance(value, (np.ndarray, np.number)) and (
        value.dtype == array.dtype and value.shape == array.shape[1:]
    ):
        array[row] = value
        return True
    return False


cdef object widened(column, mask, Py_ssize_t row, value, cnp.npy_intp num_rows):
    """Return an array like `column` (or a dict of them) that also holds `value` in `row`.

    Args:
        mask: the rows of `column` that hold a value; None if that is not known.
    """
    rows = np.arange(num_rows) if mask is None else mask.nonzero()[0]
    if isinstance(column, np.ndarray) and (
        isinstance(value, (np.ndarray, np.number, np.bool_)) or type(value) in (bool, int, float)
    ):
        new = np.asarray(value)
        dtype = common_dtype(column.dtype, new.dtype)
        if dtype is not None and new.shape == column.shape[1:] and (
            holds(dtype, column[rows]) and holds(dtype, new)
        ):
            column = column.astype(dtype, copy=False)
            column[row] = new
            return column
    entries = cnp.PyArray_EMPTY(1, &num_rows, cnp.NPY_OBJECT, 0)  # full of None
    for old in rows.tolist():
        entries[old] = entry_of(column, old)
    entries[row] = value.copy() if isinstance(value, np.ndarray) else value
    return entries


cdef object entry_of(column, Py_ssize_t row):
    """Return what a row of an array, or of a dict of arrays, was made from."""
    if isinstance(column, dict):
        return {
            key: entry_of(values, row)
            for key, values in column.items()
            if (mask := mask_of(column, key)) is not None and mask[row]
        }
    value = column[row]
    if type(value) in (np.float64, np.int64, np.bool_) and column.dtype != object:
        return value.item()  # Python's own numbers are kept in these
    return value.copy() if isinstance(value, np.ndarray) else value


cdef object common_dtype(one, other):
    """Return the dtype that NumPy promotes both to; None if they are different kinds of things."""
    kinds = one.kind + other.kind
    if one.hasobject or other.hasobject or (
        one.kind != other.kind and not set(kinds) <= set("biufc")
    ):
        return None
    try:
        return np.promote_types(one, other)
    except TypeError:
        return None


cdef bint holds(dtype, values) except -1:
    """Return whether all values stay the same in `dtype`: integers do in floats up to a size."""
    if values.dtype.kind not in "iu" or dtype.kind not in "fc" or values.size == 0:
        return True
    most = 2 ** (np.finfo(dtype).nmant + 1)
    return -most <= int(values.min()) and int(values.max()) <= most


cdef bint is_true(value):
    try:
        return bool(value)
    except Exception:  # an array
        return True
