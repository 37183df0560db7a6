"""The states of C environments as NumPy sees them, so that the tests' own games go on from them."""

import numpy as np

from shoal.vectorization.vector import Vector


def states_of(vector: Vector, kind: np.dtype) -> np.ndarray:
    """A copy of each environment's State, of which `kind` is the struct (aligned, as in C)."""
    saved = [state["env"][-kind.itemsize :] for state in vector.get_state()]
    return np.frombuffer(bytearray().join(saved), kind)


def plane(points: np.ndarray) -> np.ndarray:
    """Pairs x, y (..., 2) as complex numbers (...), in doubles."""
    return points[..., 0].astype(float) + 1j * points[..., 1].astype(float)
