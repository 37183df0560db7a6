from typing import Any

from shoal.rows.layout import Layout

__all__ = ["Bounds"]

class Bounds:
    def __init__(self, layout: Layout) -> None: ...
    def hold(self, array: Any) -> bool: ...
