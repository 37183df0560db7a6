/* Included before everything else in the modules that are compiled once more by the stable ABI of
 * Python 3.9, for workers under other interpreters (see meson.build). */
#ifndef SHOAL_STABLE_ABI_H
#define SHOAL_STABLE_ABI_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Functions in place of the macros that look into objects. */
#define PyDict_GET_SIZE PyDict_Size
#define PyFloat_AS_DOUBLE PyFloat_AsDouble
#define PyList_GET_ITEM PyList_GetItem
#define PyList_GET_SIZE PyList_Size
#define PyObject_CallMethodOneArg(self, name, argument)                                            \
    PyObject_CallMethodObjArgs(self, name, argument, NULL)
#define PyTuple_GET_ITEM PyTuple_GetItem
#define PyTuple_GET_SIZE PyTuple_Size
#define PyTuple_SET_ITEM PyTuple_SetItem

/* Every Python has it, though its stable ABI only from 3.10 on. */
PyAPI_FUNC(const char *) PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *nbytes);

/* What Python 3.8 lacks, which understands the rest. Workers have one interpreter, so Cython
 * needn't ask which one it is; and it makes no function that has to know its class. */
#define PyInterpreterState_Get() NULL
#define PyInterpreterState_GetID(state) 0
#define Py_EnterRecursiveCall(where) 0
#define Py_LeaveRecursiveCall()
#define PyCMethod_New(definition, self, module, type) PyCFunction_NewEx(definition, self, module)

#endif
