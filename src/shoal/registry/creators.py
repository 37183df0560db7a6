"""What the user meant by `env`, decided in one place: `find_source`.

`env` is one of

- a name: of a recipe (``"nmmo"``, ``"my_recipe.toml"``), of a native environment (``"squared"``,
  ``"my_env.so"``), or as `shoal.registry.names` explains (``"CartPole-v1"``, ``"module:Id"``,
  ``"package.module"``, ``"file.py:function"``); a recipe comes before a native environment, and
  that before the other names,
- a function that creates an environment, or a list of functions and names, one each,
- an environment made by `shoal.emulate`, which is copied by pickling,
- a batched environment, which steps all its environments itself, or a function (or the name of
  one) with a parameter ``num_envs`` that makes one.

Nothing is made here. Whether a name exists is checked here, unless another interpreter has to look
for it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shoal.emulation.interfaces import layers
from shoal.errors import EmulationError, InterpreterError
from shoal.ocean_c.find import find as find_native
from shoal.ocean_c.find import module_named, own_names
from shoal.registry import recipe as recipes
from shoal.registry.names import Creator, load_named, maker, named, split
from shoal.registry.recipe import Recipe

__all__ = ["Source", "check_num_envs", "find_source", "foreign_code", "is_batched"]


@dataclass(frozen=True)
class Source:
    """What `find_source` found.

    Attributes:
        creators: one function for each environment; none if only the batched backend can serve it.
            A function with a parameter ``num_envs`` may make either kind.
        native: the module of a native environment. Its creators make the same environments one by
            one, with the interface of Gymnasium or PettingZoo.
        batched: makes the batched environment. The argument ``autoreset_mode`` says how it is to
            reset its environments, if it leaves the choice.
        vector: as `batched`, makes the environments of `creators` all at once: the library's own
            implementation, which the recipe names.
        python: the interpreter that has the environment's packages, if it is not this one.
        kwargs: arguments for the environment's constructor, the recipe's among them.
        recipe: the recipe of that name.
    """

    creators: tuple[Callable[[], Any], ...] = ()
    native: Path | None = None
    batched: Callable[..., Any] | None = None
    vector: Callable[..., Any] | None = None
    python: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None

    @property
    def kind(self) -> str:
        """``"native"``, ``"batched"``, ``"isolated"`` (another interpreter) or ``"ordinary"``."""
        if self.native is not None:
            return "native"
        if self.batched is not None:
            return "batched"
        return "isolated" if self.python is not None else "ordinary"

    @property
    def emulation(self) -> dict[str, Any]:
        """What the recipe says of `max_len`, `max_agents` and `pad`."""
        return {} if self.recipe is None else dict(self.recipe.emulation)


def find_source(
    env: Any,
    num_envs: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    python: str | None = None,
) -> Source:
    """Return what `env` means.

    Args:
        env: see the head of this module.
        num_envs: how many environments; by default the length of the list, what a batched
            environment has, or 1.
        env_kwargs: arguments for the constructor of a name.
        python: another interpreter, which is to look for the name.

    Raises:
        UnknownEnvError: no environment has this name, or its recipe is not installed.
        EnvModuleError: the native environment has not been built.
        InterpreterError: `env` can't be sent to another interpreter.
        ValueError: `env` is none of these things, or `num_envs` or `env_kwargs` does not fit it.
    """
    kwargs = dict(env_kwargs or {})
    if num_envs is not None:
        num_envs = check_num_envs(num_envs)
    if isinstance(env, (list, tuple)):
        return _of_list(env, num_envs, kwargs, python)
    if isinstance(env, str):
        return _of_name(env, num_envs, kwargs, python)
    count = num_envs or 1
    if isinstance(env, Creator):
        env = named(env.name, **{**env.kwargs, **kwargs})
        return Source((env,) * count, python=python, kwargs=env.kwargs)
    if python is not None:
        raise InterpreterError(
            "env must be a name if another interpreter makes the environment "
            f'("CartPole-v1", "module:function", "file.py:function"), got {type(env).__name__}'
        )
    if is_batched(env) or takes_num_envs(env):
        batched = functools.partial(make_batched, env, num_envs, kwargs)
        ordinary = () if is_batched(env) or kwargs else (env,) * count
        return Source(ordinary, batched=batched, kwargs=kwargs)
    if kwargs:
        raise ValueError(f"env_kwargs must be empty unless env is a name, got {kwargs}")
    if hasattr(env, "observation_layout"):
        import cloudpickle

        return Source((functools.partial(copy_of, cloudpickle.dumps(env)),) * count)
    if callable(env):
        return Source((env,) if count == 1 else (Repeated(env),) * count)
    raise ValueError(
        "env must be a name, a function that creates an environment, a list of them, a batched "
        f"environment or one made by shoal.emulate, got {type(env).__name__}"
    )


def _of_name(name: str, num_envs: int | None, kwargs: dict[str, Any], python: str | None) -> Source:
    """Return what a name means."""
    recipe = recipes.find(name) if python is not None else recipes.resolve(name)
    if recipe is not None:
        name, kwargs = recipe.creator, {**recipe.kwargs, **kwargs}
        if recipe.python and python is None:
            python = str(recipe.interpreter)
    found = Source(python=python, kwargs=kwargs, recipe=recipe)
    count = num_envs or 1
    if python is not None:
        return replace(found, creators=(named(name, **kwargs),) * count)
    module = find_native(name) if name.endswith((".so", ".c")) or ":" not in name else None
    if module is not None:
        make: Any = functools.partial(make_native, str(module), **kwargs)
        return replace(found, native=module, creators=(make,) * count)
    make = maker(name, others=[*own_names(), *recipes.names()])
    if takes_num_envs(make):
        found = replace(found, batched=functools.partial(make_batched, make, num_envs, kwargs))
        if recipe is not None:
            return found
    if recipe is not None and recipe.vector:
        make = vector_maker(recipe.beside(recipe.vector))
        if takes(make, num_envs=count, **kwargs):
            found = replace(found, vector=functools.partial(make_batched, make, count, kwargs))
    return replace(found, creators=(named(name, **kwargs),) * count)


def _of_list(
    envs: Sequence[Any], num_envs: int | None, kwargs: dict[str, Any], python: str | None
) -> Source:
    """Return what a list means: one environment for each entry."""
    if not envs:
        raise ValueError("env must not be an empty list")
    if num_envs not in (None, len(envs)):
        raise ValueError(
            f"num_envs must be the length of the list env ({len(envs)}), got {num_envs}"
        )
    creators: list[Callable[[], Any]] = []
    for i, env in enumerate(envs):
        if python is None and not isinstance(env, (str, Creator)):
            if not callable(env):
                raise ValueError(f"env[{i}] must be a function or a name, got {type(env).__name__}")
            creators.append(env if envs.count(env) == 1 else Repeated(env))
            continue
        found = find_source(env, 1, kwargs, python)
        if not found.creators or found.python != python:
            what = "a batched environment" if found.batched else "an interpreter of its own"
            raise ValueError(f"env[{i}]: {env!r} is {what}, which can't be one of a list")
        creators += found.creators
    return Source(tuple(creators), python=python, kwargs=kwargs)


def foreign_code(*names: str) -> list[str]:
    """Return the files, beside Shoal's own and installed packages, whose code these names run."""
    found = []
    for name in names:
        path = Path(split(name)[0]).resolve()
        if not path.is_file() or path.parent == recipes.FOLDER:
            continue
        recipe = recipes.find(name) if path.suffix == ".toml" else None
        if recipe is not None:
            found += [str(path), *foreign_code(recipe.creator)]
        elif path.suffix in (".py", ".so", ".c"):
            found.append(str(path))
    return list(dict.fromkeys(found))


def check_num_envs(num_envs: Any) -> int:
    """Return how many environments that is; raise ValueError unless it is at least one."""
    try:
        count = 0 if isinstance(num_envs, bool) else operator.index(num_envs)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
    return count


def copy_of(pickled: bytes) -> Any:
    """Return a copy of an emulated environment, with generators of its own.

    The copy is reset with a seed from the operating system, because the pickle holds the state of
    the generators.
    """
    env = pickle.loads(pickled)
    env.reset(seed=int.from_bytes(os.urandom(4), "little") >> 1)
    return env


@dataclass(frozen=True)
class Repeated:
    """A function that makes several environments, and so must make a new one at each call.

    Raises:
        EmulationError: `make` returned an environment that it held before it was called.
    """

    make: Callable[[], Any]

    def __call__(self) -> Any:
        held = {id(thing) for thing in held_by(self.make)}
        env = self.make()
        for layer in layers(env):
            if id(layer) in held:
                raise EmulationError(
                    "env must make a new environment at each call, but it returned the "
                    f"{type(layer).__name__} that it holds; create the environment in the function"
                )
        return env


def held_by(function: Any) -> list[Any]:
    """Return the objects that a function refers to directly."""
    if isinstance(function, functools.partial):
        return [*function.args, *function.keywords.values(), *held_by(function.func)]
    held = list(vars(function).values()) if hasattr(function, "__dict__") else []
    if (owner := getattr(function, "__self__", None)) is not None:
        held += [owner, *getattr(owner, "__dict__", {}).values()]
    function = getattr(function, "__func__", function)
    if inspect.isfunction(function):
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                held.append(cell.cell_contents)
        held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        names = function.__code__.co_names
        held += [function.__globals__[name] for name in names if name in function.__globals__]
    return held


def make_native(name: str, render_mode: str | None = None, **params: Any) -> Any:
    """Make one native environment: Gymnasium's interface for one agent, PettingZoo's for several.

    Args:
        name: see `shoal.ocean_c.find.find`.
        render_mode: ``"rgb_array"``, ``"human"``, ``"ansi"`` or None.
        params: of the environment.
    """
    from shoal.ocean_c.native_env import NativeEnv

    given = {key: value for key, value in params.items() if key != "debug"}
    if module_named(name).spec(given).agents == 1:
        return NativeEnv(name, render_mode, **params)
    from shoal.ocean_c.native_parallel_env import NativeParallelEnv

    return NativeParallelEnv(name, render_mode, **params)


def is_batched(env: Any) -> bool:
    """Return whether this is an environment that steps many environments itself."""
    needed = ("num_envs", "single_observation_space", "single_action_space")
    return not isinstance(env, type) and all(hasattr(env, name) for name in needed)


def takes_num_envs(make: Any) -> bool:
    """Return whether this is a function with a parameter ``num_envs``."""
    try:
        return callable(make) and "num_envs" in inspect.signature(make).parameters
    except (TypeError, ValueError):  # some functions in C have no signature
        return False


def vector_maker(name: str) -> Callable[..., Any]:
    """Return what makes the batched environment ``module:function``, or of an id in Gymnasium."""
    if split(name)[1]:
        return load_named(name)
    maker(name)  # the package that registers the id is imported

    def make(num_envs: int, **kwargs: Any) -> Any:
        import gymnasium

        return gymnasium.make_vec(name, num_envs, "vector_entry_point", **kwargs)

    return make


def takes(make: Callable[..., Any], **kwargs: Any) -> bool:
    """Return whether a function can be called with these arguments."""
    try:
        inspect.signature(make).bind(**kwargs)
    except TypeError:
        return False
    return True


def make_batched(
    env: Any, num_envs: int | None, kwargs: Mapping[str, Any], autoreset_mode: Any = None
) -> Any:
    """Return a batched environment of `num_envs` environments: `env`, or what it makes.

    Args:
        autoreset_mode: of Gymnasium, for a function with a parameter of this name.

    Raises:
        ValueError: `env` has another number of environments, or takes no arguments.
        EmulationError: the function made something else.
    """
    if not is_batched(env):
        given = dict(kwargs) if num_envs is None else {**kwargs, "num_envs": num_envs}
        if autoreset_mode is not None and "autoreset_mode" in inspect.signature(env).parameters:
            given.setdefault("autoreset_mode", autoreset_mode)
        made = env(**given)
        if not is_batched(made):
            raise EmulationError(
                f"{env!r} has a parameter num_envs and so must make an environment with num_envs, "
                f"single_observation_space and single_action_space, got {made!r}; if it makes one "
                'ordinary environment, name its backend ("serial", "multiprocess", "pool", "ray")'
            )
        env = made
    elif kwargs:
        raise ValueError(f"env_kwargs must be empty: {type(env).__name__} has been made already")
    if num_envs not in (None, int(env.num_envs)):
        raise ValueError(f"num_envs must be {env.num_envs}, as of the environment, got {num_envs}")
    return env
