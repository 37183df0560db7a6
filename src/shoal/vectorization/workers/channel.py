"""What crosses between a vector and its workers: messages over sockets, the outbox, exceptions.

Workers under another interpreter import this (Python 3.8 or newer).
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from shoal.errors import EmulationError

__all__ = ["Outbox", "error_message", "read_error", "receive_message", "send_message"]


MOST_NBYTES = (1 << 32) - 8  # of a message


class Outbox:
    """Messages of any size by region number, in a sparse file."""

    def __init__(self, fd: int):
        self.fd = fd

    def put(self, region: int, message: bytes) -> None:
        """Overwrite a region."""
        if len(message) > MOST_NBYTES:
            raise EmulationError(f"a message can have {MOST_NBYTES} bytes, got {len(message)}")
        data = memoryview(len(message).to_bytes(8, "little") + message)
        at = region << 32
        while data:
            written = os.pwrite(self.fd, data, at)
            data, at = data[written:], at + written

    def get(self, region: int) -> bytes:
        """Return what a region holds; raises EmulationError if the message is not there."""
        at = (region << 32) + 8
        length = int.from_bytes(os.pread(self.fd, 8, at - 8), "little")
        if length > min(MOST_NBYTES, os.fstat(self.fd).st_size):
            raise EmulationError(f"a message of {length} bytes is missing")
        parts = []
        while length:
            parts.append(os.pread(self.fd, length, at))
            if not parts[-1]:
                raise EmulationError(f"the last {length} bytes of a message are missing")
            length, at = length - len(parts[-1]), at + len(parts[-1])
        return b"".join(parts)


def send_message(to: socket.socket, message: bytes, wait: Callable[[], None] | None = None) -> None:
    """Send a message over a stream: its length (8 bytes, little-endian) and its bytes.

    Args:
        wait: called before each piece; for sockets that do not block.
    """
    for part in (len(message).to_bytes(8, "little"), message):
        left = memoryview(part)
        while left:
            if wait is not None:
                wait()
            left = left[to.send(left) :]


def receive_message(source: socket.socket, wait: Callable[[], None] | None = None) -> bytearray:
    """Receive what `send_message` sent.

    Raises:
        EOFError: the other end has been closed.
        EmulationError: the message claims to be longer than messages are.
    """
    length, message = 8, bytearray()
    for part in range(2):
        message = bytearray()
        while len(message) < length:  # memory is for what has come, whatever was announced
            if wait is not None:
                wait()
            data = source.recv(min(length - len(message), 1 << 20))
            if not data:
                raise EOFError("the other end has been closed")
            message += data
        if part == 0:
            length = int.from_bytes(message, "little")
            if length > MOST_NBYTES:
                raise EmulationError(f"a message of {length} bytes was announced")
    return message


def error_message(messages: Any, error: Exception, where: str) -> bytes:
    """Return an exception as a message, from which `read_error` makes it again."""
    trace = traceback.TracebackException.from_exception(error)
    trace.__notes__ = None  # they go along as they are
    text = "".join(trace.format()).rstrip()
    notes = [*getattr(error, "__notes__", []), f"{where}; the traceback there:\n{text}"]
    try:
        said = str(error)
    except Exception:
        said = "(can't be printed)"
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return b"\1" + messages.dump_error(error, said, name, notes)


def read_error(messages: Any, message: bytes | bytearray) -> Exception:
    """Return the exception that `error_message` packed."""
    return messages.load_error(message[1:])
