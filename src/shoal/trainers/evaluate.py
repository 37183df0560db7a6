"""What a policy scores: whole episodes, counted so that short ones have no advantage.

Several environments are stepped together, and each is told beforehand how many
episodes it plays. Taking the first N that end, from whichever copy, would favour short ones.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import CheckpointError, ConfigError
from shoal.ocean_c.film import Film, as_picture
from shoal.rows.actions import RandomActions
from shoal.rows.layout import Layout
from shoal.trainers.seeds import EVALUATION, environment_seed
from shoal.vectorization import vectorize

__all__ = ["check_spaces", "evaluate"]

PICTURES = ("rgb_array", "pixel")  # what environments call it; the second is NetHack's
FRAMES_PER_SECOND = 20.0  # in the terminal or a window of our own


def evaluate(
    state: Mapping[str, Any] | None,
    env: Any,
    episodes: int = 100,
    *,
    greedy: bool = False,
    seed: int = 0,
    num_envs: int = 8,
    env_kwargs: Mapping[str, Any] | None = None,
    emulation: Mapping[str, Any] | None = None,
    device: str = "cpu",
    render: bool = False,
    video: Path | None = None,
    max_steps: int | None = None,
    report: Callable[[int, int], None] = lambda done, steps: None,
) -> dict[str, Any]:
    """Play episodes.

    Args:
        state: a checkpoint, see `runs.read_checkpoint`; None: random legal actions.
        env: an id, or a function that makes an environment.
        episodes: how many, exactly.
        greedy: the likeliest action instead of one drawn from the policy's distribution.
        seed: the same seed gives the same episodes, as far as the environment lets it; no seed
            gives those of training.
        num_envs: environments; fewer if there are fewer episodes, one to show or film them.
        env_kwargs: for the environment's constructor.
        emulation: `max_len`, `max_agents` and `pad`, as for `shoal.vectorize`.
        device: of the policy.
        render: show the episodes in the terminal if the environment renders text, else in a window:
            its own, or one that shows the pictures it renders.
        video: an ``.mp4`` or ``.gif`` file to write.
        max_steps: cut an episode off after so many steps; default: never.
        report: is called after every batch with the episodes and the steps of all environments so
            far.

    Returns:
        ``returns``, ``lengths`` and ``lives`` (float64 arrays, one entry for each episode; with
        several agents, the mean of their returns, the longest life and the mean life), and
        ``episodes``, ``return``, ``std`` (of single episodes), ``error`` (standard error of the
        mean), ``min``, ``max``, ``length``, ``life``: floats.

    Raises:
        CheckpointError: the checkpoint is for other spaces.
        ConfigError: the environment can't be shown or filmed.
    """
    if episodes < 1:
        raise ConfigError(f"episodes: expected at least 1, got {episodes}")
    kwargs = dict(env_kwargs or {})
    mode = None
    if render or video:
        num_envs = 1
        mode = render_mode(env, kwargs, emulation, video is not None)
        if mode is not None:
            kwargs["render_mode"] = mode
    num_envs = min(num_envs, episodes)
    vector = make_vector(env, num_envs, kwargs, emulation, seed)
    with contextlib.ExitStack() as stack:
        stack.callback(vector.close)
        show = nothing
        if video is not None:
            show = stack.enter_context(film(vector, video))
        elif mode == "ansi":
            show = text_screen(vector)
        elif render and mode != "human":
            show = stack.enter_context(window(vector, str(env)))
        choose = random_chooser(vector, seed)
        if state is not None:
            choose = policy_chooser(vector, state, greedy, seed, device)
        quotas = np.full(num_envs, episodes // num_envs)
        quotas[: episodes % num_envs] += 1
        returns, lengths, lives = play(vector, choose, quotas, show, report, max_steps)
    return {
        "returns": returns,
        "lengths": lengths,
        "lives": lives,
        "episodes": float(episodes),
        "return": float(returns.mean()),
        "std": float(returns.std()),
        "error": float(returns.std(ddof=1) / np.sqrt(episodes)) if episodes > 1 else float("nan"),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "length": float(lengths.mean()),
        "life": float(lives.mean()),
    }


def make_vector(
    env: Any,
    num_envs: int,
    kwargs: Mapping[str, Any],
    emulation: Mapping[str, Any] | None,
    seed: int,
) -> Any:
    """Make the vector to play on, whose environments are reset when they are told to."""
    return vectorize(
        functools.partial(env, **kwargs) if callable(env) else env,
        num_envs,
        backend="serial" if num_envs == 1 else "auto",
        autoreset="disabled",
        seed=environment_seed(seed, EVALUATION),
        env_kwargs=None if callable(env) else kwargs,
        **(emulation or {}),
    )


def nothing() -> None:
    """Show nothing, of episodes that nobody watches."""


def play(
    vector: Any,
    choose: Callable[[np.ndarray, np.ndarray], Any],
    quotas: np.ndarray,
    show: Callable[[], None] = nothing,
    report: Callable[[int, int], None] = lambda done, steps: None,
    max_steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let every environment play so many episodes.

    Args:
        vector: with autoreset disabled; an environment is reset when none of its agents acts.
        choose: gets observations and which rows begin an episode; returns actions.
        quotas: episodes for each environment.
        show: called with every observation.
        report, max_steps: as for `evaluate`.

    Returns:
        Returns, lengths and mean lives of all episodes, those of the first environment first.
    """
    num_envs, agents = vector.num_envs, vector.agents_per_env
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[float]] = [[] for _ in range(num_envs)]
    lives: list[list[float]] = [[] for _ in range(num_envs)]
    ended: list[list[tuple[float, int]]] = [[] for _ in range(num_envs)]  # agents, this episode
    observations, _ = vector.reset()
    starts = np.ones(vector.num_rows, bool)
    missing, steps = int(quotas.sum()), 0
    age = np.zeros(num_envs, np.int64)  # steps of the episode under way
    show()
    while True:
        vector.send(choose(observations, starts))
        batch = vector.recv()
        show()
        observations = batch.observations
        for row in np.flatnonzero((batch.terminations | batch.truncations) & batch.masks):
            ended[row // agents].append((vector.episode_returns[row], vector.episode_lengths[row]))
        over = ~vector.acting.reshape(num_envs, agents).any(axis=1)
        age, steps = age + 1, steps + num_envs
        if max_steps is not None and (age >= max_steps).any():
            for row in np.flatnonzero(vector.acting & np.repeat(age >= max_steps, agents)):
                alive = vector.episode_returns[row], vector.episode_lengths[row]
                ended[row // agents].append(alive)
            over |= age >= max_steps
        report(int(quotas.sum()) - missing, steps)
        starts = np.zeros(vector.num_rows, bool)
        if not over.any():
            continue
        for i in np.flatnonzero(over):
            if len(returns[i]) < quotas[i]:
                scores, spans = np.array(ended[i] or [(0.0, 0)], np.float64).T
                returns[i].append(scores.mean())
                lengths[i].append(spans.max())
                lives[i].append(spans.mean())
                missing -= 1
            ended[i].clear()
        age[over] = 0
        report(int(quotas.sum()) - missing, steps)
        if missing == 0:
            return np.concatenate(returns), np.concatenate(lengths), np.concatenate(lives)
        observations, _ = vector.reset(options={"reset_mask": over})
        show()
        starts = np.repeat(over, agents)


# -- who acts ---------------------------------------------------------------------------------


def random_chooser(vector: Any, seed: int) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Random legal actions."""
    layout = vector.action_layout
    rows = {"actions": layout.flat.zeros(vector.num_rows)}
    fill = RandomActions(layout, seed)
    view = layout.flat.view(rows["actions"])

    def choose(observations: np.ndarray, starts: np.ndarray) -> Any:
        rows["action_masks"] = vector.action_masks
        fill(rows)
        return view if isinstance(view, dict) else rows["actions"]

    return choose


def policy_chooser(
    vector: Any, state: Mapping[str, Any], greedy: bool, seed: int, device: str
) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Return the actions of the policy in a checkpoint.

    Raises:
        CheckpointError: the policy is for other spaces than the vector's.
    """
    check_spaces(state, vector.observation_layout, vector.action_layout.native)
    import torch

    from shoal.trainers.ppo import act, load_policy

    policy = load_policy(dict(state), device)
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    memory: Any = None

    def choose(observations: np.ndarray, starts: np.ndarray) -> Any:
        nonlocal memory
        actions, memory = act(
            policy, observations, memory, vector.action_masks, starts, greedy, generator
        )
        return actions

    return choose


def check_spaces(state: Mapping[str, Any], observation: Layout, action: Layout) -> None:
    """Raise CheckpointError, naming what differs, unless a checkpoint is for these layouts."""
    from shoal.vectorization.description import difference

    for name, layout in (("observation", observation), ("action", action)):
        saved = Layout.from_json(state[f"{name}_layout"], name)
        if saved != layout:
            raise CheckpointError(
                f"the checkpoint is for another {name} space than this environment's: "
                f"{difference(saved, layout)}"
            )


# -- pictures ---------------------------------------------------------------------------------


def render_mode(
    env: Any, kwargs: Mapping[str, Any], emulation: Mapping[str, Any] | None, film: bool
) -> str | None:
    """Return the way of rendering that suits, of those that the environment has.

    Returns:
        What to make the environment with; None if it renders pictures without being told, as many
        of old ``gym`` do.

    Raises:
        ConfigError: none does; the message lists what it has.
    """
    with contextlib.closing(make_vector(env, 1, kwargs, emulation, 0)) as vector:
        modes = list(vector.metadata.get("render_modes", ()))
        old_modes = list(vector.metadata.get("render.modes", ()))
    for mode in PICTURES if film else ("ansi", "human", *PICTURES):
        if mode in modes:
            return mode
    why = ""
    for old_mode in [] if modes else [None, *(mode for mode in PICTURES if mode in old_modes)]:
        given = kwargs if old_mode is None else {**kwargs, "render_mode": old_mode}
        try:
            with contextlib.closing(make_vector(env, 1, given, emulation, 0)) as vector:
                vector.reset()
                picture(vector)
            return old_mode
        except Exception as error:  # whatever those raise that can't
            why = why or f" ({type(error).__name__}: {error})"
    wanted = "pictures to film" if film else "pictures or text"
    raise ConfigError(f"{env} renders no {wanted}: its render modes are {modes or old_modes}{why}")


def picture(vector: Any) -> np.ndarray:
    """Return what environment 0 shows; see `as_picture`."""
    return as_picture(vector.render(0))


@contextlib.contextmanager
def film(vector: Any, path: Path) -> Iterator[Callable[[], None]]:
    """Return a function that adds what environment 0 shows to a video file."""
    with Film(path, float(vector.metadata.get("render_fps") or 30)) as file:
        yield lambda: file.add(vector.render(0))


def text_screen(vector: Any) -> Callable[[], None]:
    """Return a function that shows environment 0, which renders text, in place."""

    def show() -> None:
        sys.stdout.write(f"\033[H\033[J{vector.render(0)}\n")
        sys.stdout.flush()
        time.sleep(1 / FRAMES_PER_SECOND)

    return show


@contextlib.contextmanager
def window(vector: Any, title: str) -> Iterator[Callable[[], None]]:
    """Return a function that shows environment 0, which renders pictures, in a window.

    It interrupts, as Ctrl-C does, when the window has been closed.
    """
    from shoal.ocean_c.window import Window

    rate = float(vector.metadata.get("render_fps") or FRAMES_PER_SECOND)
    with contextlib.closing(Window(title)) as shown:

        def show() -> None:
            shown.show(picture(vector), rate)
            if shown.closed:
                raise KeyboardInterrupt

        yield show
