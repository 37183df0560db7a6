"""`shoal export`: a trained policy outside of Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from shoal.trainers.command import find_checkpoint, parse, say_whose_code
from shoal.trainers.runs import find_run, newest_checkpoint, read_config

__all__ = ["export"]


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained policy as a program in C, as ONNX, or as a web page; see docs/export.md."""

    run: tyro.conf.Positional[str]
    """A run: its folder or its name."""
    format: Literal["c", "onnx", "web"] = "c"
    """c: a header, its weights, and a program that plays; onnx: a model for any
    runtime; web: a page in which the agent plays its environment."""
    out: Path | None = None
    """Folder for c and web, file for onnx; default: RUN-c, RUN-web or RUN.onnx."""
    checkpoint: str | None = None
    """A file in the run's folder of checkpoints, such as best.pt; default: the newest."""
    runs_dir: str = "runs"
    """Where runs are."""


def export(arguments: Sequence[str]) -> int:
    """Run `shoal export`; return its status."""
    options = parse(ExportOptions, "shoal export", arguments)
    folder = find_run(options.run, options.runs_dir)
    path = newest_checkpoint(folder)
    if options.checkpoint is not None:
        path = find_checkpoint(folder, options.checkpoint)
    config = read_config(folder)
    say_whose_code(config.env, config.policy)
    if options.format == "onnx":
        from shoal.trainers.export.onnx import export_onnx

        print(export_onnx(path, options.out or Path(f"{folder.name}.onnx")))
        return 0
    if options.format == "web":
        from shoal.trainers.export.web import export_web

        out = options.out or Path(f"{folder.name}-web")
        export_web(path, out)
        print(out / "index.html")
        return 0
    from shoal.trainers.export.c import export_c

    out = options.out or Path(f"{folder.name}-c")
    written = export_c(path, out)
    print("\n".join(str(each) for each in written))
    source = next(
        (each.name for each in written if each.suffix == ".c" and each.stem != "main"), ""
    )
    if source:
        print(
            f"to play: cd {out} && cc -O3 -ffp-contract=off main.c {source} -lm -o play && ./play"
        )
    return 0
