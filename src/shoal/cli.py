"""The `shoal` command. One function for each subcommand; what it needs is imported inside it.

Exit status: 0 if all went well, 1 if a check found faults, 2 for an error (one line on stderr; its
traceback with --traceback), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import shoal

__all__ = ["main"]

NAMES = """\
ENV is one of
  CartPole-v1                          a Gymnasium id
  nle:NetHackScore-v0                  module:Id, where the module registers the id
  pettingzoo.butterfly.pistonball_v6   a module with parallel_env() or env()
  my_env.py:make                       a file, and the function in it that makes the environment
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's own); returns its status."""
    parser = argparse.ArgumentParser(
        prog="shoal",
        description="Any reinforcement-learning environment as flat fixed-size arrays.",
        epilog=NAMES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shoal {shoal.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_run, add_check, add_describe):
        add(commands)
    args = parser.parse_args(argv)
    try:
        status = args.command(args)
        sys.stdout.flush()  # here, so that a reader that left is noticed below
        return status
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the shell's prompt goes below the progress line
        return 130
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if args.traceback:
            raise
        message = " ".join(str(error).split())
        if not isinstance(error, shoal.ShoalError):  # not ours: the environment's own
            message = f"{type(error).__name__}: {message} (--traceback shows where)"
        print(f"shoal: {message}", file=sys.stderr)
        return 2


def add_command(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """A subcommand on one environment, with the options that all of them have."""
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=NAMES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("env", metavar="ENV", help="which environment; see below")
    parser.add_argument(
        "--kwargs",
        metavar="NAME=VALUE",
        nargs="+",
        type=keyword,
        default=[],
        help="for the environment's constructor",
    )
    parser.add_argument(
        "--max-len", type=count, metavar="N", help="most items of a Sequence, Graph or string"
    )
    parser.add_argument(
        "--max-agents", type=count, metavar="N", help="slots, where agents are not known beforehand"
    )
    parser.add_argument(
        "--pad", action="store_true", help="one layout for agents whose spaces differ"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(command=command)
    return parser


def emulation(args: argparse.Namespace) -> dict[str, Any]:
    """Those options that `shoal.emulate` takes, as far as they are given."""
    options = {"max_len": args.max_len, "max_agents": args.max_agents, "pad": args.pad}
    return {name: value for name, value in options.items() if value}


def keyword(text: str) -> tuple[str, Any]:
    """``name=value``; the value is a Python literal, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def count(text: str) -> int:
    """An integer of at least 1."""
    if not text.replace("_", "").isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


# -- shoal describe ---------------------------------------------------------------------------


def add_describe(commands: Any) -> None:
    add_command(commands, "describe", describe, "show how observations and actions lie in a row")


def describe(args: argparse.Namespace) -> int:
    from shoal.emulation.make import creator

    env = shoal.emulate(creator(args.env, **dict(args.kwargs))(), **emulation(args))
    print(description(args.env, env))
    env.close()
    return 0


def description(name: str, env: Any) -> str:
    """What lies where in the rows of an emulated environment."""
    agents = f"{env.agents_per_env} agent" + "s" * (env.agents_per_env != 1)
    text = f"{name}: {agents}"
    groups = getattr(env, "groups", [])  # of agents with the same spaces
    if len(groups) > 1:
        size = env.observation_layout.nbytes
        text += f" of {len(groups)} kinds, each at the beginning of rows of {size:,} bytes"
    for kind in groups or [env]:
        if groups:
            text += f"\n\nagents: {', '.join(map(str, kind.agents))}"
        action = kind.action_layout
        text += f"\n\nobservation\n{kind.observation_layout.describe()}"
        text += f"\n\naction: {action.flat_space}\n{action.native.describe()}"
        if action.num_masked:
            text += f"\naction_masks: {action.num_masked} choices"
    return text


# -- shoal check ------------------------------------------------------------------------------


def add_check(commands: Any) -> None:
    parser = add_command(commands, "check", check, "run an environment and report its faults")
    parser.add_argument("--steps", type=count, default=2000, help="default: 2000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def check(args: argparse.Namespace) -> int:
    from shoal.emulation.make import creator

    env = creator(args.env, **dict(args.kwargs))()
    report = shoal.check_env(env, steps=args.steps, seed=args.seed)
    print(report)
    return 0 if report.ok else 1


# -- shoal run --------------------------------------------------------------------------------


def add_run(commands: Any) -> None:
    parser = add_command(commands, "run", run, "step an environment with random actions")
    parser.add_argument("--num-envs", type=count, default=1, help="copies; default: 1")
    parser.add_argument("--steps", type=count, default=10_000, help="of each copy; default: 10000")
    parser.add_argument("--seed", type=int, default=0, help="of the first copy; default: 0")


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from shoal.emulation.actions import RandomActions
    from shoal.emulation.loop import SAME_STEP, Buffers, EnvLoop
    from shoal.emulation.make import creator
    from shoal.emulation.rows import zero_rows

    make = creator(args.env, **dict(args.kwargs))
    envs = [shoal.emulate(make(), **emulation(args)) for _ in range(args.num_envs)]
    first = envs[0]
    print(description(args.env, first), end="\n\n", flush=True)

    layouts = first.observation_layout, first.action_layout
    loop = EnvLoop([env.driver() for env in envs], layouts[0].nbytes, SAME_STEP)
    rows = zero_rows(*layouts, args.num_envs * first.agents_per_env)
    buffers = Buffers(*layouts, rows)
    for i in range(args.num_envs):
        loop.reset(i, args.seed + i, None, buffers, i * first.agents_per_env)

    act = RandomActions(first.action_layout, args.seed)
    bar = Progress(args.steps)
    returns, lengths, seconds = [], [], 0.0
    for step in range(args.steps):
        act(rows)
        begin = time.perf_counter()
        loop.step(buffers)
        seconds += time.perf_counter() - begin
        ended = (rows["terminations"] | rows["truncations"]) & rows["masks"]
        if ended.any():
            returns.extend(rows["episode_returns"][ended])
            lengths.extend(rows["episode_lengths"][ended])
        bar.show(step + 1)
    bar.clear()
    total = args.steps * args.num_envs
    print(f"{total:,} steps in {seconds:.3g} s: {total / seconds:,.0f} steps per second", end="")
    if first.agents_per_env > 1:
        print(f", {total * first.agents_per_env / seconds:,.0f} agent rows per second", end="")
    print(f"\n{len(returns):,} episodes ended", end="")
    if returns:
        print(
            f": return {np.mean(returns):.4g} ({min(returns):.4g} to {max(returns):.4g}), "
            f"length {np.mean(lengths):.4g} ({min(lengths)} to {max(lengths)})",
            end="",
        )
    print(f"\n{overhead(first, args.seed)}")
    for env in envs:
        env.close()
    return 0


def overhead(env: Any, seed: int) -> str:
    """One line: what emulation adds to a step of this environment."""
    from shoal.emulation.overhead import measure_overhead

    found = measure_overhead(env, seed)
    if found is None:
        return "emulation overhead: not measured, too few steps within an episode in two seconds"
    if abs(found.added) < found.noise:
        text = f"below the noise of {found.noise:.2f} µs"
    else:
        text = f"{found.added:.2f} µs (± {found.noise:.2f})"
    return f"emulation overhead: {text} per step; the bare step takes {found.bare:.4g} µs"


class Progress:
    """A line on stderr that shows how far we are; nothing where stderr is no terminal."""

    def __init__(self, total: int):
        self.total = total
        self.shown = sys.stderr.isatty()
        self.begin = self.next = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if not self.shown or now < self.next:
            return
        self.next = now + 0.1
        filled = "#" * (30 * done // self.total)
        rate = done / max(now - self.begin, 1e-9)
        line = f"\r[{filled:<30}] {done:,} of {self.total:,} steps, {rate:,.0f} per second"
        print(line, end="\033[K", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
