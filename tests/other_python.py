"""Interpreters that share none of our packages, for workers to run under."""

import fcntl
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Gymnasium knows all spaces from 1.0 on, and Python 3.9 up to 1.1. All that is installed is pinned.
BOTH = ["gymnasium==1.1.1", "cloudpickle==3.1.3", "Farama-Notifications==0.0.6"]
MODERN = [
    *BOTH,
    *["numpy==2.0.2", "pettingzoo==1.25.0", "typing-extensions==4.16.0"],
    *["importlib-metadata==8.7.1", "zipp==3.23.1"],
]
OLDEST = [
    *BOTH,
    *["numpy==1.24.4", "pettingzoo==1.24.3", "typing-extensions==4.13.2"],
    *["importlib-metadata==8.5.0", "zipp==3.20.2"],
]
OLD_GYM = ["numpy==1.23.5", "gym==0.21.0", "pettingzoo==1.14.0", "cloudpickle==3.1.3"]


def find_python(*versions):
    """An interpreter of one of these versions, on the path or among pyenv's, or None."""
    for version in versions:
        own = shutil.which(f"python{version}")
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        for found in [own] * bool(own) + pyenv:
            done = subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True)
            if done.returncode == 0:
                return str(found)
    return None


@functools.cache
def make_venv(name, versions, packages):
    """Return the interpreter of a virtual environment with these packages, or why there is none.

    It is made once, by one of the processes that run tests, and stays until `make clean`.
    """
    folder = ROOT / ".venv-others" / name
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _make_venv(folder, versions, packages)


def _make_venv(folder, versions, packages):
    python = folder / "bin" / "python"
    done = folder / "done"
    if done.exists() and done.read_text() == repr((versions, packages)):
        return str(python), None
    base = find_python(*versions)
    if base is None:
        return None, f"there is no Python {' or '.join(versions)}"
    shutil.rmtree(folder, ignore_errors=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    try:
        for command in (
            [base, "-m", "venv", folder],
            [*pip, "setuptools==65.7.0", "wheel==0.38.4"],
            [*pip, "--no-build-isolation", *packages],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=280)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return None, f"{error}: {str(error.stderr)[-500:]}"
    done.write_text(repr((versions, packages)))
    return str(python), None


def old_python():
    """Python 3.9 with Gymnasium 1.1 and NumPy 2.0; skips the test if it can't be had."""
    python, why = make_venv("modern", ("3.9",), tuple(MODERN))
    if python is None:
        pytest.skip(why)
    return python


def oldest_python():
    """Python 3.8 with Gymnasium 1.1 and NumPy 1; skips the test if it can't be had."""
    python, why = make_venv("oldest", ("3.8",), tuple(OLDEST))
    if python is None:
        pytest.skip(why)
    return python


def old_gym_python():
    """Python 3.8 or 3.9 with gym 0.21, PettingZoo 1.14 and NumPy 1; skips the test else."""
    python, why = make_venv("old-gym", ("3.8", "3.9"), tuple(OLD_GYM))
    if python is None:
        pytest.skip(why)
    return python


PYTHONS = {"this": lambda: sys.executable, "old": old_python, "oldest": oldest_python}
