"""The engine as Python sees it, between this process and forked workers."""

import contextlib
import fcntl
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from shoal.errors import ClosedError, WorkerDied
from shoal.vectorization import sync

linux = pytest.mark.skipif(sys.platform != "linux", reason="a call that only Linux has")


class Bench:
    """A parent with forked workers. A result is a row of two numbers: environment and op."""

    def __init__(self, num_workers, num_envs, batch_size, mode="fixed", serve=None, **options):
        self.serve = serve or echo
        nbytes = sync.control_nbytes(num_workers, num_envs, batch_size, mode)
        blocks = sync.num_blocks(num_envs, batch_size)
        self.memory = mmap.mmap(-1, nbytes + 8 * blocks * batch_size)
        self.parent = sync.Parent(
            self.memory, num_workers, num_envs, batch_size, mode, cores=2, **options
        )
        rows = np.frombuffer(self.memory, np.int32, 2 * blocks * batch_size, nbytes)
        self.rows = rows.reshape(-1, 2)
        self.batch_size = batch_size
        self.ids = np.zeros(batch_size, np.int64)
        self.pids = [self.fork(worker) for worker in range(num_workers)]
        for worker, pid in enumerate(self.pids):
            self.parent.set_peer(worker, pid)

    def fork(self, worker):
        pid = os.fork()
        if pid == 0:
            try:
                self.serve(sync.Worker(self.memory, worker), self.rows)
            finally:
                os._exit(0)
        return pid

    def receive(self, timeout=20.0):
        """The rows of the next block: environments (checked to be those of the engine), ops."""
        block = self.parent.wait_block(timeout)
        assert block >= 0
        self.parent.block_envs(block, self.ids)
        rows = self.rows[block * self.batch_size : (block + 1) * self.batch_size]
        assert rows[:, 0].tolist() == self.ids.tolist()
        return rows[:, 0].tolist(), rows[:, 1].tolist()

    def kill(self, worker):
        os.kill(self.pids[worker], signal.SIGKILL)  # and not waited for: it stays as a zombie

    def end(self):
        self.parent.close()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def echo(end, rows, before_result=lambda env: None):
    while end.wait_work() == sync.OK:
        while end.next_entry() == sync.OK:
            if end.op >= sync.COMMAND:
                end.finish_command()
                continue
            before_result(end.env)
            place = end.claim_place()
            rows[place] = end.env, end.op
            end.complete_place(place)


def hang_at(env):
    def serve(end, rows):
        echo(end, rows, lambda e: time.sleep(1000) if e == env else None)

    return serve


@pytest.fixture
def make():
    benches = []

    def make_one(*args, **options):
        benches.append(Bench(*args, **options))
        return benches[-1]

    yield make_one
    for bench in benches:
        bench.end()


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_synchronous_batches(make, num_workers):
    bench = make(num_workers, 7, 7)
    for op in range(100):
        bench.parent.post_all(op)
        assert bench.receive() == (list(range(7)), [op] * 7)


def test_fixed_groups_come_in_turn_with_the_ops_of_each_environment(make):
    bench = make(2, 6, 2)
    bench.parent.post_all(1)
    for turn in range(60):
        group = turn % 3
        envs = [2 * group, 2 * group + 1]
        assert bench.receive() == (envs, [1, 1] if turn < 3 else [turn // 3 + 1, turn // 3 + 2])
        bench.parent.post(np.array(envs[:1]), turn // 3 + 2)
        bench.parent.post(np.array(envs[1:]), turn // 3 + 3)


def test_the_first_ready_come_first(make):
    bench = make(3, 3, 2, "first", serve=hang_at(1))
    bench.parent.post_all()
    for _ in range(50):
        envs, _ = bench.receive()
        assert sorted(envs) == [0, 2]
        bench.parent.post(bench.ids)


def test_each_post_is_received_once(make):
    bench = make(4, 16, 5, "first")
    posted = np.ones(16, int)
    received = np.zeros(16, int)
    bench.parent.post_all()
    for _ in range(400):
        envs, _ = bench.receive()
        received[envs] += 1
        bench.parent.post(bench.ids)
        posted[envs] += 1
        assert ((posted - received) == 1).all()


def test_a_timeout_names_the_environment_that_is_stuck(make):
    bench = make(2, 4, 4, serve=hang_at(2))
    assert bench.parent.current_env(1) is None
    bench.parent.post_all()
    assert bench.parent.wait_block(0.3) == -sync.TIMEOUT
    assert bench.parent.wait_block(0) == -sync.TIMEOUT
    assert bench.parent.current_env(1) == 2
    assert bench.parent.current_env(0) is None


@pytest.mark.parametrize("how", ["pid", pytest.param("pidfd", marks=linux)])
@pytest.mark.parametrize("mode", ["fixed", "first"])
def test_a_dead_worker_is_noticed_and_can_be_replaced(make, mode, how):
    bench = make(2, 6, 6, mode, serve=hang_at(4))
    if how == "pidfd":
        pidfd = os.pidfd_open(bench.pids[1])
        bench.parent.set_peer(1, bench.pids[1], pidfd)
    bench.parent.post_all(3)
    assert bench.parent.wait_block(0.2) == -sync.TIMEOUT
    bench.kill(1)
    assert bench.parent.wait_block(20) == -sync.DEAD
    assert bench.parent.culprit == 1
    assert bench.parent.wait_block(20) == -sync.DEAD, "until it has been replaced"

    # FIXED: its rows are reported together, so environment 3 is lost with it.
    outstanding = bench.parent.outstanding(1)
    assert outstanding == ([3, 4, 5] if mode == "fixed" else [4, 5])
    with pytest.raises(ValueError, match=r"environments \[.*4, 5\] owe a result"):
        bench.parent.revive(1, 0)
    for env in outstanding:
        place = bench.parent.place_of(env)
        bench.rows[place] = env, -1
        bench.parent.complete_for(env)
    with pytest.raises(ValueError, match="owes no result"):
        bench.parent.place_of(4)
    with pytest.raises(WorkerDied, match="worker 1"):
        bench.parent.command(1, 0)
    bench.parent.revive(1, 0)
    with pytest.raises(ValueError, match="to be dead"):
        bench.parent.revive(1, 0)
    envs, ops = bench.receive()
    assert dict(zip(envs, ops)) == {env: -1 if env in outstanding else 3 for env in range(6)}

    bench.serve = echo
    os.waitpid(bench.pids[1], 0)
    bench.pids[1] = bench.fork(1)
    bench.parent.set_peer(1, bench.pids[1])
    for op in range(20):
        bench.parent.post_all(op)
        envs, ops = bench.receive()
        assert sorted(envs) == list(range(6))
        assert ops == [op] * 6
    if how == "pidfd":
        os.close(pidfd)


def test_a_death_is_noticed_while_others_fill_the_batches(make):
    bench = make(2, 4, 2, "first")
    bench.parent.post_all()
    bench.receive()
    bench.parent.post(bench.ids)
    bench.kill(1)
    result = 0
    while result >= 0:  # worker 0 alone is enough for every batch
        result = bench.parent.wait_block(20)
        if result >= 0:
            bench.parent.block_envs(result, bench.ids)
            bench.parent.post(bench.ids)
    assert result == -sync.DEAD
    assert bench.parent.culprit == 1


def test_posting_to_a_dead_worker_posts_nothing(make):
    bench = make(2, 4, 4)
    bench.parent.bury(1)
    bench.parent.bury(1)
    with pytest.raises(WorkerDied, match="worker 1"):
        bench.parent.post_all()
    bench.parent.revive(1, bench.pids[1])
    bench.parent.post_all()
    assert bench.receive()[0] == [0, 1, 2, 3]


def test_a_failure_comes_with_its_code_before_its_row(make):
    def serve(end, rows):
        echo(end, rows, lambda env: end.report_failure(env + 100) if env == 2 else None)

    bench = make(2, 4, 4, serve=serve)
    for _ in range(3):
        bench.parent.post_all()
        assert bench.parent.wait_block(20) == -sync.FAILED
        assert (bench.parent.culprit, bench.parent.error) == (1, 102)
        assert bench.receive()[0] == [0, 1, 2, 3]


class Alarm(Exception):
    pass


def test_a_signal_handler_runs_during_a_wait(make):
    def handler(number, frame):
        raise Alarm

    bench = make(1, 2, 2, serve=hang_at(1))
    bench.parent.post_all()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(Alarm):
                bench.parent.wait_block()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert bench.parent.wait_block(0.1) == -sync.TIMEOUT, "it goes on where it was"


def test_waits_let_other_threads_run():
    """A worker in a thread of this process: both ends wait, and neither keeps the GIL."""
    memory = mmap.mmap(-1, sync.control_nbytes(1, 3, 3, "fixed"))
    parent = sync.Parent(memory, 1, 3, 3)
    rows = np.zeros((9, 2), np.int32)
    thread = threading.Thread(target=echo, args=(sync.Worker(memory, 0), rows))
    thread.start()
    for op in range(128):
        parent.post_all(op)
        block = parent.wait_block()
        assert rows[3 * block : 3 * block + 3].tolist() == [[0, op], [1, op], [2, op]]
    parent.close()
    thread.join()


def test_one_thread_at_a_time(make):
    bench = make(1, 2, 2, serve=hang_at(0))
    bench.parent.post_all()
    thread = threading.Thread(target=bench.parent.wait_block, args=(0.5,))
    thread.start()
    with pytest.raises(RuntimeError, match="another thread"):
        while thread.is_alive():
            bench.parent.drained(0)
    thread.join()


def test_a_wrong_post_posts_nothing(make):
    bench = make(2, 4, 4)
    with pytest.raises(IndexError, match="below 4"):
        bench.parent.post(np.array([0, 1, 4]))
    with pytest.raises(IndexError, match="below 4"):
        bench.parent.post(np.array([0, -1]))
    with pytest.raises(ValueError, match=r"environment 2 .* again"):
        bench.parent.post(np.array([0, 2, 2]))
    with pytest.raises(ValueError, match="op below 128"):
        bench.parent.post_all(128)
    with pytest.raises(ValueError, match="too few environments"):
        bench.parent.wait_block()
    bench.parent.post(np.array([3, 1]), 5)
    with pytest.raises(ValueError, match="too few environments"):
        bench.parent.wait_block()
    with pytest.raises(ValueError, match=r"environment 1 .* again"):
        bench.parent.post_all()
    bench.parent.post(np.array([0, 2]), 6)
    assert bench.receive() == ([0, 1, 2, 3], [6, 5, 6, 5])
    bench.parent.post(np.array([], np.int64))
    with pytest.raises(ValueError, match="too few environments"):
        bench.parent.wait_block()


def test_commands_arrive_in_order_behind_the_steps(make):
    receiver, sender = os.pipe()

    def serve(end, rows):
        while end.wait_work() == sync.OK:
            while end.next_entry() == sync.OK:
                os.write(sender, bytes([end.op, end.env]))
                if end.op >= sync.COMMAND:
                    end.finish_command()
                else:
                    end.complete_place(end.claim_place())

    bench = make(1, 2, 2, serve=serve)
    bench.parent.post_all(9)
    for argument in range(5):
        bench.parent.command(0, 7, argument)
    while not bench.parent.drained(0):
        time.sleep(0.001)
    expected = [9, 0, 9, 1] + [x for a in range(5) for x in (sync.COMMAND + 7, a)]
    assert list(os.read(receiver, 100)) == expected
    os.close(receiver)
    os.close(sender)
    with pytest.raises(IndexError, match="worker below 1"):
        bench.parent.command(1, 0)
    with pytest.raises(ValueError, match="code < 128"):
        bench.parent.command(0, 128)


def test_commands_never_take_the_room_of_steps(make):
    bench = make(1, 3, 3, serve=hang_at(0))
    bench.parent.post_all()
    with pytest.raises(BlockingIOError, match="worker 0"):
        for _ in range(100):
            bench.parent.command(0, 1)
    assert bench.parent.wait_block(0.05) == -sync.TIMEOUT


def test_close_ends_workers_that_have_work_left(make):
    def serve(end, rows):
        assert end.wait_work() == sync.OK
        assert end.next_entry() == sync.OK
        while end.next_entry() == sync.OK:  # the others, if any
            pass
        assert end.wait_work() == sync.CLOSED
        os._exit(7)

    bench = make(1, 3, 3, serve=serve)
    bench.parent.post_all()
    bench.parent.close()
    assert os.waitstatus_to_exitcode(os.waitpid(bench.pids[0], 0)[1]) in (0, 7)


def test_a_worker_notices_that_its_parent_has_died():
    receiver, sender = os.pipe()
    middle = os.fork()
    if middle == 0:

        def serve(end, rows):
            os.write(sender, bytes([end.wait_work()]))

        Bench(1, 1, 1, serve=serve)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(sender)
    os.waitpid(middle, 0)
    assert select.select([receiver], [], [], 20)[0]
    assert os.read(receiver, 1) == bytes([sync.DEAD])
    os.close(receiver)


@linux
def test_die_with_parent():
    receiver, sender = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            os.write(sender, bytes([sync.die_with_parent(signal.SIGKILL)]))
            time.sleep(1000)
        time.sleep(1000)
    os.close(sender)
    assert os.read(receiver, 1) == b"\1"
    os.kill(middle, signal.SIGKILL)
    os.waitpid(middle, 0)
    assert select.select([receiver], [], [], 20)[0]
    assert os.read(receiver, 1) == b"", "nobody holds the other end any more"
    os.close(receiver)


def test_released_memory_can_be_unmapped(make):
    memory = mmap.mmap(-1, sync.control_nbytes(1, 1, 1, "fixed"))
    parent = sync.Parent(memory, 1, 1, 1)
    worker = sync.Worker(memory, 0)
    parent.post_all()
    assert worker.wait_work() == sync.OK
    assert worker.next_entry() == sync.OK
    worker.complete_place(worker.claim_place())
    with pytest.raises(BufferError):
        memory.close()
    parent.release()
    worker.release()
    memory.close()
    for call in (parent.post_all, parent.wait_block, parent.close, worker.wait_work):
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize(
    "args",
    [
        (0, 4, 4, "fixed"),
        (1025, 2000, 2000, "fixed"),
        (5, 4, 4, "fixed"),
        (2, 4, 3, "fixed"),
        (2, 4, 0, "first"),
        (2, 4, 5, "first"),
        (2, 4, 4, "first", 2),
        (1, 1 << 24, 1, "first"),
    ],
)
def test_a_config_that_cannot_be(args):
    with pytest.raises(ValueError, match="at least as many environments"):
        sync.control_nbytes(*args)


def test_memory_that_does_not_fit():
    nbytes = sync.control_nbytes(2, 4, 4, "fixed")
    memory = mmap.mmap(-1, nbytes + 128)
    with pytest.raises(ValueError, match=f"expected {nbytes} bytes"):
        sync.Parent(memoryview(memory)[: nbytes - 1], 2, 4, 4)
    with pytest.raises(ValueError, match="128-byte boundary"):
        sync.Parent(memoryview(memory)[64 : nbytes + 64], 2, 4, 4)
    sync.Parent(memory, 2, 4, 4)
    with pytest.raises(ValueError, match="worker 2"):
        sync.Worker(memory, 2)
    with pytest.raises(ValueError, match="worker 1"):
        sync.Worker(memoryview(memory)[: nbytes - 128], 1)
    with pytest.raises(ValueError, match="mode 'fixed' or 'first'"):
        sync.Parent(memory, 2, 4, 4, "last")


def test_memory_is_shared_by_descriptor_and_has_no_name():
    descriptor = sync.create_memory(5000)
    assert os.fstat(descriptor).st_size == 5000
    assert os.fstat(descriptor).st_nlink == 0
    assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    first, second = mmap.mmap(descriptor, 5000), mmap.mmap(descriptor, 5000)
    assert first[:] == bytes(5000)
    first[4999] = 7
    assert second[4999] == 7
    os.close(descriptor)


def test_memory_without_memfd(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    test_memory_is_shared_by_descriptor_and_has_no_name()


@linux
def test_usable_cores_follow_the_affinity():
    code = (
        "import os; from shoal.vectorization.sync import usable_cores;"
        "before = usable_cores(); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "print(before, usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, pinned = map(int, done.stdout.split())
    assert 1 <= before <= os.cpu_count()
    assert pinned == 1


def test_a_hundred_workers(make):
    bench = make(100, 100, 100)
    for op in range(5):
        bench.parent.post_all(op)
        assert bench.receive() == (list(range(100)), [op] * 100)
