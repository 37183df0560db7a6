"""Where compiled environments are: beside this file, or wherever their author has built them."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

from shoal.errors import EnvModuleError
from shoal.ocean_c.engine import Module

__all__ = ["find", "load", "own_names"]

FOLDER = Path(__file__).parent / "environments"


def own_names() -> list[str]:
    """The environments that come with Shoal."""
    return sorted(path.stem for path in FOLDER.glob("*.so") if "." not in path.stem)


def find(name: str) -> Path | None:
    """The module of a compiled environment, or None if `name` means none.

    Args:
        name: of an environment that comes with Shoal (``"squared"``); or of one that was built in
            this folder (``"my_env"``, for ``my_env.so``); or a path (``"there/my_env.so"``). ``.c``
            in place of ``.so`` is the same.

    Raises:
        EnvModuleError: its C file is there, but it has not been built.
    """
    path = Path(name)
    if name.isidentifier():
        own = FOLDER / f"{name}.so"
        if own.is_file():
            return own
        path = Path(f"{name}.so")
    elif path.suffix not in (".so", ".c"):
        return None
    built, source = path.with_suffix(".so"), path.with_suffix(".c")
    if not built.is_file():
        if source.is_file():
            raise EnvModuleError(f"{source} has not been built: shoal build {source}")
        if path.suffix in (".so", ".c") and not name.isidentifier():
            raise EnvModuleError(f"there is no file {path}")
        return None
    if source.is_file() and source.stat().st_mtime > built.stat().st_mtime:
        warnings.warn(f"{source} has changed since {built} was built", RuntimeWarning, stacklevel=2)
    return built.resolve()


def load(path: str | Path) -> Module:
    """The module at `path`, loaded once, and again when it has been built again."""
    status = Path(path).stat()
    return _load(str(path), status.st_ino, status.st_mtime_ns)


@functools.cache
def _load(path: str, inode: int, time: int) -> Module:
    _versions[path] = _versions.get(path, -1) + 1
    return Module(path, _versions[path])


_versions: dict[str, int] = {}  # of each path: how many modules have been loaded from it, less 1
