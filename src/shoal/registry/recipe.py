"""Recipes: how to get and make environments of others, one small TOML file for each.

Keys of a recipe:

- ``summary``: one line.
- ``env``: what makes it, as for `shoal.vectorize`; ``file.py:function`` lies beside the recipe, and
  the file has no library's name, since other libraries would find it under that.
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
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, UnknownEnvError
from shoal.registry.names import split

__all__ = ["Recipe", "find", "names", "resolve"]

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file says; the keys are explained at the head of this module."""

    name: str
    file: Path
    summary: str
    env: str
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
        """What `find` finds it by: its name, or the path of a file that is not Shoal's."""
        return self.name if self.file.parent == FOLDER else str(self.file)

    @property
    def folder(self) -> Path:
        """What belongs to its own virtual environment, under the user's cache."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        # Files of the user's may have the same name, in other folders.
        other = "" if self.called == self.name else f"-{zlib.crc32(self.called.encode()):08x}"
        return Path(cache) / "shoal" / "envs" / f"{self.name}{other}"

    @property
    def interpreter(self) -> Path:
        """Of its own virtual environment."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def creator(self) -> str:
        """`env`, with the whole path of a file."""
        path, inner = split(self.env)
        return f"{self.file.parent / path}:{inner}" if path.endswith(".py") else self.env

    def installed(self) -> bool:
        """Whether it can be made."""
        if self.python:
            return (self.folder / "installed").exists() and self.interpreter.exists()
        return all(importlib.util.find_spec(name) is not None for name in self.imports)


def names() -> list[str]:
    """The recipes that come with Shoal."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def find(name: str) -> Recipe | None:
    """The recipe of this name, or in the file ``name.toml``; None if there is none.

    Raises:
        ConfigError: the file is no recipe.
    """
    own = FOLDER / f"{name}.toml"
    file = Path(name).resolve() if name.endswith(".toml") else own
    if not file.is_file() or (file is own and not name.replace("-", "").isidentifier()):
        return None
    import tomllib

    try:
        content = tomllib.loads(file.read_text())
        if unknown := content.keys() - {each.name for each in fields(Recipe)}:
            raise ConfigError(f"there is no key {min(unknown)!r}")
        return Recipe(name=file.stem, file=file, **content)
    except (tomllib.TOMLDecodeError, TypeError, ConfigError) as error:
        raise ConfigError(f"{file}: this is no recipe: {error}") from None


def resolve(name: str) -> Recipe | None:
    """The recipe of this name, if it is installed; None if there is none.

    Raises:
        UnknownEnvError: it has not been installed; the message says how.
    """
    recipe = find(name)
    if recipe is not None and not recipe.installed():
        raise UnknownEnvError(f"{name} is not installed here: shoal env install {name}")
    return recipe
