cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t

from shoal.rows.pack cimport Packer


cdef struct Rows:
    # First row of each array of `rows.row_fields`, and how far apart the wide rows lie.
    char* observations
    char* final_observations
    char* actions
    double* rewards
    uint8_t* terminations
    uint8_t* truncations
    uint8_t* masks
    uint8_t* acting
    int64_t* occupants
    uint8_t* action_masks
    uint8_t* finals
    double* episode_returns
    int64_t* episode_lengths
    Py_ssize_t observation_nbytes
    Py_ssize_t action_nbytes
    Py_ssize_t num_masked


cdef class Buffers:
    cdef Rows rows
    cdef readonly Py_ssize_t num_rows
    cdef readonly dict arrays


cdef struct Range:
    # One leaf of a flat action row, with bounds in its own dtype.
    int type_num
    Py_ssize_t offset
    Py_ssize_t count
    char* low
    char* high


cdef class Bounds:
    # Whether flat actions are within their bounds.
    cdef Range* ranges
    cdef Py_ssize_t num_ranges, num_dims, alignment, row_nbytes
    cdef object dtype, keep
    cdef Py_ssize_t* shape
    cpdef bint hold(self, array)


cdef struct Run:
    # Consecutive elements of a flat action row and where they go in the native row.
    int from_type
    int to_type
    Py_ssize_t from_offset
    Py_ssize_t to_offset
    Py_ssize_t count
    double* low
    double* high


cdef class Decoder:
    # Flat action rows into the environment's own actions.
    cdef Packer packer
    cdef bint identity
    cdef object layout          # the ActionLayout, where compiled runs don't cover its dtypes
    cdef Run* runs
    cdef Py_ssize_t num_runs
    cdef double* bounds
    cdef char* native
    cdef object flat_array, native_array
    cdef object decode(self, const char* row)


cdef class MaskWriter:
    # Action masks, in whichever form environments give them, as rows of bools.
    cdef object layout
    cdef list parts
    cdef Py_ssize_t num_masked
    cdef int write(self, PyObject* mask, uint8_t* to) except -1
    cdef bint _write_parts(self, mask, uint8_t* to) except -1


cdef PyObject* find(mapping, key) except? NULL


cdef class Driver:
    # One environment, as the loop sees it. After `step` or `reset`, the results are held as Python
    # objects until `write` puts them into rows: in between, the loop may choose the rows.
    cdef readonly Py_ssize_t agents_per_env
    cdef readonly bint done     # the episode is over for every agent
    cdef readonly object info   # of the last step or reset
    cdef int give(self, action) except -1
    cdef int step(self, const Rows* source, Py_ssize_t row) except -1
    cdef int reset(self, seed, options, bint explicit) except -1
    cdef int clear(self, bint valid) except -1
    cdef int write(self, Rows* to, Py_ssize_t row) except -1
    cdef int write_observations(self, char* to) except -1
    cdef object get_state(self)
    cdef int set_state(self, state) except -1


cdef class EnvLoop:
    cdef readonly list drivers
    cdef readonly list infos            # per environment: a dict, or None where it is empty
    cdef readonly list final_infos      # of episodes that ended in a SAME_STEP reset, else None
    cdef readonly Py_ssize_t num_envs, agents_per_env
    cdef public bint any_info, any_final
    cdef public list options            # per environment: given to each automatic reset
    cdef public Py_ssize_t current      # which environment is being stepped, for error messages
    cdef int mode
    cdef uint8_t* pending               # the environment must be reset before it can step
    cdef uint8_t* finished              # SAME_STEP: a final observation waits in `finals`
    cdef char* finals
    cdef Py_ssize_t finals_nbytes
    cdef int advance(self, Py_ssize_t i, const Rows* source, Py_ssize_t row) except -1
    cdef int give(self, Py_ssize_t i, action) except -1
    cdef int deliver(self, Py_ssize_t i, Rows* to, Py_ssize_t row) except -1
    cdef int _keep_info(self, Py_ssize_t i, info) except -1
    cdef int begin(self, Py_ssize_t i, seed, options) except -1
