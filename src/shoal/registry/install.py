"""Installing what a recipe needs: ``shoal env install`` and ``shoal env doctor``.

An installation is a list of steps. Each step that succeeded is written down, so the next run starts
with the one after it. If the recipe has changed, all steps are taken again. The output of all steps
goes to one log file.

Invariants: one process at a time installs a recipe, the one that holds the lock on its folder, and
it alone writes there. What is written down is whole or not there at all. The file ``installed`` is
there only while all steps are done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shoal.errors import InstallError
from shoal.registry.recipe import Recipe, about

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

ALIVE = 10  # seconds after which a step says that it is running

# What pip and compilers say after an error of which they have said more.
DULL = re.compile(
    "subprocess-exited-with-error|metadata-generation-failed|error originates|failed-wheel-build"
    "|Encountered error|Failed building|Could not build|[Ss]ee above|finished with status"
    "|error: [Cc]ommand "
)
# How a download that is cut shows. pip says in the end that there is no such package.
CUT = re.compile(
    "connection (broken|error|reset|refused)|timed out|name resolution|network is unreachable"
    "|could not resolve|dns error|incomplete ?(read|message)|max retries|failed to fetch",
    re.IGNORECASE,
)


def install(recipe: Recipe, yes: bool = False, say: Callable[[str], None] = print) -> None:
    """Install a recipe, or go on where an earlier run of this failed.

    The commands are said first. Before a recipe that does not come with Shoal is installed, and
    before apt-get is run, the user is asked.

    Args:
        recipe: which.
        yes: ask nothing; the answers are yes.
        say: is given each line for the user.

    Raises:
        InstallError: a step failed; the message names it and the log file. Or the user said no, or
            nothing can be written where it is to be installed.
    """
    for line in about(recipe):
        say(line)
    steps = steps_of(recipe)
    missing = missing_packages(recipe)
    if missing:
        say(f"    {' '.join(apt_get(missing))}")
    for name, _ in steps:
        say(f"    {name}")
    if not recipe.own and not yes:
        ask(
            f"{recipe.file} does not come with Shoal. These commands run its code. Run them?",
            "--yes",
        )
    say(f"log: {recipe.folder / 'install.log'}")
    try:
        with locked(recipe, say):
            take_steps(recipe, steps, yes, say)
    except BrokenPipeError:  # whoever reads what is said has left
        raise
    except OSError as error:
        where, why = error.filename or recipe.folder, error.strerror or error
        raise InstallError(
            f"{recipe.name}: {where} can't be written: {why}; "
            "set XDG_CACHE_HOME to install it elsewhere"
        ) from error
    name = recipe.called
    say(f"installed: shoal.vectorize({name!r}), shoal train {name}")


def ask(question: str, otherwise: str) -> None:
    """Raise InstallError, which names what to do `otherwise`, unless the user answers yes."""
    try:
        answer = input(f"{question} [y/N] ")
    except (EOFError, OSError, RuntimeError, ValueError):  # nobody is there, or stdin is closed
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise InstallError(f"nothing was installed, because the answer was not yes ({otherwise})")


@contextlib.contextmanager
def locked(recipe: Recipe, say: Callable[[str], None]) -> Iterator[None]:
    """Make a recipe's folder and hold its lock; wait if another process holds it."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    with (recipe.folder / "lock").open("w") as file:  # the end of the process frees it, too
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is installing it: waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def steps_of(recipe: Recipe) -> list[tuple[str, list[str]]]:
    """Return the steps: what each is, and its command (none yet for the virtual environment)."""
    # Neither finds modules that lie where it is run.
    python = [str(recipe.interpreter), "-I"] if recipe.python else [sys.executable, "-P"]
    pip = [*python, "-m", "pip", "install", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        pip = [uv, "pip", "install", "--python", python[0]]
    steps: list[tuple[str, list[str]]] = []
    if recipe.python:
        steps.append((f"make a virtual environment (Python {' or '.join(recipe.python)})", []))
    steps += [(f"pip install {shlex.join(each)}", [*pip, *each]) for each in recipe.install]
    if recipe.imports:
        code = "import " + ", ".join(recipe.imports)
        steps.append((code, [*python, "-c", code]))
    return steps


def take_steps(
    recipe: Recipe, steps: list[tuple[str, list[str]]], yes: bool, say: Callable[[str], None]
) -> None:
    """Take all steps that have not been taken before."""
    folder = recipe.folder
    log, state, mark = folder / "install.log", folder / "steps.json", folder / "installed"
    done = json.loads(state.read_text()) if state.exists() else []
    if done != [name for name, _ in steps][: len(done)]:  # the recipe has changed
        done = []
    if recipe.python and not recipe.interpreter.exists():
        done = []
    if len(done) < len(steps):
        mark.unlink(missing_ok=True)
    install_system(recipe, yes, log, say)
    for number, (name, command) in enumerate(steps, 1):
        if number <= len(done):
            say(f"[{number}/{len(steps)}] {name}: done before")
            continue
        what = f"step {number} of {len(steps)} ({name})"
        try:
            say(f"[{number}/{len(steps)}] {name}")
            run(recipe, what, command or make_venv(recipe, shutil.which("uv")), log, say)
        except KeyboardInterrupt:
            say(f"interrupted in {what}; to go on from there: shoal env install {recipe.called}")
            raise
        done.append(name)
        write_whole(state, json.dumps(done))
    mark.touch()


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def make_venv(recipe: Recipe, uv: str | None) -> list[str]:
    """Return the command that makes a recipe's virtual environment, with pip; remove an old one.

    Raises:
        InstallError: no Python of the recipe's versions was found.
    """
    venv = recipe.folder / "venv"
    shutil.rmtree(venv, ignore_errors=True)
    if uv:
        there = (version for version in recipe.python if succeeds(uv, "python", "find", version))
        return [uv, "venv", "--seed", "--python", next(there, recipe.python[0]), str(venv)]
    for version in recipe.python:
        found: list[Any] = [shutil.which(f"python{version}")]
        found += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        if version == ".".join(map(str, sys.version_info[:2])):
            found = [getattr(sys, "_base_executable", sys.executable)]
        for python in filter(None, found):
            # It runs (pyenv's stand-ins may not) and has all that a virtual environment needs.
            if succeeds(str(python), "-c", "import venv, ensurepip"):
                return [str(python), "-m", "venv", str(venv)]
    versions = " or ".join(recipe.python)
    raise InstallError(
        f"{recipe.name} runs under Python {versions}, and there is no python{recipe.python[0]} on "
        "the PATH; install one, or uv (https://docs.astral.sh/uv), which fetches it"
    )


def succeeds(*command: str) -> bool:
    """Return whether a command runs without an error."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def install_system(recipe: Recipe, yes: bool, log: Path, say: Callable[[str], None]) -> None:
    """Install the Debian packages that are missing, after asking."""
    missing = missing_packages(recipe)
    if not missing:
        return
    command = apt_get(missing)
    if not yes:
        question = f"{recipe.name} needs system packages. Run `{' '.join(command)}`?"
        ask(question, f"install them yourself: {' '.join(missing)}; or --yes")
    say(" ".join(command))
    run(recipe, f"system packages ({' '.join(missing)})", command, log, say)


def apt_get(packages: list[str]) -> list[str]:
    """Return the command that installs Debian packages."""
    command = ["apt-get", "install", "--yes", *packages]
    return command if os.getuid() == 0 else ["sudo", *command]


def missing_packages(recipe: Recipe) -> list[str]:
    """Return the Debian packages that a recipe needs and the system lacks; none without dpkg."""
    if not recipe.system or not shutil.which("dpkg-query"):
        return []
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n"]
    done = subprocess.run([*query, *recipe.system], capture_output=True, text=True)
    there = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in recipe.system if package not in there]


def run(
    recipe: Recipe, what: str, command: list[str], log: Path, say: Callable[[str], None]
) -> None:
    """Run one step, and say every ten seconds that it is still running.

    Raises:
        InstallError: the step failed; the message has the reason.
    """
    environ = {**os.environ, "UV_NO_WRAP": "1", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("a+", errors="replace") as file:
        start = file.tell()
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=recipe.file.parent,
            ) as process:
                code = wait(process, log, say)
        except OSError as error:
            code = 127
            print(error, file=file, flush=True)
        file.seek(start)
        lines = [line.strip() for line in file if line.strip()]
    if code == 0:
        return
    raise InstallError(
        f"{recipe.name}: {what} failed with exit code {code}: {reason(lines)}; the whole output is "
        f"in {log}; to go on from there: shoal env install {recipe.called}"
    )


def wait(process: subprocess.Popen, log: Path, say: Callable[[str], None]) -> int:
    """Return the exit code of a process; say every ten seconds what it last wrote to its log."""
    seconds = 0
    while True:
        try:
            return process.wait(ALIVE)
        except subprocess.TimeoutExpired:
            seconds += ALIVE
            last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
            say(f"    {seconds} s: {last.strip()[:100]}")
        except BaseException:
            process.kill()
            raise


def reason(lines: list[str]) -> str:
    """Return the line of a command's output that says best why the command failed."""
    said = [line for line in lines if not DULL.search(line)] or lines or ["it said nothing"]
    last = [line for line in said if re.search("error|not found", line, re.IGNORECASE)] or said
    cut = [line for line in lines if CUT.search(line)]
    if cut and (last[-1] in cut or "No matching distribution" in last[-1]):
        return f"a download failed: {cut[0]}"
    return last[-1].rstrip(".")


def diagnose(recipe: Recipe) -> list[tuple[bool, str, str]]:
    """Return what an installed recipe has and lacks: (is it there, what, details) for each."""
    found = []
    missing = missing_packages(recipe)
    if recipe.system:
        text = f"missing: {' '.join(missing)}" if missing else " ".join(recipe.system)
        found.append((not missing, "system", text))
    well = recipe.installed()
    where = str(recipe.interpreter) if recipe.python else sys.executable
    found.append((well, "installed", where if well else f"shoal env install {recipe.called}"))
    if well:
        code = TRIAL.format(name=recipe.called, steps=20)
        try:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
            )
            last = (done.stderr.strip().splitlines() or [""])[-1]
            found.append((done.returncode == 0, "20 steps", last if done.returncode else "made"))
        except subprocess.TimeoutExpired:
            found.append((False, "20 steps", "not within five minutes"))
    return found
