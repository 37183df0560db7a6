from libc.stdint cimport int64_t, uint8_t


cdef extern from "../rows/rows.h":
    enum:
        SHOAL_STEP, SHOAL_RESET, SHOAL_KEEP, SHOAL_GIVEN
        SHOAL_NEXT_STEP, SHOAL_SAME_STEP, SHOAL_DISABLED, SHOAL_OWN
    ctypedef struct Rows "shoal_rows":
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
