"""The README and every page of the documentation run as written.

Each page is one program: its ```python blocks run one after the other in one namespace. The lines
`$ shoal ...` of its ```console blocks are run in one process too, and `make` may be given only
targets there are. A block that begins with `# name.py` is that file for them.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line number, text) of each fenced block in that language."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(2)), match.group(2))
        for match in FENCE.finditer(text)
        if match.group(1) == language
    ]


def pages_with(language: str) -> list:
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if blocks(page, language)
    ]


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", pages_with("python"))
def test_python(page, tmp_path):
    program = ""
    for line, text in blocks(page, "python"):
        program += "\n" * (line - program.count("\n")) + text  # tracebacks show the page's lines
    script = tmp_path / f"page_{page.stem}.py"  # not to be imported as the library it is about
    script.write_text(program)
    run([sys.executable, str(script)], tmp_path)


@pytest.mark.parametrize("page", pages_with("console"))
def test_console(page, tmp_path):
    for _, text in blocks(page, "python"):
        if named := re.match(r"# (\w+\.py)\n", text):
            (tmp_path / named[1]).write_text(text)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = []
    for _, text in blocks(page, "console"):
        for line in text.splitlines():
            if line.startswith("$ shoal "):
                commands.append(shlex.split(line.removeprefix("$ shoal "), comments=True))
            elif line.startswith("$ make "):
                asked = shlex.split(line.removeprefix("$ make "), comments=True)
                assert set(asked) <= targets, line
    program = f"""
import sys
from shoal.cli import main
for arguments in {commands!r}:
    if main(arguments):
        sys.exit(f"shoal {{' '.join(arguments)}} has failed")
"""
    run([sys.executable, "-c", program], tmp_path)
