"""Trained policies outside of Python: as C, and as ONNX."""

__all__: list[str] = []
