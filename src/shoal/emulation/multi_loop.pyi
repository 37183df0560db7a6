from collections.abc import Mapping
from typing import Any

from shoal.emulation.agent_spaces import AgentSpaces
from shoal.emulation.loop import Driver
from shoal.rows.actions import ActionLayout
from shoal.rows.buffers import Buffers
from shoal.rows.layout import Layout

__all__ = ["MultiDriver"]

class MultiDriver(Driver):
    env: Any
    mixed: bool
    agents: list[Any]
    occupants: list[Any]
    observation_layout: Layout
    action_layout: ActionLayout
    all_infos: dict[Any, Any]
    def __init__(self, env: Any, spaces: AgentSpaces, growable: bool = False) -> None: ...
    def begin(self, seed: int | None, options: dict[str, Any] | None) -> None: ...
    def advance(self, rows: Buffers) -> None: ...
    def deliver(self, rows: Buffers) -> None: ...
    def encode(self, actions: Mapping[Any, Any], rows: Buffers) -> None: ...
