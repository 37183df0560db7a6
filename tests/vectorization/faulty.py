"""An environment that does something bad at a chosen moment, and bad things to do.

Workers import this, so it imports nothing slow.
"""

import ctypes
import dataclasses
import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import gymnasium
import numpy as np


class Faulty(gymnasium.Env):
    """Does `deed` at the `when`-th init, reset, step, call or close.

    Its observations are (steps in this episode, episodes), and its episodes have `length` steps.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(100)

    def __init__(self, where="", deed=None, when=1, length=10**9):
        self.where, self.deed, self.when, self.length = where, deed, when, length
        self.counts = Counter()
        self._do("init")

    def _do(self, where):
        self.counts[where] += 1
        if where == self.where and self.counts[where] == self.when:
            self.deed()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._do("reset")
        self.time, self.options = 0, options
        return self._observation(), {}

    def step(self, action):
        self.time += 1
        self._do("step")
        return self._observation(), 1.0, self.time >= self.length, False, {}

    def _observation(self):
        return np.array([self.time, self.counts["reset"]], np.float32)

    def called(self, value=None):
        self._do("call")
        return os.getpid() if value is None else value

    def option_size(self):
        return 0 if self.options is None else len(self.options["blob"])

    def close(self):
        self._do("close")


def by_name(where="", deed=(), when=1, length=10**9):
    """A `Faulty` whose deed comes as names and arguments, as it can cross to other interpreters."""
    return Faulty(
        where, deed and functools.partial(*[globals().get(a, a) for a in deed]), when, length
    )


def names(deed):
    """A deed as `by_name` takes it."""
    if isinstance(deed, functools.partial):
        parts = (deed.func, *deed.args)
        return [getattr(part, "__name__", part) for part in parts]
    return [deed.__name__] if deed else []


class Talkative(Faulty):
    """Puts a large value into the info of every step."""

    nbytes = 50_000_000

    def step(self, action):
        result = super().step(action)
        return (*result[:4], {"blob": bytes([int(action)]) * self.nbytes})


class OtherSpaces(Faulty):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)

    def _observation(self):
        return np.zeros(3, np.float32)


class OtherBounds(Faulty):
    action_space = gymnasium.spaces.Discrete(7)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    faulthandler.disable()  # which pytest has enabled, and a fork inherits
    ctypes.string_at(0)


def leave():
    os._exit(7)


def ask_to_leave():
    sys.exit(5)


def sleep_for_ever():
    while True:
        time.sleep(1000)


def spin_for_ever():
    while True:
        pass


def fail():
    raise KeyError("the door is locked")


def once(path, deed):
    """`deed`, but not if it has been done before, be it by another process."""
    path = Path(path)
    if not path.exists():
        path.touch()
        deed()


def once_in(folder, name, deed):
    return functools.partial(once, os.path.join(folder, name), deed)


class TwoArguments(Exception):
    """Pickling keeps one argument, and unpickling misses the other."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class HoldsLock(ValueError):
    """Can't be pickled at all."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class LockArgument(ValueError):
    """Can't be pickled even by its arguments."""

    def __str__(self):
        return "code 13: a lock"


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Refuses new attributes, notes included."""

    text: str = "code 13: frozen"

    def __str__(self):
        return self.text


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Impostor(Exception):
    """Unpickles as something that is no exception."""

    def __reduce__(self):
        return int, ()


class Bomb(Exception):
    """Raises when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise OSError('boom')",)


def raise_two_arguments():
    raise TwoArguments(13, "two arguments")


def raise_holds_lock():
    raise HoldsLock("code 13: holds a lock")


def raise_lock_argument():
    raise LockArgument(threading.Lock())


def raise_frozen():
    raise Frozen


def raise_unprintable():
    raise Unprintable(13)


def raise_impostor():
    raise Impostor("code 13")


def raise_bomb():
    raise Bomb("code 13")


def raise_local():
    class LocalError(Exception):
        pass

    raise LocalError("code 13")


def raise_chained():
    try:
        fail()
    except KeyError as error:
        raise RuntimeError("code 13") from error


def raise_huge():
    raise ValueError("x" * 20_000_000)
