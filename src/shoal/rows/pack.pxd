from cpython.ref cimport PyObject

from shoal.rows.borrowed cimport PyDict_GetItemWithError, PyDict_Next


cdef inline PyObject* lookup(PyObject* mapping, PyObject* key, Py_ssize_t* hint) except? NULL:
    """Return ``mapping.get(key)`` of a dict, borrowed; NULL if the key is missing.

    Dicts that are made alike have their keys at the same positions. `hint` is the position where
    this key object was found before, or -1 to hash at once (see `position`). Looking there is far
    cheaper than hashing. A wrong hint is harmless, because `PyDict_Next` accepts any position and
    returns False past the end.
    """
    cdef Py_ssize_t pos = hint[0]
    cdef PyObject* found
    cdef PyObject* value
    if pos >= 0 and PyDict_Next(mapping, &pos, &found, &value) and found == key:
        return value
    value = PyDict_GetItemWithError(mapping, key)
    if hint[0] >= 0 and value != NULL:
        hint[0] = position(mapping, key)
    return value


cdef inline Py_ssize_t position(PyObject* mapping, PyObject* key) noexcept:
    """Return the position from which `PyDict_Next` finds the object `key`; -1 if there is none.

    The search ends after 64 places, because it would cost too much if keys of a large dict moved.
    """
    cdef Py_ssize_t here = 0, after = 0
    cdef PyObject* found
    cdef PyObject* value
    while here < 64 and PyDict_Next(mapping, &after, &found, &value):
        if found == key:
            return here
        here = after
    return -1


cdef struct Node:
    int kind
    int type_num            # NumPy's number of the leaf's dtype
    int ndim
    int num_children
    Py_ssize_t* shape       # own shape, `ndim` long
    Py_ssize_t nbytes       # own bytes: of one item, where items repeat inside a Sequence or Graph
    Py_ssize_t offset       # first byte in the row
    Py_ssize_t span         # bytes from `offset` to the end of everything below this node
    int fixed               # no Text, OneOf, Sequence or Graph is above this node
    PyObject* scalar_type   # class of the dtype's scalars (borrowed from NumPy)
    Py_ssize_t hint         # where it was last found in the parent's dict: see `lookup`
    PyObject* key           # in the parent's Dict (borrowed; `Packer.keep` owns it)
    PyObject* plan          # the Python Node it was made from (borrowed; `Packer.keep` owns it)
    Node* children


cdef struct Block:
    Block* next


cdef class Packer:
    cdef readonly object layout
    cdef Node* root
    cdef Py_ssize_t num_gaps
    cdef Py_ssize_t* gaps           # (offset, bytes) pairs of the alignment padding
    cdef bint cast                  # the float32 form
    cdef char* native               # scratch row of native dtypes, for the float32 form
    cdef Block* blocks              # all memory of the plan, to be freed
    cdef Py_ssize_t row_size
    cdef size_t row_alignment
    cdef object row_dtype, row_shape, native_array, keep

    cdef int pack_row(self, PyObject* value, char* row) except -1
    cdef object unpack_row(self, const char* row)

    cdef void* _alloc(self, size_t nbytes) except NULL
    cdef int _plan(self, Node* node, plan, bint fixed) except -1
    cdef char* _row(self, array, bint write) except NULL
    cdef int _pack(self, Node* node, PyObject* value, char* row, Py_ssize_t index) except -1
    cdef int _pack_cast(self, Node* node, PyObject* value, char* at) except -1
    cdef int _pack_rare(self, Node* node, value, char* row, Py_ssize_t index) except -1
    cdef int _store_items(self, leaf, values, char* row, Py_ssize_t index) except -1
    cdef object _unpack(self, Node* node, const char* row, Py_ssize_t index)
    cdef object _unpack_rare(self, Node* node, const char* row, Py_ssize_t index)
    cdef object _load_items(self, leaf, Py_ssize_t n, const char* row, Py_ssize_t index)
