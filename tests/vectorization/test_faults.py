"""What goes wrong in environments and processes, and what the caller gets to see of it."""

import functools
import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
import warnings
from pathlib import Path

import numpy as np
import pytest

import shoal
from shoal.errors import (
    ClosedError,
    EmulationError,
    PendingCallError,
    StepTimeoutError,
    WorkerDied,
)
from shoal.registry.names import Creator
from shoal.vectorization import vectorize
from shoal.vectorization.workers.worker import CLOSE_FAILED
from tests.other_python import old_python
from tests.vectorization import faulty
from tests.vectorization.faulty import Faulty, OtherSpaces, Talkative

ROOT = Path(__file__).parents[2]
METHODS = ["fork", "forkserver", "spawn", "old"]  # the last: under an older Python
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def creators(num_envs, faults):
    """Environments of which some do something bad: {index: (where, deed, when)}."""
    return [functools.partial(Faulty, *faults.get(i, ())) for i in range(num_envs)]


def make(num_envs, faults, num_workers=2, **kwargs):
    kwargs.setdefault("backend", "multiprocess")
    if kwargs["backend"] != "serial":
        kwargs["num_workers"] = num_workers
    functions = creators(num_envs, faults)
    if kwargs.get("start_method") in ("old", "isolated"):
        old = kwargs.pop("start_method") == "old"
        kwargs["python"] = old_python() if old else sys.executable
        functions = [
            Creator(f"{faulty.__file__}:by_name", dict(zip(("where", "deed", "when"), arguments)))
            for arguments in (
                [faulty.names(a) if callable(a) else a for a in function.args]
                for function in functions
            )
        ]
    return vectorize(functions, **kwargs)


def step(vector, count=1):
    for _ in range(count):
        result = vector.step(np.arange(vector.num_envs))
    return result


def notes(error):
    return "\n".join(getattr(error, "__notes__", []))


def pids(vector):
    """The process of each environment."""
    return vector.call("called")


def run_python(code, **kwargs):
    """Start a Python program that can use this module's names, marked so that its kin is found."""
    mark = uuid.uuid4().hex
    text = "from tests.vectorization.test_faults import *\n" + textwrap.dedent(code)
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", text],
        cwd=ROOT,
        env={**os.environ, "SHOAL_TEST_MARK": mark},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **kwargs},
    )
    return process, mark


def marked(mark):
    """Processes with this mark in their environment that still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if state not in "ZX" and mark.encode() in environ:
                found.append(int(entry.name))
    return found


def wait_until(condition, seconds=5.0):
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# -- exceptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["serial", "multiprocess", "pool", "old"])
@pytest.mark.parametrize(
    ("where", "when", "said"),
    [
        ("init", 1, "raised while environment 3 was created"),
        ("reset", 2, "raised by environment 3 (seed 13, step 0 since"),
        ("step", 7, "raised by environment 3 (seed 13, step 2 since it was told to reset"),
        ("close", 1, "raised while environment 3 was closed"),
    ],
)
def test_an_exception_arrives_as_what_it_is(backend, where, when, said):
    kwargs = {"backend": backend}
    if backend == "pool":
        kwargs["batch_size"] = 6
    elif backend == "old":
        kwargs = {"start_method": "old"}
    with pytest.raises(KeyError) as caught:
        vector = make(6, {3: (where, faulty.fail, when)}, **kwargs)
        vector.reset(seed=7)
        step(vector, 5)
        vector.reset(seed=10)
        step(vector, 5)
        vector.close()
    assert caught.value.args == ("the door is locked",)
    if where == "step":
        assert "last action [3]" in notes(caught.value)
    if backend != "serial":
        assert "in fail\n    raise KeyError" in notes(caught.value)
    assert said in notes(caught.value)


def test_after_an_exception_the_vector_is_closed_and_says_why():
    vector = make(4, {1: ("step", faulty.fail, 1)})
    vector.reset(seed=0)
    workers = set(pids(vector))
    with pytest.raises(KeyError):
        step(vector)
    for use in (vector.reset, lambda: step(vector), lambda: vector.call("called")):
        with pytest.raises(ClosedError, match="ended by an earlier error: KeyError: 'the door is"):
            use()
    assert wait_until(lambda: not any(map(is_running, workers)))
    vector.close()


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("deed", "type_name", "text"),
    [
        (faulty.raise_two_arguments, "TwoArguments", "13: two arguments"),
        (faulty.raise_holds_lock, "HoldsLock", "code 13: holds a lock"),
        (faulty.raise_lock_argument, "LockArgument", "code 13: a lock"),
        (faulty.raise_frozen, "Frozen", "code 13: frozen"),
        (faulty.raise_impostor, "Impostor", "code 13"),
        (faulty.raise_bomb, "Bomb", "code 13"),
        (faulty.raise_local, "LocalError", "code 13"),
        (faulty.raise_chained, "RuntimeError", "code 13"),
    ],
)
@pytest.mark.parametrize(
    ("method", "where"),
    [("fork", "init"), ("fork", "step"), ("fork", "call"), ("isolated", "step")],
)
def test_exceptions_that_resist_pickling_keep_their_type(deed, type_name, text, method, where):
    if (method, type_name) == ("isolated", "LocalError"):
        pytest.skip("nothing is pickled, so the class can't be known here")
    with pytest.raises(Exception) as caught:
        vector = make(2, {0: (where, deed, 1)}, 1, start_method=method)
        vector.reset()
        pids(vector)
        step(vector)
    assert type(caught.value).__name__ == type_name
    assert str(caught.value) == text
    assert f"in {deed.__name__}" in notes(caught.value)
    if type_name == "RuntimeError":
        assert "KeyError: 'the door is locked'" in notes(caught.value)


@pytest.mark.parametrize("method", [None, "old"])
def test_an_exception_without_words(method):
    vector = make(2, {0: ("step", faulty.raise_unprintable, 1)}, 1, start_method=method)
    vector.reset()
    with pytest.raises(EmulationError, match=r"Unprintable: \(can't be printed\)"):
        step(vector)


@pytest.mark.parametrize("method", [None, "old"])
@pytest.mark.parametrize("where", ["init", "reset", "step", "call", "close"])
def test_a_huge_message_arrives_whole(where, method, monkeypatch):
    # On a busy machine, a worker may need longer to write what its environment raised.
    monkeypatch.setattr("shoal.vectorization.backends.processes.CLOSE_SECONDS", 60.0)
    with pytest.raises(ValueError, match="xxx") as caught:
        vector = make(2, {1: (where, faulty.raise_huge, 1)}, start_method=method)
        vector.reset()
        step(vector)
        pids(vector)
        vector.close()
    assert len(str(caught.value)) == 20_000_000


def test_the_first_of_many_exceptions_is_whole():
    # All environments of both workers fail in the same step, one after the other.
    for _ in range(10):
        vector = make(64, dict.fromkeys(range(64), ("step", faulty.fail, 1)), start_method="fork")
        vector.reset(seed=0)
        with pytest.raises(KeyError) as caught:
            step(vector)
        assert re.search(r"raised by environment (0|32) \(seed \1,", notes(caught.value))


@pytest.mark.parametrize("method", [None, "old"])
def test_a_failing_call_leaves_the_vector_as_it_is(method):
    vector = make(4, {2: ("call", faulty.fail, 1)}, start_method=method)
    vector.reset()
    with pytest.raises(KeyError) as caught:
        pids(vector)
    assert "in call of environment 2" in notes(caught.value)
    with pytest.raises(AttributeError):
        vector.get_attr("nothing_of_the_kind")
    assert vector.call("called", 5) == (5, 5, 5, 5)
    assert step(vector)[1].tolist() == [1] * 4
    vector.close()


def test_creators_that_cannot_be_sent_are_refused_at_once():
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock") as caught:
        vectorize(lambda: Faulty(lock), 2, backend="multiprocess", num_workers=2)
    assert "picklable" in notes(caught.value)


@pytest.mark.parametrize("backend", ["serial", "multiprocess", "old"])
@pytest.mark.parametrize(("num_envs", "index"), [(2, 1), (4, 3)])
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (OtherSpaces, r"obs float32\[3\] instead of obs float32\[2\]"),
        (
            faulty.OtherBounds,
            r"action int64\[\] from 0 to 6 instead of action int64\[\] from 0 to 99",
        ),
    ],
)
def test_spaces_that_differ_are_one_clear_error(backend, num_envs, index, other, said):
    functions = [Faulty] * num_envs
    functions[index] = other
    kwargs = {"backend": backend}
    if backend == "old":
        kwargs = {"backend": "multiprocess", "python": old_python()}
        functions = [f"{faulty.__file__}:{function.__name__}" for function in functions]
    if backend != "serial":
        kwargs["num_workers"] = 2
    with pytest.raises(
        EmulationError, match=f"{index} differs from that of environment [02]: {said}"
    ):
        vectorize(functions, **kwargs)


# -- deaths ---------------------------------------------------------------------------------------

DEATHS = [
    ("forkserver", faulty.kill, r"was killed by SIGKILL.*exit code -9"),
    ("fork", faulty.kill, r"was killed by SIGKILL.*exit code -9"),
    ("spawn", faulty.segfault, "was killed by SIGSEGV.*exit code -11"),
    ("fork", faulty.segfault, "was killed by SIGSEGV.*exit code -11"),
    ("forkserver", faulty.leave, "ended with exit code 7"),
    ("spawn", faulty.ask_to_leave, "ended with exit code 5"),
    ("fork", faulty.ask_to_leave, "ended with exit code 5"),
    ("fork", functools.partial(os._exit, CLOSE_FAILED), "ended with exit code 3"),
    ("old", faulty.segfault, "was killed by SIGSEGV.*exit code -11"),
    ("old", faulty.ask_to_leave, "ended with exit code 5"),
]


@pytest.mark.parametrize("where", ["init", "reset", "step", "call"])
@pytest.mark.parametrize(("method", "deed", "said"), DEATHS)
def test_a_death_names_exit_code_and_environments(method, where, deed, said):
    with pytest.raises(WorkerDied) as caught:
        vector = make(5, {4: (where, deed, 2 if where == "step" else 1)}, start_method=method)
        vector.reset()
        pids(vector)
        step(vector, 3)
    assert re.search(said, str(caught.value))
    assert re.search(r"worker 1 \(process \d+\), which has environments 2 to 4", str(caught.value))
    if where == "step":
        assert "at environment 4" in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "method"), [("multiprocess", None), ("pool", None), ("pool", "old")]
)
@pytest.mark.parametrize("moment", ["before", "after", "between"])
def test_a_worker_killed_around_a_step(backend, method, moment):
    vector = make(4, {}, backend=backend, batch_size=4, start_method=method)
    vector.reset()
    step(vector, 3)
    pid = pids(vector)[3]
    if moment == "before":
        os.kill(pid, signal.SIGKILL)
        vector.send(np.zeros(4, np.int64))
    elif moment == "after":
        vector.send(np.zeros(4, np.int64))
        time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        vector.recv()  # the results are there
        vector.send(np.zeros(4, np.int64))
    else:
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL"):
            pids(vector)
        return
    with pytest.raises(WorkerDied, match=r"worker 1 .* environments 2 to 3, was killed by SIGKILL"):
        vector.recv(timeout=5)


def test_a_death_is_seen_though_a_child_of_the_worker_holds_its_socket():
    def fork_and_die():
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        os._exit(7)

    for where in ("init", "call"):
        with pytest.raises(WorkerDied, match="exit code 7"):
            vector = make(2, {1: (where, fork_and_die, 1)})
            pids(vector)


def test_somebody_else_may_collect_the_exit_code():
    vector = make(2, {0: ("step", faulty.leave, 1)}, start_method="fork")
    vector.reset()
    vector.send(np.zeros(2, np.int64))
    time.sleep(0.2)
    os.wait()
    with pytest.raises(WorkerDied, match="something else in this process has taken its exit code"):
        vector.recv(timeout=5)


@linux_only
@pytest.mark.parametrize("on_error", ["raise", "restart"])
def test_the_fork_server_may_be_killed(on_error):
    code = f"""
    warnings.simplefilter("ignore")
    vector = make(4, {{}}, on_error={on_error!r}, start_method="forkserver")
    vector.reset()
    step(vector)
    server = int(Path(f"/proc/{{pids(vector)[0]}}/stat").read_text().split()[3])
    assert server != os.getpid()
    os.kill(server, signal.SIGKILL)
    time.sleep(0.3)
    try:
        valid = []
        for _ in range(3):
            step(vector)
            valid.append(bool(vector._arrays["masks"].all()))
        print(valid)
    except shoal.WorkerDied as error:
        print(error)
    vector.close()
    """
    process, mark = run_python(code)
    out, err = process.communicate(timeout=60)
    assert err == ""
    assert ("SIGKILL" if on_error == "raise" else "[False, False, True]") in out
    assert wait_until(lambda: not marked(mark))


@linux_only
@pytest.mark.parametrize("method", METHODS)
def test_nothing_survives_the_parent(method):
    """Idle workers, stuck ones, starting ones, and those of threads that have ended or have not."""
    code = f"""
    kept = []
    def create(where, deed):
        kept.append(make(2, {{1: (where, deed, 1)}} if deed else {{}}, start_method={method!r}))
    def stick():
        kept[1].reset()
        step(kept[1])
    create("", None)
    create("step", faulty.spin_for_ever)
    threading.Thread(target=stick, daemon=True).start()
    threading.Thread(target=create, args=["", None], daemon=True).start()
    def create_and_stick():
        vector = make(2, {{0: ("step", faulty.spin_for_ever, 1)}}, start_method={method!r})
        vector.reset()
        print("ready", flush=True)
        step(vector)
    threading.Thread(target=create_and_stick, daemon=True).start()
    threading.Thread(target=create, args=["init", faulty.sleep_for_ever], daemon=True).start()
    while len(kept) < 3:
        time.sleep(0.01)
    time.sleep(1)
    print("ready", flush=True)
    time.sleep(1000)
    """
    process, mark = run_python(code)
    try:
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        expected = 11 if method != "forkserver" else 16
        assert len(marked(mark)) == expected
    finally:
        process.kill()
        process.wait()
    assert wait_until(lambda: not marked(mark)), marked(mark)
    assert process.stderr.read() == ""


@linux_only
def test_nothing_survives_a_parent_whose_fork_lives_on():
    """A fork of the parent holds copies of all its sockets."""
    code = """
    vectors = [make(2, {}, start_method=method) for method in METHODS]
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    print("ready", flush=True)
    time.sleep(1000)
    """
    process, mark = run_python(code, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        process.kill()
        process.wait()
    # The fork itself is all that may be left.
    assert wait_until(lambda: len(marked(mark)) <= 1), marked(mark)
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


# -- Ctrl-C ---------------------------------------------------------------------------------------


def run_in_terminal(code):
    """A program with a terminal of its own, and the other end of it."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    process, mark = run_python(
        code,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    return process, mark, ours


def read_until(ours, text):
    data = b""
    while text not in data:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the last process that had it is gone
            break
        data += piece
    return data


@linux_only
@pytest.mark.parametrize(
    ("method", "moment"),
    [
        *[("forkserver", moment) for moment in ("stepping", "waiting", "calling", "starting")],
        *[(m, moment) for m in ("fork", "spawn", "old") for moment in ("stepping", "starting")],
    ],
)
def test_ctrl_c_is_one_keyboard_interrupt(method, moment):
    faults = {
        "stepping": {},
        "waiting": {0: ("step", faulty.sleep_for_ever, 1)},
        "calling": {0: ("call", faulty.sleep_for_ever, 1)},
        "starting": {0: ("init", faulty.sleep_for_ever, 1)},
    }[moment]
    faults = {i: (w, f"faulty.{d.__name__}", n) for i, (w, d, n) in faults.items()}
    code = f"""
    faults = {{i: (w, eval(d), n) for i, (w, d, n) in {faults!r}.items()}}
    if {moment!r} == "starting":
        threading.Timer(1, print, ["ready"]).start()
    vector = make(4, faults, start_method={method!r})
    vector.reset()
    print("ready", flush=True)
    pids(vector) if {moment!r} == "calling" else step(vector, 10**9)
    """
    process, mark, ours = run_in_terminal(code)
    try:
        out = read_until(ours, b"ready")
        time.sleep(0.2)
        os.write(ours, b"\x03")
        out += read_until(ours, b"no such thing")
        assert process.wait(timeout=10) == -signal.SIGINT
    finally:
        process.kill()
        os.close(ours)
    assert out.count(b"KeyboardInterrupt") == 1, out.decode()
    assert out.count(b"Traceback") == 1, out.decode()
    assert wait_until(lambda: not marked(mark))


def test_an_interrupted_recv_can_be_called_again():
    vector = make(2, {1: ("step", functools.partial(time.sleep, 1.0), 1)})
    vector.reset()
    vector.send(np.zeros(2, np.int64))
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        vector.recv()
    assert vector.recv().rewards.tolist() == [1, 1]
    vector.close()


# -- what never returns ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "method"),
    [(faulty.sleep_for_ever, None), (faulty.spin_for_ever, None), (faulty.spin_for_ever, "old")],
)
def test_a_step_that_never_returns_is_named_and_closed(deed, method):
    vector = make(4, {2: ("step", deed, 1)}, timeout=0.5, start_method=method)
    vector.reset()
    workers = set(pids(vector))
    vector.send(np.zeros(4, np.int64))
    for _ in range(2):  # the batch is still on its way
        with pytest.raises(StepTimeoutError, match=r"environments \[2\] have not returned"):
            vector.recv()
    with pytest.raises(PendingCallError):
        vector.reset()
    vector.close()
    assert not any(map(is_running, workers))


def test_a_late_batch_can_still_be_had():
    vector = make(2, {1: ("step", functools.partial(time.sleep, 1.0), 1)})
    vector.reset()
    vector.send(np.zeros(2, np.int64))
    with pytest.raises(StepTimeoutError):
        vector.recv(timeout=0)
    assert vector.recv(timeout=20).rewards.tolist() == [1, 1]
    vector.close()


@pytest.mark.parametrize("method", [None, "old"])
def test_a_call_that_never_returns_ends_with_the_timeout(method):
    vector = make(4, {1: ("call", faulty.sleep_for_ever, 1)}, timeout=0.5, start_method=method)
    with pytest.raises(StepTimeoutError, match="worker 0, which has environments 0 to 1"):
        pids(vector)
    with pytest.raises(ClosedError, match="earlier error: StepTimeoutError"):
        vector.reset()


@pytest.mark.parametrize("method", [None, "old"])
def test_a_reset_that_never_returns_ends_with_the_timeout(method):
    vector = make(4, {3: ("reset", faulty.sleep_for_ever, 1)}, timeout=0.5, start_method=method)
    with pytest.raises(StepTimeoutError, match=r"environments \[3\] have not returned"):
        vector.reset()
    vector.close()


@pytest.mark.parametrize("method", [None, "old"])
def test_a_close_that_never_returns_is_cut_short(method):
    vector = make(4, {3: ("close", faulty.sleep_for_ever, 1)}, start_method=method)
    workers = set(pids(vector))
    vector.close()
    assert not any(map(is_running, workers))


@pytest.mark.parametrize("method", [None, "old"])
def test_one_failing_worker_is_heard_while_another_starts_for_ever(method):
    faults = {0: ("init", faulty.sleep_for_ever, 1), 1: ("init", faulty.fail, 1)}
    with pytest.raises(KeyError):
        make(2, faults, start_method=method)


@pytest.mark.parametrize("method", [None, pytest.param("old", marks=pytest.mark.slow)])
def test_large_messages_pass(method):
    size = 50_000_000
    blob = b"x" * size
    vector = make(2, {}, start_method=method)
    vector.reset(options={"blob": blob})
    assert vector.call("option_size") == (size, size)
    assert vector.call("called", blob) == (blob, blob)
    vector.close()
    how = {"env": Talkative}
    if method == "old":
        how = {"env": f"{faulty.__file__}:Talkative", "python": old_python()}
    vector = vectorize(num_envs=2, backend="multiprocess", num_workers=2, **how)
    vector.reset()
    for _ in range(3):
        *_, infos = vector.step(np.array([65, 66]))
        assert [value[:1] for value in infos["blob"]] == [b"A", b"B"]
        assert [len(value) for value in infos["blob"]] == [Talkative.nbytes] * 2
    vector.close()


@pytest.mark.parametrize("method", [None, "old"])
def test_options_that_cannot_be_sent_are_refused_before_anything_is_told(method):
    vector = make(2, {}, start_method=method)
    with pytest.raises(TypeError):
        vector.reset(options={"lock": threading.Lock()})
    vector.reset(seed=0)
    assert step(vector)[1].tolist() == [1, 1]
    vector.close()


# -- restart --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["serial", "multiprocess", "old"])
@pytest.mark.parametrize("where", ["reset", "step"])
def test_restart_replaces_an_environment_that_raises(backend, where, tmp_path):
    deed = faulty.once_in(tmp_path, "flag", faulty.fail)
    faults = {1: (where, deed, 3 if where == "step" else 1)}
    how = {"start_method": "old"} if backend == "old" else {"backend": backend}
    vector = make(4, faults, on_error="restart", **how)
    vector.reset(seed=0)
    rows = []
    for _ in range(6):
        observations, rewards, terminations, truncations, _ = step(vector)
        masks = vector._arrays["masks"]
        rows.append((*observations[1], rewards[1], truncations[1], masks[1]))
        assert observations[[0, 2, 3], 0].tolist() == [len(rows)] * 3
        assert masks[[0, 2, 3]].all()
        assert not terminations.any()
    if where == "step":  # two steps, the lost one, the reset, and on
        assert rows[1] == (2, 1, 1, False, True)
        assert rows[2] == (0, 0, 0, True, False)
        rows = rows[3:]
    assert rows[0] == (0, 1, 0, False, False)  # a reset: invalid, as NEXT_STEP has it
    assert rows[1] == (1, 1, 1, False, True)
    assert vector.restarts == 1
    vector.close()
    assert vector.restarts == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["reset", "step"])
def test_restart_replaces_a_worker_that_dies(method, where, tmp_path):
    deed = faulty.once_in(tmp_path, "flag", faulty.kill)
    faults = {2: (where, deed, 3 if where == "step" else 1)}
    vector = make(6, faults, 3, on_error="restart", start_method=method)
    rows = {env: [] for env in range(6)}

    def keep(observations, truncations):
        for env, row in rows.items():
            mask = vector._arrays["masks"][env]
            row.append((*observations[env], bool(truncations[env]), bool(mask)))

    with pytest.warns(RuntimeWarning, match=r"worker 1 .* environments 2 to 3, was killed by SIGK"):
        keep(vector.reset(seed=0)[0], vector._arrays["truncations"])
        for _ in range(6):
            observations, _, _, truncations, _ = step(vector)
            keep(observations, truncations)
    for env in (0, 1, 4, 5):
        assert [row[0] for row in rows[env]] == list(range(7))
        assert not any(row[2] for row in rows[env])
    for env in (2, 3):  # each says once that its episode is lost, and goes on with a reset
        lost = [t for t, row in enumerate(rows[env]) if row[2]]
        assert len(lost) == 1
        assert rows[env][lost[0]] == (0, 0, True, False)
        after = rows[env][lost[0] + 1 :]
        assert [row[0] for row in after] == list(range(len(after)))
        assert [row[3] for row in after] == [False] + [True] * (len(after) - 1)
    assert vector.restarts == 2
    vector.close()


@pytest.mark.parametrize("method", [None, "old"])
@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
def test_environments_that_were_done_before_the_death_say_so_in_their_next_row(autoreset, method):
    vector = make(4, {}, on_error="restart", autoreset=autoreset, start_method=method)
    vector.reset(seed=0)
    step(vector, 3)
    os.kill(pids(vector)[2], signal.SIGKILL)
    with pytest.warns(RuntimeWarning):
        observations, _, _, truncations, _ = step(vector)
    assert truncations.tolist() == [False, False, True, True]
    assert vector._arrays["masks"].tolist() == [True, True, False, False]
    assert observations.tolist() == [[4, 1], [4, 1], [0, 0], [0, 0]]
    if autoreset == "disabled":
        vector.reset(options={"reset_mask": np.array([False, False, True, True])})
    else:
        observations, _, _, truncations, _ = step(vector)
        assert observations[2:].tolist() == [[0, 1], [0, 1]]
        assert not truncations.any()
    observations = step(vector)[0]
    assert observations[2:].tolist() == [[1, 1], [1, 1]]
    assert vector._arrays["masks"].all()
    vector.close()


@pytest.mark.parametrize("method", [None, "old"])
def test_a_worker_that_died_between_steps_is_replaced_before_a_call(method):
    vector = make(4, {}, on_error="restart", start_method=method)
    vector.reset()
    before = pids(vector)
    os.kill(before[0], signal.SIGKILL)
    time.sleep(0.2)
    with pytest.warns(RuntimeWarning):
        after = pids(vector)
    assert after[0] == after[1] != before[0]
    assert after[2:] == before[2:]
    assert step(vector)[3].tolist() == [True, True, False, False]
    vector.close()


@pytest.mark.parametrize("method", [None, "old"])
def test_options_of_automatic_resets_survive_a_restart(method):
    vector = make(2, {}, on_error="restart", start_method=method)
    vector.reset()
    vector.set_options({"blob": b"1234"})
    os.kill(pids(vector)[1], signal.SIGKILL)
    with pytest.warns(RuntimeWarning):
        step(vector, 3)
    assert vector.call("option_size") == (0, 4)
    vector.close()


@pytest.mark.parametrize("backend", ["serial", "multiprocess", "old"])
@pytest.mark.parametrize("where", ["reset", "step"])
def test_restarting_exceptions_has_an_end(backend, where):
    how = {"start_method": "old"} if backend == "old" else {"backend": backend}
    vector = make(2, {1: (where, faulty.fail, 1)}, on_error="restart", **how)
    with pytest.raises(KeyError) as caught:
        vector.reset()
        step(vector, 100)
    assert "on_error='restart' gave up: 5 failures in a row" in notes(caught.value)
    with pytest.raises(ClosedError):
        vector.reset()


@pytest.mark.parametrize("where", ["reset", "step"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "old"])
@pytest.mark.filterwarnings("ignore:worker:RuntimeWarning")
def test_restarting_deaths_has_an_end(where, method):
    vector = make(2, {1: (where, faulty.kill, 1)}, on_error="restart", start_method=method)
    with pytest.raises(WorkerDied, match="SIGKILL") as caught:
        vector.reset()
        step(vector, 100)
    assert "on_error='restart' gave up: 5 failures in a row" in notes(caught.value)


@pytest.mark.parametrize("method", [None, "old"])
@pytest.mark.filterwarnings("ignore:worker:RuntimeWarning")
def test_restarting_has_an_end_in_a_pool_whose_others_go_on(method):
    faults = {3: ("step", faulty.kill, 1)}
    how = {"backend": "pool", "batch_size": 1, "start_method": method}
    vector = make(4, faults, 4, on_error="restart", **how)
    vector.async_reset()
    with pytest.raises(WorkerDied, match="environment 3") as caught:
        while True:
            vector.recv()
            vector.send(np.zeros(1, np.int64))
    assert "on_error='restart' gave up: 5 failures in a row" in notes(caught.value)


@pytest.mark.parametrize("deed", [faulty.fail, faulty.leave])
@pytest.mark.parametrize("first", [faulty.fail, faulty.kill])
@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.filterwarnings("ignore:(worker|'the door):RuntimeWarning")
def test_environments_that_cannot_be_created_again(method, first, deed, tmp_path):
    """The first goes bad in a step, and after that its creator fails."""

    def create():
        if (tmp_path / "flag").exists():
            deed()
        return Faulty("step", faulty.once_in(tmp_path, "flag", first), 20)

    vector = vectorize(
        [Faulty, create],
        backend="multiprocess",
        num_workers=2,
        on_error="restart",
        start_method=method,
    )
    vector.reset()
    with pytest.raises(KeyError if deed is faulty.fail else WorkerDied) as caught:
        step(vector, 200)
    assert "on_error='restart' gave up: 5 failures in a row" in notes(caught.value)
    if deed is faulty.leave:
        assert "exit code 7" in str(caught.value)


@pytest.mark.filterwarnings("ignore:worker:RuntimeWarning")
def test_a_restart_does_not_keep_the_others_from_working(tmp_path):
    """A pool goes on with other environments while a worker takes its time to start."""
    flag, release = tmp_path / "flag", tmp_path / "release"

    def create():
        while flag.exists() and not release.exists():
            time.sleep(0.01)
        return Faulty("step", functools.partial(faulty.once, flag, faulty.kill), 2)

    vector = vectorize(
        [create, Faulty, Faulty, Faulty],
        backend="pool",
        num_workers=4,
        batch_size=1,
        on_error="restart",
        timeout=20,
    )
    vector.async_reset(seed=0)
    seen, lost = [0] * 4, 0
    while not lost or min(seen[1:]) < 100:  # would time out if they had to wait
        batch = vector.recv()
        env = int(vector.env_ids[0])
        seen[env] += 1
        lost += int(batch.truncations[0])
        vector.send(np.zeros(1, np.int64))
    assert lost == 1
    stuck_at = seen[0]
    release.touch()
    while seen[0] < stuck_at + 10:
        vector.recv()
        seen[int(vector.env_ids[0])] += 1
        vector.send(np.zeros(1, np.int64))
    vector.close()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["multiprocess", "pool", "old"])
@pytest.mark.filterwarnings("ignore:worker:RuntimeWarning")
def test_100_000_steps_with_a_death_in_every_1_000(backend):
    """Sixteen workers; each lost environment says so once, and nothing else goes wrong."""
    rng = np.random.default_rng(0)
    size = 16 if backend == "multiprocess" else 8
    how = {"env": [functools.partial(Faulty, length=37)] * 16, "backend": backend}
    if backend == "old":
        create = Creator(f"{faulty.__file__}:by_name", {"length": 37})
        how = {"env": [create] * 16, "backend": "pool", "python": old_python()}
    vector = vectorize(num_workers=16, batch_size=size, on_error="restart", **how)
    vector.async_reset(seed=0)
    expected = [None] * 16  # what the next observation must be, unless the environment is lost
    deaths = lost = 0
    killed = set()
    for batch_number in range(100_000):
        batch = vector.recv(timeout=60)
        envs = vector.env_ids.tolist()
        ended = batch.terminations | batch.truncations
        for row, env in enumerate(envs):
            time_now = int(batch.observations[row, 0])
            if batch.truncations[row]:
                lost += 1
                killed.remove(env)
                assert not batch.masks[row]
                assert time_now == 0
                expected[env] = 0
                continue
            assert time_now == (expected[env] or 0)
            expected[env] = 0 if ended[row] else time_now + 1
        if batch_number % 1000 == 500:
            # In a pool the last death may not have been noticed yet.
            at_work = [e for e in range(16) if e not in killed and expected[e]]
            victim = int(rng.choice(at_work))
            vector._backend._processes[victim].kill()
            killed.add(victim)
            deaths += 1
        vector.send(np.zeros(size, np.int64))
    while vector._to_receive():
        vector.recv(timeout=60)
    assert deaths == 100
    assert vector.restarts == deaths
    assert deaths - 1 <= lost <= deaths  # the last may be on its way
    vector.close()


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_garbage_collection_closes(method):
    vector = make(2, {}, start_method=method)
    vector.reset()
    step(vector)
    workers = set(pids(vector))
    del vector
    gc.collect()
    assert not any(map(is_running, workers))


@linux_only
@pytest.mark.parametrize(
    ("method", "ending"),
    [
        ("fork", ""),
        ("forkserver", "1 / 0"),
        ("spawn", "sys.exit(0)"),
        ("forkserver", "Thread"),
        ("old", "1 / 0"),
    ],
)
def test_the_end_of_the_interpreter_closes(method, ending):
    code = f"""
    vector = make(2, {{1: ("step", faulty.sleep_for_ever, 3)}}, start_method={method!r})
    vector.reset()
    step(vector)
    step(vector)
    def wait():
        try:
            step(vector)
        except shoal.ClosedError:
            pass
    if "Thread" in {ending!r}:
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        time.sleep(0.3)
    else:
        {ending or "pass"}
    """
    process, mark = run_python(code)
    _, err = process.communicate(timeout=30)
    assert err.count("Traceback") == (1 if "/" in ending else 0), err
    assert wait_until(lambda: not marked(mark))


@linux_only
def test_a_fork_that_ends_leaves_the_workers_alone():
    code = """
    import atexit
    vectors = [make(2, {}, start_method=method) for method in METHODS]
    for vector in vectors:
        vector.reset()
    if os.fork() == 0:
        vectors[0].close()
        del vectors[0]
        gc.collect()
        sys.exit(0)
    os.wait()
    for vector in vectors:
        assert step(vector)[1].tolist() == [1, 1]
        assert len(pids(vector)) == 2
    print("still there")
    """
    process, mark = run_python(code)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("still there\n", "")
    assert wait_until(lambda: not marked(mark))


def test_arrays_outlive_the_vector():
    vector = make(2, {})
    observations, _ = vector.reset(seed=0)
    after = step(vector)[0]
    vector.close()
    assert observations.tolist() == [[0, 1], [0, 1]]
    assert after.tolist() == [[1, 1], [1, 1]]
    for use in (vector.reset, lambda: step(vector), vector.recv, lambda: pids(vector)):
        with pytest.raises(ClosedError, match="closed"):
            use()
    vector.close()


def test_closing_from_another_thread_ends_a_wait():
    vector = make(2, {1: ("step", faulty.sleep_for_ever, 1)})
    vector.reset()
    workers = set(pids(vector))
    errors = []

    def wait():
        try:
            step(vector)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    vector.close()
    thread.join(10)
    assert [type(error) for error in errors] == [ClosedError]
    assert not any(map(is_running, workers))


def test_a_signal_handler_may_close():
    vector = make(2, {1: ("step", faulty.sleep_for_ever, 1)})
    vector.reset()
    before = signal.signal(signal.SIGUSR1, lambda *_: vector.close())
    try:
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        with pytest.raises(ClosedError):
            step(vector)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_vector_can_be_made_used_and_closed_in_different_threads():
    made = []

    def inside(function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        thread.join()

    for method in METHODS:
        inside(lambda method=method: made.append(make(2, {}, start_method=method)))
    time.sleep(0.3)  # the threads that started the workers are gone
    for vector in made:
        vector.reset()
        assert step(vector)[1].tolist() == [1, 1]
        workers = set(pids(vector))
        inside(vector.close)
        assert not any(map(is_running, workers))


@linux_only
def test_nothing_is_left_of_a_vector_that_could_not_be_made():
    def left():
        tasks = Path("/proc/self/task").iterdir()
        children = {pid for task in tasks for pid in (task / "children").read_text().split()}
        return len(os.listdir("/proc/self/fd")), children

    before = left()  # other tests may have left children of their own, of other libraries
    for method in METHODS:
        with pytest.raises(KeyError):
            make(4, {3: ("init", faulty.fail, 1)}, 4, start_method=method)
    gc.collect()
    assert left() == before


__all__ = ["faulty", "gc", "make", "os", "pids", "shoal", "signal", "step", "sys", "threading"]
__all__ += ["METHODS", "Path", "time", "warnings", "np"]
