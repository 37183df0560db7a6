"""Worker processes under bad conditions: no streams, no descriptors, no answers, children left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import shoal
from shoal.errors import StepTimeoutError
from shoal.vectorization.backends import processes
from tests.vectorization.faulty import Faulty

METHODS = ["fork", "forkserver", "spawn"]
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def run(tmp_path, code, shell="", **kwargs):
    """Run code as a program; return the path that it may write its answer to, as `ANSWER`."""
    answer, script = tmp_path / "answer", tmp_path / "script.py"
    script.write_text(f"ANSWER = {str(answer)!r}\n{code}")
    path = os.pathsep.join([str(Path(shoal.__file__).parents[1]), str(ROOT)])
    done = subprocess.run(
        f"exec {sys.executable} {script} {shell}",
        shell=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        timeout=120,
        **kwargs,
    )
    return answer.read_text() if answer.exists() else f"exit code {done.returncode}"


def vectorize(*arguments, **kwargs):
    creators = [lambda: Faulty(*arguments)] * 2
    return shoal.vectorize(creators, num_workers=2, backend="multiprocess", **kwargs)


def hang():
    time.sleep(1000)


@pytest.mark.parametrize("method", METHODS)
def test_a_constructor_that_never_returns_is_an_error_in_time(method, monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 6.0)
    start = time.monotonic()
    with pytest.raises(StepTimeoutError, match="still creating environment 0, environment 1"):
        vectorize("init", hang, start_method=method, timeout=0.2)
    assert time.monotonic() - start < 60


def test_a_fork_server_that_does_not_answer_is_an_error_in_time():
    vector = vectorize(on_error="restart", timeout=1.0)
    vector.reset()
    os.kill(vector._backend._starter._popen.pid, signal.SIGSTOP)
    os.kill(vector.call("called")[0], signal.SIGKILL)
    with pytest.raises(StepTimeoutError):
        vector.step([0, 0])
    vector.close()


@pytest.mark.parametrize(
    ("closed", "method"),
    [("<&-", "spawn"), (">&-", "forkserver"), *(("<&- >&- 2>&-", method) for method in METHODS)],
)
def test_a_process_without_open_streams(closed, method, tmp_path):
    code = f"""
import shoal
vector = shoal.vectorize("CartPole-v1", 2, backend="multiprocess", start_method={method!r})
vector.reset(seed=0)
steps = [vector.step([0, 0])[1].tolist() for _ in range(20)]
vector.close()
open(ANSWER, "w").write(str(len(steps)))
"""
    assert run(tmp_path, code, closed) == "20"


@pytest.mark.parametrize("method", METHODS)
def test_out_of_descriptors_is_said(method, tmp_path):
    code = f"""
import errno, os, resource, shoal
import shoal.vectorization.backends.processes, gymnasium.envs.classic_control.cartpole
said, soft, hard = set(), *resource.getrlimit(resource.RLIMIT_NOFILE)
for more in (1, 2, 3, 4, 6, 8, 11, 60):
    top = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + more, hard))
    try:
        how = {{"backend": "multiprocess", "start_method": {method!r}}}
        vector = shoal.vectorize("CartPole-v1", 2, **how)
        vector.reset(seed=0)
        vector.close()
        said.add("made")
        break
    except OSError as error:
        said.add(errno.errorcode[error.errno])
    except BaseException as error:
        said.add(repr(error))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
open(ANSWER, "w").write(" ".join(sorted(said)))
"""
    assert run(tmp_path, code) == "EMFILE made"


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_worker_where_exit_codes_are_ignored(method, tmp_path):
    code = f"""
import os, signal, shoal
from tests.vectorization.faulty import Faulty
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
vector = shoal.vectorize([Faulty] * 2, backend="multiprocess", start_method={method!r})
vector.reset()
os.kill(vector.call("called")[0], signal.SIGKILL)
try:
    vector.step([0, 0])
except shoal.errors.WorkerDied as error:
    open(ANSWER, "w").write(str(error))
"""
    said = run(tmp_path, code)
    assert "exit code 0" not in said
    assert "killed by SIGKILL" in said if method == "forkserver" else "has taken its exit" in said


class Parental(Faulty):
    """Starts a process of its own, which ignores polite requests."""

    def __init__(self):
        super().__init__()
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)"
        self.child = subprocess.Popen([sys.executable, "-c", code])

    def child_pid(self):
        return self.child.pid


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["kill", "close", "restart", "raise"])
@pytest.mark.parametrize("method", METHODS)
def test_what_an_environment_has_started_ends_with_its_worker(method, how):
    kwargs = {"on_error": "restart"} if how == "restart" else {}
    vector = shoal.vectorize(
        [Parental] * 2, backend="multiprocess", num_workers=2, start_method=method, **kwargs
    )
    vector.reset()
    children = vector.call("child_pid")
    assert all(map(is_alive, children))
    if how in ("kill", "restart"):
        os.kill(vector.call("called")[0], signal.SIGKILL)
        if how == "kill":
            with pytest.raises(shoal.errors.WorkerDied):
                vector.step([0, 0])
        else:
            with pytest.warns(RuntimeWarning, match="starting another"):
                vector.step([0, 0])
            assert wait_until(lambda: not is_alive(children[0])) and is_alive(children[1])
    vector.close()
    assert wait_until(lambda: not any(map(is_alive, children)))


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("entry", ["Mine", '"__main__:Mine"'])
def test_an_id_that_only_this_process_knows(entry, method, tmp_path):
    code = f"""
import gymnasium, shoal
from gymnasium.envs.classic_control import CartPoleEnv

class Mine(CartPoleEnv):
    pass

gymnasium.register("Mine-v3", {entry}, max_episode_steps=7)
if __name__ == "__main__":
    vector = shoal.vectorize("Mine-v3", 2, backend="multiprocess", start_method={method!r})
    vector.reset(seed=0)
    ends = [vector.step([i % 2] * 2)[3].tolist() for i in range(7)]
    vector.close()
    open(ANSWER, "w").write(str(ends[-1]))
"""
    assert run(tmp_path, code) == "[True, True]"
