"""The subcommands of `shoal` that are about training. `shoal.cli` hands their arguments over.

Options of a run come from `Config` and nowhere else: its fields are the command's options, its
docstrings are the help, and a TOML file has the same names. What is on the command line goes before
what is in the file, and that before what the recipe of an environment says.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import math
import os
import sys
import textwrap
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from shoal.errors import ConfigError, RunError, UnknownEnvError, did_you_mean
from shoal.trainers.config import (
    Config,
    described,
    from_dict,
    require_secrets,
    to_dict,
    typed,
)
from shoal.trainers.dashboard import duration, open_display
from shoal.trainers.interrupts import interruptible

SIGN_OF_LIFE = 10.0  # seconds between lines that only say that something is under way
STOPPING = "stopping after this update; Ctrl-C again stops at once"
MANY_STEPS = 100_000  # of episodes that have not ended

__all__ = ["config", "eval_", "parse_train", "profile", "resume", "runs", "train"]


def whole(info: Any) -> Any:
    """Let tyro read integers in any spelling, such as 1e8 or 1_000_000."""
    if info.type is not int:
        return None

    def read(texts: list[str]) -> int:
        number = float(texts[0])
        if not number.is_integer():
            raise ValueError(f"expected a whole number, got {texts[0]}")
        try:
            return int(texts[0])
        except ValueError:
            return int(number)

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def read_pairs(texts: list[str]) -> dict[str, Any]:
    """Read ``name=value`` texts; a value is a Python literal, or else a string."""
    made: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"expected NAME=VALUE, got {text!r}")
        try:
            made[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            made[name] = value
    return made


PAIRS: Any = tyro.constructors.PrimitiveConstructorSpec(
    nargs="*",
    metavar="NAME=VALUE",
    instance_from_str=read_pairs,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [f"{name}={each!r}" for name, each in value.items()],
)


@dataclass(frozen=True)
class Options(Config):
    """Train a policy on an environment. The same options give the same run.

    ENV and all options may also stand in a TOML file (--config), under the names they have here,
    with _ for -. What is on the command line goes before the file, and the file before what the
    recipe of an environment says (shoal env list).
    """

    env: tyro.conf.Positional[str] = ""
    """Environment: an id, module.name, or file.py:creator."""
    env_kwargs: Annotated[dict[str, Any], PAIRS] = field(default_factory=dict)
    """Keyword arguments for the environment's constructor."""
    config: Path | None = None
    """TOML file with options."""

    def __post_init__(self) -> None:
        """Check nothing before file and command line are one."""


def parse_train(arguments: Sequence[str]) -> Config:
    """Return the config that the arguments of `shoal train` ask for.

    Raises:
        ConfigError: an option that doesn't exist, or a value that can't be meant.
        SystemExit: after ``--help``, or a value that can't be read.
    """
    return parse_options(Options, "shoal train", arguments)[0]


def parse_options(kind: Any, prog: str, arguments: Sequence[str]) -> tuple[Config, Any]:
    """Return the config that arguments ask for, and all options, those that are no config's, too.

    Args:
        kind: `Options`, or a subclass with more options.
        prog: the command.
        arguments: what follows it.

    Raises:
        ConfigError, SystemExit: as for `parse_train`.
    """
    options = parse(kind, prog, arguments)
    from shoal.registry.names import absolute

    values = {} if options.config is None else read_file(options.config)
    values.pop("sweep", None)  # what `shoal sweep` changes
    values = typed_from(options.config, values)
    env = options.env or str(values.get("env", ""))
    values = env_options(env) | values
    if values:
        options = parse(kind, prog, arguments, kind(**values))
    if not options.env:
        raise ConfigError(f"ENV is missing: which environment? ({prog} --help)")
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(Config)}
    values |= {"env": absolute(options.env), "policy": absolute(options.policy)}
    return from_dict(values), options


def read_file(path: Path) -> dict[str, Any]:
    """Return what is in a TOML file of options."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or error
        raise ConfigError(f"--config {path}: {text}") from error


def env_options(env: str) -> dict[str, Any]:
    """Return the options that suit an environment: a recipe's, then what a sweep has found."""
    from shoal.registry import recipe as recipes

    recipe = recipes.find(env)
    values = {} if recipe is None else typed_from(recipe.file, recipe.train)
    tuned = tuned_file(env)
    if tuned is not None and tuned.is_file():
        values |= typed_from(tuned, tomllib.loads(tuned.read_text()))
    return values


def tuned_file(env: str) -> Path | None:
    """Return where `shoal sweep apply` keeps the options of an environment: beside its file.

    None: the environment has no file, as a Gymnasium id.
    """
    from shoal.errors import EnvModuleError
    from shoal.ocean_c.find import find
    from shoal.registry import recipe as recipes
    from shoal.registry.names import split

    recipe = recipes.find(env)
    if recipe is not None:
        return recipe.file.with_suffix(".tuned")
    path = Path(split(env)[0])
    if path.suffix != ".py":
        try:
            path = find(env) or path
        except EnvModuleError:
            return None
    return path.with_suffix(".tuned") if path.suffix in (".py", ".so") else None


def typed_from(path: Path | None, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return typed(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(kind: Any, prog: str, arguments: Sequence[str], default: Any = None) -> Any:
    """Let tyro read arguments; an option that it doesn't know is our own error."""
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(whole)
    made, unknown = tyro.cli(
        kind,
        prog=prog,
        args=list(arguments),
        **({} if default is None else {"default": default}),
        registry=registry,
        config=(tyro.conf.PositionalMetavarFromFieldName,),
        return_unknown_args=True,
    )
    if unknown:
        known = [f.name.replace("_", "-") for f in dataclasses.fields(kind)]
        name = unknown[0].lstrip("-").partition("=")[0].replace("_", "-").removeprefix("no-")
        raise ConfigError(f"{unknown[0]}: no such option{did_you_mean(name, known, '--')}")
    return made


def show_help() -> None:
    """Print the options of `shoal train` in the groups of docs/options.md."""
    print(
        f"usage: shoal train ENV [--OPTION VALUE ...]\n\n{inspect.cleandoc(Options.__doc__ or '')}"
    )
    print("\n  --config FILE\n        TOML file with options.")
    print("  --traceback\n        Show where an error came from.")
    section = ""
    for group, name, kind, default, text in described():
        if group != section:
            print(f"\n{group}:")
            section = group
        flag = f"--{name.replace('_', '-')}"
        values = kind.upper() if kind in ("int", "float", "str") else kind.replace(" or ", "|")
        lines = {"env": "ENV", "env_kwargs": f"{flag} NAME=VALUE ..."}
        line = f"{flag}, --no-{flag[2:]}" if kind == "bool" else f"{flag} {values}"
        line = lines.get(name, line)
        print(f"  {line}")
        shown = "" if default in ("required", "–", "{}") else f" (default: {default})"
        print(textwrap.fill(text + shown, 96, initial_indent=" " * 8, subsequent_indent=" " * 8))


def say_whose_code(*names: str) -> None:
    """Say on stderr which files, beside Shoal's and installed packages, are about to be run."""
    from shoal.registry.creators import foreign_code

    if files := foreign_code(*names):
        print(f"shoal: this runs the code in {', '.join(files)}", file=sys.stderr, flush=True)


def shown(path: Path, start: str) -> str:
    """Return a path as seen from the folder `start`, if it lies in there."""
    inside = os.path.relpath(path, start)
    return str(path) if inside.startswith("..") else inside


# -- train and resume -------------------------------------------------------------------------


def train(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        show_help()
        return 0
    asked = parse_train(arguments)
    check_names(asked)  # what is misspelt is reported before anything heavy is imported
    from shoal.trainers import runs
    from shoal.trainers.defaults import describe, filled

    given, asked = asked, filled(asked)
    if asked != given and asked.display != "none" and os.environ.get("RANK", "0") == "0":
        print(f"shoal: {describe(asked)}", file=sys.stderr, flush=True)

    runs_dir = Path(asked.runs_dir).absolute()  # an environment may change the working directory
    return run_training(asked, lambda: (runs.create(asked, runs_dir), None))


def check_names(asked: Config) -> None:
    """Raise an error unless the environment and the trackers of a config exist.

    Raises:
        UnknownEnvError: there is no such environment.
        ConfigError: a tracker is not installed.
    """
    from shoal.registry.creators import find_source

    recipe = asked.env if asked.env.endswith(".toml") else ""
    say_whose_code(asked.policy, recipe)
    find_source(asked.env, asked.num_envs or 1, asked.env_kwargs)
    for name in ("wandb", "neptune", "trackio"):
        missing = name not in sys.modules and importlib.util.find_spec(name) is None
        if getattr(asked, name) and missing:
            raise ConfigError(f"{name} is not installed: pip install {name}")


@dataclass(frozen=True)
class ResumeOptions:
    """Go on with a run from its last checkpoint, as if it had never stopped."""

    run: tyro.conf.Positional[str]
    """Its folder, or its name in --runs-dir."""
    checkpoint: str | None = None
    """Another checkpoint than the last: a file, or its name such as 000050.pt."""
    runs_dir: str = "runs"
    """Where runs are."""
    display: str | None = None
    """Another display than the run had: auto, dashboard, lines or none."""
    env: str | None = None
    """Where the environment now lies, if its project has moved: file.py:creator, say."""
    policy: str | None = None
    """Where the code of the policy now lies: file.py:Class."""
    env_kwargs: Annotated[dict[str, Any], PAIRS] = field(default_factory=dict)
    """Arguments for the environment's constructor, besides those of the run: secrets are not
    kept."""
    reset_environments: bool = False
    """Begin new episodes instead of restoring the environments, whose state is unpickled and so can
    run code: for runs of others."""


def resume(arguments: Sequence[str]) -> int:
    options = parse(ResumeOptions, "shoal resume", arguments)
    from shoal.trainers import runs

    folder = runs.find_run(options.run, options.runs_dir)
    asked = runs.read_config(folder)
    if options.checkpoint is None:
        path = runs.newest_checkpoint(folder)
        history = runs.read_metrics(folder)
        whole = history and history[-1]["steps"] >= asked.total_steps
        if whole and path.stem == f"{len(history):06}":  # known before torch is imported
            steps = f"{history[-1]['steps']:,.0f} steps"
            raise RunError(f"run {shown(folder, os.getcwd())} is complete: {steps}")
    else:
        path = find_checkpoint(folder, options.checkpoint)
    from shoal.registry.names import absolute

    moved = dataclasses.replace(
        asked,
        env=absolute(options.env or asked.env),
        policy=absolute(options.policy or asked.policy),
        env_kwargs={**asked.env_kwargs, **options.env_kwargs},
    )
    for option, name in (("--env", moved.env), ("--policy", moved.policy)):
        require_file(name, f"shoal resume {options.run} {option} FILE.py:NAME")
    require_secrets(moved.env_kwargs)
    say_whose_code(moved.env, moved.policy)
    check_names(dataclasses.replace(moved, policy="default"))
    keep = None if moved == asked else moved
    asked = dataclasses.replace(moved, display=options.display or asked.display)

    def prepared(state: dict[str, Any]) -> dict[str, Any]:
        return with_environments(state, options.reset_environments)

    def open_run() -> tuple[Any, Any]:
        run, state = runs.resume(folder, path, keep)
        return run, prepared(state)

    return run_training(asked, open_run, lambda: prepared(runs.read_checkpoint(path)))


def require_file(name: str, command: str) -> None:
    """Raise RunError if a name of a file's attribute is of a file that isn't there."""
    path = Path(name.rpartition(":")[0] or name)
    if path.suffix == ".py" and not path.exists():
        raise RunError(f"{path} is not there; if it has moved: {command}")


def with_environments(state: dict[str, Any], reset: bool) -> dict[str, Any]:
    """Return a state to go on from, after saying that its environments are unpickled.

    Args:
        reset: leave the environments' own state out.
    """
    processes = state["processes"]
    if reset:
        processes = [
            {**each, "collector": {**each["collector"], "environments": None}} for each in processes
        ]
    elif any(
        "saved" in env for each in processes for env in each["collector"]["environments"] or ()
    ):
        print(
            "shoal: the environments are restored by pickle, which can run code of whoever made "
            "the checkpoint; --reset-environments leaves them out",
            file=sys.stderr,
        )
    return {**state, "processes": processes}


def find_checkpoint(folder: Path, name: str) -> Path:
    """Return a checkpoint by its path, or by its name within a run."""
    return Path(name).absolute() if Path(name).is_file() else folder / "checkpoints" / name


def run_training(
    asked: Config,
    open_run: Callable[[], tuple[Any, Any]],
    read_state: Callable[[], Any] = lambda: None,
) -> int:
    """Train as `asked`, in the run that `open_run` opens (with a state, if it is resumed).

    The environments are made first, so that one that can't be made leaves no run behind. Under
    torchrun the first process opens the run, and shows it; the others only `read_state`.
    """
    from shoal.trainers import ppo
    from shoal.trainers.diagnose import ObservationWatch
    from shoal.trainers.evaluate import check_spaces

    require_secrets(asked.env_kwargs)
    start = os.getcwd()
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        with interruptible(STOPPING) as stopped:
            ppo.train(asked, checkpoint=read_state(), stop=stopped)
        return 0
    vector = ppo.make_vector(ppo.shared_config(asked, int(os.environ.get("WORLD_SIZE", "1"))))
    with contextlib.closing(vector):
        run, state = open_run()
        display = None
        try:
            if state is not None:
                check_spaces(state, vector.observation_layout, vector.action_layout.native)
                if state["steps"] >= asked.total_steps:
                    raise RunError(
                        f"run {shown(run.folder, start)} is complete: {state['steps']:,} steps"
                    )
            watch = ObservationWatch(vector.observation_layout)
            display = open_display(asked, Path(shown(run.folder, start)))
            with interruptible(STOPPING) as stopped:
                result = ppo.train(
                    run.config,
                    vector=vector,
                    checkpoint=state,
                    watch=watch,
                    stop=stopped,
                    save=run.save,
                    report=reporter(run, watch, display),
                    progress=None if display is None else display.progress,
                    say=None if display is None else print,
                )
        finally:
            if display is not None:
                display.close()
            if state is None and not run.history:
                run.discard()
            else:
                run.close()
    steps = int(result.metrics["steps"])
    complete = steps >= asked.total_steps
    rounded = " (--total-steps is rounded up to whole rollouts)" * (steps > asked.total_steps)
    folder = shown(run.folder, start)
    state_of = f"is complete: {steps:,} steps{rounded}" if complete else "has been stopped"
    print(f"run {folder} {state_of}")
    print(f"  shoal {'eval' if complete else 'resume'} {folder}")
    return 0 if complete else 130


def reporter(run: Any, watch: Any, display: Any) -> Callable[[dict[str, float]], None]:
    """Return what keeps, judges and shows the metrics of each update."""
    from shoal.trainers.diagnose import diagnose

    def report(metrics: dict[str, float]) -> None:
        run.report(metrics)
        warnings = [*run.problems.values(), *diagnose(run.history), *watch.warnings()]
        if display is not None:
            display.show(run.history, warnings)

    return report


# -- profile ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProfileOptions(Options):
    """Train for a few updates, and print where the time goes. All options of shoal train count."""

    updates: int = 5
    """How many updates are measured, after one to warm up."""
    trace: Path | None = None
    """Write a Chrome trace of one more update to this file."""


def profile(arguments: Sequence[str]) -> int:
    asked, options = parse_options(ProfileOptions, "shoal profile", arguments)
    if options.updates < 1:
        raise ConfigError(f"updates: expected at least 1, got {options.updates}")
    check_names(asked)
    from shoal.trainers.profile import measure, report

    print(report(measure(asked, options.updates, options.trace)))
    if options.trace is not None:
        print(f"trace: {options.trace} (for ui.perfetto.dev or chrome://tracing)")
    return 0


# -- eval -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvalOptions:
    """Play episodes without learning, and print what they score."""

    target: tyro.conf.Positional[str]
    """A run (its folder or its name), a checkpoint file, or an environment, which is played with
    random legal actions."""
    episodes: int = 100
    """How many."""
    checkpoint: str | None = None
    """Another checkpoint of the run than the last: best.pt, or 000050.pt."""
    greedy: bool = False
    """The likeliest action instead of one drawn from the policy's distribution."""
    seed: int = 0
    """Of the episodes; no seed gives those of training."""
    max_steps: int | None = None
    """Cut an episode off after so many steps; default: never."""
    num_envs: int = 8
    """How many environments."""
    env: str | None = None
    """Play the checkpoint on this environment instead."""
    env_kwargs: Annotated[dict[str, Any], PAIRS] = field(default_factory=dict)
    """Keyword arguments for the environment's constructor, besides those of the run."""
    policy: str | None = None
    """Where the code of the run's policy now lies, if it has moved: file.py:Class."""
    render: bool = False
    """Show it: in the terminal where the environment renders text, else in a window."""
    video: Path | None = None
    """Film it, to an .mp4 or .gif file; 1 episode unless --episodes says more."""
    device: str = "cpu"
    """Of the policy."""
    runs_dir: str = "runs"
    """Where runs are."""
    json: bool = False
    """Print one JSON object instead of text."""


def eval_(arguments: Sequence[str]) -> int:
    options = parse(EvalOptions, "shoal eval", arguments)
    import json

    from shoal.trainers import runs
    from shoal.trainers.evaluate import evaluate

    start = os.getcwd()  # an environment may change it
    state, env, kwargs, emulation = None, options.target, {}, {}
    path = find_target(options)
    if path is None:
        check_target(options)
    else:
        state = runs.read_checkpoint(path)
        asked = state["config"]
        env, kwargs = asked["env"], asked["env_kwargs"]
        emulation = {name: asked[name] for name in ("max_len", "max_agents", "pad")}
        if options.policy is not None:
            from shoal.registry.names import absolute

            state["config"] = asked = {**asked, "policy": absolute(options.policy)}
        require_file(asked["policy"], f"shoal eval {options.target} --policy FILE.py:NAME")
    if options.env is not None:
        env, kwargs = options.env, {}
    kwargs = {**kwargs, **options.env_kwargs}
    require_secrets(kwargs)
    if state is not None:
        require_file(env, f"shoal eval {options.target} --env FILE.py:NAME")
        say_whose_code("" if options.env else env, state["config"]["policy"])
    episodes = options.episodes
    if (options.video or options.render) and not given(arguments, "--episodes"):
        episodes = 1
    found = evaluate(
        state,
        env,
        episodes,
        greedy=options.greedy,
        seed=options.seed,
        num_envs=options.num_envs,
        env_kwargs=kwargs,
        emulation=emulation,
        device=options.device,
        render=options.render,
        video=options.video and options.video.absolute(),
        max_steps=options.max_steps,
        report=counter(episodes, options.max_steps is None, options.render),
    )
    if options.json:
        numbers = {k: v if isinstance(v, float) else v.tolist() for k, v in found.items()}
        if episodes == 1:
            numbers["error"] = None  # JSON has no NaN
        print(json.dumps(numbers))
        return 0
    who = "random actions" if path is None else f"checkpoint {shown(path, start)}"
    how = "" if state is None else ", greedy" if options.greedy else ", sampled"
    print(f"{env}, {episodes:,} episode{'s' * (episodes != 1)}, {who}{how}")
    error = f" ± {found['error']:.2g}" if episodes > 1 else ""
    print(
        f"return {found['return']:.4g}{error} "
        f"(from {found['min']:.4g} to {found['max']:.4g}, deviation {found['std']:.4g}), "
        f"length {found['length']:.4g}"
        + (f", mean life {found['life']:.4g}" if found["life"] != found["length"] else "")
    )
    if options.video is not None:
        print(f"film: {options.video}")
    return 0


def find_target(options: EvalOptions) -> Path | None:
    """Return the checkpoint that is meant, or None if it is an environment."""
    from shoal.trainers import runs

    target = Path(options.target)
    if target.suffix == ".pt":
        return target.absolute()
    if not any((folder / "config.toml").is_file() for folder in candidates(options)):
        if options.checkpoint is not None or target.is_dir():
            runs.find_run(options.target, options.runs_dir)  # raises, and says what is near
        return None
    folder = runs.find_run(options.target, options.runs_dir)
    if options.checkpoint is not None:
        return find_checkpoint(folder, options.checkpoint)
    return runs.newest_checkpoint(folder)


def check_target(options: EvalOptions) -> None:
    """Raise an error unless the target is an environment; it suggests runs, too."""
    from shoal.registry.creators import find_source

    try:
        find_source(options.target, options.num_envs, options.env_kwargs)
    except UnknownEnvError as error:
        runs = [path.parent.name for path in Path(options.runs_dir).glob("*/config.toml")]
        if hint := did_you_mean(options.target, runs):
            raise RunError(f"there is no run or environment {options.target!r}{hint}") from None
        raise error


def candidates(options: EvalOptions) -> tuple[Path, Path]:
    return Path(options.target), Path(options.runs_dir) / options.target


def given(arguments: Sequence[str], option: str) -> bool:
    """Return whether an option stands among arguments."""
    return any(text.partition("=")[0] == option for text in arguments)


def counter(total: int, endless: bool, quiet: bool) -> Callable[[int, int], None]:
    """Return what says on stderr how many episodes have been played.

    A terminal has one line that changes, anything else a line every 10 s.

    Args:
        total: episodes to play.
        endless: nothing cuts an episode off, so warn if none ends.
        quiet: say nothing but warnings.
    """
    terminal = sys.stderr.isatty()
    after = time.monotonic() + (0.0 if terminal else SIGN_OF_LIFE)
    warned = not endless

    def show(done: int, steps: int) -> None:
        nonlocal after, warned
        if not warned and done == 0 and steps >= MANY_STEPS:
            warned = True
            print(
                f"shoal: no episode has ended in {steps:,} steps; --max-steps N cuts them off",
                file=sys.stderr,
            )
        now = time.monotonic()
        if quiet or (now < after and not (terminal and done == total)):
            return
        after = now + (0.1 if terminal else SIGN_OF_LIFE)
        text = f"{done:,} of {total:,} episodes, {steps:,} steps"
        if terminal:
            end = "\r\033[K" if done == total else ""
            print(f"\r{text}{end}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    return show


# -- runs and config --------------------------------------------------------------------------


@dataclass(frozen=True)
class RunsOptions:
    """Look at runs: list them all, name the best one, or compare two side by side."""

    action: tyro.conf.Positional[Literal["list", "best", "compare"]] = "list"
    """list; best (of --env, or of each environment); or compare RUN RUN."""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """For compare: two runs, folders or names."""
    env: str | None = None
    """Only runs on this environment."""
    runs_dir: str = "runs"
    """Where runs are."""


def runs(arguments: Sequence[str]) -> int:
    options = parse(RunsOptions, "shoal runs", arguments)
    from shoal.trainers.runs import find_run

    if options.action == "compare":
        if len(options.names) != 2:
            raise ConfigError(f"compare: expected two runs, got {len(options.names)}")
        print(comparison(*(find_run(name, options.runs_dir) for name in options.names)))
        return 0
    if options.names:
        raise ConfigError(f"{options.action}: expected nothing more, got {options.names[0]}")
    found = summaries(Path(options.runs_dir), options.env)
    if not found:
        raise RunError(f"there are no runs in {options.runs_dir}")
    if options.action == "best":
        best: dict[str, dict[str, Any]] = {}
        for each in found:
            if each["return"] is not None:
                leader = best.setdefault(each["env"], each)
                best[each["env"]] = max(leader, each, key=rank_of)
        if not best:
            raise RunError(f"no episode has ended in any run in {options.runs_dir}")
        found = list(best.values())
    rows = [("run", "environment", "steps", "done", "return", "time")]
    for each in found:
        rows.append(
            (
                each["name"],
                each["env"],
                f"{each['steps']:,.0f}",
                f"{min(1.0, each['steps'] / each['total_steps']):.0%}",
                "–" if each["return"] is None else f"{each['return']:.4g}",
                duration(each["seconds"]),
            )
        )
    print(table(rows, left=2))
    return 0


def rank_of(run: dict[str, Any]) -> tuple[bool, float]:
    """Return what the best run has most of: complete runs go before stopped ones."""
    return run["steps"] >= run["total_steps"], run["return"]


def summaries(runs_dir: Path, env: str | None = None) -> list[dict[str, Any]]:
    """Return what came of each run in a folder, the oldest first; skip what can't be read."""
    from shoal.registry.names import absolute
    from shoal.trainers.runs import read_config, read_metrics

    made = []
    found = [*runs_dir.glob("*/config.toml"), *runs_dir.glob("*/*/config.toml")]
    # Those of a sweep lie in its folder, and stay together.
    begun = {path.parent: path.stat().st_mtime for path in found}
    swept = {path.parent: path.stat().st_mtime for path in runs_dir.glob("*/sweep.toml")}
    found.sort(
        key=lambda path: (swept.get(path.parents[1], begun[path.parent]), begun[path.parent])
    )
    for path in found:
        try:
            asked, history = read_config(path.parent), read_metrics(path.parent)
        except RunError as error:
            print(f"shoal: {error}", file=sys.stderr)
            continue
        if env is None or asked.env == absolute(env):
            last = history[-1] if history else {"steps": 0.0, "seconds": 0.0}
            made.append(
                {
                    "folder": path.parent,
                    "name": str(path.parent.relative_to(runs_dir)),
                    "env": asked.env,
                    "total_steps": asked.total_steps,
                    "steps": last["steps"],
                    "seconds": last["seconds"],
                    "return": late(history, "episode/return"),
                }
            )
    return made


def late(history: list[dict[str, float]], name: str) -> float | None:
    """Return the mean of a metric over the last tenth of a run; None if it has none there."""
    values = [
        metrics[name]
        for metrics in history[-max(1, len(history) // 10) :]
        if math.isfinite(metrics.get(name, math.nan))
    ]
    known = (metrics.get(name, math.nan) for metrics in history)
    values = values or [value for value in known if math.isfinite(value)][-1:]
    return sum(values) / len(values) if values else None


COMPARED = (
    "episode/return",
    "episode/length",
    "steps",
    "seconds",
    "steps_per_second",
    "loss/entropy",
    "kl",
    "clip_fraction",
    "explained_variance",
)


def comparison(one: Path, other: Path) -> str:
    """Return two runs side by side: where their configs differ, and what came of them."""
    from shoal.trainers.runs import read_config, read_metrics

    configs = [to_dict(read_config(folder)) for folder in (one, other)]
    histories = [read_metrics(folder) for folder in (one, other)]
    rows: list[Sequence[str]] = [("", one.name, other.name)]
    differing = [name for name in configs[0] if configs[0][name] != configs[1][name]]
    rows += [(name, *(str(each[name]) for each in configs)) for name in differing]
    if not differing:
        rows.append(("config", "the same", "the same"))
    rows.append(("", "", ""))
    for name in COMPARED:
        totals = name in ("steps", "seconds")
        values = [
            (history[-1][name] if history else None) if totals else late(history, name)
            for history in histories
        ]
        rows.append((name, *("–" if v is None else f"{v:,.4g}" for v in values)))
    return table(rows, left=1) + "\n\nmetrics are means over the last tenth of each run"


def table(rows: Sequence[Sequence[str]], left: int) -> str:
    """Aligned columns: the first `left` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


@dataclass(frozen=True)
class ConfigOptions:
    """Print the TOML file that gives the same run again: shoal train --config FILE."""

    run: tyro.conf.Positional[str]
    """Its folder, or its name in --runs-dir."""
    runs_dir: str = "runs"
    """Where runs are."""


def config(arguments: Sequence[str]) -> int:
    options = parse(ConfigOptions, "shoal config", arguments)
    from shoal.trainers.runs import find_run, read_config, to_toml

    values = to_dict(read_config(find_run(options.run, options.runs_dir)))
    print(to_toml({**values, "name": None}), end="")  # a run of the same name exists
    return 0
