"""Infos: the dicts that environments return, from workers to the parent, as one dict of arrays.

A worker writes the info of each environment into a slot: a fixed number of bytes of the arena. Most
environments return the same keys with the same types of values every step. The order of keys and
the types are a *schema*; a slot then holds the schema's number and the bare values. An info that
has no schema (yet), or does not fit, is *spilled*: its slot says so, and a message (bytes, sent by
other means) carries the whole dict. The message in which a schema was first used announces it to
the reader.

    slot      uint32 tag, uint32 writer, then at fixed offsets 8 bytes for each number, the bytes
              of each array, and what each text or constant needs, then the text itself
    tag       EMPTY, SPILLED or FIRST_SCHEMA + the writer's number of the schema
    message   uint32 length of the announcements, announcements, info: two pickles, or what `dumps`
              of the writer makes, which only `loads` of the reader understands

Invariants:
- A slot has one writer at a time, and the engine orders its bytes (release) before the batch that
  the reader takes (acquire): nothing here is atomic.
- An empty info does not touch a slot that is empty already, so its cache line stays shared.
- A schema or constant never changes its number, and a writer's number is never given to another:
  so a slot may be read long after it was written, even after its worker has been replaced,
  provided that every message sent before was read, or given to `InfoReader.learn`.
- Values that may change while they stay the same object (lists, unknown classes) are never
  constants.
- The assembled dict is that of `infos.add_info` called in the order of rows. The quick way (`store`)
  serves arrays that match the schema; all else goes through `add_info`, which may replace arrays by
  wider ones: then those that schemas know are out of date (`batch`).
"""

from cpython.dict cimport PyDict_CheckExact
from cpython.exc cimport PyErr_Clear
from cpython.float cimport PyFloat_FromDouble
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_FromLongLong
from cpython.object cimport Py_TYPE, PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cimport numpy as cnp

from shoal.rows.borrowed cimport (
    NumpyScalar,
    PyArrayObject,
    PyArray_BYTES,
    PyArray_CheckExact,
    PyArray_DIMS,
    PyArray_ISCARRAY,
    PyArray_ISNOTSWAPPED,
    PyArray_IS_C_CONTIGUOUS,
    PyArray_NDIM,
    PyArray_ScalarAsCtype,
    PyArray_TYPE,
    PyDict_GET_SIZE,
    PyDict_GetItemWithError,
    PyDict_Next,
    PyFloat_AS_DOUBLE,
    PyLong_AsLongLongAndOverflow,
    PyUnicode_AsUTF8AndSize,
    PyUnicode_CheckExact,
    PyUnicode_Compare,
)
from shoal.vectorization.infos cimport add_info

import io
import math
import pickle
import warnings
from enum import Enum

import numpy as np

from shoal.emulation.loop import items_of
from shoal.errors import ShoalError

cnp.import_array()

__all__ = ["InfoReader", "InfoWriter"]

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void* data, cnp.dtype dtype, object base)

cdef enum:
    # What a value is; with the type and shape, that is a field of a signature.
    INFO, FLOAT, INT, BOOL, NUMBER, ARRAY, TEXT, CONSTANT

cdef enum:
    # Tags of slots.
    EMPTY, SPILLED, FIRST_SCHEMA

cdef enum:
    HEADER = 8          # bytes
    # Per worker. They bound what environments can make grow that invent keys or constants.
    MAX_FIELDS = 512
    MAX_SCHEMAS = 64
    MAX_CONSTANTS = 256

cdef dict TYPES = {
    INFO: dict, FLOAT: float, INT: int, BOOL: bool, ARRAY: np.ndarray, TEXT: str
}
cdef dict FIXED = {
    FLOAT: ("d", ()), INT: (np.dtype(np.int64).char, ()), BOOL: ("?", ()), TEXT: ("", ()),
    CONSTANT: ("", ()),
}
cdef object NUMBERS = frozenset(np.dtype(char).type for char in "bBhHiIlLqQefdgFDG")
cdef object ARRAY_CHARS = frozenset("?bBhHiIlLqQefdgFDG")
cdef object FINAL_OBS = "final_obs"


cdef class Schema:
    """Where the values of infos with one signature lie in a slot.

    A signature is a tuple of fields (key, kind, dtype character, shape), depth first. Those of
    kind INFO, of which the first stands for the info itself, have their number of entries in
    place of a shape.
    """

    def __cinit__(self, tuple signature):
        cdef Py_ssize_t i, j
        cdef Field* field
        check_signature(signature)
        self.signature = signature
        self.num_fields = len(signature)
        self.fields = <Field*>calloc(self.num_fields, sizeof(Field))
        if self.fields == NULL:
            raise MemoryError
        self.nbytes = HEADER
        self.keep = []
        for i, (key, kind, char, shape) in enumerate(signature):
            field = &self.fields[i]
            mask_key = f"_{key}"
            self.keep.append(mask_key)
            field.kind = kind
            field.key = <PyObject*>key
            field.mask_key = <PyObject*>mask_key
            field.offset = self.nbytes
            if kind != CONSTANT:
                value_type = np.dtype(char).type if kind == NUMBER else TYPES[kind]
                field.type = <PyObject*>value_type
            if kind == INFO:
                field.count = shape
            elif kind == TEXT or kind == CONSTANT:
                field.type_num = cnp.NPY_OBJECT
                field.nbytes = 8
            else:
                dtype = np.dtype(char)
                field.type_num = dtype.num
                field.ndim = len(shape)
                for j in range(field.ndim):
                    field.shape[j + 1] = shape[j]
                field.nbytes = dtype.itemsize * math.prod(shape)
            self.nbytes += (field.nbytes + 7) // 8 * 8

    def __dealloc__(self):
        free(self.fields)


# -- writing ---------------------------------------------------------------------------------------


cdef class InfoWriter:
    """Puts infos into slots: one writer for each worker process.

    Args:
        slots: ``(num_slots, capacity)`` uint8, each slot contiguous and aligned to 8 bytes;
            `capacity` is a multiple of 8, at least 8. Kept alive, not copied.
        number: of this writer, less than ``2**32``; the reader must never have met another writer
            of the same number, so a process that replaces another needs a new one.
        dumps: what makes messages, instead of pickling.
    """

    def __cinit__(self, slots, uint32_t number, dumps=None):
        self.dumps = dumps
        self.slots = check_slots(slots, True)
        self.slots_array = slots
        self.num_slots, self.capacity = slots.shape
        self.stride = slots.strides[0]
        self.number = number
        self.schemas, self.constants = [], []
        self.new_schemas, self.new_constants, self.notes = [], [], []
        self.fits = {}
        self.noted = set()

    cpdef object write(self, object info, Py_ssize_t slot):
        """Write `info` (a dict, or None for an empty one) into a slot.

        Returns:
            None; or, where the slot can't hold the info, bytes that must reach the reader before
            this slot and any written later are read.

        Raises:
            EmulationError: `info` is not a dict.
        """
        cdef Py_ssize_t number
        cdef char* at
        if not 0 <= slot < self.num_slots:
            raise IndexError(f"slot: expected one of {self.num_slots}, got {slot}")
        at = self.slots + slot * self.stride
        if info is None or (
            PyDict_CheckExact(info) and PyDict_GET_SIZE(<PyObject*>info) == 0
        ):
            if (<uint32_t*>at)[0] != EMPTY:
                (<uint32_t*>at)[0] = EMPTY
            return None
        (<uint32_t*>at)[0] = SPILLED
        (<uint32_t*>at)[1] = self.number
        if PyDict_CheckExact(info):
            number = self._match(<PyObject*>info, at)
            if number >= 0:
                (<uint32_t*>at)[0] = <uint32_t>(FIRST_SCHEMA + number)
                return None
            self._learn(info)
        else:
            info = dict(items_of(info))
        return self._message(info)

    cdef Py_ssize_t _match(self, PyObject* info, char* slot) except -2:
        """Fill the slot by the first schema that fits; its number, or -1."""
        cdef Py_ssize_t i, number, end, num_schemas = PyList_GET_SIZE(self.schemas)
        cdef Schema schema
        for i in range(num_schemas):
            # The one that fitted last goes first, and the first in its place.
            number = self.last if i == 0 else 0 if i == self.last else i
            schema = <Schema>PyList_GET_ITEM(self.schemas, number)
            end = schema.nbytes
            if self._fill(schema, 0, info, slot, &end):
                self.last = number
                return number
        return -1

    cdef Py_ssize_t _fill(
        self, Schema schema, Py_ssize_t at, PyObject* mapping, char* slot, Py_ssize_t* end
    ) except -1:
        """Write the values of `mapping`, which is field `at`; the next field, or 0 if none fits."""
        cdef PyObject* key
        cdef PyObject* value
        cdef Field* field
        cdef char* to
        cdef const char* text
        cdef Py_ssize_t size, position = 0
        cdef int overflow = 0
        if PyDict_GET_SIZE(mapping) != schema.fields[at].count:
            return 0
        at += 1
        while PyDict_Next(mapping, &position, &key, &value):
            field = &schema.fields[at]
            if key != field.key and not (
                PyUnicode_CheckExact(key) and PyUnicode_Compare(key, field.key) == 0
            ):
                return 0
            if field.type != NULL and <PyObject*>Py_TYPE(<object>value) != field.type:
                return 0
            to = slot + field.offset
            if field.kind == INFO:
                at = self._fill(schema, at, value, slot, end)
                if at == 0:
                    return 0
                continue
            at += 1
            if field.kind == FLOAT:
                (<double*>to)[0] = PyFloat_AS_DOUBLE(value)
            elif field.kind == NUMBER:
                if field.nbytes <= 8:  # where it lies does not depend on the type
                    memcpy(to, &(<NumpyScalar*>value).obval, field.nbytes)
                else:
                    PyArray_ScalarAsCtype(value, to)
            elif field.kind == INT:
                (<int64_t*>to)[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
                if overflow:
                    return 0
            elif field.kind == BOOL:
                (<uint8_t*>to)[0] = <object>value is True
            elif field.kind == ARRAY:
                if not array_fits(field, <PyArrayObject*>value):
                    return 0
                memcpy(to, PyArray_BYTES(<PyArrayObject*>value), field.nbytes)
            elif field.kind == TEXT:
                text = PyUnicode_AsUTF8AndSize(value, &size)
                if text == NULL:  # lone surrogates
                    PyErr_Clear()
                    return 0
                if size > self.capacity - end[0]:
                    return 0
                memcpy(slot + end[0], text, size)
                (<uint32_t*>to)[0] = <uint32_t>end[0]
                (<uint32_t*>to)[1] = <uint32_t>size
                end[0] += size
            else:
                if value != field.constant:
                    size = index_of(self.constants, value)
                    if size < 0:
                        return 0
                    field.constant, field.number = value, size
                (<int64_t*>to)[0] = field.number
        return at

    cdef int _learn(self, dict info) except -1:
        """Give an info's schema and constants numbers, if it is one that slots can hold."""
        fields, values, constants = [], [], []
        if not describe(None, info, fields, values):
            return 0
        for value in values:
            if index_of(self.constants + constants, <PyObject*>value) < 0:
                constants.append(value)
        if len(self.constants) + len(constants) > MAX_CONSTANTS:
            return 0
        signature = tuple(fields)
        if signature not in self.fits:
            if len(self.fits) == MAX_SCHEMAS:
                return 0
            schema = Schema(signature)
            self.fits[signature] = schema.nbytes <= self.capacity
            if self.fits[signature]:
                self.new_schemas.append((len(self.schemas), signature))
                self.schemas.append(schema)
        if self.fits[signature]:
            for value in constants:
                self.new_constants.append((len(self.constants), value))
                self.constants.append(value)
        return 0

    def _message(self, info):
        """Return an info whole, with the announcements that are due."""
        data = self._dump(info)
        announcements = b""
        if self.new_schemas or self.new_constants or self.notes:
            announcements = (self.dumps or pickle.dumps)((
                self.number,
                self.new_schemas,
                [(number, self._dump(value)) for number, value in self.new_constants],
                self.notes,
            ))
            self.new_schemas, self.new_constants, self.notes = [], [], []
        return len(announcements).to_bytes(4, "little") + announcements + data

    def _dump(self, value):
        if self.dumps is not None:
            return self.dumps(value)
        try:
            return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception:
            import cloudpickle  # which workers with other messages don't have

            return cloudpickle.dumps(self._picklable(value, "info", 10))

    def _picklable(self, value, path, depth):
        """Return `value`, or its repr if it can't be pickled; in dicts, to `depth`, by value."""
        if type(value) is dict and depth > 0:
            return {
                self._picklable(key, f"key of {path}", 0): self._picklable(
                    item, f"{path}[{key!r}]", depth - 1
                )
                for key, item in value.items()
            }
        import cloudpickle

        try:
            cloudpickle.dumps(value)
            return value
        except Exception as error:
            kind = type(value)
            if (path, kind) not in self.noted:
                self.noted.add((path, kind))
                self.notes.append(
                    f"{path}: {kind.__module__}.{kind.__qualname__} cannot be pickled and is "
                    f"replaced by its repr: {error}"
                )
            try:
                return repr(value)
            except Exception:  # lists too deep to be printed, for instance
                return f"{kind.__module__}.{kind.__qualname__}(can't be printed)"


cdef Py_ssize_t index_of(list values, PyObject* value) noexcept:
    """Return where this very object is, or -1."""
    cdef Py_ssize_t i
    for i in range(PyList_GET_SIZE(values)):
        if <PyObject*>PyList_GET_ITEM(values, i) == value:
            return i
    return -1


cdef bint array_fits(Field* field, PyArrayObject* array) noexcept:
    """Return whether the array's bytes are those that the field holds."""
    cdef int i
    cdef cnp.npy_intp* dims = PyArray_DIMS(array)
    if PyArray_TYPE(array) != field.type_num or PyArray_NDIM(array) != field.ndim:
        return False
    for i in range(field.ndim):
        if dims[i] != field.shape[i + 1]:
            return False
    return PyArray_IS_C_CONTIGUOUS(array) and PyArray_ISNOTSWAPPED(array)


cdef bint describe(key, value, list fields, list constants) except -1:
    """Append the fields of a value, and its constants; False if it has no place in a slot."""
    kind = type(value)
    if len(fields) == MAX_FIELDS:
        return False
    if kind is dict:
        fields.append((key, INFO, "", len(value)))
        for name, item in value.items():
            # The key that Gymnasium treats as no other is left to `add_info`.
            if type(name) is not str or name == FINAL_OBS:
                return False
            if not describe(name, item, fields, constants):
                return False
        return True
    if kind is float:
        field = (key, FLOAT, "d", ())
    elif kind is bool:
        field = (key, BOOL, "?", ())
    elif kind is int and -(2**63) <= value < 2**63:
        field = (key, INT, np.dtype(np.int64).char, ())
    elif kind in NUMBERS:
        field = (key, NUMBER, np.dtype(kind).char, ())
    elif kind is np.ndarray:
        if value.dtype.char not in ARRAY_CHARS or value.ndim > MAX_NDIM:
            return False
        field = (key, ARRAY, value.dtype.char, value.shape)
    elif kind is str:
        field = (key, TEXT, "", ())
    elif value is None or kind is np.bool_ or (
        isinstance(value, Enum) and not isinstance(value, (dict, np.ndarray, np.number))
    ):
        field = (key, CONSTANT, "", ())
        constants.append(value)
    else:
        return False
    fields.append(field)
    return True


# -- reading ---------------------------------------------------------------------------------------


cdef class InfoReader:
    """Assembles what `InfoWriter`s wrote, of any number of workers.

    Args:
        loads: what reads their messages, if they are no pickles.
    """

    def __cinit__(self, loads=None):
        self.loads = loads
        self.schemas = {}
        self.known = {}
        self.announced, self.constants, self.writer = [], [], -1

    cpdef object learn(self, bytes message):
        """Take note of what a message announces; returns the pickle of its info.

        `read` does this. It is for messages of batches that are thrown away.
        """
        data = memoryview(message)
        end = 4 + int.from_bytes(data[:4], "little")
        if end > 4:
            self._announce((self.loads or pickle.loads)(data[4:end]))
        return data[end:]

    def _announce(self, announcements):
        try:
            writer, schemas, constants, notes = announcements
            if writer not in self.known:
                self.known[writer] = [None] * MAX_SCHEMAS, [None] * MAX_CONSTANTS
            for number, signature in schemas:
                schema = self.schemas.setdefault(signature, Schema(signature))
                self.known[writer][0][number] = schema
            for number, constant in constants:
                self.known[writer][1][number] = self._load(constant, None)
            notes = [str(note) for note in notes]
        except (IndexError, TypeError, ValueError) as error:
            raise ShoalError(f"infos: a worker's message can't be read ({error})") from None
        for note in notes:
            warnings.warn(note, RuntimeWarning)

    def _load(self, data, default):
        return load(data, default) if self.loads is None else self.loads(data)

    cpdef dict read(self, cnp.ndarray slots, fetch):
        """Return the infos in `slots`, one row each: Gymnasium's dict of arrays with masks.

        Args:
            slots: ``(num_rows, capacity)`` uint8, of the layout that `InfoWriter` takes.
            fetch: called with each row whose info was spilled; returns the message that
                `InfoWriter.write` made for it.

        Returns:
            A new dict of new arrays, each of `num_rows` rows.

        Raises:
            ShoalError: a message is missing, of this batch or of an earlier one.
        """
        cdef Py_ssize_t row, stride = cnp.PyArray_STRIDE(slots, 0), num_rows = len(slots)
        cdef const char* slot
        cdef const char* start = check_slots(slots, False)
        cdef uint32_t tag
        cdef Schema schema
        cdef dict infos = {}, spilled = self._fetch_spilled(start, slots, fetch)
        self.batch += 1
        for row in range(num_rows):
            slot = start + row * stride
            tag = (<const uint32_t*>slot)[0]
            if tag == EMPTY:
                continue
            if tag == SPILLED:
                self.batch += add_info(infos, self._load(spilled[row], {}), row, num_rows)
                continue
            schema = self._schema(slot, row)
            if schema.batch != self.batch:
                schema.batch = self.batch
                schema.direct = prepare(schema, 0, infos, num_rows) > 0
            if schema.direct:
                store(schema, self.constants, slot, row, self.capacity)
            else:
                info = {}
                rebuild(schema, 0, info, self.constants, slot, self.capacity)
                self.batch += add_info(infos, info, row, num_rows)
        return infos

    cpdef list read_each(self, cnp.ndarray slots, fetch):
        """Return the infos in `slots`: a new dict for each row, as the environments returned it.

        Arguments and errors are those of `read`.
        """
        cdef Py_ssize_t row, stride = cnp.PyArray_STRIDE(slots, 0)
        cdef const char* start = check_slots(slots, False)
        cdef uint32_t tag
        cdef dict info, spilled = self._fetch_spilled(start, slots, fetch)
        cdef list each = []
        for row in range(len(slots)):
            tag = (<const uint32_t*>(start + row * stride))[0]
            info = {}
            if tag == SPILLED:
                info = self._load(spilled[row], {})
            elif tag != EMPTY:
                schema = self._schema(start + row * stride, row)
                rebuild(schema, 0, info, self.constants, start + row * stride, self.capacity)
            each.append(info)
        return each

    cdef dict _fetch_spilled(self, const char* start, cnp.ndarray slots, fetch):
        """Return the pickle of each row whose info was spilled; learn what messages announce."""
        cdef Py_ssize_t row, stride = cnp.PyArray_STRIDE(slots, 0)
        cdef dict spilled = {}
        self.capacity = len(slots[0]) if len(slots) else 0
        for row in range(len(slots)):
            if (<const uint32_t*>(start + row * stride))[0] == SPILLED:
                message = fetch(row)
                if not message:
                    raise ShoalError(f"infos: the message of row {row} is missing")
                spilled[row] = self.learn(message)
        return spilled

    cdef Schema _schema(self, const char* slot, Py_ssize_t row):
        """Return the schema of a slot; `constants` are its writer's afterwards."""
        cdef Py_ssize_t number = (<const uint32_t*>slot)[0] - FIRST_SCHEMA
        if self.writer != (<const uint32_t*>slot)[1]:
            writer = (<const uint32_t*>slot)[1]
            if writer in self.known:
                self.announced, self.constants = self.known[writer]
                self.writer = writer
            else:
                self.announced, self.constants, self.writer = [], [], -1
        if number >= len(self.announced) or self.announced[number] is None or (
            (<Schema>self.announced[number]).nbytes > self.capacity
        ):
            raise ShoalError(
                f"infos: row {row} has schema {number} of writer {(<const uint32_t*>slot)[1]}, "
                "which no message has announced"
            )
        return <Schema>PyList_GET_ITEM(self.announced, number)


def check_signature(signature):
    """Raise ShoalError unless a slot can be read by this signature: another process may lie."""
    try:
        left = 1  # fields that are still to come, as the dicts so far say
        for i, (key, kind, char, shape) in enumerate(signature):
            left -= 1
            good = left >= 0 and (key is None if i == 0 else type(key) is str)
            if kind == INFO:
                good = good and type(shape) is int and 0 <= shape <= MAX_FIELDS
                left += shape
            elif kind in (NUMBER, ARRAY):
                dtype = np.dtype(char)
                good = good and char in ARRAY_CHARS and (kind == ARRAY or dtype.type in NUMBERS)
                good = good and type(shape) is tuple and len(shape) <= (kind == ARRAY) * MAX_NDIM
                good = good and all(type(n) is int and 0 <= n < 2**31 for n in shape)
            else:
                expected = FIXED[kind]
                good = good and (char, shape) == expected
            if not good:
                raise ValueError(f"field {i}")
        if left or signature[0][1] != INFO:
            raise ValueError("the number of fields")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ShoalError(f"infos: a worker announced a schema that can't be ({error})") from None


cdef Py_ssize_t prepare(
    Schema schema, Py_ssize_t at, dict infos, Py_ssize_t num_rows
) except -1:
    """Find or make the columns of field `at`, a dict; the next field, or 0 if one doesn't match."""
    cdef Py_ssize_t i, count = schema.fields[at].count
    cdef Field* field
    cdef PyObject* found
    cdef PyObject* mask
    at += 1
    for i in range(count):
        field = &schema.fields[at]
        found = PyDict_GetItemWithError(<PyObject*>infos, field.key)
        mask = PyDict_GetItemWithError(<PyObject*>infos, field.mask_key)
        if (found == NULL) != (mask == NULL):  # "_key" is a key of its own
            return 0
        field.shape[0] = num_rows
        if found == NULL:
            if field.kind == INFO:
                column = {}
            elif field.type_num == cnp.NPY_OBJECT:
                column = cnp.PyArray_EMPTY(1, field.shape, cnp.NPY_OBJECT, 0)  # full of None
            else:
                column = cnp.PyArray_ZEROS(field.ndim + 1, field.shape, field.type_num, 0)
            masks = cnp.PyArray_ZEROS(1, field.shape, cnp.NPY_BOOL, 0)
            infos[<object>field.key] = column
            infos[<object>field.mask_key] = masks
            found, mask = <PyObject*>column, <PyObject*>masks
        if not is_column(mask, cnp.NPY_BOOL, 1, field.shape):
            return 0
        field.mask = <uint8_t*>PyArray_BYTES(<PyArrayObject*>mask)
        if field.kind == INFO:
            if not PyDict_CheckExact(<object>found):
                return 0
            at = prepare(schema, at, <dict>found, num_rows)
            if at == 0:
                return 0
            continue
        if not is_column(found, field.type_num, field.ndim + 1, field.shape):
            return 0
        field.column = PyArray_BYTES(<PyArrayObject*>found)
        at += 1
    return at


cdef int store(
    Schema schema, list constants, const char* slot, Py_ssize_t row, Py_ssize_t capacity
) except -1:
    """Store a slot's values into the columns, which `prepare` has found to match."""
    cdef Py_ssize_t i
    cdef Field* field
    cdef const char* source
    cdef PyObject** entry
    for i in range(1, schema.num_fields):
        field = &schema.fields[i]
        source = slot + field.offset
        field.mask[row] = True
        if field.kind == INFO:
            continue
        if field.type_num == cnp.NPY_OBJECT:
            value = object_at(field, constants, slot, capacity)
            entry = <PyObject**>field.column + row
            Py_INCREF(value)
            Py_XDECREF(entry[0])
            entry[0] = <PyObject*>value
        elif field.nbytes == 8:
            memcpy(field.column + row * 8, source, 8)
        else:
            memcpy(field.column + row * field.nbytes, source, field.nbytes)
    return 0


cdef bint is_column(PyObject* value, int type_num, int ndim, cnp.npy_intp* shape) noexcept:
    cdef int i
    cdef PyArrayObject* array = <PyArrayObject*>value
    if not PyArray_CheckExact(value) or not PyArray_ISCARRAY(array):
        return False
    if PyArray_TYPE(array) != type_num or PyArray_NDIM(array) != ndim:
        return False
    for i in range(ndim):
        if PyArray_DIMS(array)[i] != shape[i]:
            return False
    return True


cdef Py_ssize_t rebuild(
    Schema schema, Py_ssize_t at, dict info, list constants, const char* slot, Py_ssize_t capacity
) except -1:
    """Make again the dict that was written into a slot, from field `at`; the next field."""
    cdef Py_ssize_t i, count = schema.fields[at].count
    cdef Field* field
    at += 1
    for i in range(count):
        field = &schema.fields[at]
        if field.kind == INFO:
            value = {}
            at = rebuild(schema, at, value, constants, slot, capacity)
        else:
            value = object_at(field, constants, slot, capacity)
            at += 1
        info[<object>field.key] = value
    return at


cdef object object_at(Field* field, list constants, const char* slot, Py_ssize_t capacity):
    """Return the value of a field, any but a dict."""
    cdef const char* at = slot + field.offset
    if field.kind == FLOAT:
        return PyFloat_FromDouble((<const double*>at)[0])
    if field.kind == INT:
        return PyLong_FromLongLong((<const int64_t*>at)[0])
    if field.kind == BOOL:
        return at[0] != 0
    if field.kind == NUMBER:
        return PyArray_Scalar(<void*>at, cnp.PyArray_DescrFromType(field.type_num), None)
    if field.kind == ARRAY:
        array = cnp.PyArray_SimpleNew(field.ndim, &field.shape[1], field.type_num)
        memcpy(cnp.PyArray_BYTES(array), at, field.nbytes)
        return array
    cdef Py_ssize_t start, size
    if field.kind == TEXT:
        start, size = (<const uint32_t*>at)[0], (<const uint32_t*>at)[1]
        if start + size > capacity:
            raise ShoalError("infos: a text that reaches past its slot")
        return PyUnicode_DecodeUTF8(slot + start, size, "replace")
    return constants[(<const int64_t*>at)[0]]


cdef char* check_slots(slots, bint write) except NULL:
    cdef char* start
    if isinstance(slots, cnp.ndarray):
        start = cnp.PyArray_BYTES(slots)
        if cnp.PyArray_NDIM(slots) == 2 and cnp.PyArray_TYPE(slots) == cnp.NPY_UINT8 and (
            cnp.PyArray_DIM(slots, 1) >= HEADER and cnp.PyArray_STRIDE(slots, 1) == 1
            and (not write or cnp.PyArray_ISWRITEABLE(slots))
        ):
            if (<size_t>start | cnp.PyArray_DIM(slots, 1) | cnp.PyArray_STRIDE(slots, 0)) % 8 == 0:
                return start
    got = f"{slots.dtype} {slots.shape}" if isinstance(slots, np.ndarray) else type(slots)
    raise ValueError(
        f"slots: expected {'writeable ' * write}uint8 (num_slots, a multiple of 8), each slot "
        f"contiguous and aligned to 8 bytes; got {got}"
    )


def load(data, default):
    """Unpickle. Objects of classes that can't be imported here become text; at worst `default`."""
    try:
        return pickle.loads(data)
    except Exception as error:
        warnings.warn(f"infos: a worker sent what cannot be read here ({error})", RuntimeWarning)
    try:
        return LenientUnpickler(io.BytesIO(data)).load()
    except Exception:
        return default


class LenientUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except Exception:
            return UnknownClass(name, (UnknownObject,), {"__module__": module})


class UnknownClass(type):
    def __getattr__(cls, name):
        # Early releases of Python 3.11 pickle a member of an enum as an attribute of its class.
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__module__}.{cls.__name__}.{name}"


class UnknownObject(str, metaclass=UnknownClass):
    """An object of a class that can't be imported here: the class and what it was made from."""

    def __new__(cls, *arguments):
        text = ", ".join(map(repr, arguments))
        return super().__new__(cls, f"{cls.__module__}.{cls.__name__}({text})")

    def __setstate__(self, state):
        pass
