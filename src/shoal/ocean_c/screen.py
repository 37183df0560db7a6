"""The three render modes: a picture, a window, a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.ocean_c.draw import Drawing

__all__ = ["METADATA", "MODES", "Screen"]

MODES = ["rgb_array", "human", "ansi"]
METADATA: dict[str, Any] = {"render_modes": MODES, "render_fps": 15}
SMOOTH = 4  # pictures for each step in a window


class Screen:
    """Shows an environment's drawings. The packages it needs are imported when first used.

    Args:
        mode: one of `MODES`; None for an environment that is not shown.
        title: of the window.
    """

    def __init__(self, mode: str | None, title: str = "Shoal"):
        self.mode, self.title = mode, title
        self.window: Any = None
        self._last: Drawing | None = None

    def show(self, drawing: Drawing) -> Any:
        """Return what `render` returns in this mode, or show the drawing in the window."""
        from shoal.ocean_c.draw import frames, picture, text_picture

        if self.mode == "rgb_array":
            return picture(drawing)
        if self.mode == "ansi":
            return text_picture(drawing)
        if self.window is None:
            from shoal.ocean_c.window import Window

            self.window = Window(self.title)
        for frame in frames(self._last, drawing, SMOOTH):
            self.window.show(picture(frame, oversampling=2), METADATA["render_fps"] * SMOOTH)
        self._last = drawing
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self.window is not None:
            self.window.close()
            self.window = None
