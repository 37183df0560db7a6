from libc.stdint cimport uint8_t

from shoal.rows.rows cimport Rows


cpdef dict checked_info(object info)
cpdef object copy_value(value)
cdef double as_number(value) except? -1


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
    cdef object _last_info(self, info)
    cdef int _keep_info(self, Py_ssize_t i, info) except -1
    cdef int begin(self, Py_ssize_t i, seed, options) except -1
