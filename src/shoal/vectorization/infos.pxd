cpdef int add_info(dict infos, object info, Py_ssize_t row, Py_ssize_t num_rows) except -1
