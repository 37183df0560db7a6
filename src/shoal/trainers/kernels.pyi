import numpy as np
from numpy.typing import NDArray

__all__ = ["advantages"]

def advantages(
    out: NDArray[np.float32],
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    terminated: NDArray[np.uint8],
    truncated: NDArray[np.uint8],
    valid: NDArray[np.uint8],
    ratios: NDArray[np.float32] | None,
    gamma: float,
    gae_lambda: float,
    rho: float,
    c: float,
) -> None: ...
