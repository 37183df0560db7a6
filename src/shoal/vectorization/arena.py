"""The one block of memory that a vector and its workers share.

It holds, each on a 128-byte boundary: the engine's control block; the actions, one row for each
agent; and for every field of `row_fields`, one row for each agent of each *place*. A place is where
one environment's result goes: slot s of block b is place ``b * batch_size + s``. `recv` hands out
whole blocks.

Lifetime of what `recv` returns: a block is written again only after the second following `recv`
has been called, so the observations of two batches (this one and the one before) can be held at
the same time without copying.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from shoal.rows.buffers import Buffers
from shoal.rows.fields import row_fields
from shoal.vectorization.description import Description

__all__ = ["Arena", "INFO_NBYTES"]

INFO_NBYTES = 512  # of one row's info slot
ALIGN = 128  # two cache lines: neighbours are fetched in pairs


class Arena:
    """Arrays over shared (or private) memory.

    Args:
        description: of the environments.
        num_envs, batch_size, num_blocks, num_workers: of the vector.
        control_nbytes: of the engine's control block; 0 without an engine.

    Attributes:
        nbytes: how much memory is needed.
        num_rows: rows of all places.
    """

    def __init__(
        self,
        description: Description,
        num_envs: int,
        batch_size: int,
        num_blocks: int,
        num_workers: int,
        control_nbytes: int,
    ):
        self.layouts = description.observation_layout, description.action_layout
        self.agents_per_env = agents_per_env = description.agents_per_env
        self.batch_rows = batch_size * agents_per_env
        self.num_blocks = num_blocks
        self.num_rows = num_blocks * self.batch_rows
        fields = row_fields(*self.layouts)
        shapes = {name: (self.num_rows, *shape) for name, (_, shape) in fields.items()}
        shapes["actions"] = (num_envs * agents_per_env, *fields["actions"][1])
        dtypes = {name: dtype for name, (dtype, _) in fields.items()}
        shapes["infos"] = (self.num_rows, INFO_NBYTES)
        dtypes["infos"] = np.dtype(np.uint8)
        # Of each worker: nanoseconds in environments, packing and waiting; restarts.
        shapes["counters"] = (max(num_workers, 1), 4)
        dtypes["counters"] = np.dtype(np.int64)
        self._places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
        at = -(-control_nbytes // ALIGN) * ALIGN
        for name, shape in shapes.items():
            self._places[name] = at, dtypes[name], shape
            at += -(-math.prod(shape) * dtypes[name].itemsize // ALIGN) * ALIGN
        self.nbytes = at

    def attach(self, memory: Any) -> None:
        """Lay the arrays over `memory`, a writeable buffer of `nbytes`.

        Adds the attributes `arrays` (by name: all rows), `buffers` (the same for the compiled loop)
        and `blocks` (for each block, its rows by name).
        """
        self.memory = memory
        self.arrays: dict[str, np.ndarray] = {
            name: np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
            for name, (offset, dtype, shape) in self._places.items()
        }
        self.buffers: Buffers | None = Buffers(*self.layouts, self.arrays)
        per_place = [name for name in self.arrays if name not in ("actions", "counters")]
        rows = self.batch_rows
        self.blocks = [
            {name: self.arrays[name][b * rows : (b + 1) * rows] for name in per_place}
            for b in range(self.num_blocks)
        ]

    def allocate(self) -> None:
        """Do `attach` with memory of this process alone, all zeros, on the same boundaries."""
        memory = np.zeros(self.nbytes + ALIGN, np.uint8)  # NumPy's own begins anywhere
        start = -memory.ctypes.data % ALIGN
        self.attach(memory[start : start + self.nbytes])

    def detach(self) -> None:
        """Let go of the memory, which is released with the last array that looks into it."""
        self.memory, self.arrays, self.buffers, self.blocks = None, {}, None, []

    def poison(self, block: int) -> None:
        """Overwrite a block that has expired, so that a late reader notices."""
        for name in ("observations", "final_observations"):
            array = self.blocks[block][name]
            if array.dtype.kind == "f":
                array[...] = np.nan
            else:
                array.view(np.uint8)[...] = 0xA5
