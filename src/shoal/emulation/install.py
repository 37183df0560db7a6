"""Installing what a recipe needs: ``shoal env install`` and ``shoal env doctor``.

An installation is a list of steps. Each that has succeeded is written down, so that the next run
goes on after it; a recipe that has changed since begins again. All that the steps print goes to one
log file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.emulation.recipes import Recipe
from shoal.errors import InstallError

__all__ = ["diagnose", "install"]

# Makes an environment and steps it, in a process of its own.
TRIAL = (
    "import shoal; "
    "vector = shoal.vectorize({name!r}, 1); "
    "vector.reset(seed=0); "
    "vector.action_space.seed(0); "
    "[vector.step(vector.action_space.sample()) for _ in range({steps})]; "
    "vector.close()"
)


def install(recipe: Recipe, system: bool = False, say: Callable[[str], None] = print) -> None:
    """Install a recipe, or go on where an earlier run of this failed.

    Args:
        recipe: which.
        system: install Debian packages that are missing, after asking.
        say: is given each line for the user.

    Raises:
        InstallError: a step failed; the message names it and the log file.
    """
    folder = recipe.folder
    folder.mkdir(parents=True, exist_ok=True)
    state, mark = folder / "steps.json", folder / "installed"
    uv = shutil.which("uv")
    python = [str(recipe.interpreter)] if recipe.python else [sys.executable]
    pip = [*python, "-m", "pip", "install", "--disable-pip-version-check"]
    if uv:
        pip = [uv, "pip", "install", "--python", *python]
    steps: list[tuple[str, list[str]]] = []
    if recipe.python:
        name = f"make a virtual environment (Python {' or '.join(recipe.python)})"
        steps.append((name, make_venv(recipe, uv)))
    steps += [(f"pip install {' '.join(each)}", [*pip, *each]) for each in recipe.install]
    if recipe.imports:
        code = "import " + ", ".join(recipe.imports)
        steps.append((code, [*python, "-c", code]))
    done = json.loads(state.read_text()) if state.exists() else []
    if done != [name for name, _ in steps][: len(done)]:  # the recipe has changed
        done = []
    if recipe.python and not recipe.interpreter.exists():
        done = []
    mark.unlink(missing_ok=True)
    log = folder / "install.log"
    say(f"{recipe.name}: {recipe.summary}")
    for title in ("licence", "notes"):
        if getattr(recipe, title):
            say(f"{title}: {getattr(recipe, title)}")
    say(f"log: {log}")
    install_system(recipe, system, log, say)
    for number, (name, command) in enumerate(steps, 1):
        if number <= len(done):
            say(f"[{number}/{len(steps)}] {name}: done before")
            continue
        say(f"[{number}/{len(steps)}] {name}")
        run(recipe, f"step {number} of {len(steps)} ({name})", command, log)
        done.append(name)
        state.write_text(json.dumps(done))
    mark.touch()
    say(f"installed: shoal.vectorize({recipe.name!r}), shoal train {recipe.name}")


def make_venv(recipe: Recipe, uv: str | None) -> list[str]:
    """The command that makes its virtual environment, with pip in it.

    Raises:
        InstallError: there is no Python of a version that it runs under.
    """
    venv = str(recipe.folder / "venv")
    if uv:
        return [uv, "venv", "--seed", "--clear", "--python", recipe.python[0], venv]
    for version in recipe.python:
        found: list[Any] = [shutil.which(f"python{version}")]
        found += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        if version == ".".join(map(str, sys.version_info[:2])):
            found = [getattr(sys, "_base_executable", sys.executable)]
        for python in filter(None, found):
            if can_make_venv(str(python)):
                return [str(python), "-m", "venv", "--clear", venv]
    versions = " or ".join(recipe.python)
    raise InstallError(
        f"{recipe.name} runs under Python {versions}, and there is no python{recipe.python[0]} on "
        "the PATH; install one, or uv (https://docs.astral.sh/uv), which fetches it"
    )


def can_make_venv(python: str) -> bool:
    """Whether it runs (pyenv's stand-ins may not) and has all that a virtual environment needs."""
    code = "import venv, ensurepip"
    done = subprocess.run([python, "-c", code], stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0


def install_system(recipe: Recipe, allowed: bool, log: Path, say: Callable[[str], None]) -> None:
    """Install the Debian packages that are missing, or raise InstallError that names them."""
    missing = missing_packages(recipe)
    if not missing:
        return
    command = ["apt-get", "install", "--yes", *missing]
    if os.getuid() != 0:
        command = ["sudo", *command]
    if not allowed:
        raise InstallError(
            f"{recipe.name}: system packages are missing: {' '.join(missing)}; run "
            f"`{' '.join(command)}`, or this command with --system"
        )
    if input(f"run `{' '.join(command)}`? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InstallError(f"{recipe.name}: needs {' '.join(missing)}; nothing was installed")
    say(" ".join(command))
    run(recipe, f"system packages ({' '.join(missing)})", command, log)


def missing_packages(recipe: Recipe) -> list[str]:
    """The Debian packages that it needs and the system lacks; none where there is no dpkg."""
    if not recipe.system or not shutil.which("dpkg-query"):
        return []
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n"]
    done = subprocess.run([*query, *recipe.system], capture_output=True, text=True)
    there = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in recipe.system if package not in there]


def run(recipe: Recipe, what: str, command: list[str], log: Path) -> None:
    """Run one step; InstallError with its last words if it fails."""
    with log.open("a+") as file:
        start = file.tell()
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        try:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            ).returncode
        except OSError as error:
            code = 127
            print(error, file=file, flush=True)
        file.seek(start)
        lines = [line.strip() for line in file if line.strip()]
    if code == 0:
        return
    errors = [line for line in lines if "error" in line.lower()] or lines
    raise InstallError(
        f"{recipe.name}: {what} failed with exit code {code}: {errors[-1]}; all it said is in "
        f"{log}; to go on from there: shoal env install {recipe.name}"
    )


def diagnose(recipe: Recipe) -> list[tuple[bool, str, str]]:
    """What an installed recipe has and lacks: (is it well, what, how it is)."""
    found = []
    missing = missing_packages(recipe)
    if recipe.system:
        text = f"missing: {' '.join(missing)}" if missing else " ".join(recipe.system)
        found.append((not missing, "system", text))
    well = recipe.installed()
    where = str(recipe.interpreter) if recipe.python else sys.executable
    found.append((well, "installed", where if well else f"shoal env install {recipe.name}"))
    if well:
        name = recipe.name if recipe.file.parent.name == "recipes" else str(recipe.file)
        code = TRIAL.format(name=name, steps=20)
        try:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
            )
            last = (done.stderr.strip().splitlines() or [""])[-1]
            found.append((done.returncode == 0, "20 steps", last if done.returncode else "made"))
        except subprocess.TimeoutExpired:
            found.append((False, "20 steps", "not within five minutes"))
    return found
