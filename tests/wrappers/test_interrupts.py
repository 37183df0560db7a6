"""KeyboardInterrupt in wrappers and adapters: nothing is lost, and nothing is done twice."""

import contextlib
import os
import signal

import numpy as np
import pytest
import torch
from tensordict import TensorDict

import shoal
from shoal.errors import PendingCallError
from shoal.wrappers.observations import FrameStack
from shoal.wrappers.pettingzoo import ShoalParallelEnv
from shoal.wrappers.sb3 import ShoalVecEnv
from shoal.wrappers.torchrl import ShoalEnv
from tests.vectorization.environments import Crowd
from tests.vectorization.test_interrupts import Counter


def interrupt_once(owner, name, first=True):
    """Let a method send SIGINT when it is called, before or after what it does."""
    method = getattr(owner, name)

    def interrupted(*arguments):
        setattr(owner, name, method)
        if first:
            os.kill(os.getpid(), signal.SIGINT)
        result = method(*arguments)
        if not first:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    setattr(owner, name, interrupted)


def frames(vector, steps, disturb=lambda vector: None):
    """Step a stack of frames; the `step` that is interrupted is received again."""
    seen = [vector.reset()[0].copy()]
    for t in range(steps):
        disturb(vector)
        try:
            batch = vector.step(np.full(2, t % 5))
        except KeyboardInterrupt:
            with pytest.raises(PendingCallError):
                vector.send(np.zeros(2, int))
            batch = vector.recv()
        seen.append([part.copy() for part in batch[:4]])
    return seen


@pytest.mark.parametrize("first", [True, False])
def test_a_wrapper_that_is_interrupted_returns_the_batch_next(first):
    def make():
        return contextlib.closing(FrameStack(shoal.vectorize(Counter, 2, backend="serial"), 3))

    with make() as vector:
        expected = frames(vector, 20)
    with make() as vector:
        got = frames(vector, 20, lambda vector: interrupt_once(vector, "receive", first))
    assert str(got) == str(expected)


def test_sb3_that_is_interrupted_returns_the_step_next():
    def play(disturb):
        seen = []
        vector = shoal.vectorize(Counter, 2, backend="serial", autoreset="same_step")
        with contextlib.closing(ShoalVecEnv(vector)) as env:
            env.reset()
            for t in range(20):
                disturb(env)
                try:
                    result = env.step(np.full(2, t % 5))
                except KeyboardInterrupt:
                    with pytest.raises(PendingCallError):
                        env.step_async(np.zeros(2, int))
                    result = env.step_wait()
                seen.append(str(result))
        return seen

    expected = play(lambda env: None)
    assert play(lambda env: interrupt_once(env, "_finish")) == expected
    assert play(lambda env: interrupt_once(env, "_observation", False)) == expected


def sb3():
    env = ShoalVecEnv(shoal.vectorize(Counter, 2, backend="serial", autoreset="same_step"))
    return env, lambda: env.step(np.ones(2, int)), lambda: env.reset()[:, 0]


def pettingzoo():
    env = ShoalParallelEnv(shoal.vectorize(Crowd, 1, backend="serial"))
    return env, lambda: env.step(dict.fromkeys(env.agents, 1)), lambda: env.reset(seed=3)[0]


def torchrl():
    env = ShoalEnv(shoal.vectorize(Counter, 2, backend="serial", autoreset="disabled"))
    actions = TensorDict({"action": torch.ones(2, dtype=torch.int64)}, [2])
    return env, lambda: env._step(actions), lambda: env._reset(None)["observation"][:, 0]


@pytest.mark.parametrize("make", [sb3, pettingzoo, torchrl])
def test_a_reset_begins_again_after_an_interrupted_step(make):
    env, step, reset = make()
    fresh = str(reset())
    step()
    backend = env.vector.unwrapped._backend
    wait = backend.wait

    def interrupted(*arguments):
        backend.wait = wait
        raise KeyboardInterrupt

    backend.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        step()
    assert str(reset()) == fresh
    step()
    env.close()
