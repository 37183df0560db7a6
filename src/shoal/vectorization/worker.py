"""A worker process: builds its environments, tells the parent what they are, and steps them.

The parent and a worker share three things:

- a socket for pickled messages: what to build, the description that answers it, seeds and options
  of resets, calls and their results;
- the arena, through which all steps go (`arena.py`, c/sync.h);
- the outbox, a file in memory for the rare results of steps that fit no fixed place: spilled infos
  and exceptions. Each row of the arena and each worker has a region of its own, which is written
  before the row is reported and read before the row is used again; it never blocks.

A worker ends when its parent closes the vector or is gone: the engine's waits and the socket both
notice, and where the system can, it kills the worker as well.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from shoal.vectorization.arena import Arena
from shoal.vectorization.engine import die_with_parent
from shoal.vectorization.envs import EnvGroup, seed_globals
from shoal.vectorization.memory import map_memory
from shoal.vectorization.stepper import Stepper, serve

__all__ = ["Outbox", "THREAD_LIMITS", "fork_server", "run_worker"]

# One core for each worker: libraries that would use all of them are told so before they load.
THREAD_LIMITS = dict.fromkeys(
    [
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ],
    "1",
)


class Outbox:
    """Messages of any size by region number, in a sparse file."""

    def __init__(self, fd: int):
        self.fd = fd

    def put(self, region: int, message: bytes) -> None:
        """Overwrite a region."""
        data = memoryview(len(message).to_bytes(8, "little") + message)
        at = region << 32
        while data:
            written = os.pwrite(self.fd, data, at)
            data, at = data[written:], at + written

    def get(self, region: int) -> bytes:
        """What a region holds."""
        at = (region << 32) + 8
        length = int.from_bytes(os.pread(self.fd, 8, at - 8), "little")
        parts = []
        while length:
            parts.append(os.pread(self.fd, length, at))
            length, at = length - len(parts[-1]), at + len(parts[-1])
        return b"".join(parts)


def run_worker(socket_fd: int, arena_fd: int, outbox_fd: int) -> None:
    """The whole life of a worker; returns when it is over."""
    # Ctrl-C goes to the whole terminal; the parent alone answers it, and closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(socket_fd)
    group = None
    try:
        setup = pickle.loads(connection.recv_bytes())
        if setup["die_with_thread"]:
            die_with_parent(signal.SIGKILL)
        if setup["affinity"] is not None:
            os.sched_setaffinity(0, setup["affinity"])
        sys.path[:] = setup["path"]
        limit_threads()
        seed_globals(setup["seed"])
        try:
            creators = cloudpickle.loads(setup["creators"])
            group = EnvGroup(creators, setup["first"], setup["emulation"], setup["mode"])
        except Exception as error:
            connection.send_bytes(error_message(error, f"while worker {setup['worker']} started"))
            return
        connection.send_bytes(b"\0" + group.description().encode())
        geometry = pickle.loads(connection.recv_bytes())
        env = group.envs[0]
        arena = Arena(
            env.observation_layout, env.action_layout, env.agents_per_env, **geometry["arena"]
        )
        memory = map_memory(arena_fd, arena.nbytes)
        arena.attach(memory)
        outbox = Outbox(outbox_fd)
        worker = setup["worker"]
        stepper = Stepper(group, arena, worker, setup["restart"], setup["profile"])

        def command(argument: int) -> None:
            connection.send_bytes(answer_call(group, pickle.loads(connection.recv_bytes())))

        def requests() -> dict[int, Any]:
            return cloudpickle.loads(connection.recv_bytes())

        def failed(error: Exception) -> None:
            message = error_message(error, f"in worker {worker}")
            outbox.put(arena.num_rows + worker, message)

        serve(stepper, memory, worker, setup["writer"], command, requests, outbox.put, failed)
    except (EOFError, OSError):
        pass  # the parent is gone, or has closed
    finally:
        if group is not None:
            try:
                group.close()
            except Exception:
                traceback.print_exc()


def answer_call(group: EnvGroup, call: tuple[str, dict[int, tuple]]) -> bytes:
    """Carry out a call on each of its environments; the message that answers it."""
    method, arguments = call
    results = {}
    for env, each in arguments.items():
        try:
            results[env] = getattr(group, method)(env - group.first, *cloudpickle.loads(each))
        except Exception as error:
            return error_message(error, f"in {method} of environment {env}")
    try:
        return b"\0" + cloudpickle.dumps(results)
    except Exception as error:
        return error_message(error, f"sending the results of {method}")


def error_message(error: Exception, where: str) -> bytes:
    """An exception as a message: itself where it survives pickling, else what it says."""
    text = "".join(traceback.format_exception(error)).rstrip()
    error.add_note(f"{where}; its traceback there:\n{text}")
    try:
        data = cloudpickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = b""
    said = f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    return b"\1" + pickle.dumps((data, said, getattr(error, "__notes__", [])))


def limit_threads() -> None:
    """Limit what has been loaded already; `THREAD_LIMITS` are for what loads later."""
    for name, value in THREAD_LIMITS.items():
        os.environ.setdefault(name, value)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


# -- the fork server ------------------------------------------------------------------------------


def fork_server(server_fd: int, arena_fd: int, outbox_fd: int) -> None:
    """Fork a worker for each socket that arrives, and report how each of them ends.

    It runs in a process of its own with nothing in it but the imports that all workers need: no
    threads, no CUDA. It ends, and its workers with it, when the parent closes the other end.
    """
    import selectors
    import socket

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = socket.socket(fileno=server_fd)
    server.setblocking(False)
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    children: set[int] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            selector.select()
            try:
                while os.read(wake_read, 512):
                    pass
            except BlockingIOError:
                pass
            for pid in list(children):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    children.discard(pid)
                    code = os.waitstatus_to_exitcode(status)
                    server.send(b"%d %d\n" % (pid, code))
            try:
                message, fds, _, _ = socket.recv_fds(server, 1, 1)
            except BlockingIOError:
                continue
            if not message:
                break
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (server_fd, wake_read, wake_write):
                    os.close(fd)
                run_and_exit(run_worker, fds[0], arena_fd, outbox_fd)
            children.add(pid)
            os.close(fds[0])
            server.send(b"%d\n" % pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def run_and_exit(function: Callable[..., None], *arguments: int) -> None:
    """End a forked process without running what the process it came from would do at its end."""
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
