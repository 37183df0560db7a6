"""Every file of examples/ runs. What it needs for that stands in comments at its head:

# needs: torchrl, torch      modules without which it is skipped
# test: --steps 1000         arguments that make it short
# slow                       it takes over a minute all the same
# run by: shoal train        it is no program; tests/trainers/test_examples.py runs it
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def marked(example: Path, name: str) -> str | None:
    """What stands after ``# name:`` at the beginning of a line; "" for a bare ``# name``."""
    found = re.search(rf"^# {name}(?:: (.*))?$", example.read_text(), re.MULTILINE)
    return found and (found[1] or "")


def cases() -> list:
    return [
        pytest.param(
            example,
            id=example.stem,
            marks=[pytest.mark.slow] if marked(example, "slow") is not None else [],
        )
        for example in EXAMPLES
        if marked(example, "run by") is None
    ]


def missing(example: Path) -> list[str]:
    """The modules that it needs and that are not installed."""
    needed = (marked(example, "needs") or "").replace(",", " ").split()
    return [name for name in needed if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("example", cases())
def test_example(example, tmp_path):
    if lacking := missing(example):
        pytest.skip(f"needs {', '.join(lacking)}")
    arguments = shlex.split(marked(example, "test") or "")
    done = subprocess.run(
        [sys.executable, str(example), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), "it prints nothing"


def test_every_example_is_told_of():
    """The README or a page of the documentation links to each."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    assert [example.name for example in EXAMPLES if f"examples/{example.name}" not in text] == []
