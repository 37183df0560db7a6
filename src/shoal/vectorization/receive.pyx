"""The caller's side of a step: actions in, batch out, episodes counted.

`collect` is the instant at which a batch has been received: it copies, counts the episodes and the
batch, and keeps what it returns, in compiled code that no interrupt can divide.
"""

import time

import numpy as np

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cimport numpy as cnp

from shoal.rows.bounds cimport Bounds

cnp.import_array()

__all__ = ["EpisodeLog", "any_ended", "collect", "put_actions"]

OWN = frozenset(["episodes", "return", "length", "time"])  # statistics that infos can't name


def put_actions(cnp.ndarray target, actions, Bounds bounds, bint copy=True):
    """Copy a batch of actions to where environments find them, if it is in order as it stands.

    Args:
        target: where they find them.
        actions: anything.
        bounds: of `target`.
        copy: False only to look whether they are in order.

    Returns:
        False if it isn't, or if it must be converted first; nothing was copied.
    """
    if type(actions) is not cnp.ndarray or not bounds.hold(actions):
        return False
    cdef cnp.ndarray array = actions
    cdef int i, ndim = cnp.PyArray_NDIM(target)
    if cnp.PyArray_NDIM(array) != ndim:
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(array, i) != cnp.PyArray_DIM(target, i):
            return False
    if copy:
        memcpy(cnp.PyArray_DATA(target), cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(target))
    return True


cdef class EpisodeLog:
    """Sums over the episodes that have ended, of all `num_rows` agents.

    Attributes:
        num_batches: batches that have been collected.
        last: what the last `collect` returned.
    """

    cdef readonly Py_ssize_t num_batches
    cdef public object last

    cdef Py_ssize_t episodes, agents_per_env
    cdef double returns, seconds
    cdef int64_t lengths
    cdef cnp.ndarray begun      # of each agent's episode: when (float64)
    cdef dict metrics           # name: [sum, count]

    def __cinit__(self, Py_ssize_t num_rows, Py_ssize_t agents_per_env):
        self.agents_per_env = agents_per_env
        self.begun = np.full(num_rows, time.perf_counter())
        self.metrics = {}

    def restart(self, agents):
        """Let the time of these agents' episodes begin now."""
        self.begun[agents] = time.perf_counter()

    cdef int add(self, dict block, const int64_t* env_ids, Py_ssize_t num_envs) except -1:
        """Count the episodes that have ended in these rows: those of `env_ids`, in order."""
        cdef double* begun = <double*>cnp.PyArray_DATA(self.begun)
        cdef const uint8_t* terminated = data(block, "terminations")
        cdef const uint8_t* truncated = data(block, "truncations")
        cdef const uint8_t* masks = data(block, "masks")
        cdef const double* returns = <const double*>data(block, "episode_returns")
        cdef const int64_t* lengths = <const int64_t*>data(block, "episode_lengths")
        cdef Py_ssize_t n = num_envs * self.agents_per_env
        cdef Py_ssize_t agent, row = next_set(terminated, truncated, 0, n)
        cdef double now
        if row == n:
            return 0
        now = time.perf_counter()
        while row < n:
            if masks[row]:
                agent = env_ids[row // self.agents_per_env] * self.agents_per_env
                agent += row % self.agents_per_env
                self.episodes += 1
                self.returns += returns[row]
                self.lengths += lengths[row]
                self.seconds += now - begun[agent]
                begun[agent] = now
            row = next_set(terminated, truncated, row + 1, n)
        return 0

    cdef int add_infos(self, dict infos, rows) except -1:
        """Count the numbers in the infos of these rows (bool), whose episodes have ended."""
        cdef const uint8_t* chosen = <const uint8_t*>cnp.PyArray_BYTES(rows)
        cdef const uint8_t* present
        cdef const double* numbers
        cdef Py_ssize_t row, count, n = len(rows)
        cdef double sum
        for key, values in infos.items():
            mask = infos.get(f"_{key}")
            if not isinstance(values, np.ndarray) or values.ndim != 1:
                continue
            if not isinstance(mask, np.ndarray) or mask.dtype != bool:
                continue
            if values.dtype.kind == "O":
                values, mask = numbers_among(values, mask)
            elif values.dtype.kind not in "biuf":
                continue
            values = np.ascontiguousarray(values, np.float64)
            mask = np.ascontiguousarray(mask)
            present = <const uint8_t*>cnp.PyArray_BYTES(mask)
            numbers = <const double*>cnp.PyArray_BYTES(values)
            sum, count = 0, 0
            row = next_set(present, present, 0, n)
            while row < n:
                if chosen[row]:
                    sum += numbers[row]
                    count += 1
                row = next_set(present, present, row + 1, n)
            if key in OWN or str(key).startswith("info/"):
                key = f"info/{key}"
            total = self.metrics.setdefault(key, [0.0, 0])
            total[0] += sum
            total[1] += count

    def take(self):
        """Return means since the last call; see `Vector.statistics`."""
        if self.episodes == 0:
            return {"episodes": 0}
        means = {
            "episodes": self.episodes,
            **{name: total / count for name, (total, count) in self.metrics.items() if count},
            "return": self.returns / self.episodes,
            "length": self.lengths / self.episodes,
            "time": self.seconds / self.episodes,
        }
        self.episodes = self.lengths = 0
        self.returns = self.seconds = 0
        self.metrics.clear()
        return means


def numbers_among(values, mask):
    """Return the real numbers among objects as float64, and the mask of the rows that have one."""
    numbers, rows = np.zeros(len(values)), np.zeros(len(values), bool)
    for row in mask.nonzero()[0].tolist():
        value = values[row]
        if isinstance(value, (int, float, np.bool_, np.integer, np.floating)):
            try:
                numbers[row] = float(value)
                rows[row] = True
            except (OverflowError, TypeError, ValueError):  # an int past 1e308; a timedelta
                pass
    return numbers, rows


cdef Py_ssize_t next_set(
    const uint8_t* one, const uint8_t* other, Py_ssize_t i, Py_ssize_t n
) noexcept:
    """Return the first index from `i` on where one of two arrays is not 0; `n` if there is none."""
    cdef uint64_t a, b
    while i < n:
        if i + 8 <= n:  # eight at a time, since most are 0
            memcpy(&a, one + i, 8)
            memcpy(&b, other + i, 8)
            if (a | b) == 0:
                i += 8
                continue
        if one[i] | other[i]:
            return i
        i += 1
    return n


cdef const uint8_t* data(dict block, str name):
    return <const uint8_t*>cnp.PyArray_BYTES(block[name])


def collect(
    dict block, cnp.ndarray env_ids, EpisodeLog log, observations, infos, list counted
):
    """Count a batch, and return what the caller of `recv` gets: copies of the small arrays.

    Args:
        block: the rows of `env_ids`, in order.
        env_ids: contiguous int64.
        log: counts the batch and its episodes.
        observations, infos: of the batch, to be returned.
        counted: (infos, rows) of the episodes that have ended, see `EpisodeLog.add_infos`.

    Returns:
        (observations, rewards, terminations, truncations, infos, masks)
    """
    result = (
        observations,
        cnp.PyArray_NewCopy(block["rewards"], cnp.NPY_CORDER),
        cnp.PyArray_NewCopy(block["terminations"], cnp.NPY_CORDER),
        cnp.PyArray_NewCopy(block["truncations"], cnp.NPY_CORDER),
        infos,
        cnp.PyArray_NewCopy(block["masks"], cnp.NPY_CORDER),
    )
    log.add(block, <const int64_t*>cnp.PyArray_DATA(env_ids), len(env_ids))
    for each, rows in counted:
        log.add_infos(each, rows)
    log.last = result
    log.num_batches += 1
    return result


def any_ended(dict block):
    """Return whether an episode has ended in any row of a block."""
    cdef Py_ssize_t n = cnp.PyArray_DIM(<cnp.ndarray>block["terminations"], 0)
    return next_set(data(block, "terminations"), data(block, "truncations"), 0, n) < n
