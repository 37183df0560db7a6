"""Writes options.md, metrics.md, environments.md and gallery.md from the code that they describe.

`python docs/tables.py` after a change; a test fails if it was forgotten.
"""

import sys
from pathlib import Path

from shoal.ocean_c.find import find, load, own_names
from shoal.ocean_c.table import Table
from shoal.trainers import config, diagnose

DOCS = Path(__file__).parent

OPTIONS = """\
# Every option

All of them are options of `shoal train` (`--learning-rate 1e-3`, `--memory lstm`,
`--no-tensorboard`), keys of a TOML file that `--config` names (`learning_rate = 1e-3`), and fields
of `shoal.trainers.config.Config`. What is on the command line goes before the file. Whole numbers
may be written in any way, such as `1e8` or `1_000_000`. `shoal config RUN` prints the file that
gives a run again.
"""

METRICS = """\
# Every metric

There is one value of each for every update: a line of `metrics.jsonl` in the run's folder, in
TensorBoard, and, most of them, on the dashboard. Only `seconds`, `steps_per_second`,
`peak_share` and `time/…` differ between a run on the CPU and the same run resumed or repeated.
What to do when a number looks wrong is told in [when it doesn't learn](debugging.md).

| metric | meaning |
|---|---|
"""

ENVIRONMENTS = """\
# Environments in C

They come with Shoal and work everywhere by their names: `shoal train NAME`, `shoal play NAME`,
`shoal.vectorize("NAME", num_envs=4096)`, and in Gymnasium as `shoal.envs:shoal/Name-v0`. Each is
one file in `src/shoal/ocean_c/environments`; [your own](ocean_author.md) work in the same way.
`benchmarks/results/ocean.md` has their speeds, and `benchmarks/results/ocean_training.md` the
training times with default options. The films show agents of these runs. Each environment also has
the parameter `max_steps`, its time limit, after which an episode is truncated (0: none).

![All of them](environments.png)
"""


GALLERY = """\
# Gallery

All environments in C, playing in this page: click one, hold Shift and its keys, and you play. Each
is a [page of its own](web.md) with its trained agent. `benchmarks/results/trained.md` has what the
agents score. `make site` builds this page from a fresh clone.

<style>
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.gallery figure { margin: 0; width: auto; max-width: none; }
.gallery iframe, iframe.demo { width: 100%; height: 33rem; border: 0; border-radius: .6rem; }
</style>

<div class="gallery">
"""

DEMO = '<iframe class="demo" src="demos/{0}/index.html#embed" title="{0}" loading="lazy"></iframe>'


def options_page() -> str:
    text, last = OPTIONS, None
    for section, name, kind, default, meaning in config.described():
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


def environments_page() -> str:
    return ENVIRONMENTS + "".join(environment(load(find(name)).table) for name in own_names())


def gallery_page() -> str:
    figures = (
        f'<figure>{DEMO.format(name)}<figcaption><a href="demos/{name}/index.html">{name}</a>'
        "</figcaption></figure>\n"
        for name in own_names()
    )
    return GALLERY + "".join(figures) + "</div>\n"


def environment(table: Table) -> str:
    """What the table of one says, and a film if there is one."""
    text = f"\n## {table.name}\n\n{table.text.replace(chr(10), chr(10) * 2, 1)}\n"
    if (DOCS / "trained" / f"{table.name}.gif").exists():
        text += f"\n![{table.name}, trained](trained/{table.name}.gif)\n"
    text += f'\n<a href="demos/{table.name}/index.html">Play {table.name} in the browser</a>'
    text += " (`make site` builds the page).\n"
    text += "\n| parameter | default | from | to | meaning |\n|---|---|---|---|---|\n"
    for param in table.params:
        numbers = " | ".join(f"{x:g}" for x in (param.value, param.low, param.high))
        text += f"| `{param.name}` | {numbers} | {param.text} |\n"
    text += "\n| logged | meaning |\n|---|---|\n"
    return text + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in table.logs)


def main() -> None:
    pages = {
        "options.md": options_page(),
        "metrics.md": metrics_page(),
        "environments.md": environments_page(),
        "gallery.md": gallery_page(),
    }
    for name, text in pages.items():
        (DOCS / name).write_text(text)
    print(f"wrote {', '.join(pages)}", file=sys.stderr)


if __name__ == "__main__":
    main()
