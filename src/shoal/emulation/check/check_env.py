"""`check_env` steps an environment with random actions and reports its faults, as a linter does.

Every value is checked (`shoal.emulation.check.checking_envs`). Then the first steps are replayed
with the same seed, with another seed and with another clock. `RULES` lists all findings.

Workers under another interpreter run this too: Python 3.8 or newer, perhaps without Gymnasium.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import inspect
import itertools
import pickle
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.emulation.check.checking_envs import checked
from shoal.emulation.check.findings import ORDER, RULES, Finding, Log, Report, Stopped
from shoal.emulation.interfaces import (
    is_multi_agent,
    is_of_gymnasium,
    keywords,
    layers,
    require_environment,
    unwrapped,
)
from shoal.emulation.parallel import space_of
from shoal.emulation.seeding import original, reproducible
from shoal.errors import EnvCheckError, LayoutError
from shoal.rows.layout import Layout
from shoal.rows.spec import kind_of, step

__all__ = ["RULES", "Finding", "Report", "check_env"]

REPLAY_STEPS = 200

if TYPE_CHECKING:
    Sample = Callable[[Any, Any, Any], Any]
    Play = Callable[[Any, int, Sample], Iterator[dict[str, Any]]]
    Trajectory = list[tuple[int, int, dict[str, Any]]]


# -- playing with random actions --------------------------------------------------------------


def sampler(seed: int) -> Sample:
    """Return a function (agent, action space, mask) -> action, which `seed` decides."""
    spaces: dict[Any, Any] = {}

    def sample(agent: Any, space: Any, mask: Any) -> Any:
        if agent not in spaces:
            # A copy, because an environment may seed its own space. A look-alike becomes one of
            # Gymnasium's spaces, if there is a Gymnasium.
            own = is_of_gymnasium(space, "Space") or "gymnasium" not in sys.modules
            spaces[agent] = copy.deepcopy(space) if own else Layout.from_space(space).space
            spaces[agent].seed(seed + len(spaces))
        mask = usable_mask(spaces[agent], mask)
        return spaces[agent].sample() if mask is None else spaces[agent].sample(mask)

    return sample


def usable_mask(space: Any, mask: Any) -> Any:
    """Return an action mask as the space's ``sample`` takes it, or None."""
    kind = kind_of(space)
    if mask is None or kind not in ("Discrete", "MultiDiscrete"):
        return None
    if "mask" not in inspect.signature(space.sample).parameters:  # of gym before 0.25
        return None
    entries = np.concatenate([np.ravel(part) for part in mask]) if len(mask) else np.zeros(0)
    counts = np.ravel(space.n if kind == "Discrete" else space.nvec)
    if entries.shape != (counts.sum(),) or (kind == "MultiDiscrete" and space.nvec.ndim != 1):
        return None
    parts = np.split((entries != 0).astype(np.int8), np.cumsum(counts)[:-1])
    return parts[0] if kind == "Discrete" else tuple(parts)


def mask_in(observation: Any, info: Any) -> Any:
    """Return the action mask in an agent's observation or info, or None."""
    for mapping in (observation, info):
        if isinstance(mapping, dict) and mapping.get("action_mask") is not None:
            return mapping["action_mask"]
    return None


# Each player yields what a reset returned (without "reward"), then each step, without end.


def play_single(env: Any, seed: int, sample: Sample) -> Iterator[dict[str, Any]]:
    """Play a Gymnasium environment."""
    observation, info = env.reset(seed=seed)
    while True:
        yield {"obs": observation}
        over = False
        while not over:
            action = sample(None, env.action_space, mask_in(observation, info))
            observation, reward, terminated, truncated, info = env.step(action)
            yield {
                "obs": observation,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
            }
            over = bool(terminated or truncated)
        observation, info = env.reset()


def play_parallel(env: Any, seed: int, sample: Sample) -> Iterator[dict[str, Any]]:
    """Play a PettingZoo parallel environment."""
    observations, infos = env.reset(seed=seed)
    while env.agents:
        yield {"obs": observations, "agents": list(env.agents)}
        over = False
        while not over:
            actions = {
                agent: sample(
                    agent,
                    space_of(env, agent, "action_space"),
                    mask_in(observations.get(agent), infos.get(agent)),
                )
                for agent in env.agents
            }
            observations, rewards, terminations, truncations, infos = env.step(actions)
            yield {
                "obs": observations,
                "reward": rewards,
                "terminated": terminations,
                "truncated": truncations,
                "agents": list(env.agents),
            }
            flags = [terminations.get(a) or truncations.get(a) for a in env.agents]
            over = all(flags)  # also if nobody is left
        observations, infos = env.reset()


def play_turns(env: Any, seed: int, sample: Sample) -> Iterator[dict[str, Any]]:
    """Play a PettingZoo turn-based environment."""
    env.reset(seed=seed)
    while env.agents:
        yield turn(env)
        while env.agents:
            agent = env.agent_selection
            action = None
            if not (env.terminations[agent] or env.truncations[agent]):
                mask = mask_in(env.observe(agent), env.infos.get(agent))
                action = sample(agent, space_of(env, agent, "action_space"), mask)
            env.step(action)
            yield {**turn(env), "reward": dict(env.rewards)}
        env.reset()


def turn(env: Any) -> dict[str, Any]:
    """Return the observation of the agent to move, all flags, and the agents."""
    agent = env.agent_selection if env.agents else None
    return {
        "obs": {} if agent is None else {agent: env.observe(agent)},
        "terminated": dict(env.terminations),
        "truncated": dict(env.truncations),
        "agents": [*env.agents, agent],
    }


# -- reproducibility --------------------------------------------------------------------------


def trajectory(play: Play, env: Any, seed: int, steps: int) -> Trajectory:
    """Return (episode, step, leaves) of each reset and step."""
    result: Trajectory = []
    episode = number = 0
    for record in itertools.islice(play(env, seed, sampler(0)), steps):
        is_reset = "reward" not in record
        episode, number = (episode + 1, 0) if is_reset else (episode, number + 1)
        leaves = {path: leaf for name in record for path, leaf in leaves_in(record[name], name)}
        result.append((episode, number, leaves))
    return result


def leaves_in(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, something small that differs between different values) of each leaf."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves_in(part, path + step(key))
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from leaves_in(part, f"{path}[{i}]")
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind != "O":
        content = value.tobytes()
        yield path, content if len(content) <= 64 else hashlib.blake2b(content).digest()
    else:
        yield path, repr(value)


def first_difference(a: Trajectory, b: Trajectory) -> tuple[int, int, str] | None:
    """Return (episode, step, path) of the first leaf that differs, or None."""
    for (episode, number, x), (_, _, y) in zip(a, b):
        for path in {**x, **y}:
            if x.get(path) != y.get(path):
                return episode, number, path
    return None if len(a) == len(b) else (*max(a, b, key=len)[min(len(a), len(b))][:2], "agents")


def check_seeding(play: Play, env: Any, log: Log, seed: int, steps: int) -> None:
    """Report a seed that does not reproduce or makes no difference, and use of the clock."""

    def again(seed: int = seed) -> Trajectory:
        return trajectory(play, env, seed, steps)

    first, second = again(), again()
    difference = first_difference(first, second)
    if difference is not None:
        episode, number, path = difference
        code, why = cause(env, seed, again, second)
        since = "" if episode == 1 or number else ": reset() without a seed does not go on from it"
        log.report(
            code,
            path,
            f"differs in a replay of reset(seed={seed}) with the same actions{since}; {why}",
            (episode, number),
        )
        return
    with another_clock(env, time.time() + 1e6, 3600.0):
        difference = first_difference(first, again())
    if difference is not None:
        episode, number, path = difference
        log.report(
            "clock",
            path,
            f"differs in a replay of reset(seed={seed}) with the same actions at another time",
            (episode, number),
        )
    if first_difference(first, again(seed + 1)) is None:
        same = f"seeds {seed} and {seed + 1} give the same {len(first)} observations"
        states = [generator_states(env, seed + i) for i in (0, 1)]
        stuck = [name for name in states[0] if states[0][name] == states[1].get(name)]
        if stuck:
            log.report(
                "seed-ignored", "reset", f"{same}; {named(stuck)} not seeded by them", (1, 0)
            )
        else:
            log.report("seed-no-effect", "reset", same, (1, 0))


def cause(
    env: Any, seed: int, again: Callable[[], Trajectory], last: Trajectory
) -> tuple[str, str]:
    """Return why a replay differs: the code of a rule, and the evidence."""
    if first_difference(last, again()) is None:
        why = "the next replay is the same again, so something of the run before outlived reset()"
        return "not-reproducible", why
    with global_generators(0):
        one = again()
    with global_generators(0):
        two = again()
    if first_difference(one, two) is None:
        return "rng-global", "it does not if `random` and `numpy.random` are seeded before"
    with global_generators(0), another_clock(env, 1e9, 0.001):
        one = again()
    with global_generators(0), another_clock(env, 1e9, 0.001):
        two = again()
    if first_difference(one, two) is None:
        return "clock", "it does not if the clock is the same as well"
    states = [generator_states(env, seed)]
    again()
    states.append(generator_states(env, seed))
    loose = [name for name in states[0] if states[0][name] != states[1].get(name)]
    hint = ""
    if callable(getattr(unwrapped(env), "seed", None)):
        hint = "; the environment has a method seed() of its own: call it before each reset"
        hint += ", as shoal.emulate does" * (reproducible(unwrapped(env)) is not unwrapped(env))
    if loose:
        why = f"{named(loose)} in another state after each reset(seed={seed})"
        return "rng-unseeded", why + hint
    return "not-reproducible", (
        "neither the global generators nor the clock explain it, so a generator inside it is "
        f"not seeded, or something outlives reset(){hint}"
    )


def named(names: list[str]) -> str:
    """Return names as the subject of a sentence, with its verb."""
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def generator_states(env: Any, seed: int) -> dict[str, Any]:
    """Return the states of the generators that the environment holds, after a reset."""
    env.reset(seed=seed)
    states: dict[str, Any] = {}
    for name, value in vars(unwrapped(env)).items():
        if isinstance(value, random.SystemRandom):
            states[f"self.{name}"] = object()  # it has no state; this equals no other
        elif isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
            states[f"self.{name}"] = pickle.dumps(value)
    return states


@contextlib.contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed the generators that the whole process shares, and restore them afterwards."""
    torch = sys.modules.get("torch")
    states = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch:
            torch.set_rng_state(states[2])


@contextlib.contextmanager
def another_clock(env: Any, start: float, tick: float) -> Iterator[None]:
    """Let the clocks begin at `start` seconds and advance by `tick` at each reading.

    They are replaced in `time` and `datetime`, and where the packages that the environment comes
    from have imported them by name. Clocks read by compiled code stay as they are.
    """
    readings = itertools.count()

    def seconds() -> float:
        return start + tick * next(readings)

    def nanoseconds() -> int:
        return int(1e9 * seconds())

    class OtherDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(seconds(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            utc = datetime.timezone.utc  # noqa: UP017 (Python 3.8 has no datetime.UTC)
            return cls.fromtimestamp(seconds(), utc).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    names = ("time", "monotonic", "perf_counter", "process_time")
    fakes: dict[int, Any] = {id(getattr(time, name)): seconds for name in names}
    fakes.update({id(getattr(time, name + "_ns")): nanoseconds for name in names})
    fakes[id(datetime.datetime)] = OtherDatetime
    replaced = [
        (module, name, value)
        for module in (time, datetime, *modules_of(env))
        for name, value in list(vars(module).items())
        if id(value) in fakes
    ]
    for module, name, value in replaced:
        setattr(module, name, fakes[id(value)])
    try:
        yield
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


def modules_of(env: Any) -> list[Any]:
    """Return the loaded modules of the packages of the environment and its wrappers."""
    classes = [base for layer in layers(env) for base in type(layer).__mro__]
    packages = {base.__module__.partition(".")[0] for base in classes}
    packages -= {*getattr(sys, "stdlib_module_names", ()), "shoal"}  # since Python 3.10
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in packages and hasattr(module, "__dict__")
    ]


# -- the whole check --------------------------------------------------------------------------


def check_env(env: Any, steps: int = 2000, seed: int = 0) -> Report:
    """Run an environment with random actions and report its faults, as a linter does.

    Every value is checked against its space, and the interface against Gymnasium's or
    PettingZoo's. The first 200 steps are replayed with the same seed, which must reproduce them,
    with another seed, and with another clock.

    Args:
        env: a ``gymnasium.Env``, a PettingZoo ``ParallelEnv`` or ``AECEnv``, or an environment of
            old ``gym``. It is reset and stepped, and not closed.
        steps: number of steps to check; episodes follow one another.
        seed: for the first reset; later resets get none.

    Returns:
        A `Report`; print it. ``report.ok`` is True if there are no errors.

    Raises:
        EmulationError: `env` is not an environment.
    """
    require_environment(env)
    log = Log()
    name = (
        getattr(getattr(env, "spec", None), "id", None)
        or (getattr(env, "metadata", None) or {}).get("name")
        or type(unwrapped(env)).__name__
    )
    env = original(env)  # the question is whether the environment itself reproduces
    if not is_of_gymnasium(env, "Env") and keywords(env) != {"seed", "options"}:
        log.report("old-interface", "env", f"reset takes {keywords(env) or 'no arguments'}")
    if getattr(unwrapped(env), "engine_checks", True) is False:
        log.report("native-unchecked", "env", "the engine does not check what the C code writes")
    if not is_multi_agent(env):
        play: Play = play_single
        check_spaces(log, env.observation_space, env.action_space)
    else:
        play = play_turns if hasattr(env, "agent_iter") else play_parallel
    try:
        lengths = run(play, checked(env, log), log, seed, steps)
        env = checked(env, Log())  # for the replays, whose findings are the same
        limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        check_ends(log, lengths, limit is not None)
        check_seeding(play, env, log, seed, min(steps, REPLAY_STEPS))
        if play is play_single:
            check_step_after_end(env, log, seed, steps)
    except Stopped:
        pass  # noted already
    except EnvCheckError as error:  # the engine of native environments has found a fault
        log.report("native", "step" if log.step else "reset", str(error))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.report(
            "exception",
            "step" if log.step else "reset",
            f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})",
        )
    codes = list(dict.fromkeys(code for code, _ in log.found))  # in the order of appearance
    findings = sorted(
        log.found.values(), key=lambda f: (ORDER.index(f.severity), codes.index(f.code))
    )
    return Report(name, log.steps, log.episode, seed, tuple(findings))


def check_spaces(log: Log, observation_space: Any, action_space: Any) -> None:
    """Report spaces that can't be laid out without an option."""
    for name, space in (("obs", observation_space), ("action", action_space)):
        try:
            Layout.from_space(space, name=name)
        except LayoutError as error:
            where, _, message = str(error).partition(": ")
            log.report("space", where, message)


def run(play: Play, env: Any, log: Log, seed: int, steps: int) -> list[int]:
    """Play `steps` steps and return the length of each episode; the last may be unfinished."""
    lengths: list[int] = []
    for record in play(env, seed, sampler(seed)):
        if "reward" not in record:
            lengths.append(0)
        else:
            lengths[-1] += 1
        if log.steps >= steps:
            break
    return lengths


def check_ends(log: Log, lengths: list[int], limited: bool) -> None:
    """Report episodes that never end, or that end at once from the second one on."""
    ended = lengths[1:-1]
    if len(lengths) == 1 and not limited:
        log.report("never-ends", "terminated", f"no episode ended in {lengths[0]} steps", (1, 0))
    elif len(ended) >= 3 and lengths[0] > 1 and set(ended) == {1}:
        log.report(
            "done-after-done",
            "terminated",
            f"each of the {len(ended)} episodes after the first ends with its first step",
            (2, 1),
        )


def check_step_after_end(env: Any, log: Log, seed: int, steps: int) -> None:
    """Report a step after the end that goes on with the episode."""
    sample = sampler(seed)
    episode = number = 0
    for record in itertools.islice(play_single(env, seed, sample), steps):
        episode, number = (episode, number + 1) if "reward" in record else (episode + 1, 0)
        if record.get("terminated"):
            break
    else:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = env.step(sample(None, env.action_space, None))
        except Exception:
            return  # as it should
    if not result[2] and not result[3]:
        message = "a step after the end of the episode goes on with it: terminated is False"
        log.report("step-after-end", "terminated", message, (episode, number + 1))
