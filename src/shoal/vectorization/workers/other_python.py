"""Where a worker under another interpreter begins (CPython 3.8 or newer, NumPy 1.17 or newer).

It runs the code of all workers (`worker.py`, `group.py`, the layouts), with these differences:
messages are JSON (`json_messages`), and environments are looked up by name there and emulated
without Gymnasium (`emulation/core.py`). The compiled modules are those by Python's stable ABI,
unless the interpreter is of the version that this package was built for.

Of this package's own folder only this package can be imported (`process.PRELUDE`): the path stays
the interpreter's own, so that the environment gets the packages it was made for.
"""

from __future__ import annotations

import warnings
from types import ModuleType

__all__ = ["import_worker", "run"]


def run(socket_fd: int, arena_fd: int, outbox_fd: int, parent: int, thread_stays: bool) -> None:
    """Run a worker until its end; see `worker.run_worker`."""
    worker = import_worker()
    from shoal.vectorization.workers import json_messages

    known = socket_fd, arena_fd, outbox_fd, parent, thread_stays, json_messages
    worker.run_and_exit(worker.run_worker, *known)


def import_worker() -> ModuleType:
    """Import all that a worker runs, and return `workers.worker`.

    Raises:
        ImportError: this interpreter can't load the compiled modules.
    """
    with warnings.catch_warnings():
        # Those by the stable ABI say that Python 3.8 is older than they are (stable_abi.h).
        warnings.simplefilter("ignore", RuntimeWarning)
        from shoal.vectorization.workers import worker
    return worker
