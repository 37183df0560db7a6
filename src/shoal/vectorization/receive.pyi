from typing import Any

import numpy as np

from shoal.rows.bounds import Bounds

__all__ = ["EpisodeLog", "any_ended", "collect", "put_actions"]

class EpisodeLog:
    num_batches: int
    last: Any
    def __init__(self, num_rows: int, agents_per_env: int) -> None: ...
    def restart(self, agents: Any) -> None: ...
    def take(self) -> dict[str, Any]: ...

def put_actions(target: np.ndarray, actions: Any, bounds: Bounds, copy: bool = True) -> bool: ...
def any_ended(block: dict[str, np.ndarray]) -> bool: ...
def collect(
    block: dict[str, np.ndarray],
    env_ids: np.ndarray,
    log: EpisodeLog,
    observations: Any,
    infos: Any,
    counted: list[tuple[dict[str, Any], np.ndarray]],
) -> tuple: ...
