"""Starting worker processes, and knowing how they ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

from shoal.vectorization.worker import THREAD_LIMITS, run_and_exit, run_worker

__all__ = ["START_METHODS", "Process", "Starter"]

START_METHODS = ("fork", "forkserver", "spawn")

# A child that runs one function of `worker.py` on inherited descriptors. The path comes first, for
# it says where this package is.
COMMAND = (
    "import sys; sys.path[:] = {path!r}; "
    "from shoal.vectorization.worker import {function}; {function}{fds!r}"
)


class Process:
    """One worker process.

    Attributes:
        pid: of the process.
        pidfd: a descriptor that is readable once it has ended, or -1 where the system has none.
        connection: to it.
        exitcode: None while it runs; negative: the signal that ended it.
    """

    def __init__(self, pid: int, connection: Connection, starter: Starter):
        self.pid = pid
        self.connection = connection
        self.exitcode: int | None = None
        self._starter = starter
        try:
            self.pidfd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            self.pidfd = -1

    def poll(self) -> int | None:
        """Its exit code if it has ended."""
        if self.exitcode is None:
            self.exitcode = self._starter.exitcode(self.pid)
        return self.exitcode

    def wait(self, seconds: float) -> bool:
        """Whether it ended within this time."""
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while self.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        return True

    def kill(self) -> None:
        """End it now."""
        if self.exitcode is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def release(self) -> None:
        """Close what this side holds of it."""
        self.connection.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Starter:
    """Starts workers in one of the three ways.

    Args:
        method: one of `START_METHODS`.
        arena_fd, outbox_fd: what every worker inherits.
    """

    def __init__(self, method: str, arena_fd: int, outbox_fd: int):
        self.method = method
        self.fds = arena_fd, outbox_fd
        self._popens: dict[int, subprocess.Popen] = {}
        self._exitcodes: dict[int, int] = {}
        self._server: socket.socket | None = None
        self._lines = b""
        if method == "forkserver":
            self._server, theirs = socket.socketpair()
            with theirs:
                self._popen = self._run("fork_server", theirs.fileno())

    def start(self) -> Process:
        """Start one more worker."""
        mine, theirs = socket.socketpair()
        with theirs:
            if self.method == "fork":
                pid = self._fork(mine, theirs)
            elif self.method == "spawn":
                popen = self._run("run_worker", theirs.fileno())
                pid = popen.pid
                self._popens[pid] = popen
            else:
                assert self._server is not None
                socket.send_fds(self._server, [b"f"], [theirs.fileno()])
                pid = self._next_pid()
        return Process(pid, Connection(mine.detach()), self)

    def _run(self, function: str, fd: int) -> subprocess.Popen:
        fds = (fd, *self.fds)
        path = [os.path.abspath(entry) if entry == "" else entry for entry in sys.path]
        code = COMMAND.format(path=path, function=function, fds=fds)
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        return subprocess.Popen(
            [sys.executable, *flags, "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            env={**THREAD_LIMITS, **os.environ},
            process_group=0,  # so that Ctrl-C in a terminal reaches this process only
        )

    def _fork(self, mine: socket.socket, theirs: socket.socket) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            mine.close()
            run_and_exit(run_worker, theirs.detach(), *self.fds)
        return pid

    # -- what the fork server says: "pid" for each start, "pid code" for each end ------------------

    def _next_pid(self) -> int:
        while True:
            line = self._line(block=True)
            if line is None:
                raise OSError(f"the fork server has died with exit code {self._popen.wait()}")
            if b" " not in line:
                return int(line)
            self._ended(line)

    def _ended(self, line: bytes) -> None:
        pid, code = line.split()
        self._exitcodes[int(pid)] = int(code)

    def _line(self, block: bool) -> bytes | None:
        assert self._server is not None
        while b"\n" not in self._lines:
            try:
                data = self._server.recv(4096, 0 if block else socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return None
            if not data:
                return None
            self._lines += data
        line, self._lines = self._lines.split(b"\n", 1)
        return line

    def exitcode(self, pid: int) -> int | None:
        """The exit code of a worker that was started here, None while it runs."""
        if self.method == "spawn":
            return self._popens[pid].poll()
        if self.method == "forkserver":
            while (line := self._line(block=False)) is not None:
                self._ended(line)
            if pid not in self._exitcodes and self._popen.poll() is not None:
                return self._popen.returncode  # the server took its workers with it
            return self._exitcodes.get(pid)
        if pid not in self._exitcodes:
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                return -1
            if done:
                self._exitcodes[pid] = os.waitstatus_to_exitcode(status)
        return self._exitcodes.get(pid)

    def close(self) -> None:
        """End the fork server. The workers must have ended."""
        if self._server is not None:
            self._server.close()
            try:
                self._popen.wait(1)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()


def in_main_thread() -> bool:
    """Whether this is the main thread, whose end is that of the process."""
    return threading.current_thread() is threading.main_thread()
