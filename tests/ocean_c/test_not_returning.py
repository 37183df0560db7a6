"""Environments that do not return, closing from other threads, and clocks that are set back."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import shoal
from shoal.errors import ClosedError, StepTimeoutError
from shoal.ocean_c.engine import Engine, Module

from .sources import PARTS, built

HEAD = "unsigned sleep(unsigned seconds); int kill(int process, int signal); int getpid(void);\n"
FOREVER = "for (;;) sleep(1);"
CTRL_C = "kill(getpid(), 2); " + FOREVER


def stuck(folder, name: str = "walk", head: str = "", **parts: str) -> str:
    """An environment in which some function may sleep forever."""
    return built(folder, name, head=HEAD + head, **parts)


def run(code: str, **env: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=90, env={**os.environ, **env},
    )  # fmt: skip


# The environment itself sends the interrupt, and does not return.
INTERRUPTED = """
    import os
    import shoal
    try:
        {before}
        {call}
    except KeyboardInterrupt:
        print("interrupted")
    try:
        {after}
    except shoal.ShoalError as error:
        print(type(error).__name__)
    os._exit(0)
"""


@pytest.mark.parametrize(
    "parts, before, call, after",
    [
        ({"init": CTRL_C}, "pass", "shoal.vectorize({path!r}, 4)", "pass"),
        (
            {
                "head": "static const char *resolve(const double *p, shoal_spec *s) {(void)p; "
                "(void)s; " + CTRL_C + " return NULL;}",
                "table": PARTS["table"] + ", .resolve = resolve",
            },
            "pass",
            "shoal.vectorize({path!r}, 4)",
            "pass",
        ),
        (
            {"draw": CTRL_C},
            "vector = shoal.vectorize({path!r}, 1); vector.reset()",
            "vector.render()",
            "vector.reset()",
        ),
        (
            {"step": CTRL_C},
            "vector = shoal.vectorize({path!r}, 1, timeout=60); vector.reset()",
            "vector.step(vector.action_space.sample())",
            "pass",
        ),
    ],
    ids=["init", "resolve", "draw", "step"],
)
def test_an_interrupt_ends_a_call_that_does_not_return(tmp_path, parts, before, call, after):
    path = stuck(tmp_path, **parts)
    code = INTERRUPTED.format(before=before, call=call, after=after).format(path=path)
    done = run(code)
    ended = ["ClosedError"] if "draw" in parts else []
    assert done.stdout.split() == ["interrupted", *ended], done.stderr


def test_calls_that_do_not_return_keep_their_timeout(tmp_path):
    module = Module(stuck(tmp_path, init=FOREVER))
    with pytest.raises(StepTimeoutError, match=r"walk: init has not returned within 0\.1 s"):
        Engine(module, module.spec({}), 3, timeout=0.1)
    module = Module(stuck(tmp_path, "still", draw=FOREVER))
    engine = Engine(module, module.spec({}), 1)
    with pytest.raises(StepTimeoutError, match=r"walk: draw has not returned within 0\.1 s"):
        engine.draw(0, timeout=0.1)
    with pytest.raises(ClosedError):
        engine.seed(0, 1)
    engine.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_does_not_return_keeps_the_timeout(tmp_path, workers):
    vector = shoal.vectorize(stuck(tmp_path, step=FOREVER), 2, num_workers=workers, timeout=0.2)
    vector.reset()
    with pytest.raises(StepTimeoutError, match=r"no batch of walk within 0\.2 s"):
        vector.step(vector.action_space.sample())
    with pytest.raises(StepTimeoutError, match="can't be stopped"):
        vector.close()


@pytest.mark.parametrize("workers, batch_size", [(1, 6), (3, 6), (2, 3)])
def test_closing_from_another_thread_during_a_step(tmp_path, workers, batch_size):
    """A step under way raises ClosedError, in whatever place it is."""
    path = built(tmp_path)
    for delay in np.linspace(0, 0.01, 8):
        vector = shoal.vectorize(path, 6, num_workers=workers, batch_size=batch_size)
        engine, found = vector._backend.engine, []

        def step(engine=engine, found=found):
            try:
                while True:
                    engine.post(1, None if batch_size == 6 else np.arange(3))
                    engine.infos(engine.wait())
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=step)
        thread.start()
        time.sleep(delay)
        engine.close()
        thread.join(60)
        assert not thread.is_alive() and [type(e) for e in found] == [ClosedError], found
        vector.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_does_not_return_outlives_closing(tmp_path, workers):
    """Nothing that the step uses is freed: closing says so after 5 seconds."""
    vector = shoal.vectorize(stuck(tmp_path, step=FOREVER), 2, num_workers=workers)
    engine = vector._backend.engine
    engine.post(1)
    engine.wait()
    engine.post(0)
    found = []
    thread = threading.Thread(target=lambda: found.append(engine.wait()), daemon=True)
    thread.start()
    time.sleep(0.05)
    with pytest.raises(StepTimeoutError, match="can't be stopped"):
        engine.close()
    engine.close()
    with pytest.raises(ClosedError):
        engine.wait()
    assert not found
    vector.close()


def test_two_threads_cannot_wait_for_one_engine(tmp_path):
    module = Module(stuck(tmp_path, step=FOREVER))
    vector = shoal.vectorize(module.path, 2, num_workers=2)
    vector.reset()
    engine = vector._backend.engine
    engine.post(0)
    errors = []

    def wait():
        try:
            engine.wait(timeout=1.0)
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["wait: another thread is waiting"]
    with pytest.raises(StepTimeoutError):
        vector.close()


def test_a_batch_may_be_waited_for_again(tmp_path):
    """What an interrupt after `wait` has lost is returned again."""
    vector = shoal.vectorize(built(tmp_path), 4, batch_size=2, num_workers=2)
    engine = vector._backend.engine
    engine.post(1, np.arange(2))
    engine.post(1, np.arange(2, 4))
    assert [engine.wait(turn=turn) for turn in (0, 0, 1, 1)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="nothing was posted"):
        engine.wait(turn=2)
    vector.close()


WALL_CLOCK_FORWARD = """
#define _GNU_SOURCE
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += 3600;
    return (int)result;
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")
def test_timeouts_do_not_depend_on_the_clock_on_the_wall(tmp_path):
    """The wall clock is an hour ahead of the kernel's, as if it had just been set back."""
    (tmp_path / "clock.c").write_text(WALL_CLOCK_FORWARD)
    library = str(tmp_path / "clock.so")
    command = ["cc", "-shared", "-fPIC", str(tmp_path / "clock.c"), "-o", library]
    subprocess.run(command, check=True)
    path = stuck(tmp_path, step=FOREVER)
    code = f"""
        import os, time
        import numpy as np
        import shoal
        vector = shoal.vectorize({str(path)!r}, 2, num_workers=2, timeout=0.2)
        vector.reset()
        try:
            vector.step(np.zeros(2, np.int64))
        except shoal.StepTimeoutError as error:
            print("in time")
        os._exit(0)
    """
    done = run(code, LD_PRELOAD=library)
    assert done.stdout == "in time\n", done.stderr


@pytest.mark.parametrize(
    "num_envs, size", [(2**20, 2**45), (2**31 - 1, 2**40), (2, 2**61), (2, 2**63 - 1)]
)
def test_sizes_that_do_not_fit_are_errors(tmp_path, num_envs, size):
    resolve = f"""static const char *resolve(const double *p, shoal_spec *s) {{
        (void)p; s->state_size = INT64_C({size}); return NULL; }}"""
    path = built(tmp_path, head=resolve, table=PARTS["table"] + ", .resolve = resolve")
    module = Module(path)
    with pytest.raises(MemoryError, match=f"{num_envs} environments with a state of {size} bytes"):
        Engine(module, module.spec({}), num_envs)


def test_a_field_that_does_not_fit_is_an_error(tmp_path):
    shape = "2147483647, 2147483647, 2147483647, 2147483647"
    table = PARTS["table"].replace(
        '.name = "position", .type', f'.name = "position", .ndim = 4, .shape = {{{shape}}}, .type'
    )
    assert table != PARTS["table"]
    module = Module(built(tmp_path, table=table))
    with pytest.raises(shoal.EnvModuleError, match=r"'position': shape .* elements"):
        module.spec({})
