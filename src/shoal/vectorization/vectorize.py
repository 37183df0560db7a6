"""`vectorize`: from what the user asked for to a vector.

Four steps: the options (each value checked once), the source (what `env` means), the choice (a
backend, and all counts filled in), and the making.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium.vector import AutoresetMode

from shoal.emulation.options import EmulationOptions
from shoal.errors import ConfigError, did_you_mean
from shoal.registry.creators import Source, find_source
from shoal.vectorization.auto import choose_workers
from shoal.vectorization.backend import Backend, Options
from shoal.vectorization.sync import usable_cores
from shoal.vectorization.vector import Vector

__all__ = ["vectorize"]

LOG = logging.getLogger("shoal")


def vectorize(
    env: Any,
    num_envs: int | None = None,
    *,
    backend: str = "auto",
    num_workers: int | None = None,
    batch_size: int | None = None,
    order: str = "first",
    autoreset: Any = None,
    seed: int | Sequence[int] | None = None,
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
    pad: bool | tuple[Any, Any] = False,
    debug: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    python: str | None = None,
    **unknown: Any,
) -> Vector:
    """Make many environments of one kind and step them together.

    Args:
        env: a recipe (``"nmmo"``; ``shoal env list`` shows them), an id (as for ``shoal run``:
            ``"CartPole-v1"``, ``"nle:NetHackScore-v0"``,
            ``"mpe2.simple_spread_v3"``, ``"file.py:creator"``, or a native environment:
            ``"squared"``, ``"my_env.so"``), a function that creates an
            environment, a list of such functions, or an environment made by `shoal.emulate` (which
            is copied by pickling). Functions may be lambdas and may stand in ``__main__``.
            Or an object that steps all environments itself, or a function with a parameter
            ``num_envs`` that makes one; see `shoal.vectorization.backends.batched`.
        num_envs: how many environments; by default the length of the list, what a batched
            environment has, or 1.
        backend: ``"serial"`` (this process), ``"multiprocess"`` (workers; a batch is all
            environments), ``"pool"`` (workers; a batch is the first `batch_size` environments that
            are ready), ``"native"`` (native environments, in this process), ``"batched"`` (an
            object that steps all environments itself), ``"ray"`` (Ray actors), or ``"auto"``:
            native and batched for those; else the fastest, measured for about a second.
            `Vector.choice` says which and why.
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
        timeout: seconds that a batch, or the answers to a call, may take; None for no limit. What
            creates environments in workers may take as long, and 60 s more. Serial and batched
            environments run in the caller's own thread, which nothing can time out. Native ones do
            so only without `timeout`; then Ctrl-C can't end a step that does not return either.
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

    Examples:
        >>> import shoal
        >>> vector = shoal.vectorize("CartPole-v1", 3, backend="serial")
        >>> observations, infos = vector.reset(seed=0)
        >>> observations.shape, observations.dtype
        ((3, 4), dtype('float32'))
        >>> observations, rewards, terminations, truncations, infos = vector.step([0, 1, 0])
        >>> rewards
        array([1., 1., 1.])
        >>> vector.close()
    """
    if unknown:
        name = next(iter(unknown))
        known = [*find_source.__annotations__, *(each.name for each in dataclasses.fields(Options))]
        raise TypeError(f"vectorize has no argument {name!r}{did_you_mean(name, known)}")
    emulation = EmulationOptions(form, one_hot, max_len, max_agents, pad, debug)
    options = Options(
        emulation,
        backend,
        num_workers,
        batch_size,
        order,
        autoreset,
        seed,
        copy,
        start_method,
        on_error,
        timeout,
        affinity,
        profile,
        python,
    )
    source = find_source(env, num_envs, env_kwargs, python)
    emulation = emulation.filled(source.emulation)
    options = dataclasses.replace(options, emulation=emulation, python=source.python)
    if source.python is not None and python is None and backend == "serial":
        options = dataclasses.replace(options, backend="auto")  # no other process can be serial
    chosen, why = choose(source, options)
    LOG.info("%s", why)
    return make_vector(source, chosen, why)


def choose(source: Source, options: Options) -> tuple[Options, str]:
    """Choose the backend, and return the options with it and all counts filled in.

    Returns:
        The options, and in words which backend that is and why.

    Raises:
        ConfigError: the options don't go with this source, or with each other.
    """
    backend, num_envs = options.backend, len(source.creators)
    why = f"backend={backend!r} was asked for"
    if source.batched is not None and (backend in ("auto", "batched") or not num_envs):
        check_batched(options)
        why = "the environment steps many environments itself" if backend == "auto" else why
        return dataclasses.replace(options, backend="batched"), f"batched: {why}"
    if source.vector is not None and backend in ("auto", "batched"):
        if backend == "batched":
            check_batched(options)
        if backend == "batched" or suits_vector(options, num_envs):
            why = "the library's own implementation" if backend == "auto" else why
            return dataclasses.replace(options, backend="batched"), f"batched: {why}"
    if backend == "batched":
        raise ConfigError(
            'backend="batched" is for environments that step many environments themselves, and for '
            "functions with a parameter num_envs that make them"
        )
    if source.python is not None:
        check_isolated(options)
    if options.autoreset is None:
        options = dataclasses.replace(options, autoreset=AutoresetMode.NEXT_STEP)
    as_they_are = options.emulation.form == "bytes"
    if backend == "native" or (backend == "auto" and source.native and as_they_are):
        if source.native is None:
            raise ConfigError('backend="native" is for native environments (shoal env list)')
        if not as_they_are:
            raise ConfigError('form must be "bytes" with backend="native"')
        if options.autoreset == "own":
            raise ConfigError('autoreset="own" is not for native environments: they need resets')
        why = "a native environment" if backend == "auto" else why
        options = dataclasses.replace(
            options,
            backend="native",
            num_workers=options.num_workers or 1,
            batch_size=options.batch_size or num_envs,
        )
        check_counts(options, num_envs)
        return options, f"native: {why}"
    cores = usable_cores()
    num_workers = options.num_workers
    if backend == "auto":
        pool = options.batch_size not in (None, num_envs)
        if pool:
            why = "a batch is not all environments"
        elif num_workers is None and source.python is None:
            num_workers, why = measure(source, options, cores)
        else:
            why = "num_workers was given" if num_workers else "python is another interpreter"
            why = "num_workers is 0" if num_workers == 0 else why
        backend = "pool" if pool else "serial" if num_workers == 0 else "multiprocess"
    if num_workers is None:
        num_workers = 0 if backend == "serial" else min(cores, num_envs)
    half = max(1, num_envs // 2) if backend == "pool" else num_envs
    options = dataclasses.replace(
        options,
        backend=backend,
        num_workers=num_workers,
        batch_size=options.batch_size or half,
    )
    check_counts(options, num_envs)
    with_workers = f" with {num_workers} workers" if num_workers else ""
    return options, f"{backend}{with_workers}: {why}"


def measure(source: Source, options: Options, cores: int) -> tuple[int, str]:
    """Return how many workers are fastest (0: the serial backend), and why."""
    mode = options.autoreset
    tried = dataclasses.replace(
        options,
        emulation=dataclasses.replace(options.emulation, debug=False),
        # The trial plays on, even if the environments are to wait for a reset later.
        autoreset=AutoresetMode.NEXT_STEP if mode is AutoresetMode.DISABLED else mode,
        seed=None,
        copy=False,
        on_error="raise",
        timeout=None,
        profile=False,
    )

    def trial(count: int, workers: int) -> Vector:
        backend = "multiprocess" if workers else "serial"
        few = dataclasses.replace(source, creators=source.creators[:count])
        how = dataclasses.replace(
            tried, backend=backend, num_workers=workers, batch_size=count, order="fixed"
        )
        return make_vector(few, how, "a trial")

    return choose_workers(trial, len(source.creators), cores)


def make_vector(source: Source, options: Options, why: str) -> Vector:
    """Make the backend that `choose` has chosen, and a vector of it."""
    backend = make(source, options)
    try:
        if options.autoreset is None:  # the batched environment says so
            options = dataclasses.replace(options, autoreset=backend.autoreset)  # type: ignore[attr-defined]
        return Vector(backend, options, why)
    except BaseException:
        backend.release()
        raise


def make(source: Source, options: Options) -> Backend:
    """Make the backend that `choose` has chosen."""
    if options.backend == "batched":
        from shoal.vectorization.backends.batched import BatchedBackend

        batched = source.batched or source.vector
        assert batched is not None
        return BatchedBackend(batched(autoreset_mode=options.autoreset), options)
    if options.backend == "native":
        from shoal.vectorization.backends.native import NativeBackend

        return NativeBackend(source.native, source.kwargs, len(source.creators), options)
    if options.backend == "ray":
        from shoal.vectorization.backends.ray import RayBackend

        return RayBackend(source.creators, options)
    if options.backend == "serial":
        from shoal.vectorization.backends.serial import SerialBackend

        return SerialBackend(source.creators, options)
    from shoal.vectorization.backends.processes import ProcessBackend

    return ProcessBackend(source.creators, options)


def check_counts(options: Options, num_envs: int) -> None:
    """Raise ConfigError unless these numbers fit together."""
    backend, num_workers, batch_size = options.backend, options.num_workers, options.batch_size
    assert num_workers is not None and batch_size is not None
    if backend == "serial":
        if num_workers or batch_size != num_envs:
            raise ConfigError(
                f'backend="serial" has no workers, and its batch is all {num_envs} environments; '
                f"got num_workers={options.num_workers}, batch_size={batch_size}"
            )
        return
    if not 1 <= num_workers <= num_envs:
        raise ConfigError(
            f"num_workers must be between 1 and num_envs ({num_envs}), got {num_workers}"
        )
    if not 1 <= batch_size <= num_envs:
        raise ConfigError(
            f"batch_size must be between 1 and num_envs ({num_envs}), got {batch_size}"
        )
    if backend in ("multiprocess", "ray") and batch_size != num_envs:
        raise ConfigError(
            f"batch_size must be num_envs ({num_envs}) with backend={backend!r}, got {batch_size}; "
            'backend="pool" has smaller batches'
        )
    if options.order == "fixed" and num_envs % batch_size:
        raise ConfigError(
            f'batch_size must divide num_envs ({num_envs}) with order="fixed", got {batch_size}'
        )


def check_batched(options: Options) -> None:
    """Raise ConfigError unless these options go with a batched environment."""
    refused = {
        "backend": options.backend not in ("auto", "serial", "batched"),
        "autoreset": options.autoreset == "own",
        "num_workers": options.num_workers,
        "on_error": options.on_error != "raise",
        **options.emulation.given(),
        "debug": False,
    }
    if wrong := [name for name, given in refused.items() if given]:
        raise ConfigError(
            f"{', '.join(wrong)}: not for a batched environment, which steps many itself"
        )


def suits_vector(options: Options, num_envs: int) -> bool:
    """Return whether a library's own implementation can do all that these options ask for.

    Only a batched environment that resets when it is told to has ``autoreset="disabled"``, and not
    all of them do.
    """
    asked = options.start_method, options.affinity, options.timeout
    try:
        check_batched(options)
    except ConfigError:
        return False
    return (
        options.autoreset is not AutoresetMode.DISABLED
        and options.batch_size in (None, num_envs)
        and all(each is None for each in asked)
    )


def check_isolated(options: Options) -> None:
    """Raise ConfigError or InterpreterError unless workers can run under `options.python`."""
    from shoal.vectorization.workers.process import check_interpreter

    if options.backend not in ("auto", "multiprocess", "pool"):
        raise ConfigError(
            'backend must be "multiprocess" or "pool" with python= (another interpreter), got '
            f"{options.backend!r}"
        )
    if options.start_method not in (None, "spawn"):
        raise ConfigError(
            'start_method must be "spawn" with python= (another interpreter), got '
            f"{options.start_method!r}"
        )
    if options.emulation.debug:
        raise ConfigError("debug must be False with python= (another interpreter)")
    check_interpreter(str(options.python))
