from shoal.rows.actions import ActionLayout

__all__ = ["Decoder", "MaskWriter"]

class Decoder:
    def __init__(self, layout: ActionLayout) -> None: ...

class MaskWriter:
    def __init__(self, layout: ActionLayout) -> None: ...
