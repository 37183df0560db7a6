"""Starting worker processes, talking with them, and knowing how they ended.

A worker must not outlive its parent, whatever either of them is doing. The kernel kills it when the
thread that started it ends (Linux, and only if that is the main thread or the fork server);
otherwise a thread in the worker waits for the parent's end. The fork server waits for it itself.
Nothing relies on the end of a stream: forks of this process hold copies of its sockets.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal.errors import InterpreterError
from shoal.vectorization.sync import above_standard
from shoal.vectorization.workers import pickle_messages
from shoal.vectorization.workers.channel import receive_message, send_message
from shoal.vectorization.workers.worker import (
    THREAD_LIMITS,
    flush_streams,
    run_and_exit,
    run_worker,
)

__all__ = ["UNKNOWN_EXIT", "Process", "Starter", "check_interpreter"]

UNKNOWN_EXIT = 1 << 16  # the exit code of a process that somebody else has waited for
OLDEST_PYTHON = 3, 8
CHECK_MILLISECONDS = 100  # how often a wait for a message looks whether the process lives

# A child that runs one function of `worker.py` on inherited descriptors. The path comes first, for
# the code gives the path of this package.
COMMAND = (
    "import sys; sys.path[:] = {path!r}; "
    "from shoal.vectorization.workers import pickle_messages; "
    "from shoal.vectorization.workers.worker import run_and_exit, {function}; "
    "run_and_exit({function}, {arguments}, pickle_messages)"
)

# The same for another interpreter, whose path stays its own: of all that lies beside this package,
# it gets this package alone.
PRELUDE = (
    "import sys, importlib.util as util; "
    "spec = util.spec_from_file_location('shoal', {package!r}); "
    "sys.modules['shoal'] = util.module_from_spec(spec); "
    "spec.loader.exec_module(sys.modules['shoal']); "
    "from shoal.vectorization.workers.other_python import import_worker, run; "
)


class Process:
    """One worker process.

    Attributes:
        pid: of the process.
        pidfd: a descriptor that is readable once it has ended, or -1 where the system has none.
        exitcode: None while it runs; negative: the signal that ended it.
    """

    def __init__(self, pid: int, connection: socket.socket, starter: Starter):
        self.pid = pid
        self.exitcode: int | None = None
        self._connection = connection
        self._connection.setblocking(False)
        self._starter = starter
        try:
            self.pidfd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            self.pidfd = -1

    def send(self, message: bytes, deadline: float | None = None) -> None:
        """Send a message.

        Args:
            deadline: as `time.monotonic` counts.

        Raises:
            EOFError, OSError: the process has ended.
            TimeoutError: it has not read all of the message by the deadline.
        """
        send_message(self._connection, message, self._waiter(select.POLLOUT, deadline))

    def receive(self, deadline: float | None = None) -> bytearray:
        """Receive a message; see `send`."""
        return receive_message(self._connection, self._waiter(select.POLLIN, deadline))

    def has_message(self) -> bool:
        """Return whether `receive` would return, or raise, without waiting for the process."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(0)) or self.poll() is not None

    def _waiter(self, event: int, deadline: float | None) -> Callable[[], None]:
        """Return a function that waits until the socket can be read or written."""
        poll = select.poll()
        poll.register(self._connection, event)

        def wait() -> None:
            while not poll.poll(CHECK_MILLISECONDS):
                # What the process has said before it ended can still be read.
                if self.poll() is not None and not poll.poll(0):
                    raise EOFError(f"process {self.pid} has ended")
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"process {self.pid} does not answer")

        return wait

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        if self.exitcode is None:
            self.exitcode = self._starter.exitcode(self.pid)
            if self.exitcode is not None:
                self._end_group()
        return self.exitcode

    def _end_group(self) -> None:
        """End the processes that its environments have started and left."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def wait(self, seconds: float) -> bool:
        """Return whether it ended within this time."""
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while self.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        return True

    def kill(self) -> None:
        """End it now, and the processes that its environments have started."""
        if self.poll() is None:
            self._end_group()
            try:
                if self.pidfd >= 0:
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                else:
                    os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def release(self) -> None:
        """Close what this side holds of it."""
        self._connection.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Starter:
    """Starts workers in one of the three ways.

    Args:
        method: ``"fork"``, ``"forkserver"`` or ``"spawn"``.
        arena_fd, outbox_fd: what every worker inherits.
        python: another interpreter, which ``"spawn"`` starts instead of this one.
    """

    def __init__(self, method: str, arena_fd: int, outbox_fd: int, python: str | None = None):
        self.method = method
        self.python = python
        self.fds = arena_fd, outbox_fd
        self._exitcodes: dict[int, int] = {}
        self._popens: dict[int, subprocess.Popen] = {}  # spawn
        self._server: socket.socket | None = None  # forkserver
        self._server_pids: set[int] = set()  # its workers
        self._lines = b""

    def start(
        self,
        creators: Sequence[Callable[[], Any]] | None = None,
        deadline: float | None = None,
    ) -> Process:
        """Start one more worker.

        Args:
            creators: what a fork takes over; see `run_worker`.
            deadline: as `time.monotonic` counts.

        Raises:
            TimeoutError: the fork server has not answered by the deadline.
        """
        mine, theirs = socket_pair()
        with theirs:
            if self.method == "fork":
                pid = self._fork(mine, theirs, creators)
            elif self.method == "spawn":
                popen = self._run("run_worker", theirs.fileno(), in_main_thread())
                pid = popen.pid
                self._popens[pid] = popen
            else:
                pid = self._start_from_server(theirs, deadline)
        self._exitcodes.pop(pid, None)  # of an earlier process with the same number
        return Process(pid, mine, self)

    def _run(self, function: str, fd: int, *arguments: bool) -> subprocess.Popen:
        fds = (fd, *self.fds)
        values = ", ".join(map(repr, (*fds, os.getpid(), *arguments)))
        environ = {**THREAD_LIMITS, **os.environ}
        if self.python is not None:
            command = [self.python, "-c", f"{prelude()}run({values})"]
            environ = isolated_environ(environ)
        else:
            path = [os.path.abspath(entry) if entry == "" else entry for entry in sys.path]
            code = COMMAND.format(path=path, function=function, arguments=values)
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            command = [sys.executable, *flags, "-c", code]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            env=environ,
            process_group=0,  # so that Ctrl-C in a terminal reaches this process only
        )

    def _fork(self, mine: socket.socket, theirs: socket.socket, creators: Any) -> int:
        flush_streams()
        parent, thread_stays = os.getpid(), in_main_thread()
        # A worker ignores Ctrl-C, but not from its first instruction on: until it does, hold it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pid = os.fork()
            if pid == 0:
                mine.close()
                # Handlers of the parent's are not for its workers.
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                known = (*self.fds, parent, thread_stays, pickle_messages, mask, creators)
                run_and_exit(run_worker, theirs.detach(), *known)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    # -- the fork server: it says "pid" for each start, "pid code" for each end --------------------

    def _start_from_server(self, theirs: socket.socket, deadline: float | None) -> int:
        for _ in range(2):  # it may have been killed, and the first to notice is this
            if self._server is None:
                server, its = socket_pair()
                with its:
                    self._popen = self._run("fork_server", its.fileno())
                self._server = server
            try:
                socket.send_fds(self._server, [b"f"], [theirs.fileno()])
            except ConnectionError:
                self._server_ended()
                continue
            while (line := self._line(True, deadline)) is not None:
                if b" " not in line:
                    self._server_pids.add(int(line))
                    return int(line)
                self._worker_ended(line)
            self._server_ended()
        code = self._popen.returncode
        raise OSError(f"the fork server can't be started: it ends with exit code {code}")

    def _worker_ended(self, line: bytes) -> None:
        pid, code = map(int, line.split())
        self._server_pids.discard(pid)
        self._exitcodes[pid] = code

    def _server_ended(self) -> None:
        """Note that the server is dead, and its workers with it."""
        self._close_server()
        code = self._popen.returncode or UNKNOWN_EXIT
        self._exitcodes.update(dict.fromkeys(self._server_pids, code))
        self._server_pids.clear()

    def _line(self, block: bool, deadline: float | None = None) -> bytes | None:
        if self._server is None:
            return None
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        while b"\n" not in self._lines:
            if block and not poll.poll(CHECK_MILLISECONDS):
                if self._popen.poll() is not None and not poll.poll(0):
                    return None
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError("the fork server does not answer")
                continue
            try:
                data = self._server.recv(4096, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return None
            if not data:
                return None
            self._lines += data
        line, self._lines = self._lines.split(b"\n", 1)
        return line

    def _close_server(self) -> None:
        if self._server is None:
            return
        try:
            # Forks of this process may hold a copy of the socket, so that closing it says nothing.
            self._server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._server.close()
        self._server, self._lines = None, b""
        try:
            self._popen.wait(1)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def exitcode(self, pid: int) -> int | None:
        """Return the exit code of a worker that was started here, None while it runs."""
        if pid in self._exitcodes:
            return self._exitcodes[pid]
        if self.method == "forkserver":
            while (line := self._line(False)) is not None:
                self._worker_ended(line)
            if self._server is not None and self._popen.poll() is not None:
                self._server_ended()
        else:
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._exitcodes[pid] = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # where SIGCHLD is ignored, for instance
                self._exitcodes[pid] = UNKNOWN_EXIT
            if pid in self._exitcodes and pid in self._popens:
                self._popens.pop(pid).returncode = self._exitcodes[pid]
        return self._exitcodes.get(pid)

    def close(self) -> None:
        """End the fork server. The workers must have ended."""
        self._close_server()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, with descriptors above 2."""
    pair = [each.detach() for each in socket.socketpair()]
    try:
        for i in range(2):
            pair[i] = above_standard(pair[i])
    except OSError:
        for fd in pair:
            os.close(fd)
        raise
    return socket.socket(fileno=pair[0]), socket.socket(fileno=pair[1])


def in_main_thread() -> bool:
    """Return whether this is the main thread, whose end is that of the process."""
    return threading.current_thread() is threading.main_thread()


def isolated_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables without those that locate this interpreter's packages."""
    names = {"PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"}
    return {name: value for name, value in environ.items() if name not in names}


def prelude() -> str:
    """Return code that lets another interpreter import this package."""
    return PRELUDE.format(package=os.path.abspath(sys.modules["shoal"].__file__ or ""))


def check_interpreter(python: str) -> None:
    """Raise InterpreterError unless workers can run under this interpreter.

    Args:
        python: path of its executable, or its name on the ``PATH``.
    """
    # Interpreters and what they import may print, too: the last of these lines counts.
    code = (
        "import os, sys; say = lambda stage: print('shoal:', *sys.version_info[:2], stage); "
        "say('numpy'); import numpy; "
        f"say('shoal'); {prelude()}import_worker(); "
        f"say('ready' if os.getppid() == {os.getpid()} else 'child')"
    )
    try:
        done = subprocess.run(
            [python, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=isolated_environ(os.environ),
            timeout=60,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise InterpreterError(f"python: {python!r} can't be run: {error}") from None
    lines = re.findall(r"^shoal: (\d+) (\d+) (\w+)$", done.stdout, re.MULTILINE)
    if not lines:
        raise InterpreterError(f"python must be a Python interpreter, got {python!r}")
    major, minor, stage = lines[-1]
    if (int(major), int(minor)) < OLDEST_PYTHON:
        raise InterpreterError(
            f"python: workers need Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, and "
            f"{python!r} is {major}.{minor}"
        )
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if stage == "numpy":
        raise InterpreterError(f"python: {python!r} can't import NumPy, which workers need: {last}")
    if stage == "shoal":
        raise InterpreterError(
            f"python: {python!r} can't load Shoal's compiled modules, which need CPython 3.8 or "
            f"newer (a build without the GIL: of this version) and NumPy 1.17 or newer: {last}"
        )
    if stage == "child":
        raise InterpreterError(
            f"python: {python!r} starts the interpreter as another process, which can't be "
            "watched; give the path of the interpreter, or let the script exec it"
        )
