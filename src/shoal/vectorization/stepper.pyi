from collections.abc import Callable, Iterable
from typing import Any

from shoal.vectorization.info_slots import InfoWriter

__all__ = [
    "CALL",
    "GOOD_STEPS",
    "MOST_FAILURES",
    "TOO_MANY",
    "Deferral",
    "Stepper",
    "lose_places",
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
    stop: bool
    def __init__(
        self, group: Any, arena: Any, worker: int, restart: bool, profile: bool
    ) -> None: ...
    def owe(self, envs: Iterable[int]) -> None: ...
    def run_all(
        self, ops: Any, requests: dict[int, Any] | None, first_place: int, turn: int
    ) -> None: ...
    def take_infos(self, first_row: int, num_rows: int) -> dict[Any, Any]: ...
    def take_each_info(self, first_row: int, num_rows: int) -> list[dict[Any, Any]]: ...

class Deferral:
    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...

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
