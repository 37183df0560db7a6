from typing import Any

__all__ = ["map_memory"]

def map_memory(descriptor: int, nbytes: int) -> Any: ...
