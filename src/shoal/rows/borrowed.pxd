# Functions of Python and NumPy for borrowed pointers: with objects, each use would count references.

from cpython.object cimport PyObject

cimport numpy as cnp


cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(PyObject* mapping, PyObject* key) except? NULL
    Py_ssize_t PyDict_GET_SIZE(PyObject* mapping)
    bint PyDict_Next(PyObject* mapping, Py_ssize_t* at, PyObject** key, PyObject** value)
    double PyFloat_AS_DOUBLE(PyObject* value)
    long long PyLong_AsLongLongAndOverflow(PyObject* value, int* overflow) except? -1
    object PyObject_CallMethodOneArg(object target, object name, object argument)
    bint PyUnicode_CheckExact(PyObject* value)
    int PyUnicode_Compare(PyObject* left, PyObject* right)
    const char* PyUnicode_AsUTF8AndSize(PyObject* value, Py_ssize_t* size)


cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArrayObject:
        pass
    bint PyArray_CheckExact(PyObject* value)
    int PyArray_TYPE(PyArrayObject* array)
    int PyArray_NDIM(PyArrayObject* array)
    cnp.npy_intp* PyArray_DIMS(PyArrayObject* array)
    char* PyArray_BYTES(PyArrayObject* array)
    bint PyArray_ISCARRAY(PyArrayObject* array)
    bint PyArray_IS_C_CONTIGUOUS(PyArrayObject* array)
    bint PyArray_ISNOTSWAPPED(PyArrayObject* array)
    void PyArray_ScalarAsCtype(PyObject* scalar, void* out)


cdef extern from "numpy/arrayscalars.h":
    # NumPy's scalars all have their value right behind the head that all objects share, so this
    # one stands for every type that a leaf may have: bool, integers and floats of up to 8 bytes.
    ctypedef struct NumpyScalar "PyDoubleScalarObject":
        double obval
