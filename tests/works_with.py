"""Writes the tables of what Shoal works with, in README.md and docs/works_with.md, from runs.

    python -m tests.works_with              # every example that can run here
    python -m tests.works_with rllib_ppo    # these: with another environment's Python, say

Each example with a line ``# works with: Name (distribution)`` is run as it is, in full. Its row has
the versions it ran with, and what it printed last. Rows of examples that can't run here stay.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.test_examples import EXAMPLES, ROOT, marked, missing

TABLE = re.compile(r"(?<=<!-- works with -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
HEAD = "| library | versions | example | what it printed |\n|---|---|---|---|\n"


def row(example: Path) -> str:
    """Run an example: its row of the table.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    name, package = re.fullmatch(r"(.*) \((.*)\)", marked(example, "works with") or "").groups()
    print(f"{example.name} ...", flush=True)
    done = subprocess.run(
        [sys.executable, str(example)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said = done.stdout.strip().splitlines()[-1]
    print(said)
    found = [f"{each} {importlib.metadata.version(each)}" for each in (package, "gymnasium")]
    return f"| {name} | {', '.join(found)} | `examples/{example.name}` | {said} |\n"


def update(page: Path, rows: dict[str, str]) -> None:
    """Put rows, by example, into the table of a page; others stay."""
    text = page.read_text()
    old = {key: line for line in TABLE.search(text)[1].splitlines(True) if (key := named(line))}
    new = dict(sorted({**old, **rows}.items(), key=lambda item: item[1].lower()))
    page.write_text(TABLE.sub(lambda _: HEAD + "".join(new.values()), text))


def named(line: str) -> str:
    """Which example a row of the table is about."""
    found = re.search(r"`examples/(\w+)\.py`", line)
    return found[1] if found else ""


if __name__ == "__main__":
    chosen = [
        example
        for example in EXAMPLES
        if marked(example, "works with")
        and not missing(example)
        and (not sys.argv[1:] or example.stem in sys.argv[1:])
    ]
    for example in chosen:
        line = row(example)
        for page in (ROOT / "README.md", ROOT / "docs" / "works_with.md"):
            update(page, {example.stem: line})
