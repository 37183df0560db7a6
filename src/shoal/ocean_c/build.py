"""Compile one C file to a module that can be loaded."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import EnvModuleError

__all__ = ["build", "compiler"]

HEADERS = Path(__file__).parent
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-ffp-contract=off"]
RELEASE = ["-O3", "-DNDEBUG"]
# Undefined behaviour ends the program with the line it is in; the engine's own checks, which the
# macro switches on, are errors of Python.
DEBUG = ["-O1", "-g", "-DSHOAL_DEBUG", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]


def compiler() -> list[str]:
    """Return the command of a C compiler: ``$CC``, cc, gcc, clang, or the package ziglang.

    Raises:
        EnvModuleError: there is no C compiler.
    """
    if given := os.environ.get("CC"):
        return shlex.split(given)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise EnvModuleError(
        "no C compiler was found: install gcc or clang, set CC, or pip install ziglang"
    )


def build(
    source: str | Path,
    output: str | Path | None = None,
    *,
    debug: bool = False,
    flags: Sequence[str] = (),
) -> Path:
    """Compile an environment.

    Args:
        source: the C file.
        output: path of the module; default: beside the file, with ``.so`` in place of ``.c``.
        debug: stop at undefined behaviour, and have the engine check every step.
        flags: further arguments for the compiler.

    Returns:
        The module's path. An older module is replaced only if the compiler succeeds.

    Raises:
        EnvModuleError: there is no such file, no compiler, or the compiler found errors, which
            have been printed.
    """
    source = Path(source)
    if not source.is_file():
        raise EnvModuleError(f"there is no file {source}")
    if source.suffix != ".c":
        raise EnvModuleError(f"{source}: expected a file whose name ends in .c")
    target = source.with_suffix(".so") if output is None else Path(output)
    command = compiler()
    kind = DEBUG if debug else RELEASE
    if command[-1] == "cc" and debug and "ziglang" in command:
        kind = [flag for flag in DEBUG if not flag.startswith("-f")]  # zig adds its own sanitizer
    # A module that is in use keeps its file: the new one gets the name, not the bytes.
    handle, temporary = tempfile.mkstemp(".so", target.stem, target.parent)
    os.close(handle)
    try:
        arguments = [*FLAGS, *kind, *flags, "-fPIC", "-shared", f"-I{HEADERS}"]
        done = subprocess.run([*command, *arguments, str(source), "-o", temporary, "-lm"])
        if done.returncode:
            raise EnvModuleError(f"{source}: {command[0]} found errors")
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target
