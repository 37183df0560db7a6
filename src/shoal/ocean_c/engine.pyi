import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.ocean_c.table import Spec, Table
from shoal.rows.buffers import Buffers

__all__ = ["SHAPE", "Engine", "Module"]

SHAPE: np.dtype

class Module:
    path: str
    table: Table
    debug: bool
    def __init__(self, path: str | os.PathLike[str], version: int = ...) -> None: ...
    def spec(self, params: Mapping[str, Any]) -> Spec: ...

class Engine:
    module: Module
    num_posted: int
    spec: Spec
    num_envs: int
    agents: int
    batch_size: int
    num_blocks: int
    def __init__(
        self,
        module: Module,
        spec: Spec,
        num_envs: int,
        mode: int = ...,
        *,
        batch_size: int | None = ...,
        num_blocks: int = ...,
        num_threads: int = ...,
        spin: float = ...,
        debug: bool = ...,
        timeout: float | None = ...,
    ) -> None: ...
    def bind(self, buffers: Buffers) -> None: ...
    def close(self) -> None: ...
    def draw(
        self, env: int, timeout: float | None = ...
    ) -> tuple[np.ndarray, np.ndarray, bytes, tuple[float, float, float, float], int]: ...
    def get_state(self, env: int) -> bytes: ...
    def gone(self, row: int) -> bool: ...
    def infos(self, block: int) -> dict[str, Any]: ...
    def num_ended(self, block: int) -> int: ...
    def pending(self, env: int) -> bool: ...
    def post(
        self,
        op: int,
        envs: np.ndarray | None = ...,
        ops: np.ndarray | None = ...,
        actions: np.ndarray | None = ...,
    ) -> int: ...
    def seed(self, env: int, seed: int) -> None: ...
    def seed_all(self, first: int) -> None: ...
    def set_state(self, env: int, state: bytes) -> None: ...
    def wait(self, timeout: float | None = ..., turn: int | None = ...) -> int: ...
