"""Films: pictures written to a .gif or an .mp4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import EmulationError, ParameterError, ShoalError

__all__ = ["Film", "as_picture"]


def as_picture(rendered: Any) -> np.ndarray:
    """Return a copy of what an environment rendered: uint8, (height, width, 3).

    Args:
        rendered: an array (height, width), or (height, width, channels) with 1, 3 or 4 channels.

    Raises:
        EmulationError: `rendered` is not a picture.
    """
    array = np.asarray(rendered)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        got = f"shape {array.shape}" if array.ndim else repr(rendered)
        raise EmulationError(f"render: expected a picture of shape (height, width, 3), got {got}")
    colours = np.broadcast_to(array[:, :, :3], (*array.shape[:2], 3))
    return np.array(colours, np.uint8)


class Film:
    """Writes pictures to a file. All have the size of the first one; sides become even.

    Args:
        path: ends in ``.gif`` or ``.mp4``; the folder is made if there is none.
        fps: pictures per second.

    Raises:
        ParameterError: another ending, or the file can't be written.
        ShoalError: the part of imageio that writes such files is not installed.
    """

    def __init__(self, path: str | Path, fps: float):
        self.path = Path(path)
        if self.path.suffix not in (".gif", ".mp4"):
            raise ParameterError(f"a film's name must end in .gif or .mp4, got {path}")
        try:
            import imageio

            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.suffix == ".gif":
                options: dict[str, Any] = {"duration": 1000 / fps, "loop": 0}
            else:  # the codec needs even sides, and no multiples of 16
                options = {"fps": fps, "macro_block_size": 2}
            self._writer: Any = imageio.get_writer(self.path, **options)
        except (ImportError, ValueError) as error:  # imageio finds nothing that writes it
            raise ShoalError(
                f"{self.path.suffix} needs a part of imageio that is not installed: "
                "pip install 'imageio[ffmpeg]', or write a .gif"
            ) from error
        except OSError as error:
            raise ParameterError(
                f"the film {path} can't be written: {error.strerror or error}"
            ) from error
        self._shape: tuple[int, ...] | None = None

    def add(self, rendered: Any) -> None:
        """Add a picture; see `as_picture`.

        Raises:
            EmulationError: not a picture, or its size differs from the first one's.
        """
        picture = as_picture(rendered)
        if self._shape is None:
            self._shape = picture.shape
        if picture.shape != self._shape:
            raise EmulationError(
                f"render: a film's pictures must all have one size; the first was {self._shape}, "
                f"now got {picture.shape}"
            )
        odd = [(0, side % 2) for side in picture.shape[:2]]
        self._writer.append_data(np.pad(picture, [*odd, (0, 0)], "edge"))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
