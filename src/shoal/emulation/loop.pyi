from typing import Any

from shoal.rows.actions import ActionLayout
from shoal.rows.buffers import Buffers
from shoal.rows.layout import Layout

__all__ = [
    "MAX_DICTS",
    "Driver",
    "EnvLoop",
    "SingleDriver",
    "checked_info",
    "copy_value",
    "items_of",
]

MAX_DICTS: int

def checked_info(info: Any) -> dict[Any, Any]: ...
def items_of(info: Any) -> Any: ...
def copy_value(value: Any) -> Any: ...

class Driver:
    agents_per_env: int
    done: bool
    info: Any

class SingleDriver(Driver):
    env: Any
    reward: float
    terminated: bool
    truncated: bool
    def __init__(
        self, env: Any, observation_layout: Layout, action_layout: ActionLayout
    ) -> None: ...

class EnvLoop:
    drivers: list[Any]
    infos: list[Any]
    final_infos: list[Any]
    num_envs: int
    agents_per_env: int
    any_info: bool
    any_final: bool
    options: list[dict[str, Any] | None]
    current: int
    def __init__(self, drivers: list[Any], observation_nbytes: int, mode: int) -> None: ...
    def reset(
        self, i: int, seed: int | None, options: dict[str, Any] | None, to: Buffers, row: int
    ) -> None: ...
    def step(self, rows: Buffers) -> None: ...
    def replace(self, i: int, driver: Driver) -> None: ...
    def get_state(self, i: int) -> dict[str, Any]: ...
    def set_state(self, i: int, state: dict[str, Any]) -> None: ...
    def take_infos(self) -> tuple[list[Any] | None, list[Any] | None]: ...
