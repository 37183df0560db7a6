"""Find native environments: those that come with Shoal, and those that a user has built."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

from shoal.errors import EnvModuleError, ParameterError
from shoal.ocean_c.engine import Module

__all__ = ["find", "load", "module_named", "own_names"]

FOLDER = Path(__file__).parent / "environments"


def own_names() -> list[str]:
    """Return the names of the environments that come with Shoal."""
    return sorted(path.stem for path in FOLDER.glob("*.so") if "." not in path.stem)


def find(name: str) -> Path | None:
    """Return the path of a native environment's module, or None if `name` is no such environment.

    Args:
        name: an environment that comes with Shoal (``"squared"``); or one that was built in the
            current folder (``"my_env"``, for ``my_env.so``); or a path (``"there/my_env.so"``).
            ``.c`` in place of ``.so`` is accepted too.

    Raises:
        EnvModuleError: the C file exists, but has not been built; or a path has no file.
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
    """Return the module at `path`. It is loaded once, and again after a new build."""
    status = Path(path).stat()
    return _load(str(path), status.st_ino, status.st_mtime_ns)


def module_named(name: str) -> Module:
    """Return the module of a native environment; see `find`.

    Raises:
        ParameterError: there is no native environment of this name.
    """
    path = find(name)
    if path is None:
        raise ParameterError(f"there is no native environment {name!r}")
    return load(path)


@functools.cache
def _load(path: str, inode: int, time: int) -> Module:
    _versions[path] = _versions.get(path, -1) + 1
    return Module(path, _versions[path])


_versions: dict[str, int] = {}  # of each path: modules loaded from it, minus 1
