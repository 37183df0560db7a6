"""Recipes: how to install and make environments of others, one small TOML file for each.

Keys of a recipe:

- ``summary``: one line.
- ``env``: what makes it, as for `shoal.vectorize`; ``file.py:function`` lies beside the recipe, and
  the file has no library's name, since other libraries would find it under that.
- ``vector``: what makes the library's own batched environment, with the same observations, actions
  and rewards as ``env``: ``file.py:function`` or ``module:function`` with a parameter ``num_envs``,
  or an id with a ``vector_entry_point`` in Gymnasium's registry.
- ``kwargs``: arguments for that.
- ``emulation``: ``max_len``, ``max_agents``, ``pad``, as for `shoal.vectorize`.
- ``install``: arguments of ``pip install``, a list for each call, one after the other; paths begin
  in the folder of the recipe.
- ``imports``: modules that are there once it is installed.
- ``python``: versions of Python that it runs under, best first. Only with this key does it get a
  virtual environment of its own; else it is installed beside Shoal.
- ``system``: Debian packages that it needs.
- ``train``: options of `shoal train` that suit it, in place of the defaults.
- ``conventions``: action repeat, reward, episodes. ``licence``. ``notes``: downloads, and the rest.
"""

from __future__ import annotations

import importlib.util
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from shoal.emulation.options import EmulationOptions
from shoal.errors import ConfigError, EmulationError, LayoutError, UnknownEnvError
from shoal.registry.names import split

__all__ = ["Recipe", "about", "find", "names", "resolve"]

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file says; the keys are explained at the head of this module."""

    name: str
    file: Path
    summary: str
    env: str
    vector: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)
    emulation: dict[str, Any] = field(default_factory=dict)
    install: list[list[str]] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    python: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)
    conventions: str = ""
    licence: str = ""
    notes: str = ""

    @property
    def called(self) -> str:
        """Name that `find` takes: the recipe's, or the path of a file that is not Shoal's."""
        return self.name if self.own else str(self.file)

    @property
    def own(self) -> bool:
        """True if the recipe comes with Shoal."""
        return self.file.parent == FOLDER

    @property
    def folder(self) -> Path:
        """Folder of the installation, under the user's cache."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        # Files of the user's may have the same name, in other folders.
        other = "" if self.called == self.name else f"-{zlib.crc32(self.called.encode()):08x}"
        return Path(cache) / "shoal" / "envs" / f"{self.name}{other}"

    @property
    def interpreter(self) -> Path:
        """Python of the recipe's own virtual environment."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def creator(self) -> str:
        """`env`, with the whole path of a file."""
        return self.beside(self.env)

    def beside(self, name: str) -> str:
        """Return a name, with the whole path of a file that lies beside this recipe."""
        path, inner = split(name)
        return f"{self.file.parent / path}:{inner}" if path.endswith(".py") else name

    def installed(self) -> bool:
        """Return whether the environment can be made."""
        if self.python:
            return (self.folder / "installed").exists() and self.interpreter.exists()
        return all(importlib.util.find_spec(name) is not None for name in self.imports)


def names() -> list[str]:
    """Return the names of the recipes that come with Shoal."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def about(recipe: Recipe) -> list[str]:
    """Return what a user should know of a recipe, one line for each thing."""
    told = ((title, getattr(recipe, title)) for title in ("conventions", "licence", "notes"))
    return [
        f"{recipe.name}: {recipe.summary}",
        *(f"{title}: {text}" for title, text in told if text),
    ]


def find(name: str) -> Recipe | None:
    """Return the recipe of this name, or in the file ``name.toml``; None if there is none.

    Raises:
        ConfigError: the file is not a recipe; the message names the key.
    """
    own = FOLDER / f"{name}.toml"
    file = Path(name).resolve() if name.endswith(".toml") else own
    if not file.is_file() or (file is own and not name.replace("-", "").isidentifier()):
        return None
    import tomllib

    try:
        content = tomllib.loads(file.read_text())
        check_keys(content)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not a recipe: {error}") from None
    return Recipe(name=file.stem, file=file, **content)


def is_texts(value: Any) -> bool:
    """Return whether this is a list of texts, none of them empty."""
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)


# What a key of each type accepts: in words, and as a function.
TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", lambda value: isinstance(value, str)),
    "list[str]": ("a list of texts", is_texts),
    "list[list[str]]": (
        'a list of lists of texts, such as [["numpy"]]',
        lambda value: isinstance(value, list) and all(is_texts(each) and each for each in value),
    ),
    "dict[str, Any]": ("a table", lambda value: isinstance(value, dict)),
}
# What each text in the list must be, since it becomes a part of a command.
TEXTS = {
    "imports": (r"[^\W\d]\w*(\.[^\W\d]\w*)*", "the name of a module"),
    "python": (r"\d+(\.\d+)+", "a version of Python"),
    "system": (r"[a-z0-9][a-z0-9.+-]*", "the name of a Debian package"),
}


def check_keys(content: dict[str, Any]) -> None:
    """Raise ConfigError unless these are the keys of a recipe, with values of their types."""
    keys = {each.name: each for each in fields(Recipe) if each.name not in ("name", "file")}
    if unknown := content.keys() - keys:
        raise ConfigError(f"there is no key {min(unknown)!r}; the keys are {', '.join(keys)}")
    for name, key in keys.items():
        if name not in content:
            if key.default is MISSING and key.default_factory is MISSING:
                raise ConfigError(f"the key {name!r} is missing")
            continue
        value = content[name]
        what, fits = TYPES[str(key.type)]
        if not fits(value):
            raise ConfigError(f"{name} must be {what}, got {value!r}")
        pattern, what = TEXTS.get(name, (None, ""))
        for text in value if pattern else ():
            if not re.fullmatch(pattern or "", text):
                raise ConfigError(f"{name} must hold {what} each, got {text!r}")
    try:
        EmulationOptions().filled(content.get("emulation", {}))
    except (EmulationError, LayoutError, TypeError) as error:
        raise ConfigError(f"emulation: {error}") from None


def resolve(name: str) -> Recipe | None:
    """Return the recipe of this name, if it is installed; None if there is none.

    Raises:
        UnknownEnvError: it has not been installed; the message says how.
    """
    recipe = find(name)
    if recipe is not None and not recipe.installed():
        raise UnknownEnvError(f"{name} is not installed here: shoal env install {recipe.called}")
    return recipe
