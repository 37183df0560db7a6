"""The packer: write one value of a space into one row of memory, and read it back.

A plan (a tree of C structs) is made once from the layout. Packing a value walks along the plan: a
contiguous array of the right dtype costs one lookup and one memcpy. Packing allocates nothing,
unless a value has to be cast. Rare kinds of spaces (Text, Sequence, Graph, OneOf) and all error
messages go through the functions of `values.py`.
"""

from cpython.dict cimport PyDict_New, PyDict_SetItem
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport (
    PyTuple_CheckExact,
    PyTuple_GET_ITEM,
    PyTuple_GET_SIZE,
    PyTuple_New,
    PyTuple_SET_ITEM,
)
from libc.stdint cimport INT32_MAX, INT32_MIN, int8_t, int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport numpy as cnp

from shoal.rows.borrowed cimport (
    NumpyScalar,
    PyArrayObject,
    PyArray_BYTES,
    PyArray_CheckExact,
    PyArray_DIMS,
    PyArray_ISNOTSWAPPED,
    PyArray_IS_C_CONTIGUOUS,
    PyArray_NDIM,
    PyArray_TYPE,
    PyLong_AsLongLongAndOverflow,
)

import math
import sys

import numpy as np

from shoal.rows import values as common
from shoal.rows.spec import ARRAYS

cnp.import_array()

__all__ = ["Packer"]

cdef extern from "numpy/arrayobject.h":
    int PyArray_CopyInto(cnp.ndarray into, cnp.ndarray source) except -1

cdef extern from *:
    """
    #ifdef Py_LIMITED_API /* it hides what is in classes: the subclasses of dict take longer */
    #define LOOKS_UP_AS_DICT(value) PyDict_CheckExact(value)
    #define NEW_SCALAR(type) PyType_GenericAlloc((PyTypeObject *)(type), 0)
    #else
    #define LOOKS_UP_AS_DICT(value) \
      (PyDict_Check(value) && Py_TYPE(value)->tp_as_mapping->mp_subscript == \
                                  PyDict_Type.tp_as_mapping->mp_subscript)
    #define NEW_SCALAR(type) ((PyTypeObject *)(type))->tp_alloc((PyTypeObject *)(type), 0)
    #endif
    """
    # A dict whose class looks up items as dict does.
    bint looks_up_as_dict "LOOKS_UP_AS_DICT"(PyObject* value)
    object new_scalar "NEW_SCALAR"(PyObject* type)
    void* type_of "Py_TYPE"(PyObject* value)

cdef enum:
    ARRAY, SCALAR, DICT, TUPLE, ONEOF, TEXT, SEQUENCE, GRAPH

# A copy this long takes far more time than letting go of the GIL does (about 50 ns).
cdef Py_ssize_t LONG_COPY = 32768


cdef class Packer:
    """Packs values into rows of one layout; see `Layout.pack` and `Layout.unpack`."""

    def __cinit__(self, layout):
        self.layout = layout
        self.keep = []
        self.cast = layout.form == "float32"
        self.row_size = math.prod(layout.shape)
        self.row_dtype = layout.dtype
        self.row_shape = layout.shape
        self.row_alignment = layout.alignment
        self.root = <Node*>self._alloc(sizeof(Node))
        self._plan(self.root, common.node_tree(layout.spec, layout.name), True)
        self.native_array = np.zeros(max(layout.native_nbytes, 1), np.uint8)
        self.native = cnp.PyArray_BYTES(self.native_array)
        gaps, end = [], 0
        for leaf in layout.leaves:
            if leaf.offset > end:
                gaps.append((end, leaf.offset - end))
            end = leaf.offset + leaf.nbytes
        if layout.native_nbytes > end:
            gaps.append((end, layout.native_nbytes - end))
        self.num_gaps = len(gaps)
        self.gaps = <Py_ssize_t*>self._alloc(2 * len(gaps) * sizeof(Py_ssize_t))
        for i, (offset, nbytes) in enumerate(gaps):
            self.gaps[2 * i] = offset
            self.gaps[2 * i + 1] = nbytes

    def __dealloc__(self):
        cdef Block* block
        while self.blocks != NULL:
            block = self.blocks
            self.blocks = block.next
            free(block)

    cdef void* _alloc(self, size_t nbytes) except NULL:
        cdef Block* block = <Block*>calloc(1, sizeof(Block) + nbytes)
        if block == NULL:
            raise MemoryError
        block.next = self.blocks
        self.blocks = block
        return block + 1

    cdef int _plan(self, Node* node, plan, bint fixed) except -1:
        """Fill one node, and those below it, from the plan in Python."""
        cdef Py_ssize_t i
        kind = plan.spec["kind"]
        leaves = self.layout.leaves[plan.leaf : plan.leaf + plan.num_leaves]
        self.keep.append(plan)
        node.plan = <PyObject*>plan
        node.fixed = fixed
        if leaves:
            node.offset = leaves[0].offset
            node.span = leaves[-1].offset + leaves[-1].nbytes - node.offset
        if kind in ARRAYS:
            leaf = leaves[0]
            shape = leaf.shape[leaf.depth :]
            dtype = np.dtype(leaf.dtype)
            node.kind = SCALAR if kind == "Discrete" else ARRAY
            node.type_num = dtype.num
            node.scalar_type = <PyObject*>dtype.type
            node.ndim = len(shape)
            node.nbytes = math.prod(shape) * dtype.itemsize
            node.shape = <Py_ssize_t*>self._alloc(len(shape) * sizeof(Py_ssize_t))
            for i in range(node.ndim):
                node.shape[i] = shape[i]
            self.keep.append(dtype)
            return 0
        node.kind = {"Dict": DICT, "Tuple": TUPLE, "OneOf": ONEOF, "Text": TEXT,
                     "Sequence": SEQUENCE, "Graph": GRAPH}[kind]
        node.num_children = len(plan.children)
        node.children = <Node*>self._alloc(node.num_children * sizeof(Node))
        for i in range(node.num_children):
            self._plan(&node.children[i], plan.children[i], fixed and kind in ("Dict", "Tuple"))
            if kind == "Dict":
                key = plan.keys[i]
                if type(key) is str:
                    key = sys.intern(key)  # then code elsewhere has the same object
                self.keep.append(key)
                node.children[i].key = <PyObject*>key
        return 0

    # -- packing ------------------------------------------------------------------------------

    def pack(self, value, out):
        """Write `value` into one row.

        Args:
            value: see `Layout.pack`, also for the errors.
            out: array of shape ``layout.shape`` and dtype ``layout.dtype``.
        """
        cdef char* row = self._row(out, True)
        self.pack_row(<PyObject*>value, row)

    def unpack(self, array):
        """Return the value in one row, made of new objects.

        Args:
            array: array of shape ``layout.shape`` and dtype ``layout.dtype``.
        """
        return self.unpack_row(self._row(array, False))

    cdef char* _row(self, array, bint write) except NULL:
        if not (
            type(array) is cnp.ndarray
            and array.dtype is self.row_dtype
            and (<object>array).shape == self.row_shape
            and cnp.PyArray_IS_C_CONTIGUOUS(array)
            and <size_t>cnp.PyArray_BYTES(array) % self.row_alignment == 0
            and (not write or cnp.PyArray_ISWRITEABLE(array))
        ):
            common.check_row(self.row_shape, self.row_dtype, self.row_alignment, array, write)
        return cnp.PyArray_BYTES(array)

    cdef int pack_row(self, PyObject* value, char* row) except -1:
        """Write `value` into the row at `row`, which has room for it."""
        cdef Py_ssize_t i
        cdef char* native = self.native if self.cast else row
        for i in range(self.num_gaps):
            memset(native + self.gaps[2 * i], 0, self.gaps[2 * i + 1])
        self._pack(self.root, value, native, 0)
        if self.cast:
            out = cnp.PyArray_SimpleNewFromData(1, [self.row_size], cnp.NPY_FLOAT32, row)
            common.to_float32(self.layout.leaves, self.layout.one_hot, self.native_array, out)
        return 0

    cdef int _pack(self, Node* node, PyObject* value, char* row, Py_ssize_t index) except -1:
        cdef Py_ssize_t i
        cdef PyObject* part
        cdef Node* child
        cdef char* at
        cdef bint plain
        if node.kind == ARRAY or node.kind == SCALAR:
            at = row + node.offset + index * node.nbytes
            if fits(node, value):
                if node.nbytes < LONG_COPY:
                    memcpy(at, PyArray_BYTES(<PyArrayObject*>value), node.nbytes)
                else:
                    copy_long(at, value, node.nbytes)
                return 0
            if node.ndim == 0 and store_scalar(node, value, at):
                return 0
            return self._pack_cast(node, value, at)
        held = <object>value  # foreign code may run below, and drop its last other reference
        if node.kind == DICT:
            # `lookup` ignores a class's ``__missing__``; `common.item` doesn't.
            plain = looks_up_as_dict(value)
            for i in range(node.num_children):
                child = &node.children[i]
                part = lookup(value, child.key, &child.hint) if plain else NULL
                if part == NULL:
                    item = common.item(held, <object>child.key, <object>node.plan,
                                       <object>child.plan)
                    part = <PyObject*>item
                self._pack(child, part, row, index)
            return 0
        if node.kind == TUPLE:
            if PyTuple_CheckExact(held) and (
                PyTuple_GET_SIZE(held) == node.num_children
            ):
                for i in range(node.num_children):
                    part = <PyObject*>PyTuple_GET_ITEM(held, i)
                    self._pack(&node.children[i], part, row, index)
                return 0
            parts = list(common.parts(held, <object>node.plan))
            for i in range(node.num_children):
                self._pack(&node.children[i], <PyObject*>PyList_GET_ITEM(parts, i), row, index)
            return 0
        return self._pack_rare(node, held, row, index)

    cdef int _pack_cast(self, Node* node, PyObject* value, char* at) except -1:
        """Write a leaf whose value is not a contiguous array of the leaf's dtype."""
        plan = <object>node.plan
        array = common.coerce(<object>value, self.layout.leaves[plan.leaf], self.layout.name)
        into = cnp.PyArray_SimpleNewFromData(
            node.ndim, <cnp.npy_intp*>node.shape, node.type_num, at
        )
        return PyArray_CopyInto(into, array)

    cdef int _pack_rare(self, Node* node, value, char* row, Py_ssize_t index) except -1:
        """Write a value of one of the rare kinds; unused bytes become zero."""
        cdef Py_ssize_t i, n
        plan = <object>node.plan
        leaves = self.layout.leaves[plan.leaf : plan.leaf + plan.num_leaves]
        if node.fixed:  # once for the outermost; what lies inside is cleared with it
            memset(row + node.offset, 0, node.span)
        cdef int32_t* head = <int32_t*>(row + node.offset) + index
        if node.kind == ONEOF:
            tag, part = common.tagged(value, plan)
            head[0] = tag
            return self._pack(&node.children[tag], <PyObject*>part, row, index)
        if node.kind == TEXT:
            codes = common.text_codes(value, plan)
            head[0] = n = len(codes)
            self._store_items(leaves[1], codes, row, index)
            return 0
        if node.kind == SEQUENCE:
            items = list(common.sequence_items(value, plan))
            head[0] = n = len(items)
            index *= plan.spec["max_len"]
            for i in range(n):
                self._pack(&node.children[0], <PyObject*>PyList_GET_ITEM(items, i), row, index + i)
            return 0
        nodes, edges, links = common.graph_items(value, plan)
        head[0] = n = len(nodes)
        for i in range(n):
            self._pack(&node.children[0], <PyObject*>PyList_GET_ITEM(nodes, i), row,
                       index * plan.spec["max_nodes"] + i)
        head = <int32_t*>(row + <Py_ssize_t>leaves[1].offset) + index
        head[0] = -1 if edges is None else len(edges)
        if edges:
            n = len(edges)
            for i in range(n):
                self._pack(&node.children[1], <PyObject*>PyList_GET_ITEM(edges, i), row,
                           index * plan.spec["max_edges"] + i)
            self._store_items(leaves[plan.num_leaves - 1], links, row, index)
        return 0

    cdef int _store_items(self, leaf, values, char* row, Py_ssize_t index) except -1:
        """Fill the first `len(values)` places of item `index` of a leaf."""
        shape = leaf.shape[leaf.depth :]
        each = math.prod(shape) * np.dtype(leaf.dtype).itemsize
        array = np.ascontiguousarray(values, leaf.dtype)
        memcpy(row + <Py_ssize_t>leaf.offset + index * <Py_ssize_t>each,
               cnp.PyArray_BYTES(array), cnp.PyArray_NBYTES(array))
        return 0

    # -- unpacking ----------------------------------------------------------------------------

    cdef object unpack_row(self, const char* row):
        """Return the value in the row at `row`, made of new objects."""
        if not self.cast:
            return self._unpack(self.root, row, 0)
        array = cnp.PyArray_SimpleNewFromData(
            1, [self.row_size], cnp.NPY_FLOAT32, <void*>row
        )
        common.from_float32(
            self.layout.leaves, self.layout.one_hot, self.layout.name, array, self.native_array
        )
        return self._unpack(self.root, self.native, 0)

    cdef object _unpack(self, Node* node, const char* row, Py_ssize_t index):
        cdef Py_ssize_t i
        cdef const char* at = row + node.offset + index * node.nbytes
        if node.kind == ARRAY:
            array = cnp.PyArray_SimpleNew(node.ndim, <cnp.npy_intp*>node.shape, node.type_num)
            memcpy(cnp.PyArray_BYTES(array), at, node.nbytes)
            return array
        if node.kind == SCALAR:
            scalar = new_scalar(node.scalar_type)
            memcpy(&(<NumpyScalar*>scalar).obval, at, node.nbytes)
            return scalar
        if node.kind == DICT:
            mapping = PyDict_New()
            for i in range(node.num_children):
                PyDict_SetItem(mapping, <object>node.children[i].key,
                               self._unpack(&node.children[i], row, index))
            return mapping
        if node.kind == TUPLE:
            parts = PyTuple_New(node.num_children)
            for i in range(node.num_children):
                part = self._unpack(&node.children[i], row, index)
                Py_INCREF(part)
                PyTuple_SET_ITEM(parts, i, part)
            return parts
        return self._unpack_rare(node, row, index)

    cdef object _unpack_rare(self, Node* node, const char* row, Py_ssize_t index):
        cdef Py_ssize_t i, n, base
        plan = <object>node.plan
        spec = plan.spec
        leaves = self.layout.leaves[plan.leaf : plan.leaf + plan.num_leaves]
        n = (<const int32_t*>(row + node.offset))[index]
        if node.kind == ONEOF:
            common.stored(n, 0, node.num_children - 1, plan, ".tag")
            return np.int64(n), self._unpack(&node.children[n], row, index)
        if node.kind == TEXT:
            common.stored(n, 0, spec["max_length"] if spec["charset"] else 0, plan, ".length")
            return common.text_from_codes(self._load_items(leaves[1], n, row, index), spec)
        if node.kind == SEQUENCE:
            common.stored(n, 0, spec["max_len"], plan, ".length")
            base = index * spec["max_len"]
            items = [self._unpack(&node.children[0], row, base + i) for i in range(n)]
            return common.sequence_value(items, spec)
        common.stored(n, 0, spec["max_nodes"], plan, ".num_nodes")
        base = index * spec["max_nodes"]
        nodes = [self._unpack(&node.children[0], row, base + i) for i in range(n)]
        n = (<const int32_t*>(row + <Py_ssize_t>leaves[1].offset))[index]
        common.stored(n, -1, spec["max_edges"], plan, ".num_edges")
        edges = links = None
        if n >= 0 and node.num_children == 2:
            base = index * spec["max_edges"]
            edges = [self._unpack(&node.children[1], row, base + i) for i in range(n)]
            links = self._load_items(leaves[plan.num_leaves - 1], n, row, index)
        return common.graph_value(nodes, edges, links, spec)

    cdef object _load_items(self, leaf, Py_ssize_t n, const char* row, Py_ssize_t index):
        """Return a copy of the first `n` places of item `index` of a leaf."""
        shape = leaf.shape[leaf.depth :]
        each = math.prod(shape) * np.dtype(leaf.dtype).itemsize
        array = np.zeros((n, *shape[1:]), leaf.dtype)
        memcpy(cnp.PyArray_BYTES(array),
               row + <Py_ssize_t>leaf.offset + index * <Py_ssize_t>each, cnp.PyArray_NBYTES(array))
        return array


cdef inline bint fits(Node* node, PyObject* value) noexcept:
    """Return whether `value` is an array whose bytes can be copied as they are."""
    cdef int i
    cdef cnp.npy_intp* dims
    cdef PyArrayObject* array = <PyArrayObject*>value
    if not PyArray_CheckExact(value) or PyArray_TYPE(array) != node.type_num:
        return False
    if PyArray_NDIM(array) != node.ndim:
        return False
    dims = PyArray_DIMS(array)
    for i in range(node.ndim):
        if dims[i] != node.shape[i]:
            return False
    return PyArray_IS_C_CONTIGUOUS(array) and PyArray_ISNOTSWAPPED(array)


cdef inline void copy_long(char* at, PyObject* array, Py_ssize_t nbytes) noexcept:
    cdef object held = <object>array  # another thread may drop its last other reference
    cdef char* source = PyArray_BYTES(<PyArrayObject*>array)
    with nogil:
        memcpy(at, source, nbytes)


cdef bint store_scalar(Node* node, PyObject* value, char* at) except -1:
    """Store a NumPy scalar of the leaf's dtype, or a Python int in its range; else return False."""
    cdef long long number
    cdef int overflow
    if type_of(value) == <void*>node.scalar_type:
        memcpy(at, &(<NumpyScalar*>value).obval, node.nbytes)
        return True
    if not PyLong_Check(<object>value):
        return False
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return False
    if node.type_num == cnp.NPY_INT64:
        (<int64_t*>at)[0] = number
    elif node.type_num == cnp.NPY_INT32 and INT32_MIN <= number <= INT32_MAX:
        (<int32_t*>at)[0] = <int32_t>number
    elif node.type_num == cnp.NPY_INT8 and -128 <= number <= 127:
        (<int8_t*>at)[0] = <int8_t>number
    elif node.type_num == cnp.NPY_UINT8 and 0 <= number <= 255:
        (<uint8_t*>at)[0] = <uint8_t>number
    else:
        return False
    return True
