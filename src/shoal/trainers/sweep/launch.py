"""Train one run of a sweep: `python -m shoal.trainers.sweep.launch CORES COMMAND ARGUMENT ...`.

The process ends with the sweep that started it, whatever ends that: the sweep holds the other end
of its standard input.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run on the cores "0,2,5" (or "" for all) a command of `shoal.trainers.command`."""
    cores, name, *rest = arguments
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    threading.Thread(target=die_with_sweep, daemon=True).start()
    from shoal.trainers import command

    return {"train": command.train, "resume": command.resume}[name](rest)


def die_with_sweep() -> None:
    """Kill this process when standard input ends."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
