"""The three render modes: a picture, a window, a text."""

from __future__ import annotations

from typing import Any

from shoal.ocean_c.draw import Drawing, between, picture, text_picture

__all__ = ["Screen", "frames", "picture"]

SMOOTH = 4  # pictures for each step in a window


def frames(before: Drawing | None, after: Drawing, count: int) -> list[Drawing]:
    """Drawings from one step to the next, the latter included, the former not."""
    if before is None:
        return [after]
    return [between(before, after, (i + 1) / count) for i in range(count - 1)] + [after]


class Screen:
    """Shows an environment's drawings.

    Args:
        mode: ``"rgb_array"``, ``"human"`` or ``"ansi"``.
        fps: steps per second in a window.
        title: of the window.
    """

    def __init__(self, mode: str, fps: float, title: str = "Shoal"):
        self.mode, self.fps, self.title = mode, fps, title
        self.window: Any = None
        self._last: Drawing | None = None

    def show(self, drawing: Drawing) -> Any:
        """What `render` returns in this mode."""
        if self.mode == "rgb_array":
            return picture(drawing)
        if self.mode == "ansi":
            return text_picture(drawing)
        if self.window is None:
            from shoal.ocean_c.window import Window

            self.window = Window(self.title)
        for frame in frames(self._last, drawing, SMOOTH):
            self.window.show(picture(frame, oversampling=2), self.fps * SMOOTH)
        self._last = drawing
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self.window is not None:
            self.window.close()
            self.window = None
