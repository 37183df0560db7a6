"""Native environments: `Module` loads one, `Engine` steps many of them (see c/engine.h)."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid

cimport numpy as cnp

from shoal.rows.buffers cimport Buffers
from shoal.rows.rows cimport SHOAL_RESET, SHOAL_SAME_STEP, Rows

import math
import os

import numpy as np

from shoal.errors import (
    ClosedError,
    EnvCheckError,
    EnvModuleError,
    ParameterError,
    StepTimeoutError,
)
from shoal.ocean_c.spaces import action_bounds, observation_offsets
from shoal.ocean_c.table import (
    Field,
    Param,
    Spec,
    Table,
    check_fields,
    check_table,
    param_values,
    with_limit,
)

cnp.import_array()

__all__ = ["Engine", "Module", "SHAPE"]

cdef extern from "dlfcn.h":
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    const char* dlerror()
    int RTLD_NOW, RTLD_LOCAL

cdef extern from "c/engine.h" nogil:
    enum:
        SHOAL_ABI_VERSION, SHOAL_MAX_PARAMS, SHOAL_MAX_FIELDS, SHOAL_MAX_LOGS, SHOAL_MAX_NDIM
        SHOAL_DONE, SHOAL_NOT_YET, SHOAL_FAULTY, SHOAL_CLOSED
        SHOAL_FAULT_BOUNDS, SHOAL_FAULT_UNWRITTEN, SHOAL_FAULT_STATE, SHOAL_FAULT_CHANCE
    ctypedef struct shoal_param:
        const char* name
        double value, low, high
        int32_t type
        const char* text
    ctypedef struct shoal_field:
        const char* name
        int32_t type, ndim
        int32_t* shape
        double low, high
        const double* lows
        const double* highs
        const char* text
        const char* labels
        const char* keys
    ctypedef struct shoal_log:
        const char* name
        const char* text
    ctypedef struct shoal_spec:
        int32_t agents, max_steps
        int64_t state_size
        shoal_field* observations
        shoal_field* actions
    ctypedef struct shoal_io:
        pass
    ctypedef struct shoal_shape:
        int32_t kind, key
        uint32_t color
        int32_t first, count
        float x, y, w, h, angle, round, width
    ctypedef struct shoal_canvas:
        shoal_shape* shapes
        float* points
        char* text
        int32_t num_shapes, max_shapes, num_points, max_points, num_text, max_text, lost, key
        float x, y, w, h
        uint32_t background
    ctypedef struct shoal_table:
        uint32_t abi_version, table_size, param_size, field_size, spec_size, io_size, canvas_size
        uint32_t state_align
        int64_t state_size
        void* init
        void* reset
        void* step_many
        void* report
        void (*draw)(const void* state, shoal_canvas* canvas) noexcept nogil
        const char* name
        const char* text
        int32_t agents, max_steps, action_mask
        shoal_param* params
        shoal_field* observations
        shoal_field* actions
        shoal_log* logs
        const char* (*resolve)(const double* params, shoal_spec* spec) noexcept nogil
    uint32_t SHOAL_NIGHT
    ctypedef struct shoal_fault:
        int32_t kind, where, op
        int64_t env, offset
    ctypedef struct shoal_call:
        pass
    ctypedef struct shoal_engine:
        const shoal_table* table
        double* params
        int64_t num_envs, agents, num_logs, num_masked, observation_size, action_size
        int64_t state_size, state_stride, max_steps
        int32_t mode, debug, writes_masks
        const float* action_low
        const float* action_high
        char* states
        int32_t* steps
        uint8_t* pending
        double* returns
        int32_t* lengths
        uint8_t* gone
        Rows rows
        float* logs
        int64_t batch_size, num_blocks
        int32_t num_threads, spin_ns
        shoal_fault fault
        uint64_t posted, received
        uint64_t* num_ended
    int shoal_engine_open(shoal_engine* engine)
    void shoal_engine_init(void* engine)
    int shoal_engine_start(shoal_engine* engine)
    void shoal_engine_stop(shoal_engine* engine)
    int64_t shoal_next_set(const uint8_t* one, const uint8_t* other, int64_t i, int64_t n)
    int shoal_engine_close(shoal_engine* engine, int64_t nanoseconds)
    void shoal_engine_seed(shoal_engine* engine, int64_t env, uint64_t seed)
    void shoal_engine_post(
        shoal_engine* engine, int32_t op, const int64_t* envs, const int32_t* ops,
        const char* actions
    )
    int shoal_engine_wait(
        shoal_engine* engine, int help, int64_t nanoseconds, int64_t* block
    )
    int shoal_call_start(shoal_call** call, void (*function)(void*) noexcept nogil, void* argument)
    int shoal_call_wait(shoal_call* call, int64_t nanoseconds)
    void shoal_call_free(shoal_call* call)

cdef extern from "../c/clock.h" nogil:
    int64_t clock_ns()

cdef extern from *:
    """
    static void nap(void) { /* between looks at what can't wake us */
        const struct timespec time = {0, 200 * 1000};
        nanosleep(&time, NULL);
    }
    """
    void nap() nogil

cdef extern from "errno.h":
    int EBUSY, ENOMEM

cdef extern from *:
    """
    #define SHOAL_STATE_ALIGN 64
    """
    enum:
        SHOAL_STATE_ALIGN

DTYPES = [None, np.uint8, np.int8, np.int16, np.int32, np.int64, np.float32]
KINDS = ["real", "integer", "boolean"]
MOST_ELEMENTS = 2**27  # of a field
cdef int64_t SLICE = 100_000_000  # nanoseconds between looks at signals
cdef int64_t CLOSE_TIME = 5_000_000_000  # nanoseconds

# One shape of a drawing; see shoal_env.h.
SHAPE = np.dtype(
    [("kind", "i4"), ("key", "i4"), ("color", "u4"), ("first", "i4"), ("count", "i4")]
    + [(name, "f4") for name in ("x", "y", "w", "h", "angle", "round", "width")]
)


cdef struct Column:
    double* values
    uint8_t* mask


# -- calls that may not return ---------------------------------------------------------------------

cdef struct ResolveCall:
    const shoal_table* table
    const char* wrong
    double[SHOAL_MAX_PARAMS + 1] params
    shoal_spec spec


cdef void call_resolve(void* argument) noexcept nogil:
    cdef ResolveCall* call = <ResolveCall*>argument
    call.wrong = call.table.resolve(call.params, &call.spec)


cdef struct DrawCall:
    const shoal_table* table
    const void* state
    shoal_canvas canvas


cdef void call_draw(void* argument) noexcept nogil:
    cdef DrawCall* call = <DrawCall*>argument
    call.table.draw(call.state, &call.canvas)


cdef int call_apart(
    str what, void (*function)(void*) noexcept nogil, void* argument, int64_t limit
) except -1:
    """Call `function` on a thread of its own, and let Ctrl-C through meanwhile.

    If this raises, the thread may go on using `argument`, which must stay for good.

    Args:
        what: for the error.
        limit: nanoseconds; negative for none.

    Raises:
        StepTimeoutError: the call took longer than `limit`.
    """
    cdef shoal_call* call = NULL
    cdef int over = 0
    cdef int64_t begin = clock_ns()
    if shoal_call_start(&call, function, argument):  # no thread can be had: without one, then
        with nogil:
            function(argument)
        return 0
    while True:
        with nogil:
            over = shoal_call_wait(call, SLICE if limit < 0 or limit > SLICE else limit)
        if over:
            shoal_call_free(call)
            return 0
        PyErr_CheckSignals()
        if 0 <= limit <= clock_ns() - begin:
            raise StepTimeoutError(f"{what} has not returned within {limit / 1e9:g} s")


cdef str text_of(const char* text):
    return "" if text == NULL else (<bytes>text).decode("utf-8", "replace")


cdef class Module:
    """A native environment's module, loaded and checked.

    Args:
        path: the shared library that ``shoal build`` made.
        version: how many modules this process has loaded from the same path before.

    Attributes:
        table: the `Table` that the C file exports.
        debug: True if built with ``--debug``: every step is checked.

    Raises:
        EnvModuleError: the file can't be loaded or was built for another header, or its table is
            wrong.
    """

    cdef readonly str path
    cdef readonly object table
    cdef readonly bint debug
    cdef const shoal_table* c

    def __cinit__(self, path, Py_ssize_t version=0):
        cdef void* handle
        self.path = os.path.abspath(path)
        if not os.path.isfile(self.path):
            raise EnvModuleError(f"there is no file {self.path}")
        # The loader gives a path that it knows what it has; the same file by another name is new.
        folder, name = os.path.split(self.path)
        unknown = os.path.join(folder, "./" * version + name)
        handle = dlopen(os.fsencode(unknown), RTLD_NOW | RTLD_LOCAL)
        if handle == NULL:
            raise EnvModuleError(f"{self.path} can't be loaded: {text_of(dlerror())}")
        self.c = <const shoal_table*>dlsym(handle, b"shoal_env_table")
        if self.c == NULL:
            raise EnvModuleError(
                f"{self.path} is not an environment: it has no symbol shoal_env_table, which "
                "SHOAL_ENV(...) at the end of the C file exports"
            )
        self.debug = dlsym(handle, b"shoal_env_debug") != NULL
        if self.c.abi_version != SHOAL_ABI_VERSION:
            raise EnvModuleError(
                f"{self.path} was built for version {self.c.abi_version} of shoal_env.h, and this "
                f"Shoal has version {SHOAL_ABI_VERSION}; build it again"
            )
        for name, theirs, ours in (
            ("shoal_table", self.c.table_size, sizeof(shoal_table)),
            ("shoal_param", self.c.param_size, sizeof(shoal_param)),
            ("shoal_field", self.c.field_size, sizeof(shoal_field)),
            ("shoal_spec", self.c.spec_size, sizeof(shoal_spec)),
            ("shoal_io", self.c.io_size, sizeof(shoal_io)),
            ("shoal_canvas", self.c.canvas_size, sizeof(shoal_canvas)),
        ):
            if theirs != ours:
                raise EnvModuleError(
                    f"{self.path}: its {name} has {theirs} bytes, and that of this Shoal {ours}; "
                    "build it again with this Shoal's shoal_env.h"
                )
        if self.c.state_align > SHOAL_STATE_ALIGN:
            raise EnvModuleError(
                f"{self.path}: its State is aligned to {self.c.state_align} bytes, more than "
                f"{SHOAL_STATE_ALIGN}"
            )
        for name, pointer in (
            ("init", <size_t>self.c.init),
            ("reset", <size_t>self.c.reset),
            ("step_many", <size_t>self.c.step_many),
            ("report", <size_t>self.c.report),
            ("draw", <size_t>self.c.draw),
            ("name", <size_t>self.c.name),
        ):
            if not pointer:
                raise EnvModuleError(f"{self.path}: the table has no {name}")
        for name, last, most in (
            ("params", <size_t>self.c.params[SHOAL_MAX_PARAMS].name, SHOAL_MAX_PARAMS),
            ("observations", <size_t>self.c.observations[SHOAL_MAX_FIELDS].name, SHOAL_MAX_FIELDS),
            ("actions", <size_t>self.c.actions[SHOAL_MAX_FIELDS].name, SHOAL_MAX_FIELDS),
            ("logs", <size_t>self.c.logs[SHOAL_MAX_LOGS].name, SHOAL_MAX_LOGS),
        ):
            if last:
                raise EnvModuleError(f"{self.path}: the table has more than {most} {name}")
        self.table = self._table()
        check_table(self.table, self.path)

    cdef object _table(self):
        cdef int i = 0
        cdef const shoal_param* param
        params, logs = [], []
        while self.c.params[i].name != NULL:
            param = &self.c.params[i]
            kind = KINDS[param.type] if 0 <= param.type < len(KINDS) else "unknown"
            params.append(
                Param(text_of(param.name), param.value, param.low, param.high, kind,
                      text_of(param.text))
            )
            i += 1
        i = 0
        while self.c.logs[i].name != NULL:
            logs.append((text_of(self.c.logs[i].name), text_of(self.c.logs[i].text)))
            i += 1
        return Table(
            text_of(self.c.name), text_of(self.c.text), self.c.action_mask != 0, tuple(params),
            tuple(logs),
        )

    cdef tuple _fields(self, const shoal_field* fields):
        cdef int i = 0, j
        cdef const shoal_field* field
        cdef cnp.npy_intp k, size
        found = []
        while i <= SHOAL_MAX_FIELDS and fields[i].name != NULL:
            field = &fields[i]
            name = text_of(field.name)
            if not 1 <= field.type < len(DTYPES) or not 0 <= field.ndim <= SHOAL_MAX_NDIM:
                raise EnvModuleError(f"{self.path}: field {name!r}: its type or ndim is unknown")
            shape = tuple([field.shape[j] for j in range(field.ndim)])
            if any(n < 1 for n in shape):
                raise EnvModuleError(f"{self.path}: field {name!r}: shape {shape}")
            if math.prod(shape) > MOST_ELEMENTS:
                raise EnvModuleError(
                    f"{self.path}: field {name!r}: shape {shape} has more than {MOST_ELEMENTS:,} "
                    "elements"
                )
            low, high = np.full(shape, field.low), np.full(shape, field.high)
            size = low.size
            for k in range(size):
                if field.lows != NULL:
                    low.flat[k] = field.lows[k]
                if field.highs != NULL:
                    high.flat[k] = field.highs[k]
            found.append(
                Field(name, np.dtype(DTYPES[field.type]), shape, low, high, text_of(field.text),
                      tuple(text_of(field.labels).split()), tuple(text_of(field.keys).split()))
            )
            i += 1
        return tuple(found)

    def spec(self, params):
        """Return the environment's `Spec` for these parameters (a mapping).

        Raises:
            ParameterError: an unknown name, a missing or a bad value.
        """
        cdef ResolveCall* call
        cdef shoal_spec* c
        cdef int i
        cdef bint left = False  # a thread still uses `call`
        given, limit = param_values(self.table, params, self.path)
        call = <ResolveCall*>calloc(1, sizeof(ResolveCall))
        if call == NULL:
            raise MemoryError
        c = &call.spec
        for i in range(len(given)):
            call.params[i] = given[i]
        try:
            c.agents = self.c.agents or 1
            c.max_steps = self.c.max_steps
            c.state_size = self.c.state_size
            memcpy(c.observations, self.c.observations,
                   (SHOAL_MAX_FIELDS + 1) * sizeof(shoal_field))
            memcpy(c.actions, self.c.actions, (SHOAL_MAX_FIELDS + 1) * sizeof(shoal_field))
            if self.c.resolve != NULL:
                call.table, left = self.c, True
                call_apart(f"{self.table.name}: resolve", call_resolve, call, -1)
                left = False
                if call.wrong != NULL:
                    raise ParameterError(f"{self.table.name}: {text_of(call.wrong)}")
            if c.state_size < self.c.state_size:
                raise EnvModuleError(
                    f"{self.path}: resolve: the state has {self.c.state_size} bytes, and was made "
                    f"{c.state_size}"
                )
            spec = with_limit(
                Spec(given, c.agents, c.max_steps, c.state_size, self._fields(c.observations),
                     self._fields(c.actions)),
                limit,
            )
        finally:
            if not left:
                free(call)
        check_fields(spec, self.path)
        return spec

    def __reduce__(self):
        return Module, (self.path,)


@cython.no_gc_clear  # __dealloc__ needs the attributes
cdef class Engine:
    """Steps many environments of one module; see c/engine.h.

    One thread at a time may use it; `close` may be called from any thread, at any time.

    Args:
        module, spec: the environment, and `Module.spec` of its parameters.
        num_envs: environments.
        mode: of autoreset: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED`` of `shoal.rows.fields`.
        batch_size: environments of a job; default: all.
        num_blocks: blocks of `batch_size` environments that rows are given for.
        num_threads: threads besides the caller's; with 0 the caller steps everything in `wait`.
        spin: seconds for which an idle thread looks for work before it sleeps.
        debug: run each step twice, between guards; see `wait`. Always on if the module says so.
        timeout: seconds that all environments' `init` may take together; None for no limit.

    Raises:
        MemoryError: the arrays do not fit.
        StepTimeoutError: `init` did not return in time; the thread that runs it stays for good.
    """

    cdef readonly Module module
    cdef readonly object spec
    cdef readonly Py_ssize_t num_envs, agents, batch_size, num_blocks
    cdef shoal_engine* c            # NULL once it is freed, or left to a thread for good
    cdef bint is_open
    cdef int inside                 # calls under way that use `c`; changed with the GIL held
    cdef bint waits                 # a thread is in `wait`
    cdef bint stuck                 # a thread that can't be stopped uses `c`
    cdef int pid
    cdef object low, high           # the pointers look into these
    cdef list log_names
    cdef cnp.ndarray logs
    cdef Py_ssize_t actions_nbytes  # of all environments
    cdef object lent                # actions that threads may still read
    cdef dict arrays
    cdef object drawing

    def __cinit__(
        self, Module module, spec, Py_ssize_t num_envs, int mode=0, *, batch_size=None,
        Py_ssize_t num_blocks=1, int num_threads=0, double spin=50e-6, bint debug=False,
        timeout=None,
    ):
        cdef int i, error
        self.module, self.spec = module, spec
        self.num_envs, self.agents = num_envs, spec.agents
        self.batch_size = num_envs if batch_size is None else batch_size
        self.num_blocks = num_blocks
        self.pid = os.getpid()
        self.low, self.high = action_bounds(spec)
        self.log_names = [name for name, _ in module.table.logs]
        # Two cache lines are fetched together, but small states are better off close together.
        align = max(module.c.state_align, 8)
        stride = -(-spec.state_size // align) * align
        row = observation_offsets(spec)[1]
        if max(stride, row) >= 2**60:
            raise MemoryError(self._too_large())
        self.c = <shoal_engine*>calloc(1, sizeof(shoal_engine))
        if self.c == NULL:
            raise MemoryError
        self.c.table = module.c
        for i in range(len(spec.values)):
            self.c.params[i] = spec.values[i]
        self.c.num_envs, self.c.agents = num_envs, spec.agents
        self.c.num_logs = len(module.table.logs)
        self.c.writes_masks = module.table.action_mask
        self.c.observation_size = row
        size = len(self.low)
        if spec.actions[0].dtype.kind == "i":
            self.c.action_size = 8 * size
            self.c.num_masked = int(self.high.sum()) + size
        else:
            self.c.action_size = 4 * size
            self.c.action_low = <const float*>cnp.PyArray_DATA(self.low)
            self.c.action_high = <const float*>cnp.PyArray_DATA(self.high)
        self.c.state_size, self.c.state_stride = spec.state_size, stride
        self.c.max_steps = spec.max_steps
        self.c.mode, self.c.debug = mode, debug or module.debug
        self.c.batch_size, self.c.num_blocks = self.batch_size, num_blocks
        self.c.num_threads, self.c.spin_ns = num_threads, <int32_t>(spin * 1e9)
        error = shoal_engine_open(self.c)
        if error:
            free(self.c)
            self.c = NULL
            if error == ENOMEM:
                raise MemoryError(self._too_large())
            raise OSError(error, f"{os.strerror(error)}: {num_envs} environments")
        self.is_open = self.stuck = True
        call_apart(f"{module.table.name}: init", shoal_engine_init, self.c,
                   -1 if timeout is None else <int64_t>(timeout * 1e9))
        self.stuck = False
        error = shoal_engine_start(self.c)
        if error:
            raise OSError(error, f"{os.strerror(error)}: {num_threads} threads")

    def _too_large(self):
        return (
            f"not enough memory for {self.num_envs} environments with a state of "
            f"{self.spec.state_size} bytes and {self.agents} agents each"
        )

    def __dealloc__(self):
        self._close()

    cdef int _close(self) noexcept:
        """Stop and free everything; EBUSY if a thread does not come back from its environment."""
        cdef int error = 0
        cdef int64_t until = clock_ns() + CLOSE_TIME
        if not self.is_open:
            return 0
        self.is_open = False  # no call begins from now on
        if getpid() != self.pid:  # threads and their locks are not in a fork
            return 0
        with nogil:
            shoal_engine_stop(self.c)
        while self.inside and clock_ns() < until:
            with nogil:
                nap()
        if self.inside or self.stuck:
            error = EBUSY
        else:
            with nogil:
                error = shoal_engine_close(self.c, until - clock_ns())
        if error:
            self.stuck = True
            for kept in (self.arrays, self.logs, self.lent, self.low, self.high, self.drawing):
                Py_INCREF(kept)  # the thread may write to them
        else:
            free(self.c)
            self.c = NULL
            self.arrays, self.logs, self.lent = {}, None, None
        return error

    def close(self):
        """Stop the threads and free everything; closing again does nothing.

        Calls under way in other threads raise ClosedError.

        Raises:
            StepTimeoutError: a thread has not come back from its environment in 5 seconds; the
                thread and all that it uses stay for good.
        """
        if self._close():
            raise StepTimeoutError(
                f"{self.module.table.name} has not returned for 5 seconds, and can't be stopped"
            )

    cdef int _enter(self) except -1:
        """Begin a call that uses `c`; `inside` must be decreased at its end."""
        self._usable()
        if self.c.num_threads > 0 and getpid() != self.pid:
            raise ClosedError(
                f"this vector is of process {self.pid}, which this one was forked from"
            )
        self.inside += 1
        return 0

    cdef int _usable(self) except -1:
        if not self.is_open:
            raise ClosedError("this engine has been closed")
        return 0

    @property
    def num_posted(self):
        """How many jobs have been posted."""
        return self.c.posted if self.c != NULL else 0

    def bind(self, Buffers buffers):
        """Read from and write to these buffers from now on.

        Args:
            buffers: ``actions`` has a row for each agent of each environment, all other arrays a
                row for each agent of each of ``num_blocks * batch_size`` places.

        Raises:
            ValueError: the buffers have another number of rows, or rows of another size.
        """
        self._usable()
        cdef Py_ssize_t num_rows = self.num_blocks * self.batch_size * self.agents
        actions = buffers.arrays["actions"]
        expected = {
            "rows": num_rows, "rows of actions": self.num_envs * self.agents,
            "bytes of an observation": self.c.observation_size,
            "bytes of an action": self.c.action_size, "choices in a mask": self.c.num_masked,
        }
        got = [buffers.num_rows, len(actions), buffers.rows.observation_nbytes,
               buffers.rows.action_nbytes, buffers.rows.num_masked]
        for (what, wanted), size in zip(expected.items(), got):
            if size != wanted:
                raise ValueError(f"buffers: expected {wanted} {what}, got {size}")
        self.arrays = buffers.arrays
        self.actions_nbytes = actions.nbytes
        self.logs = np.zeros((num_rows, len(self.log_names)), np.float32)
        self.c.rows = buffers.rows
        self.c.logs = <float*>cnp.PyArray_DATA(self.logs)
        buffers.arrays["action_masks"][...] = True  # those of environments without masks stay so
        buffers.arrays["finals"][...] = False

    def seed(self, Py_ssize_t env, seed):
        """Seed one environment's generator."""
        self._usable()
        shoal_engine_seed(self.c, env, <uint64_t>(seed & 0xFFFFFFFFFFFFFFFF))

    def seed_all(self, first):
        """Environment i gets ``first + i``."""
        self._usable()
        cdef uint64_t start = first & 0xFFFFFFFFFFFFFFFF
        cdef Py_ssize_t i
        for i in range(self.num_envs):
            shoal_engine_seed(self.c, i, start + <uint64_t>i)

    cpdef int post(self, int op, envs=None, ops=None, cnp.ndarray actions=None) except -1:
        """Give `batch_size` environments an operation; their results go to the next block.

        Args:
            op: ``STEP``, ``RESET`` or ``KEEP`` (deliver again) of `shoal.rows.fields`.
            envs: which (int64); default: all.
            ops: one operation for each instead (int32).
            actions: of all environments, C-contiguous, with as many bytes as the bound ones, to
                which the threads copy them; by default the bound ones are in place. They must stay
                as they are until `wait` has returned.
        """
        cdef const int64_t[::1] numbers
        cdef const int32_t[::1] each
        cdef const int32_t* first_op = NULL
        if self.arrays is None:
            raise ValueError("post: bind arrays first")
        if actions is not None and (
            envs is not None or ops is not None or not cnp.PyArray_IS_C_CONTIGUOUS(actions)
            or cnp.PyArray_NBYTES(actions) != self.actions_nbytes
        ):
            raise ValueError(
                "post: actions: expected as many bytes as bound, C-contiguous, for all environments"
            )
        if envs is not None or ops is not None:
            numbers = np.arange(self.num_envs) if envs is None else envs
            if numbers.shape[0] != self.batch_size:
                raise ValueError(f"post: expected {self.batch_size} environments")
            if ops is not None:
                each = ops
                if each.shape[0] != self.batch_size:
                    raise ValueError(f"post: expected {self.batch_size} operations")
                first_op = &each[0]
        self._enter()
        try:
            if self.c.posted - self.c.received >= <uint64_t>self.num_blocks:
                raise ValueError("post: all blocks are taken; wait for one first")
            if envs is None and ops is None:
                self.lent = actions
                shoal_engine_post(
                    self.c, op, NULL, NULL, NULL if actions is None else cnp.PyArray_BYTES(actions)
                )
            else:
                shoal_engine_post(self.c, op, &numbers[0], first_op, NULL)
        finally:
            self.inside -= 1
        return 0

    cpdef Py_ssize_t wait(self, timeout=None, turn=None) except -2:
        """Wait for a job; return the block of its results, or -1 if it takes too long.

        Args:
            timeout: seconds, or None for no limit. Without one the caller steps too; if there are
                no threads, the caller steps everything, and there is no limit.
            turn: number of the job, from 0 on; default: the oldest one that no call has returned.
                The job before it may be named again, so an interrupt after this loses nothing.

        Raises:
            ClosedError: another thread has closed the engine.
            EnvCheckError: debugging found a fault.
        """
        cdef int64_t block = -1, left = SLICE, limit = -1, until = 0
        cdef int code
        if timeout is not None:
            limit = <int64_t>(min(timeout, 1e9) * 1e9)
            until = clock_ns() + limit
        self._enter()
        try:
            if turn is not None and <uint64_t>turn < self.c.received:
                return turn % self.num_blocks
            if self.c.posted == self.c.received:
                raise ValueError("wait: nothing was posted")
            if self.waits:
                raise ValueError("wait: another thread is waiting")
            self.waits = True
            try:
                while True:
                    if limit >= 0:
                        left = min(SLICE, max(0, until - clock_ns()))
                    with nogil:
                        code = shoal_engine_wait(self.c, limit < 0, left, &block)
                    if code == SHOAL_DONE:
                        return block
                    if code == SHOAL_FAULTY:
                        raise self._fault()
                    if code == SHOAL_CLOSED:
                        raise ClosedError("this engine was closed during a step")
                    PyErr_CheckSignals()
                    if limit >= 0 and clock_ns() >= until:
                        return -1
            finally:
                self.waits = False
        finally:
            self.inside -= 1

    cdef object _fault(self):
        cdef shoal_fault fault = self.c.fault
        op = "reset" if fault.op == SHOAL_RESET else "step"
        where = f"{self.module.table.name}, environment {fault.env}: {op}"
        if fault.kind == SHOAL_FAULT_STATE:
            return EnvCheckError(
                f"{where} wrote {fault.offset - self.spec.state_size + 1} bytes behind its state of "
                f"{self.spec.state_size} bytes"
                if fault.offset >= 0 else f"{where} wrote {-fault.offset} bytes before its state"
            )
        row, name, size = self._array_at(fault.where, fault.offset)
        if fault.kind == SHOAL_FAULT_BOUNDS:
            side = f"{fault.offset - size + 1} bytes behind" if fault.offset >= 0 else (
                f"{-fault.offset} bytes before"
            )
            return EnvCheckError(f"{where} wrote {side} its {row} of {size} bytes")
        if fault.kind == SHOAL_FAULT_UNWRITTEN:
            return EnvCheckError(f"{where} did not write {name}")
        what = "state" if fault.where == 0 else name
        return EnvCheckError(
            f"{where}: from the same state and actions came another {what} (byte {fault.offset}); "
            "is there anything that it reads and does not keep in its state?"
        )

    cdef tuple _array_at(self, int where, Py_ssize_t offset):
        """Return (the array, the place within it, its bytes) of a fault."""
        if where != 1:
            name = {0: "state", 2: "action_masks", 3: "rewards"}.get(where, "flags")
            one = {0: self.spec.state_size, 2: self.agents * self.c.num_masked,
                   3: self.agents * 4}.get(where, self.agents)
            return name, f"{name} (byte {offset})", one
        offsets, row = observation_offsets(self.spec)
        agent, inside = divmod(offset, row)
        name = f"byte {inside} of the observation of agent {agent}"
        for field, start in zip(self.spec.observations, offsets):
            index = (inside - start) // field.dtype.itemsize
            if 0 <= index < max(1, int(np.prod(field.shape))):
                at = [int(i) for i in np.unravel_index(index, field.shape)] if field.shape else ""
                name = f"observation {field.name}{at} of agent {agent}"
        return "observations", name, self.agents * row

    def num_ended(self, Py_ssize_t block):
        """Return how many agents' episodes have ended in a block that was received."""
        self._usable()
        return self.c.num_ended[block]

    def infos(self, Py_ssize_t block):
        """Return the log fields of the episodes that have ended in a block.

        They are a dict of arrays (float64, with bool masks ``_name``), one value a row, as
        Gymnasium's vectors give infos; in ``final_info`` if the environment was reset in the same
        step.
        """
        self._enter()
        try:
            return self._infos(block)
        finally:
            self.inside -= 1

    cdef dict _infos(self, Py_ssize_t block):
        cdef Py_ssize_t n = self.batch_size * self.agents, first = block * n, i, k
        cdef Py_ssize_t num_logs = self.c.num_logs
        cdef cnp.npy_intp length = n
        cdef const uint8_t* terminated = self.c.rows.terminations + first
        cdef const uint8_t* truncated = self.c.rows.truncations + first
        cdef const uint8_t* finals = self.c.rows.finals + first
        cdef const float* logs = self.c.logs + first * num_logs
        cdef bint same = self.c.mode == SHOAL_SAME_STEP
        cdef Column[16] now
        cdef Column[16] final
        cdef Column* columns
        cdef bint any_now = False, any_final = False
        infos = {}
        if self.c.num_ended[block] == 0 or num_logs == 0:
            return infos
        final_info = {}
        final_mask = None
        i = shoal_next_set(terminated, truncated, 0, n)
        while i < n:
            if same and finals[i]:
                if not any_final:
                    self._columns(final_info, final, n)
                    final_mask = cnp.PyArray_ZEROS(1, &length, cnp.NPY_BOOL, 0)
                    any_final = True
                cnp.PyArray_BYTES(final_mask)[i] = 1
                columns = final
            else:
                if not any_now:
                    self._columns(infos, now, n)
                    any_now = True
                columns = now
            for k in range(num_logs):
                columns[k].values[i] = logs[i * num_logs + k]
                columns[k].mask[i] = 1
            i = shoal_next_set(terminated, truncated, i + 1, n)
        if any_final:
            infos["final_info"] = final_info
            infos["_final_info"] = final_mask
        return infos

    cdef int _columns(self, dict infos, Column* columns, Py_ssize_t n) except -1:
        cdef cnp.npy_intp length = n
        cdef Py_ssize_t k
        for k in range(self.c.num_logs):
            values = cnp.PyArray_ZEROS(1, &length, cnp.NPY_DOUBLE, 0)
            mask = cnp.PyArray_ZEROS(1, &length, cnp.NPY_BOOL, 0)
            name = self.log_names[k]
            infos[name] = values
            infos[f"_{name}"] = mask
            columns[k].values = <double*>cnp.PyArray_BYTES(values)
            columns[k].mask = <uint8_t*>cnp.PyArray_BYTES(mask)
        return 0

    def get_state(self, Py_ssize_t env):
        """Return all that decides how an environment continues, as bytes."""
        cdef Py_ssize_t n = self.agents, at = env * n
        self._usable()
        return b"".join([
            (<char*>&self.c.steps[env])[: sizeof(int32_t)],
            (<char*>&self.c.pending[env])[:1],
            (<char*>&self.c.returns[at])[: n * sizeof(double)],
            (<char*>&self.c.lengths[at])[: n * sizeof(int32_t)],
            (<char*>&self.c.gone[at])[:n],
            (self.c.states + env * self.c.state_stride)[: self.c.state_size],
        ])

    def set_state(self, Py_ssize_t env, bytes state):
        """Continue from a state of `get_state`.

        Raises:
            ValueError: the state is of another environment, or of other parameters.
        """
        cdef Py_ssize_t n = self.agents, at = env * n, k, size
        cdef const char* source = state
        cdef char* to[6]
        cdef Py_ssize_t sizes[6]
        self._usable()
        to[0], sizes[0] = <char*>(&self.c.steps[env]), sizeof(int32_t)
        to[1], sizes[1] = <char*>(&self.c.pending[env]), 1
        to[2], sizes[2] = <char*>(&self.c.returns[at]), n * sizeof(double)
        to[3], sizes[3] = <char*>(&self.c.lengths[at]), n * sizeof(int32_t)
        to[4], sizes[4] = <char*>(&self.c.gone[at]), n
        to[5], sizes[5] = <char*>(self.c.states + env * self.c.state_stride), self.c.state_size
        size = 0
        for k in range(6):
            size += sizes[k]
        if len(state) != size:
            raise ValueError(
                f"set_state: {self.module.table.name} has states of {size} bytes, got {len(state)}"
            )
        for k in range(6):
            memcpy(to[k], source, sizes[k])
            source += sizes[k]

    def pending(self, Py_ssize_t env):
        """Return whether an environment's next step would be a reset."""
        self._usable()
        return self.c.pending[env] != 0

    def gone(self, Py_ssize_t row):
        """Return whether an agent has ended and will not act before the next reset."""
        self._usable()
        return self.c.gone[row] != 0

    def draw(self, Py_ssize_t env, timeout=None):
        """Return an environment's drawing: (shapes, points, text, view, background).

        `shapes` has dtype `SHAPE`; `points` is float32 ``(n, 2)``; `text` is bytes; the view is
        (left, top, width, height); the background is a colour, 0xRRGGBBAA.

        Args:
            env: index of the environment.
            timeout: seconds; None for no limit.

        Raises:
            StepTimeoutError: `draw` did not return in time; the engine can't be used afterwards.
        """
        cdef DrawCall* call
        cdef shoal_canvas* canvas
        cdef cnp.ndarray shapes, points, text
        if self.drawing is None:
            self.drawing = (
                np.zeros(16384, SHAPE), np.zeros((32768, 2), np.float32), np.zeros(16384, np.uint8)
            )
        shapes, points, text = self.drawing
        self._enter()
        try:
            call = <DrawCall*>calloc(1, sizeof(DrawCall))
            if call == NULL:
                raise MemoryError
            canvas = &call.canvas
            canvas.shapes = <shoal_shape*>cnp.PyArray_DATA(shapes)
            canvas.points = <float*>cnp.PyArray_DATA(points)
            canvas.text = <char*>cnp.PyArray_DATA(text)
            canvas.max_shapes, canvas.max_points = shapes.shape[0], points.shape[0]
            canvas.max_text = text.shape[0]
            canvas.w = canvas.h = 1
            canvas.background = SHOAL_NIGHT
            call.table = self.module.c
            call.state = self.c.states + env * self.c.state_stride
            try:
                call_apart(f"{self.module.table.name}: draw", call_draw, call,
                           -1 if timeout is None else <int64_t>(timeout * 1e9))
            except BaseException:  # the thread still reads the state
                self.stuck, self.is_open = True, False
                shoal_engine_stop(self.c)
                Py_INCREF(self)
                raise
            drawing = (
                shapes[: canvas.num_shapes].copy(),
                points[: canvas.num_points].copy(),
                text[: canvas.num_text].tobytes(),
                (canvas.x, canvas.y, canvas.w, canvas.h),
                canvas.background,
            )
            free(call)
            return drawing
        finally:
            self.inside -= 1
