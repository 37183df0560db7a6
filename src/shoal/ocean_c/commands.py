"""The author's subcommands of `shoal`: new, build and perf. Each imports what it needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.errors import EnvModuleError

__all__ = ["add_author"]

HERE = Path(__file__).parent


def add_author(commands: Any) -> None:
    parser = _add(commands, "new", new, "write a commented environment in C to begin from")
    parser.add_argument("name", metavar="NAME", help="of the environment and of its file, NAME.c")
    parser = _add(commands, "build", build, "compile an environment in C")
    parser.add_argument("file", metavar="FILE.c")
    parser.add_argument(
        "--debug", action="store_true", help="check every step, and stop at undefined behaviour"
    )
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="for the compiler")
    parser = _add(commands, "perf", perf, "show which functions of an environment take the time")
    parser.add_argument("file", metavar="FILE.c", help="its C file, or the name of one of Shoal's")
    parser.add_argument("--steps", type=int, default=20_000_000, help="default: 20000000")


def _add(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(command=command)
    return parser


def new(args: argparse.Namespace) -> int:
    path = Path(args.name).with_suffix(".c")
    if not path.stem.isidentifier() or path.stem in {
        p.stem for p in (HERE / "environments").glob("*.c")
    }:
        raise EnvModuleError(
            f"NAME must be an identifier that none of Shoal's environments has, got {path.stem!r}"
        )
    if path.exists():
        raise EnvModuleError(f"{path} exists already")
    path.write_text((HERE / "c" / "template.c").read_text().replace("NAME", path.stem))
    print(f"{path} is yours. Next: shoal build {path}")
    return 0


def build(args: argparse.Namespace) -> int:
    from shoal.ocean_c.build import build
    from shoal.ocean_c.engine import Module

    path = build(args.file, debug=args.debug, flags=args.flags)
    spec = _spec_or_none(module := Module(path))
    print(f"{path}: {module.table.name}" + (spec and f", {spec}"))
    return 0


def _spec_or_none(module: Any) -> str:
    """Return a few words on the environment with its defaults; '' if a parameter has none."""
    if any(param.required for param in module.table.params):
        return ""
    spec = module.spec({})
    fields = ", ".join(field.name for field in spec.observations)
    return f"{spec.agents} agent{'s' * (spec.agents != 1)}, observes {fields}"


def perf(args: argparse.Namespace) -> int:
    from shoal.ocean_c.perf import perf

    own = HERE / "environments" / f"{args.file}.c"
    print(perf(own if own.is_file() else Path(args.file), args.steps))
    return 0
