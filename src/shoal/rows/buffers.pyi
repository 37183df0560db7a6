import numpy as np

from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout

__all__ = ["Buffers"]

class Buffers:
    num_rows: int
    arrays: dict[str, np.ndarray]
    def __init__(
        self,
        observation_layout: Layout,
        action_layout: ActionLayout,
        arrays: dict[str, np.ndarray],
    ) -> None: ...
