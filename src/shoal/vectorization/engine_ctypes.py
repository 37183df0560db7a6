"""The worker's end of the engine through ctypes: the twin of `engine.Worker` where that can't load.

It calls the same C code (c/sync.h), which is compiled a second time without Python.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

__all__ = ["COMMAND", "INTERRUPTED", "OK", "Worker", "die_with_parent"]

OK, INTERRUPTED = 0, 1  # as in c/sync.h
COMMAND = 0x80

SYNC = str(Path(__file__).with_name("sync.so"))
WAITING = ctypes.CDLL(SYNC)  # gives up the interpreter's lock, which takes longer than most calls
QUICK = ctypes.PyDLL(SYNC)
for library in (WAITING, QUICK):
    library.shoal_worker_size.restype = ctypes.c_size_t
    library.shoal_claim.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    library.shoal_claim.restype = ctypes.c_uint32
    library.shoal_complete.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.shoal_fail.argtypes = [ctypes.c_void_p, ctypes.c_uint32]


class Worker:
    """The end of worker number `worker`, over memory that a parent has initialised.

    Attributes:
        op, env: of the entry taken last; for a command, `env` is its argument.
    """

    def __init__(self, memory: Any, worker: int):
        self.memory = memory  # must live as long as the engine looks into it
        self._state = ctypes.create_string_buffer(QUICK.shoal_worker_size())
        self._entry = ctypes.c_uint64()
        self._me = ctypes.c_void_p(ctypes.addressof(self._state))
        self._at = ctypes.byref(self._entry)
        start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        QUICK.shoal_worker_attach(self._me, start, ctypes.c_uint32(worker))
        self.op = self.env = 0

    def wait_work(self) -> int:
        """Wait until there is an entry: OK, INTERRUPTED, or another number at the end."""
        return WAITING.shoal_wait_work(self._me)

    def next_entry(self) -> int:
        """Take the next entry: OK, INTERRUPTED when there is none now, or another number."""
        result = QUICK.shoal_next(self._me, self._at)
        if result == OK:
            entry = self._entry.value
            self.op, self.env = entry >> 24 & 0xFF, entry & 0xFFFFFF
        return result

    def claim_place(self) -> int:
        """The place for this entry's result; once per entry, when its step has returned."""
        return QUICK.shoal_claim(self._me, self._entry)

    def complete_place(self, place: int) -> None:
        """The result has been written to its place."""
        QUICK.shoal_complete(self._me, place)

    def finish_command(self) -> None:
        """The command has been carried out."""
        QUICK.shoal_finish(self._me)

    def report_failure(self, code: int) -> None:
        """Let the parent's `wait_block` return ``-FAILED``, with this code (not 0)."""
        QUICK.shoal_fail(self._me, code)


def die_with_parent(signal_number: int) -> bool:
    """Let the kernel send this signal when the thread that started this process ends, if it can."""
    return QUICK.shoal_die_with_parent(signal_number) == 0
