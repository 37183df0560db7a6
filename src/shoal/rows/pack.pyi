from typing import Any

import numpy as np

from shoal.rows.layout import Layout

__all__ = ["Packer"]

class Packer:
    layout: Layout
    def __init__(self, layout: Layout) -> None: ...
    def pack(self, value: Any, out: np.ndarray) -> None: ...
    def unpack(self, array: np.ndarray) -> Any: ...
