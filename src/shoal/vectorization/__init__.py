"""Vectorization: many environments stepped together, in this process or in workers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.vectorization.vector import Vector

__all__ = ["vectorize"]

BACKENDS = ("auto", "serial", "multiprocess", "pool", "native", "batched", "ray")
MODES = ("next_step", "same_step", "disabled", "own")


def vectorize(
    env: Any,
    num_envs: int | None = None,
    *,
    backend: str = "auto",
    num_workers: int | None = None,
    batch_size: int | None = None,
    order: str = "first",
    autoreset: Any = None,
    seed: int | None = None,
    copy: bool = False,
    start_method: str | None = None,
    on_error: str = "raise",
    timeout: float | None = None,
    affinity: Sequence[int] | None = None,
    profile: bool = False,
    form: str = "bytes",
    one_hot: bool = False,
    max_len: int | Mapping[str, int] | None = None,
    max_agents: int | None = None,
    pad: bool = False,
    debug: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    python: str | None = None,
) -> Vector:
    """Make many copies of an environment and step them in parallel.

    Args:
        env: a recipe (``"nmmo"``; ``shoal env list`` shows them), an id (as for ``shoal run``:
            ``"CartPole-v1"``, ``"nle:NetHackScore-v0"``,
            ``"mpe2.simple_spread_v3"``, ``"file.py:creator"``, or a compiled environment:
            ``"squared"``, ``"my_env.so"``), a function that creates an
            environment, a list of such functions, or an environment made by `shoal.emulate` (which
            is copied by pickling). Functions may be lambdas and may stand in ``__main__``.
            Or an environment that steps all copies itself, or a function with a parameter
            ``num_envs`` that makes one; see `shoal.vectorization.backends.batched`.
        num_envs: how many environments; by default the length of the list, what a batched
            environment has, or 1.
        backend: ``"serial"`` (this process), ``"multiprocess"`` (workers; a batch is all
            environments), ``"pool"`` (workers; a batch is the first `batch_size` environments that
            are ready), ``"native"`` (compiled environments, in this process), ``"batched"`` (an
            environment that steps all copies itself), ``"ray"`` (Ray actors), or ``"auto"``: native
            and batched for those; else it measures for about a second, takes the fastest, and
            prints which and why.
        num_workers: processes; by default as many as there are usable cores, and at most one for
            each environment. With the native backend threads, by default one: the caller's own.
        batch_size: environments in a batch; for the pool, half of them by default.
        order: ``"first"`` come, first served; or ``"fixed"``: a pool whose batches are always the
            same environments, in turn.
        autoreset: ``"next_step"`` (default; of a batched environment that resets itself, its own
            mode), ``"same_step"`` or ``"disabled"`` (or Gymnasium's
            `AutoresetMode`), which mean what they mean there; or ``"own"``: environments reset
            themselves (or are told to), and a step is always their own ``step``.
        seed: of the first reset, and of the global generators (`random`, `numpy.random`, torch) of
            each process that runs environments. None leaves all of them to chance.
        copy: return copies of the observations instead of views of shared memory, which stay as
            they are until the second batch after them has been asked for.
        start_method: how workers start. ``"forkserver"`` (default on Linux): forked from a fresh
            process that holds neither threads nor CUDA, so it is safe whatever this process has
            done. ``"spawn"`` (default elsewhere): each from nothing. ``"fork"``: from this process;
            quickest, and unsafe once it has threads or has used CUDA. None of them needs an
            ``if __name__ == "__main__"``.
        on_error: ``"raise"`` what an environment raises, or ``"restart"``: replace environments
            that raise and workers that die. Each environment that was lost says so in one row that
            is invalid (``masks``) and truncated, and goes on with a reset; `Vector.restarts` counts
            them. Five failures in a row, with fewer than ten steps between, end it with an error
            all the same.
        timeout: seconds that a batch, or the answers to a call, may take; None for no limit.
        affinity: the cores that workers are bound to, in turn.
        profile: keep track of where the time goes; see `Vector.profile`.
        form, one_hot, max_len, max_agents, pad, debug: as for `shoal.emulate`. With `debug`, every
            value is checked as well, and batches that have expired are overwritten.
        env_kwargs: keyword arguments for an id's constructor.
        python: the executable of another interpreter for the workers (Python 3.8 or newer, with
            NumPy and the environment), such as ``"venv/bin/python"``. It shares none of this one's
            packages, and nothing pickled crosses: `env` must be a name, which is looked for there
            (in old ``gym`` too), or a list of names; and `env_kwargs`, options of resets and
            arguments of calls must be numbers, text, bytes, arrays, and lists, tuples, sets and
            dicts of them.

    Raises:
        ValueError: arguments that don't fit together.
        InterpreterError: workers can't run under `python`, or `env` can't be sent to it.
        Exception: what creating an environment raised.
    """
    from gymnasium.vector import AutoresetMode

    from shoal.emulation.options import EmulationOptions
    from shoal.registry.creators import find_source
    from shoal.vectorization.auto import choose_workers
    from shoal.vectorization.backends.batched import BatchedBackend
    from shoal.vectorization.backends.processes import ProcessBackend
    from shoal.vectorization.backends.serial import SerialBackend
    from shoal.vectorization.engine import usable_cores
    from shoal.vectorization.vector import Vector

    emulation = EmulationOptions(form, one_hot, max_len, max_agents, pad, debug)
    source = find_source(env, num_envs, env_kwargs, python)
    emulation = emulation.filled(source.emulation)
    if source.python is not None and python is None and backend == "serial":
        backend = "auto"
    python = source.python
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {backend!r}")
    if on_error not in ("raise", "restart"):
        raise ValueError(f'on_error: expected "raise" or "restart", got {on_error!r}')
    if order not in ("first", "fixed"):
        raise ValueError(f'order: expected "first" or "fixed", got {order!r}')
    if source.batched is not None:
        refused = {
            "backend": backend not in ("auto", "serial", "batched"),
            "autoreset": autoreset == "own",
            "num_workers": num_workers,
            "batch_size": batch_size not in (None, num_envs),
            "on_error": on_error != "raise",
            **emulation.given(),
            "debug": False,
        }
        if wrong := [name for name, given in refused.items() if given]:
            raise ValueError(
                f"{', '.join(wrong)}: not for a batched environment, which steps all copies itself"
            )
        wanted = None if autoreset is None else _autoreset(autoreset)
        made: Any = BatchedBackend(source.batched(), wanted, seed, profile, debug)
        return Vector(made, autoreset=made.mode, copy=copy, seed=seed, debug=debug)
    if backend == "batched":
        raise ValueError(
            "the batched backend is for environments that step all copies themselves, and for "
            f"functions with a parameter num_envs that make them, not for {env!r}"
        )
    if python is not None:
        check_isolated(python, backend, start_method, debug)
    compiled, creators = source.native, list(source.creators)
    num_envs = len(creators)
    mode = _autoreset("next_step" if autoreset is None else autoreset)
    restart = on_error == "restart"
    loop_mode = len(AutoresetMode) if mode is None else list(AutoresetMode).index(mode)
    if backend == "native" or (backend == "auto" and compiled and form == "bytes" and not one_hot):
        if compiled is None:
            raise ValueError(f"the native backend is for compiled environments, not for {env!r}")
        if form != "bytes" or one_hot:
            raise ValueError("the native backend gives observations as they are: form='bytes'")
        if mode is None:
            raise ValueError('compiled environments can\'t reset themselves (autoreset="own")')
        from shoal.vectorization.backends.native import NativeBackend

        size, workers = batch_size or num_envs, num_workers or 1
        check_counts("native", num_envs, workers, size, order)
        native = NativeBackend(
            compiled,
            source.kwargs,
            num_envs,
            size,
            workers,
            loop_mode,
            seed,
            timeout,
            profile,
            debug,
        )
        return Vector(native, autoreset=mode, copy=copy, seed=seed, debug=debug)
    cores = usable_cores()
    if (
        backend == "auto"
        and python is None
        and num_workers is None
        and (batch_size in (None, num_envs))
    ):
        # The trial plays on, whoever will reset the environments later.
        tried_mode = AutoresetMode.NEXT_STEP if mode is AutoresetMode.DISABLED else mode
        trial: dict[str, Any] = {
            "emulation": dataclasses.replace(emulation, debug=False),
            "mode": loop_mode if tried_mode is mode else list(AutoresetMode).index(tried_mode),
            "seed": None,
            "restart": False,
            "profile": False,
        }

        def make(count: int, workers: int) -> Vector:
            if workers == 0:
                tried: Any = SerialBackend(creators[:count], **trial)
            else:
                tried = ProcessBackend(
                    "multiprocess",
                    creators[:count],
                    **trial,
                    num_workers=workers,
                    batch_size=count,
                    order="fixed",
                    start_method=start_method,
                )
            return Vector(tried, autoreset=tried_mode, copy=False, seed=None, debug=False)

        num_workers, why = choose_workers(make, num_envs, cores)
        what = f"multiprocess with {num_workers} workers" if num_workers else "serial"
        print(f"shoal: {what}, for {why}", file=sys.stderr)
    if num_workers is None:
        num_workers = 0 if backend == "serial" else min(cores, num_envs)
    if backend == "auto":
        pool = batch_size not in (None, num_envs)
        backend = "pool" if pool else "multiprocess" if num_workers else "serial"
    if batch_size is None:
        batch_size = max(1, num_envs // 2) if backend == "pool" else num_envs
    check_counts(backend, num_envs, num_workers, batch_size, order)
    if backend == "serial":
        made = SerialBackend(creators, emulation, loop_mode, seed, restart, profile)
    elif backend == "ray":
        from shoal.vectorization.backends.ray import RayBackend

        made = RayBackend(creators, emulation, loop_mode, seed, restart, num_workers, timeout)
    else:
        made = ProcessBackend(
            backend,
            creators,
            emulation,
            loop_mode,
            seed,
            restart,
            profile,
            num_workers,
            batch_size,
            order,
            start_method,
            timeout,
            affinity,
            python,
        )
    return Vector(made, autoreset=mode, copy=copy, seed=seed, debug=debug)


def check_counts(
    backend: str, num_envs: int, num_workers: int, batch_size: int, order: str
) -> None:
    """Raise ValueError unless these numbers fit together."""
    if backend == "serial":
        if num_workers or batch_size != num_envs:
            raise ValueError("the serial backend has no workers, and its batch is all environments")
        return
    if not 1 <= num_workers <= num_envs:
        raise ValueError(
            f"num_workers: expected 1 to num_envs ({num_envs}), for each worker has at least one "
            f"environment; got {num_workers}"
        )
    if not 1 <= batch_size <= num_envs:
        raise ValueError(f"batch_size: expected 1 to num_envs ({num_envs}), got {batch_size}")
    if backend in ("multiprocess", "ray") and batch_size != num_envs:
        raise ValueError(
            f"batch_size is {batch_size}, but a batch of backend={backend!r} is all {num_envs} "
            'environments; use backend="pool"'
        )
    if order == "fixed" and num_envs % batch_size:
        raise ValueError(
            f'order="fixed" needs a batch_size that divides num_envs ({num_envs}), got {batch_size}'
        )


def check_isolated(python: str, backend: str, start_method: str | None, debug: bool) -> None:
    """Raise unless these arguments go with workers under the interpreter `python`."""
    from shoal.vectorization.workers.process import check_interpreter

    if backend not in ("auto", "multiprocess", "pool"):
        raise ValueError(
            'backend: only "multiprocess" and "pool" have workers, which python= is for; got '
            f"{backend!r}"
        )
    if start_method not in (None, "spawn"):
        raise ValueError(
            f"start_method: another interpreter can only be spawned, got {start_method!r}"
        )
    if debug:
        raise ValueError("debug: values can be checked in workers under this interpreter only")
    check_interpreter(python)


def _autoreset(name: Any) -> Any:
    """Gymnasium's mode of this name, or that mode itself; None for ``"own"``."""
    from gymnasium.vector import AutoresetMode

    if isinstance(name, AutoresetMode):
        return name
    if str(name).lower() not in MODES:
        raise ValueError(f"autoreset: expected one of {MODES}, got {name!r}")
    return AutoresetMode.__members__.get(str(name).upper())
