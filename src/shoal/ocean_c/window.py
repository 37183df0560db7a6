"""A window that shows pictures and reads keys: the only file that imports pygame."""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np

from shoal.errors import ShoalError, install_extra

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
try:
    import pygame
except ImportError as error:  # pragma: no cover
    raise ShoalError(f"a window needs pygame: {install_extra('play')}") from error

__all__ = ["Window"]


class Window:
    """A window; it opens with the first picture.

    Args:
        title: in the bar.

    Attributes:
        closed: whether the user has closed the window.
        pressed: names of the keys pressed since `take_pressed`.
    """

    def __init__(self, title: str):
        self.title = title
        self.closed = False
        self.pressed: list[str] = []
        self._surface: pygame.Surface | None = None
        self._clock: pygame.time.Clock | None = None

    def show(self, pixels: np.ndarray, frames_per_second: float) -> None:
        """Show a picture for its time, and note the keys pressed.

        Args:
            pixels: uint8, (height, width, 3).
            frames_per_second: pictures per second.

        Raises:
            ShoalError: `pixels` is not such a picture, or there is no screen.
        """
        if getattr(pixels, "ndim", 0) != 3 or pixels.shape[2] != 3:
            got = getattr(pixels, "shape", type(pixels).__name__)
            raise ShoalError(f"window: expected a picture (height, width, 3), got {got}")
        height, width = pixels.shape[:2]
        if self._surface is None or self._clock is None:
            if sys.platform == "linux":  # else SDL complains that it is not set
                os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
            try:
                pygame.display.init()
            except pygame.error as error:
                raise ShoalError(
                    f"no window can be opened ({error}); without a screen, write a film instead: "
                    "shoal play ENV --record film.mp4"
                ) from error
            pygame.display.set_caption(self.title)
            self._surface = pygame.display.set_mode((width, height))
            self._clock = pygame.time.Clock()
        elif self._surface.get_size() != (width, height):
            self._surface = pygame.display.set_mode((width, height))
        pygame.surfarray.blit_array(self._surface, np.swapaxes(pixels, 0, 1))
        pygame.display.flip()
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                self.closed = True
            elif event.type == pygame.KEYDOWN:
                self.pressed.append(pygame.key.name(event.key))
        self._clock.tick(frames_per_second)

    def take_pressed(self) -> list[str]:
        """Return the names of the keys pressed since the last call, in order."""
        pressed, self.pressed = self.pressed, []
        return pressed

    def held(self) -> set[str]:
        """Return the names of the keys that are held down now."""
        if self._surface is None:
            return set()
        state = pygame.key.get_pressed()
        names = ("left", "right", "up", "down", "space", "return", "tab", "left shift")
        keys = [*names, *"abcdefghijklmnopqrstuvwxyz0123456789"]
        return {name for name in keys if state[pygame.key.key_code(name)]}

    def close(self) -> None:
        """Close the window; closing again does nothing."""
        if self._surface is not None:
            self._surface = None
            pygame.display.quit()
