"""A worker process: makes its environments, describes them to the parent, and steps them.

The parent and a worker share three things:

- a socket for messages (`pickle_messages`, `json_messages`): what to build, the description that
  answers it, seeds and options of resets, calls and their results;
- the arena, through which all steps go (`arena.py`, c/sync.h);
- the outbox, a file in memory for what fits no fixed place: spilled infos, exceptions, and the
  seeds and options of resets. Each row of the arena has a region, and each worker two, which are
  written before what they go with is reported or posted, and read before it is used again; it never
  blocks.

A worker ends when its parent closes the vector or is gone, see `end_with_parent`.

All that `run_worker` uses also runs under Python 3.8 without any of our packages but NumPy: see
`other_python.py`.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from shoal.emulation.options import EmulationOptions
from shoal.vectorization.arena import Arena
from shoal.vectorization.description import Description
from shoal.vectorization.info_slots import InfoWriter
from shoal.vectorization.stepper import Stepper, serve
from shoal.vectorization.sync import die_with_parent
from shoal.vectorization.workers.channel import (
    Outbox,
    error_message,
    receive_message,
    send_message,
)
from shoal.vectorization.workers.group import EnvGroup

__all__ = [
    "CLOSE_FAILED",
    "CLOSING",
    "THREAD_LIMITS",
    "flush_streams",
    "fork_server",
    "run_and_exit",
    "run_worker",
]

CLOSE_FAILED = 3  # exit code of a worker whose environments raised when they were closed
CLOSING = b"\2"  # begins its last message, because environments may end their process with any code

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


def run_worker(
    socket_fd: int,
    arena_fd: int,
    outbox_fd: int,
    parent: int,
    thread_stays: bool,
    messages: Any,
    mask: set[int] | None = None,
    creators: Sequence[Callable[[], Any]] | None = None,
) -> int:
    """Run a worker until its end.

    Args:
        socket_fd, arena_fd, outbox_fd: what it shares with the vector's process.
        parent, thread_stays: see `end_with_parent`.
        messages: the module that makes messages.
        mask: the signals that are to be blocked.
        creators: the functions that create the environments, if it is a fork that has them.

    Returns:
        Its exit code.
    """
    # Ctrl-C goes to the whole terminal; the parent alone answers it, and closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    lead_group()
    end_with_parent(parent, thread_stays)
    connection = socket.socket(fileno=socket_fd)
    connection.setblocking(True)
    outbox = Outbox(outbox_fd)
    try:
        setup = messages.loads(receive_message(connection))
        worker = setup["worker"]
        if setup["affinity"] is not None:
            os.sched_setaffinity(0, setup["affinity"])
        if setup["path"] is not None:
            sys.path[:] = setup["path"]
        # Environments may hold proxies of a `multiprocessing.Manager`, which ask for this.
        multiprocessing.current_process().authkey = setup["authkey"]
        limit_threads()
        try:
            if creators is None:
                creators = messages.create(setup["creators"])
            emulation = EmulationOptions.from_json(setup["emulation"])
            group = EnvGroup(creators, setup["first"], emulation, setup["mode"], setup["seed"])
            if setup["description"] is not None:
                expected = Description.from_json(setup["description"])
                expected.require_same(group.description(), 0, group.first)
        except Exception as error:
            said = error_message(messages, error, f"while worker {worker} started")
            send_message(connection, said)
            return 1
        for env, options in setup["options"].items():
            group.set_options(env - group.first, options)
        send_message(connection, b"\0" + group.description().to_json().encode())
        geometry = messages.loads(receive_message(connection))
        arena = Arena(group.description(), **geometry["arena"])
        memory = mmap.mmap(arena_fd, arena.nbytes)
        arena.attach(memory)
        stepper = Stepper(group, arena, worker, setup["restart"], setup["profile"])
        stepper.owe(setup["owing"])
        region = arena.num_rows + worker

        def command(argument: int) -> None:
            call = messages.loads(receive_message(connection))
            send_message(connection, answer_call(messages, group, call))

        def requests() -> dict[int, Any]:
            return messages.loads(outbox.get(region + geometry["arena"]["num_workers"]))

        def failed(error: Exception) -> None:
            outbox.put(region, error_message(messages, error, f"in worker {worker}"))

        writer = InfoWriter(arena.arrays["infos"], setup["writer"], messages.dump_info)
        serve(stepper, memory, worker, writer, command, requests, outbox.put, failed)
    except (EOFError, ConnectionError):
        return 1  # the parent is gone, or has given this worker up
    try:
        group.close()
    except Exception as error:
        said = error_message(messages, error, f"while worker {worker} closed")
        outbox.put(region, CLOSING + said[1:])
        return CLOSE_FAILED
    return 0


def lead_group() -> None:
    """Begin a process group, so that what environments start can be ended with their worker.

    A group in the background can't read from the terminal, and must not stop when it tries: stdin
    is empty, and the standard streams are open.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        if null:
            os.dup2(null, 0)
            os.close(null)
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def end_with_parent(parent: int, thread_stays: bool) -> None:
    """Let this process be killed when its parent ends, whatever it is doing then.

    Args:
        parent: process number of the parent.
        thread_stays: the thread that started this process lives as long as the parent. For the
            kernel kills when the thread ends.
    """
    if not (thread_stays and die_with_parent(signal.SIGKILL)):
        threading.Thread(target=outlive, args=[parent], name="shoal-parent", daemon=True).start()
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


def outlive(parent: int) -> NoReturn:
    """Wait for the end of the parent, and end this process too."""
    try:
        poll = select.poll()
        poll.register(os.pidfd_open(parent), select.POLLIN)
        poll.poll()
    except (AttributeError, OSError):  # there are no such descriptors
        while os.getppid() == parent:
            time.sleep(1)
    os.killpg(os.getpid(), signal.SIGKILL)
    raise AssertionError


def answer_call(messages: Any, group: EnvGroup, call: tuple[str, dict[int, bytes]]) -> bytes:
    """Carry out a call on each of its environments; the message that answers it."""
    method, arguments = call
    results = {}
    for env, each in arguments.items():
        try:
            results[env] = getattr(group, method)(env - group.first, *messages.loads(each))
        except Exception as error:
            return error_message(messages, error, f"in {method} of environment {env}")
    try:
        return b"\0" + messages.dumps_any(results)
    except Exception as error:
        return error_message(messages, error, f"sending the results of {method}")


def limit_threads() -> None:
    """Limit what has been loaded already; `THREAD_LIMITS` are for what loads later."""
    for name, value in THREAD_LIMITS.items():
        os.environ.setdefault(name, value)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


# -- the fork server ------------------------------------------------------------------------------


def fork_server(server_fd: int, arena_fd: int, outbox_fd: int, parent: int, messages: Any) -> None:
    """Fork a worker for each socket that arrives, and report how each of them ends.

    The server process holds nothing but the imports that all workers need: no threads, no CUDA. It
    ends, and its workers with it, when the parent closes the other end or is gone.
    """
    import gymnasium  # noqa: F401 (all workers will need it: forks have it already)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lead_group()
    server = socket.socket(fileno=server_fd)
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    poll = select.poll()
    for fd in (server_fd, wake_read):
        poll.register(fd, select.POLLIN)
    milliseconds = None
    try:
        poll.register(os.pidfd_open(parent), select.POLLIN)
    except (AttributeError, OSError):  # there are no such descriptors: look now and then
        milliseconds = 1000
    children: set[int] = set()
    try:
        while os.getppid() == parent:
            ready = {fd for fd, _ in poll.poll(milliseconds)}
            if wake_read in ready:
                os.read(wake_read, 512)
            for pid in list(children):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    children.discard(pid)
                    server.send(b"%d %d\n" % (pid, os.waitstatus_to_exitcode(status)))
            if server_fd not in ready:
                continue
            message, fds, _, _ = socket.recv_fds(server, 1, 1)
            if not message:
                break
            me = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (server_fd, wake_read, wake_write):
                    os.close(fd)
                run_and_exit(run_worker, fds[0], arena_fd, outbox_fd, me, True, messages)
            children.add(pid)
            os.close(fds[0])
            server.send(b"%d\n" % pid)
    except ConnectionError:
        pass  # the parent is gone
    for pid in children:
        for kill in (os.killpg, os.kill):  # it may not lead its group yet
            try:
                kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def run_and_exit(function: Callable[..., int | None], *arguments: Any) -> NoReturn:
    """Run all that a process does, and end it without what an interpreter does at its end.

    A forked process must not run what the one it came from has registered for its end; and threads
    that environments have left behind must not keep a worker alive.
    """
    code = 1
    try:
        code = function(*arguments) or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            flush_streams()
        finally:
            os._exit(code & 0xFF)


def flush_streams() -> None:
    """Write out what is buffered for stdout and stderr, where they are open."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass
