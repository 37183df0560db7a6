"""Where a worker under another interpreter begins (Python 3.8 or newer, any NumPy).

It runs the code of all workers (`worker.py`, `envs.py`, the layouts), with these differences:
messages are JSON (`json_messages`), environments are looked up by name there and emulated without
Gymnasium (`emulation/core.py`); and where this package's compiled modules don't load (there are
those for this package's own version of Python, and those by the stable ABI), their twins take their
places.

Of this package's own folder only this package can be imported (`processes.ISOLATED_COMMAND`): the
path stays the interpreter's own, so that the environment gets the packages it was made for.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import NoReturn

from shoal.vectorization import memory_mmap

__all__ = ["TWINS", "run", "use_twins"]

# Compiled modules, and those that do the same without compiled code.
TWINS = {
    "shoal.emulation.loop": "shoal.emulation.loop_numpy",
    "shoal.emulation.multi_loop": "shoal.emulation.multi_loop_numpy",
    "shoal.vectorization.engine": "shoal.vectorization.engine_ctypes",
    "shoal.vectorization.info": "shoal.vectorization.info_numpy",
    "shoal.vectorization.stepper": "shoal.vectorization.stepper_numpy",
}


def run(socket_fd: int, arena_fd: int, outbox_fd: int, parent: int, thread_stays: bool) -> NoReturn:
    """The whole life of a worker; see `worker.run_worker`."""
    # What is particular about the compiled memory matters to parents alone.
    sys.modules["shoal.vectorization.memory"] = memory_mmap
    if os.environ.get("SHOAL_COMPILED") == "0" or not compiled_modules_load():
        use_twins()
    from shoal.vectorization.workers import json_messages
    from shoal.vectorization.workers.worker import run_and_exit, run_worker

    known = socket_fd, arena_fd, outbox_fd, parent, thread_stays, json_messages
    run_and_exit(run_worker, *known)


def compiled_modules_load() -> bool:
    """Whether this package's compiled modules can be used here."""
    try:
        with warnings.catch_warnings():
            # Those by the stable ABI say that Python 3.8 is older than they are (stable_abi.h).
            warnings.simplefilter("ignore", RuntimeWarning)
            for name in ("shoal.rows.pack", *TWINS):
                importlib.import_module(name)
    except (ImportError, RuntimeError):  # of another Python, or for a newer NumPy
        return False
    return True


def use_twins() -> None:
    """Let imports of the compiled modules find their twins."""
    for name in TWINS:
        sys.modules.pop(name, None)
    for name, twin in TWINS.items():
        sys.modules[name] = importlib.import_module(twin)
