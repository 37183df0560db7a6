from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from shoal.rows.bounds import Bounds
from shoal.vectorization.info_slots import InfoWriter

__all__ = [
    "CALL",
    "GOOD_STEPS",
    "MOST_FAILURES",
    "TOO_MANY",
    "EpisodeLog",
    "Stepper",
    "collect",
    "lose_places",
    "put_actions",
    "serve",
]

CALL: int
GOOD_STEPS: int
MOST_FAILURES: int
TOO_MANY: str

class Stepper:
    group: Any
    arena: Any
    failure: Exception | None
    infos: list[Any]
    def __init__(
        self, group: Any, arena: Any, worker: int, restart: bool, profile: bool
    ) -> None: ...
    def owe(self, envs: Iterable[int]) -> None: ...
    def run_all(self, ops: Any, requests: dict[int, Any] | None, first_place: int) -> None: ...
    def take_infos(self, first_row: int, num_rows: int) -> dict[Any, Any]: ...
    def take_each_info(self, first_row: int, num_rows: int) -> list[dict[Any, Any]]: ...

class EpisodeLog:
    def __init__(self, num_rows: int, agents_per_env: int) -> None: ...
    def restart(self, agents: Any) -> None: ...
    def add_infos(self, infos: dict[Any, Any], rows: np.ndarray) -> None: ...
    def take(self) -> dict[str, Any]: ...

def serve(
    stepper: Stepper,
    memory: Any,
    worker: int,
    writer: InfoWriter,
    command: Callable[[int], None],
    requests: Callable[[], dict[int, Any]],
    spill: Callable[[int, bytes], None],
    failed: Callable[[Exception], None],
) -> None: ...
def lose_places(arena: Any, place: int) -> None: ...
def put_actions(target: np.ndarray, actions: Any, bounds: Bounds, copy: bool = True) -> bool: ...
def collect(block: dict[str, np.ndarray], env_ids: np.ndarray, log: EpisodeLog) -> Any: ...
