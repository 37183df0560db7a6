"""Writes the tables of options.md and metrics.md from the code that they describe.

`python docs/tables.py` after a change; a test fails if it was forgotten.
"""

import ast
import inspect
import itertools
import sys
from pathlib import Path

from shoal.trainers import config, diagnose

DOCS = Path(__file__).parent

OPTIONS = """\
# Every option

All of them are options of `shoal train` (`--learning-rate 1e-3`, `--recurrent`,
`--no-tensorboard`), keys of a TOML file that `--config` names (`learning_rate = 1e-3`), and fields
of `shoal.trainers.config.Config`. What is on the command line goes before the file. Whole numbers
may be written in any way, such as `1e8` or `1_000_000`. `shoal config RUN` prints the file that
gives a run again.
"""

METRICS = """\
# Every metric

There is one value of each for every update: a line of `metrics.jsonl` in the run's folder, in
TensorBoard, and, most of them, on the dashboard. Only `seconds`, `steps_per_second` and `time/…`
differ between a run on the CPU and the same run resumed or repeated. What to do when a number looks
wrong is told in [when it doesn't learn](debugging.md).

| metric | meaning |
|---|---|
"""


def options() -> list[tuple[str, str, str, str, str]]:
    """(section, name, type, default, text) of each field of Config, from its source."""
    source = inspect.getsource(config.Config)
    lines = source.splitlines()
    body = ast.parse(source).body[0].body[1:]  # without the docstring
    found, section = [], "environment"
    for at, (node, following) in enumerate(itertools.pairwise(body)):
        if not isinstance(node, ast.AnnAssign):
            continue
        before = body[at - 1].end_lineno if at else 0
        for line in lines[before : node.lineno - 1]:
            if line.strip().startswith("# -- "):
                section = line.strip(" #-")
        text = ast.literal_eval(following.value) if isinstance(following, ast.Expr) else ""
        default = ast.unparse(node.value) if node.value else "required"
        if default.startswith("field("):
            default = "{}"
        kind = ast.unparse(node.annotation).removesuffix(" | None")
        if kind.startswith("Literal["):
            kind = " or ".join(kind[8:-1].replace("'", "").split(", "))
        kind = {"dict[str, Any]": "table"}.get(kind, kind)
        if default == "None":
            default = "–"
        found.append((section, node.target.id, kind, default, " ".join(text.split())))
    return found


def options_page() -> str:
    text, last = OPTIONS, None
    for section, name, kind, default, meaning in options():
        if section != last:
            text += f"\n## {section.capitalize()}\n\n| option | type | default | meaning |\n"
            text += "|---|---|---|---|\n"
            last = section
        default = default.replace("'", '"')
        text += f"| `{name}` | {kind} | `{default}` | {meaning} |\n"
    return text


def metrics_page() -> str:
    rows = (f"| `{name}` | {meaning} |" for name, meaning in diagnose.METRICS.items())
    return METRICS + "\n".join(rows) + "\n"


def main() -> None:
    pages = {"options.md": options_page(), "metrics.md": metrics_page()}
    for name, text in pages.items():
        (DOCS / name).write_text(text)
    print(f"wrote {', '.join(pages)}", file=sys.stderr)


if __name__ == "__main__":
    main()
