"""The `shoal` command: one function for each subcommand, which imports what it needs.

Exit status: 0 if all went well, 1 if a check found faults, 2 for an error (one line on stderr; its
traceback with --traceback), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import shoal
from shoal.errors import ConfigError, did_you_mean, install_extra
from shoal.ocean_c.commands import add_author

__all__ = ["main"]

NAMES = """\
ENV is one of
  CartPole-v1                          a Gymnasium id
  squared, my_env.so                   a native environment, Shoal's or your own (shoal build)
  nmmo, my_recipe.toml                 a recipe (shoal env list), or the file of one
  nle:NetHackScore-v0                  module:Id, where the module registers the id
  pettingzoo.butterfly.pistonball_v6   a module with parallel_env() or env()
  my_env.py:make                       a file, and the function in it that makes the environment
"""

NUM_ENVS = {"native": 4096, "batched": 64}  # by default, of these kinds
BATCHED = 8  # environments of a batched environment that is examined
SIGN_OF_LIFE = 10.0  # seconds between lines that only say that something is under way
WIDTH = 24  # of the first column of `shoal bench`


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's own); return its status."""
    parser = argparse.ArgumentParser(
        prog="shoal",
        description="Step, check and train on reinforcement-learning environments.",
        epilog=NAMES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shoal {shoal.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    author = add_author, add_play, add_web
    general = add_run, add_bench, add_check, add_describe, add_training, add_doctor, add_env
    for add in (*general, *author):
        add(commands)
    given = sys.argv[1:] if argv is None else argv
    if given and given[0][:1] != "-" and given[0] not in commands.choices:
        hint = did_you_mean(given[0], commands.choices) or "; shoal --help lists all"
        print(f"shoal: there is no command {given[0]!r}{hint}", file=sys.stderr)
        return 2
    args = parser.parse_args(given)
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


def add_kwargs(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--kwargs", metavar="NAME=VALUE", nargs="+", type=keyword, default=[], help=text
    )


def add_command(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Return a subcommand on one environment, with the options that all of them have."""
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=NAMES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("env", metavar="ENV", help="which environment; see below")
    add_kwargs(parser, "for the environment's constructor")
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
    """Return the options of emulation that were given."""
    options = {"max_len": args.max_len, "max_agents": args.max_agents, "pad": args.pad}
    return {name: value for name, value in options.items() if value}


def source_of(args: argparse.Namespace) -> Any:
    """Return what ENV means, a `shoal.registry.creators.Source`; say whose recipe is run."""
    from shoal.registry.creators import find_source, foreign_code

    if args.env.endswith(".toml") and (files := foreign_code(args.env)):
        print(f"shoal: this runs the code in {', '.join(files)}", file=sys.stderr, flush=True)
    return find_source(args.env, None, dict(args.kwargs))


def make_vector(args: argparse.Namespace, num_envs: int, **options: Any) -> Any:
    """Make a vector of ENV, with the options of emulation that were given."""
    given = {"env_kwargs": dict(args.kwargs), **emulation(args), **options}
    return shoal.vectorize(args.env, num_envs, **given)


@contextlib.contextmanager
def examined(args: argparse.Namespace, debug: bool = False) -> Iterator[Callable[..., Any]]:
    """Yield ``ask``: ``ask(question, ...)`` returns ``question(env, ...)`` of one environment.

    Questions are the functions of `shoal.emulation.check.questions`, since an environment whose
    recipe has its own interpreter is asked there, in a worker. A batched environment is asked with
    the functions of the same names in `shoal.vectorization.check_batched`.

    Args:
        debug: let the engine of a native environment check every step.
    """
    source = source_of(args)
    if source.kind == "isolated":
        with contextlib.closing(make_vector(args, 1)) as vector:
            yield lambda question, *given: vector.call_on([0], question, *given)[0]
    elif source.kind == "batched":
        from shoal.vectorization import check_batched

        with contextlib.closing(make_vector(args, BATCHED)) as vector:
            yield lambda question, *given: getattr(check_batched, question.__name__)(vector, *given)
    else:
        native = {"debug": True} if debug and source.kind == "native" else {}
        env = source.creators[0](**native)
        yield lambda question, *given: question(env, *given)
        if callable(getattr(env, "close", None)):  # old ones may have none
            env.close()


def keyword(text: str) -> tuple[str, Any]:
    """Return ``name=value``; the value is a Python literal, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def count(text: str) -> int:
    """Return an integer of at least 1."""
    if not text.replace("_", "").isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


# -- shoal describe ---------------------------------------------------------------------------


def add_describe(commands: Any) -> None:
    add_command(commands, "describe", describe, "show how observations and actions lie in a row")


def describe(args: argparse.Namespace) -> int:
    from shoal.emulation.check.questions import layouts_of, show_layouts
    from shoal.registry.recipe import about

    source = source_of(args)
    with examined(args) as ask:
        layouts = show_layouts(args.env, ask(layouts_of, {**source.emulation, **emulation(args)}))
    if source.recipe is not None:
        print("\n".join(about(source.recipe)), end="\n\n")
    print(layouts)
    return 0


# -- shoal check ------------------------------------------------------------------------------


def add_check(commands: Any) -> None:
    parser = add_command(commands, "check", check, "run an environment and report its faults")
    parser.add_argument("--steps", type=count, default=2000, help="default: 2000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def check(args: argparse.Namespace) -> int:
    from shoal.emulation.check.questions import faults_of, report_from

    with examined(args, debug=True) as ask:
        report = report_from(ask(faults_of, args.steps, args.seed))
    print(report)
    return 0 if report.ok else 1


# -- shoal run --------------------------------------------------------------------------------


def add_run(commands: Any) -> None:
    parser = add_command(commands, "run", run, "step an environment with random actions")
    parser.add_argument(
        "--num-envs",
        type=count,
        help="environments; default: 16, 64 of a batched environment, 4096 of a native one",
    )
    parser.add_argument(
        "--steps",
        type=count,
        help="of each environment; default: 10000, 1000 of a batched or native environment",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first environment; default: 0")
    parser.add_argument(
        "--backend",
        choices=("auto", "serial", "multiprocess", "pool", "native", "batched"),
        default="auto",
        help="default: auto, which measures for a second and takes the fastest",
    )
    parser.add_argument("--num-workers", type=count, help="processes; default: one for each core")


def run(args: argparse.Namespace) -> int:
    from shoal.emulation.check.questions import layouts_of, show_layouts, show_overhead

    source = source_of(args)
    options = {**source.emulation, **emulation(args)}
    with examined(args) as ask:
        layouts = ask(layouts_of, options)
        print(show_layouts(args.env, layouts), end="\n\n", flush=True)
        step_all(args, source.kind, layouts["agents_per_env"])
        print(ask(show_overhead, options, args.seed))
    return 0


def step_all(args: argparse.Namespace, kind: str, agents: int) -> None:
    """Step environments with random actions, and print how fast, and what they score.

    Args:
        kind: of the source.
        agents: of each environment.
    """
    import numpy as np

    from shoal.vectorization.auto import drive

    steps = args.steps or (1000 if kind in ("native", "batched") else 10_000)
    vector = make_vector(
        args,
        args.num_envs or NUM_ENVS.get(kind, 16),
        backend=args.backend,
        num_workers=args.num_workers,
        autoreset=None if kind == "batched" else "same_step",
        seed=args.seed,
    )
    if args.backend == "auto":
        print(f"shoal: {vector.choice}", file=sys.stderr)
    with contextlib.closing(vector):
        num_batches = -(-steps * vector.num_envs // vector.batch_size)
        bar = Progress(num_batches * vector.batch_size)
        returns, lengths = [], []
        stepping, begin = 0.0, time.perf_counter()
        driven = itertools.islice(drive(vector, args.seed), num_batches)
        for i, (batch, seconds) in enumerate(driven, 1):
            stepping += seconds
            ended = (batch.terminations | batch.truncations) & batch.masks
            if ended.any():
                returns.extend(vector.episode_returns[ended])
                lengths.extend(vector.episode_lengths[ended])
            bar.show(i * vector.batch_size)
        seconds = time.perf_counter() - begin
    bar.clear()
    total = num_batches * vector.batch_size
    print(f"{configuration(vector)}, {vector.num_envs} environments")
    print(f"{total:,} steps in {seconds:.3g} s: {rate(total, seconds, agents)}", end="")
    if vector.batch_size == vector.num_envs:  # else the other environments step meanwhile
        print(f", random actions drawn\nwithout drawing actions: {rate(total, stepping, agents)}")
    print(f"{len(returns):,} episodes ended", end="")
    if returns:
        print(
            f": return {np.mean(returns):.4g} ({min(returns):.4g} to {max(returns):.4g}), "
            f"length {np.mean(lengths):.4g} ({min(lengths)} to {max(lengths)})",
            end="",
        )
    print()


def rate(steps: int, seconds: float, agents: int) -> str:
    """Return how many steps of environments, and rows of their agents, a second has."""
    text = f"{steps / seconds:,.0f} steps per second"
    return text + (f" ({steps * agents / seconds:,.0f} agent rows)" if agents > 1 else "")


def configuration(vector: Any) -> str:
    """Return how a vector steps its environments, in a few words."""
    if vector.num_workers == 0:
        return vector.backend
    what = "thread" if vector.backend == "native" else "worker"
    text = f"{vector.num_workers} {what}" + "s" * (vector.num_workers != 1)
    return text + f", pool of {vector.batch_size}" * (vector.batch_size < vector.num_envs)


# -- shoal bench ------------------------------------------------------------------------------


def add_bench(commands: Any) -> None:
    parser = add_command(commands, "bench", bench, "compare all ways to step many environments")
    parser.add_argument(
        "--num-envs", type=count, help="environments; default: 64, 4096 of a native environment"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for each configuration; default: 1"
    )


def bench(args: argparse.Namespace) -> int:
    from shoal.vectorization.sync import usable_cores

    kind = source_of(args).kind
    args.num_envs = args.num_envs or NUM_ENVS.get(kind, 64)
    num_envs, most = args.num_envs, min(usable_cores(), args.num_envs)
    print(
        f"{args.env}, {num_envs} environments, random actions; shares of the time of the processes "
        "that step them,\nand microseconds from sending actions until a batch is there\n\n"
        f"{'':<{WIDTH}}{'steps/s':>13}  environment  packing  waiting  other       p50       p99",
        flush=True,
    )
    if kind == "batched":
        measure(args, {"backend": "batched"})
        print(f'\nUse backend="batched": {args.env} steps all its environments itself.')
        return 0
    # All counts up to 4, then doubled.
    counts = [n for n in range(1, most + 1) if n <= 4 or n == most or n & (n - 1) == 0]
    if kind == "native":
        whole = {n: measure(args, {"backend": "native", "num_workers": n}) for n in counts}
        first, name = whole[1], "native"
    else:
        first, name = 0.0, "multiprocess"
        if kind != "isolated":
            first = measure(args, {"backend": "serial"})
        whole = {n: measure(args, {"backend": name, "num_workers": n}) for n in counts}
    workers = max(whole, key=whole.__getitem__)
    pools = {}
    for size in (num_envs // 2, num_envs // 4, num_envs // 8):
        if size >= workers:
            pool = {"backend": "native" if kind == "native" else "pool", "num_workers": workers}
            pools[size] = measure(args, {**pool, "batch_size": size})
    print(f"\n{advice(kind, first or whole[1], whole, pools)}")
    return 0


def measure(args: argparse.Namespace, options: dict[str, Any]) -> float:
    """Return the steps per second of one configuration, and print its row of the table."""
    import numpy as np

    from shoal.vectorization.auto import drive

    vector = make_vector(args, args.num_envs, seed=0, profile=True, **options)
    with contextlib.closing(vector):
        driven = drive(vector, seed=0)
        next(driven)  # the first warms up
        vector.profile()
        latencies: list[float] = []
        begin = now = time.perf_counter()
        while len(latencies) < 3 or now < begin + args.seconds:
            latencies.append(next(driven)[1])
            now = time.perf_counter()
        shares = vector.profile()
    rate = len(latencies) * vector.batch_size / (now - begin)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e6
    print(
        f"{configuration(vector):<{WIDTH}}{rate:>13,.0f}{shares['environment']:>13.0%}"
        f"{shares['packing']:>9.0%}{shares['waiting']:>9.0%}{shares['other']:>7.0%}"
        f"{p50:>10,.0f}{p99:>10,.0f}",
        flush=True,
    )
    return rate


def advice(kind: str, first: float, whole: dict[int, float], pools: dict[int, float]) -> str:
    """Return what to use, given the steps per second of each configuration.

    A gain of less than 5 % is not worth a more complicated configuration.

    Args:
        kind: of the source.
        first: steps per second of the simplest: serial, or one thread or worker.
        whole: of each number of workers (threads of a native environment).
        pools: of each size of batches, with the best of these numbers.
    """
    name = "native" if kind == "native" else "multiprocess"
    pool = "native" if kind == "native" else "pool"
    than = {"native": "one thread", "isolated": "one worker"}.get(kind, "serial")
    workers = max(whole, key=whole.__getitem__)
    if whole[workers] > 1.05 * first:
        text = (
            f'Use backend="{name}", num_workers={workers}: {whole[workers] / first:.2f} × {than}.'
        )
    elif kind == "ordinary":
        text = 'Use backend="serial": workers are no faster.'
    else:
        text = f'Use backend="{name}", num_workers=1: more are no faster.'
    if pools:
        size = max(pools, key=pools.__getitem__)
        if pools[size] > 1.05 * max(first, whole[workers]):
            text += (
                f'\nIf you can take batches of a part of the environments: backend="{pool}", '
                f"num_workers={workers}, batch_size={size}, {pools[size] / first:.2f} × {than}."
            )
    return text


# -- training ---------------------------------------------------------------------------------

# Their options are those of `shoal.trainers.config.Config` and stand there, with their help.
TRAINING = {
    "train": "train a policy on an environment",
    "profile": "say where the time of training goes",
    "eval": "play episodes with a trained policy, or with random actions",
    "resume": "go on with a run that has been stopped",
    "runs": "list runs, name the best, or compare two",
    "config": "print the config file that gives the same run again",
    "export": "write a trained policy as a program in C, or as ONNX",
    "sweep": "search options of the trainer and of the environment",
}
# What of them is in which extra.
NEEDED = dict.fromkeys(("torch", "tyro", "rich", "tensorboard", "matplotlib", "imageio"), "train")
NEEDED["optuna"] = "sweep"
NEEDED.update(dict.fromkeys(("onnx", "onnxscript"), "export"))


def add_training(commands: Any) -> None:
    for name, text in TRAINING.items():
        # Nothing is an option here, not even --help: all that follows is handed over.
        parser = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
        parser.add_argument("arguments", nargs="*")
        parser.set_defaults(command=training, name=name, traceback=False)


def training(args: argparse.Namespace) -> int:
    args.traceback = "--traceback" in args.arguments
    try:
        from shoal.trainers import command

        arguments = [a for a in args.arguments if a != "--traceback"]
        if args.name == "sweep":
            from shoal.trainers.sweep.command import sweep

            return sweep(arguments)
        if args.name == "export":
            from shoal.trainers.export.command import export

            return export(arguments)
        commands = {
            "train": command.train,
            "profile": command.profile,
            "eval": command.eval_,
            "resume": command.resume,
            "runs": command.runs,
            "config": command.config,
        }
        return commands[args.name](arguments)
    except ModuleNotFoundError as error:
        extra = NEEDED.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise shoal.ShoalError(
            f"{args.name} needs {error.name}, which is not installed: {install_extra(extra)}"
        ) from error


def add_doctor(commands: Any) -> None:
    text = "say what this machine has for training, and what it lacks"
    parser = commands.add_parser("doctor", help=text, description=text)
    parser.add_argument("--runs-dir", default="runs", help="where runs go; default: runs")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(command=doctor)


def doctor(args: argparse.Namespace) -> int:
    from pathlib import Path

    from shoal.trainers.doctor import examine

    signs = {True: "ok", False: "NO", None: "-"}
    faults = 0
    for finding in examine(Path(args.runs_dir)):
        print(f"{signs[finding.ok]:<3} {finding.name:<17} {finding.text}", flush=True)
        faults += finding.ok is False
    print("\nall that training needs is there" if not faults else f"\n{faults} to fix: see NO")
    return 1 if faults else 0


# -- shoal env --------------------------------------------------------------------------------


def add_env(commands: Any) -> None:
    text = "list, install and examine environments of others that Shoal has recipes for"
    parser = commands.add_parser("env", help=text, description=text)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, command, what in (
        ("list", env_list, "all recipes, and which are installed; or what one says"),
        ("install", env_install, "install one; after a failure, go on from there"),
        ("doctor", env_doctor, "say whether one is installed and can be stepped"),
    ):
        action = actions.add_parser(name, help=what, description=what)
        action.add_argument(
            "name",
            metavar="NAME",
            nargs="?" if name == "list" else None,
            help="of a recipe, or its .toml file",
        )
        action.add_argument("--traceback", action="store_true", help="show where an error is from")
        action.set_defaults(command=command)
        if name == "install":
            text = "ask nothing, neither before apt-get nor before a recipe that is not Shoal's"
            action.add_argument("--yes", action="store_true", help=text)


def env_list(args: argparse.Namespace) -> int:
    from shoal.registry import recipe as recipes

    def status(recipe: Any) -> str:
        return "installed" if recipe.installed() else "own venv" if recipe.python else "-"

    if args.name is not None:
        recipe = named_recipe(args.name)
        print("\n".join(recipes.about(recipe)))
        python = f"an interpreter of its own ({', '.join(recipe.python)})" if recipe.python else ""
        print(f"runs in: {python or 'this interpreter'}")
        print(f"installed: {'yes' if recipe.installed() else f'shoal env install {args.name}'}")
        return 0
    for name in recipes.names():
        recipe = recipes.find(name)
        assert recipe is not None
        print(f"{name:<20} {status(recipe):<10} {recipe.summary}")
    return 0


def named_recipe(name: str) -> Any:
    from shoal.registry import recipe as recipes

    recipe = recipes.find(name)
    if recipe is None:
        hint = did_you_mean(name, recipes.names()) or "; shoal env list names all"
        raise shoal.UnknownEnvError(f"there is no recipe {name!r}{hint}")
    return recipe


def env_install(args: argparse.Namespace) -> int:
    from shoal.registry.install import install

    install(named_recipe(args.name), args.yes)
    return 0


def env_doctor(args: argparse.Namespace) -> int:
    from shoal.registry.install import diagnose

    found = diagnose(named_recipe(args.name))
    for well, what, text in found:
        print(f"{'ok' if well else 'NO':<3} {what:<10} {text}")
    return 0 if all(well for well, _, _ in found) else 1


# -- shoal play -------------------------------------------------------------------------------


def add_play(commands: Any) -> None:
    parser = add_command(commands, "play", play, "play a native environment, or watch it")
    parser.add_argument("--fps", type=float, default=10, help="steps per second; default: 10")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--policy", metavar="RUN", help="a run or a checkpoint, which acts while no key is held"
    )
    parser.add_argument(
        "--record", metavar="FILE", help="write a .gif or an .mp4 instead of opening a window"
    )
    parser.add_argument("--steps", type=count, help="default: no end, and 200 of a film")
    parser.add_argument("--size", type=count, default=512, help="pixels of the longer side")


def play(args: argparse.Namespace) -> int:
    from pathlib import Path

    from shoal.ocean_c.find import load
    from shoal.ocean_c.play import play, record

    source = source_of(args)
    if source.native is None:
        raise ConfigError(
            f"ENV must be a native environment, got {args.env}; shoal eval {args.env} --render "
            "shows the others"
        )
    module, kwargs = load(source.native), source.kwargs
    options: dict[str, Any] = {"autoreset": "same_step", "env_kwargs": kwargs}
    with contextlib.closing(shoal.vectorize(args.env, 1, backend="native", **options)) as vector:
        act = None
        if args.policy:
            from shoal.trainers import runs
            from shoal.trainers.command import say_whose_code
            from shoal.trainers.evaluate import check_spaces, policy_chooser

            path = Path(args.policy)
            if not path.is_file():
                path = runs.newest_checkpoint(runs.find_run(args.policy))
            state = runs.read_checkpoint(path)
            say_whose_code(state["config"]["policy"])
            check_spaces(state, vector.observation_layout, vector.action_layout.native)
            act = policy_chooser(vector, state, False, args.seed, "cpu")
        if args.record:
            steps = args.steps or 200
            progress = Progress(steps)
            record(vector, args.record, steps, args.fps, act, args.seed, args.size, progress.show)
            progress.clear()
            print(args.record)
            return 0
        title = f"{module.table.name}, by Shoal"
        found = play(
            vector, module.spec(kwargs), title, args.fps, act, args.seed, args.steps, args.size
        )
    print(", ".join(f"{name} {value:g}" for name, value in found.items()))
    return 0


# -- shoal web --------------------------------------------------------------------------------


def add_web(commands: Any) -> None:
    text = "make a web page of an environment in C, in which a person, an agent or both play"
    parser = commands.add_parser("web", help=text, description=text)
    parser.add_argument("env", metavar="ENV", help="one of Shoal's environments in C, or my_env.c")
    parser.add_argument("--run", metavar="RUN", help="a run or a checkpoint: the agent that plays")
    add_kwargs(
        parser, "parameters of the environment; default: the run's, or the environment's own"
    )
    parser.add_argument("--half", action="store_true", help="write weights in 16 bits")
    parser.add_argument(
        "--out", metavar="DIR", help="write the page there; default: serve it on localhost"
    )
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any free one")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(command=web)


def web(args: argparse.Namespace) -> int:
    import tempfile

    from shoal.ocean_c.web import serve, source_and_module, write_page

    source, module = source_and_module(args.env)
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or folder
        if args.run:
            files = page_of_run(args, out, (source, module))
        else:
            files = write_page(source, module, out, params=dict(args.kwargs))
        size = sum(files.values()) / 1000
        if args.out:
            print(
                f"{args.out}/index.html: {size:.0f} kB in {len(files)} files; open it in a browser"
            )
            return 0
        with serve(folder, args.port) as server:
            address = f"http://127.0.0.1:{server.server_address[1]}/"
            print(f"{address} ({size:.0f} kB); Ctrl-C ends the server", flush=True)
            server.serve_forever()
    return 0


def page_of_run(args: argparse.Namespace, out: str, env: Any) -> dict[str, int]:
    """Write a page in which a run's agent plays; return the bytes of its files."""
    from pathlib import Path

    try:
        from shoal.trainers import runs
        from shoal.trainers.export.web import export_web
    except ModuleNotFoundError as error:
        raise shoal.ShoalError(
            f"web --run needs {error.name}, which is not installed: {install_extra('train')}"
        ) from error
    run = Path(args.run) if Path(args.run).is_file() else runs.find_run(args.run)
    return export_web(run, out, env=env, env_kwargs=dict(args.kwargs), half=args.half)


# -- the progress line ------------------------------------------------------------------------


class Progress:
    """A line on stderr that shows how many steps are done: at least every 10 s.

    A terminal has one line that changes.
    """

    def __init__(self, total: int):
        self.total = total
        self.shown = sys.stderr.isatty()
        self.begin = time.monotonic()
        self.next = self.begin + (0.0 if self.shown else SIGN_OF_LIFE)

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        rate = done / max(now - self.begin, 1e-9)
        text = f"{done:,} of {self.total:,} steps, {rate:,.0f} per second"
        if self.shown:
            self.next = now + 0.1
            filled = "#" * (30 * done // self.total)
            print(f"\r[{filled:<30}] {text}", end="\033[K", file=sys.stderr, flush=True)
        else:
            self.next = now + SIGN_OF_LIFE
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
