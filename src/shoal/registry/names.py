"""Environments by name, in this process or in another one.

A name is one of

- a Gymnasium id, such as ``CartPole-v1``; ids of the plug-ins in `PREFIXES` need nothing more,
- ``module:Id``: the module is imported first, since it registers the id (``nle:NetHackScore-v0``),
- ``module:function``, where the function makes the environment,
- a module path, as PettingZoo's environments have (``pettingzoo.butterfly.pistonball_v6``): its
  ``parallel_env`` is called, or else its ``env``; a path may also name the function itself,
- ``path/to/file.py:function``.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from shoal.emulation.seeding import reproducible
from shoal.errors import UnknownEnvError, did_you_mean, install_extra

__all__ = ["Creator", "absolute", "creator", "load_named", "maker", "named", "split"]

# How ids begin (in lower case) whose plug-in module need not be named.
PREFIXES = {
    "nethack": "nle",
    "ale/": "ale_py",
    "shoal/": "shoal.envs",
    "minigrid-": "minigrid",
    "babyai-": "minigrid",
    "minihack-": "minihack",
}

# How to install the packages that hold environments.
PACKAGES = {
    "nle": install_extra("nethack"),
    "ale_py": install_extra("atari"),
    "pettingzoo": install_extra("pettingzoo"),
    "minigrid": "pip install minigrid",
    "minihack": "shoal env install minihack",
    "mpe2": "pip install mpe2",
}


@dataclass(frozen=True)
class Creator:
    """A name and arguments: makes one environment at each call, in any process it is sent to."""

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return reproducible(maker(self.name)(**self.kwargs))

    def __reduce__(self) -> Any:
        return recreated, (self.name, self.kwargs, registered(self.name))


def recreated(name: str, kwargs: dict[str, Any], spec: Any) -> Creator:
    """Return a creator in another process; register its id there if nothing else has."""
    if spec is not None:
        import gymnasium

        gymnasium.registry.setdefault(name, spec)
    return Creator(name, kwargs)


def registered(name: str) -> Any:
    """Return Gymnasium's spec of an id, or None; an entry point of ``__main__`` as the object."""
    gymnasium = sys.modules.get("gymnasium")
    spec: Any = gymnasium and gymnasium.registry.get(name)
    entry = spec and spec.entry_point
    if isinstance(entry, str) and entry.startswith("__main__:"):
        spec = copy.copy(spec)
        spec.entry_point = _attribute(sys.modules["__main__"], entry[9:], name)
    return spec


def creator(name: str, /, **kwargs: Any) -> Creator:
    """Return a function without arguments that makes the environment called `name`.

    Args:
        name: see the head of this module.
        kwargs: for the environment's constructor.

    Raises:
        UnknownEnvError: there is no such environment, or what it needs is not installed; the
            message suggests names that are near, or what to install.
    """
    found = named(name, **kwargs)
    maker(found.name)
    return found


def named(name: str, /, **kwargs: Any) -> Creator:
    """Return the function of `creator` for a name that another interpreter looks for, unchecked."""
    return Creator(absolute(name), kwargs)


def absolute(name: str) -> str:
    """Return a name whose file, if it names one, is found from any working directory."""
    path, inner = split(name)
    if path.endswith(".py"):
        return f"{Path(path).resolve()}:{inner}" if inner else str(Path(path).resolve())
    return str(Path(path).resolve()) if name.endswith((".toml", ".so", ".c")) else name


def split(name: str) -> tuple[str, str]:
    """Return the file or the module in a name, and what it names in there (``""`` for nothing).

    The folder of a file may have a colon in its name.
    """
    path, _, inner = name.rpartition(":")
    if path.endswith(".py") and "/" not in inner:
        return path, inner
    if name.endswith((".py", ".toml", ".so", ".c")):
        return name, ""
    module, _, inner = name.partition(":")
    return module, inner


def load_named(name: str) -> Callable[..., Any]:
    """Return the function or class that ``file.py:name`` or ``module:name`` means.

    Raises:
        UnknownEnvError: there is no such thing.
    """
    module, inner = split(name)
    loaded = _load(Path(module)) if module.endswith(".py") else _import(module, name)
    return _attribute(loaded, inner, name)


def maker(name: str, others: Sequence[str] = ()) -> Callable[..., Any]:
    """Return what makes the environment called `name`.

    Raises:
        UnknownEnvError: see `creator`; names of `others` are suggested, too.
    """
    module, inner = split(name)
    if module.endswith(".py"):
        return load_named(name)
    if inner:
        loaded = _import(module, name)
        return _registered(inner) or _attribute(loaded, inner, name)
    found = _registered(name)
    if found is None and (plugin := _plugin(name)):
        _import(plugin, name)
        found = _registered(name)
    if found is not None:
        return found
    if re.fullmatch(r"\w+(\.\w+)+", name):
        return _in_module(name)
    hint = did_you_mean(name, [*others, *_ids()])
    hint = hint or "; if a module must be imported to register this id, write module:Id"
    raise UnknownEnvError(f"there is no environment {name!r}{hint}")


def _registered(name: str) -> Callable[..., Any] | None:
    """Return a function that makes a registered id (with or without its version), or None."""
    for library in _libraries():
        ids = _ids(library)
        if name in ids or any(i.rpartition("-v")[0] == name for i in ids):
            break
    else:
        return None

    def make(**kwargs: Any) -> Any:
        # `shoal check` does what Gymnasium's checker does, and more; here it costs each step.
        if "disable_env_checker" in inspect.signature(library.make).parameters:
            kwargs = {"disable_env_checker": True, **kwargs}
        return library.make(name, **kwargs)

    return make


def _libraries() -> list[Any]:
    """Return the libraries that register ids: Gymnasium, and old gym if it is in use or alone."""
    found = []
    try:
        found.append(importlib.import_module("gymnasium"))
    except ImportError:  # under another interpreter
        pass
    if not found or "gym" in sys.modules:
        try:
            found.append(importlib.import_module("gym"))
        except ImportError:
            pass
    return found


def _ids(library: Any = None) -> Iterable[str]:
    """Return the ids that are registered, with one library or with all."""
    ids: list[str] = []
    for each in _libraries() if library is None else [library]:
        registry = each.envs.registration.registry
        ids += getattr(registry, "env_specs", registry)  # a class of its own before gym 0.26
    return ids


def _plugin(name: str) -> str | None:
    """Return the module that registers ids which begin like `name`, typing errors included."""
    for prefix, module in PREFIXES.items():
        if difflib.get_close_matches(name.lower()[: len(prefix)], [prefix], cutoff=0.8):
            return module
    return None


def _in_module(name: str) -> Callable[..., Any]:
    """Return the function for a dotted path: that of a module, or one inside a module."""
    parent, _, last = name.rpartition(".")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UnknownEnvError(_import_failed(name, name, error)) from error
        return _attribute(_import(parent, name), last, name)
    except ImportError as error:
        raise UnknownEnvError(_import_failed(name, name, error)) from error
    function = getattr(module, "parallel_env", None) or getattr(module, "env", None)
    if not callable(function):
        raise UnknownEnvError(
            f"{name}: expected a module with a function parallel_env or env; "
            "name another one as module:function"
        )
    return function


def _attribute(module: ModuleType, attribute: str, name: str) -> Callable[..., Any]:
    function = getattr(module, attribute, None)
    if callable(function):
        return function
    if not attribute:
        raise UnknownEnvError(f"{name}: say which function makes the environment: {name}:function")
    # What a module offers: its functions and classes, the ids of its package, its submodules.
    found = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    found += [m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))]
    raise UnknownEnvError(
        f"{module.__name__} has no environment {attribute!r}"
        f"{did_you_mean(attribute, [*found, *_ids()])}"
    )


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnknownEnvError(_import_failed(name, module, error)) from error


def _import_failed(name: str, module: str, error: ImportError) -> str:
    """Return one line: what could not be imported for `name`, and what to install."""
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    package = missing.partition(".")[0]
    if package in PACKAGES and package == missing:
        hint = f": {PACKAGES[package]}"
    elif missing and module.startswith("pettingzoo.") and package != "pettingzoo":
        hint = f": pip install 'pettingzoo[{module.split('.')[1]}]'"
    else:
        hint = ""
    origin = "" if name == module else f"{name}: "
    return f"{origin}importing {module} failed: {error}{hint}"


def _load(path: Path) -> ModuleType:
    """Return the module in a file, run once in a process; it can import files beside it."""
    name = str(path)  # the same in every process, and no module's own
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise UnknownEnvError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
