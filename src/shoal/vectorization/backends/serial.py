"""The serial backend: all environments in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.vectorization.arena import Arena
from shoal.vectorization.backend import Options
from shoal.vectorization.stepper import Stepper
from shoal.vectorization.workers.group import EnvGroup

__all__ = ["SerialBackend"]

# The batch just received, the one before it, and the one being made.
NUM_BLOCKS = 3


class SerialBackend:
    """Steps environments when the batch is received; the oracle for all other backends.

    Args:
        creators: one function for each environment.
        options: of the vector.
    """

    name = "serial"
    num_workers = 0
    lends_actions = False
    takes_objects = True

    def __init__(self, creators: Sequence[Callable[[], Any]], options: Options):
        self.num_envs = self.batch_size = len(creators)
        self.group = EnvGroup(creators, 0, options.emulation, options.mode, options.first_seed)
        self.description = self.group.description()
        self.arena = Arena(
            self.description,
            num_envs=self.num_envs,
            batch_size=self.num_envs,
            num_blocks=NUM_BLOCKS,
            num_workers=1,
            control_nbytes=0,
        )
        self.arena.allocate()
        self.stepper = Stepper(
            self.group, self.arena, 0, options.on_error == "restart", options.profile
        )
        self._block = 0
        self._posted: tuple[Any, Any] = (None, None)
        self._all = np.arange(self.num_envs)

    def post(
        self, ops: Any, env_ids: Any, requests: dict[int, Any] | None, actions: Any = None
    ) -> None:
        """Give every environment its next operation: one for all, or one each."""
        self._posted = ops, requests

    def wait(self, timeout: float | None) -> int:
        """Run what was posted; the block that holds the results. Nothing here can time out."""
        block, self._block = self._block, (self._block + 1) % NUM_BLOCKS
        ops, requests = self._posted
        self.stepper.run_all(ops, requests, block * self.num_envs)
        if self.stepper.failure is not None:
            error, self.stepper.failure = self.stepper.failure, None
            raise error
        return block

    def env_ids(self, block: int) -> np.ndarray:
        """Return the environment in each slot of a block."""
        return self._all

    def infos(self, block: int) -> dict[str, Any]:
        """Return the infos of a block, as Gymnasium's vector environments give them."""
        return self.stepper.take_infos(block * self.arena.batch_rows, self.arena.batch_rows)

    def each_info(self, block: int) -> list[dict[str, Any]]:
        """Return the infos of a block, one dict for each row."""
        return self.stepper.take_each_info(block * self.arena.batch_rows, self.arena.batch_rows)

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call a method of the group: ``method(i, *arguments[i])`` for those that have any."""
        function = getattr(self.group, method)
        return [None if each is None else function(i, *each) for i, each in enumerate(arguments)]

    def close(self) -> None:
        """Close the environments."""
        try:
            self.group.close()
        finally:
            self.arena.detach()
            del self.stepper, self.group
