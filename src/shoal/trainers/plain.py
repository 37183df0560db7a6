"""What a checkpoint may hold: tensors, numbers, text, bytes, and lists and dicts of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["arrays", "plain"]


def plain(value: Any, text: bool = False) -> Any:
    """Return a copy of nested values as tensors on the CPU, numbers, text and bytes.

    Args:
        text: write down what is something else as its repr.

    Raises:
        TypeError: there is something else among them, and `text` is False.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {plain(key, text): plain(each, text) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, text) for each in value]
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if text:
        return repr(value)
    raise TypeError(f"a checkpoint can't hold {type(value).__name__}: {value!r}")


def arrays(value: Any) -> Any:
    """Return nested values with NumPy arrays in place of tensors."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: arrays(each) for key, each in value.items()}
    return [arrays(each) for each in value] if isinstance(value, list) else value
