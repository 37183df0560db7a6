"""Play a native environment in a window, or film it.

Both functions take a vector of one environment with the native backend, whose ``call("drawing")``
returns the drawing, and step the vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shoal.ocean_c.draw import Drawing, frames, picture
from shoal.ocean_c.film import Film
from shoal.ocean_c.table import Field, Spec

__all__ = ["keys_of", "panel", "play", "record"]

# observations, rows whose episode begins -> actions
Chooser = Callable[[np.ndarray, np.ndarray], Any]

HELP = "p pause   . one step   backspace reset   - = slower, faster   esc quit"
# The panel's pixels: its width, a line, the space above a heading and above the first line.
WIDTH, LINE, GAP, MARGIN = 260, 16, 8, 10
INK, MUTED, DARK = (232, 238, 246), (132, 148, 171), (17, 21, 28)


def keys_of(fields: Sequence[Field]) -> tuple[list[dict[str, float]], list[float], bool]:
    """Return what each key does, for each element of an action.

    Returns:
        (for each element the value by key, for each element the value without a key, whether the
        game runs without a key: it waits for one if there is no idle choice).
    """
    bindings: list[dict[str, float]] = []
    idle: list[float] = []
    waits = False
    for field in fields:
        count = int(np.prod(field.shape, dtype=np.int64))
        for element in range(count):
            keys: dict[str, float] = {}
            if field.dtype.kind == "i":
                names = field.keys if element == 0 else ()
                keys = {key: float(i) for i, key in enumerate(names) if key != "-"}
                idle.append(float(names.index("-")) if "-" in names else 0.0)
                waits |= bool(keys) and "-" not in names
            else:
                low, high = field.low.reshape(-1)[element], field.high.reshape(-1)[element]
                pair = field.keys[element].split("/") if element < len(field.keys) else []
                keys = dict(zip(pair, (float(low), float(high)), strict=False))
                idle.append(float(min(max(0.0, low), high)))
            bindings.append(keys)
    return bindings, idle, not waits


def play(
    vector: Any,
    spec: Spec,
    title: str,
    fps: float = 10,
    act: Chooser | None = None,
    seed: int = 0,
    steps: int | None = None,
    size: int = 512,
    window: Any = None,
) -> dict[str, float]:
    """Play in a window until it is closed. The player is agent 0.

    Args:
        vector: of one environment, native, with same-step autoreset.
        spec: of the environment.
        title: of the window.
        fps: steps per second, to begin with.
        act: chooses the actions of all agents while no key of the environment's is held; without it
            others act at random, and nobody acts for the player.
        seed: of the first reset.
        steps: how many at the most; None for no end.
        size: pixels of the longer side of the picture.
        window: to show it in; a new one by default.

    Returns:
        ``steps``, ``episodes`` and ``return`` (the sum of the player's rewards).
    """
    if window is None:
        from shoal.ocean_c.window import Window

        window = Window(title)
    bindings, idle, runs = keys_of(spec.actions)
    known = {key for element in bindings for key in element}
    random = np.random.default_rng(seed)
    observations, _ = vector.reset(seed=seed)
    starts = np.ones(vector.num_rows, bool)
    before: Drawing | None = None
    seen: dict[str, Any] = {"reward": 0.0, "return": 0.0, "length": 0, "note": "", "last": ""}
    done = {"steps": 0.0, "episodes": 0.0, "return": 0.0}
    paused = False
    try:
        while not window.closed and (steps is None or done["steps"] < steps):
            drawing = vector.call("drawing")[0]
            text = panel(vector, spec, observations, seen, paused, act is not None)
            shown = frames(before, drawing, max(1, round(30 / fps)))
            for frame in shown:
                window.show(beside(picture(frame, size, 2), text), fps * len(shown))
            before = drawing
            pressed = window.take_pressed()
            held = (window.held() | set(pressed)) & known
            one_step = False
            for key in pressed:
                if key == "escape":
                    return done
                paused ^= key == "p" and key not in known
                one_step |= key == "." and key not in known
                if key == "backspace":
                    observations, _ = vector.reset()
                    starts[:] = True
                    before, seen["length"], seen["return"] = None, 0, 0.0
                fps = fps / 1.5 if key == "-" else fps * 1.5 if key == "=" else fps
            if (paused and not one_step) or (not runs and act is None and not held):
                continue
            actions = np.array(
                act(observations, starts) if act else random_actions(vector, spec, random)
            )
            if act is None or held:
                own = [
                    next((value for key, value in keys.items() if key in held), rest)
                    for keys, rest in zip(bindings, idle)
                ]
                flat = actions.reshape(vector.num_rows, -1)
                flat[0] = own
            observations, rewards, terminations, truncations, infos = vector.step(actions)
            starts = terminations | truncations
            seen["reward"] = float(rewards[0])
            seen["return"], seen["length"] = vector.episode_returns[0], vector.episode_lengths[0]
            seen["note"] = "you act" if held or act is None else "the policy acts"
            done["steps"] += 1
            done["return"] += float(rewards[0])
            if starts[0]:
                how = "terminated" if terminations[0] else "truncated"
                logs = infos.get("final_info", infos)
                values = (f"{k} {logs[k][0]:.3g}" for k in logs if f"_{k}" in logs)
                seen["last"] = f"{how}: return {seen['return']:.4g}, " + ", ".join(values)
                done["episodes"] += 1
                before = None
    finally:
        window.close()
    return done


def random_actions(vector: Any, spec: Spec, random: np.random.Generator) -> np.ndarray:
    """Return random actions of all agents; legal ones, if the environment says which are."""
    rows = vector.num_rows
    lows = np.concatenate([field.low.reshape(-1) for field in spec.actions])
    highs = np.concatenate([field.high.reshape(-1) for field in spec.actions])
    shape = vector.action_space.shape
    if spec.actions[0].dtype.kind == "f":
        return random.uniform(lows, highs, (rows, len(lows))).astype(np.float32).reshape(shape)
    ends = np.cumsum(highs.astype(int) + 1)
    masks = np.split(vector.action_masks, ends[:-1], axis=1)
    chosen = [np.argmax(random.random(mask.shape) * mask, axis=1) for mask in masks]
    return np.stack(chosen, axis=1).reshape(shape)


def panel(
    vector: Any, spec: Spec, observations: np.ndarray, seen: dict[str, Any], paused: bool, two: bool
) -> list[tuple[str, bool]]:
    """Return the lines beside the picture, and whether each is a heading.

    They say what agent 0 gets, which keys there are, and, last, what agent 0 observes.
    """
    lines = [("step", True), (f"reward {seen['reward']:.4g}", False)]
    lines += [
        (f"return {seen['return']:.4g}, length {seen['length']}", False),
        ("paused" if paused else seen["note"], False),
        ("last episode", True),
    ]
    lines += [(part.strip(), False) for part in (seen["last"] or "none yet").split(",")]
    lines.append(("keys", True))
    for field in spec.actions:
        names = field.labels if len(field.labels) == len(field.keys) else field.keys
        pairs = [f"{k} {n}" if n != k else k for k, n in zip(field.keys, names) if k != "-"]
        lines += [("   ".join(pairs[i : i + 3]), False) for i in range(0, len(pairs), 3)]
    if two:
        lines.append(("hold one to take over", False))
    lines += [(part, False) for part in HELP.split("   ")]
    lines.append(("observation", True))
    views = vector.observation_layout.view(observations)
    for field in spec.observations:
        values = views[field.name] if len(spec.observations) > 1 else views
        array = np.asarray(values)[0].reshape(field.shape or (1,))
        if array.ndim == 2 and array.shape[1] <= 24 and array.dtype.kind != "f":
            lines.append((field.name, False))
            lines += [(" ".join(f"{v}" for v in row), False) for row in array[:16].tolist()]
        else:
            flat = array.reshape(-1)
            labels = field.labels if len(field.labels) == len(flat) else [""] * len(flat)
            shown = [f"{label} {v:.3g}".strip() for label, v in zip(labels, flat[:12].tolist())]
            more = " …" if len(flat) > 12 else ""
            for i in range(0, len(shown), 3):
                head = f"{field.name}: " if i == 0 else "   "
                lines.append((head + ", ".join(shown[i : i + 3]) + more * (i + 3 >= 12), False))
    return lines


def beside(pixels: np.ndarray, lines: list[tuple[str, bool]]) -> np.ndarray:
    """Return a picture with the panel's lines beside it (uint8, height x width x 3).

    All lines up to the observation fit; the observation is cut off if it is long.
    """
    needed, y = 0, MARGIN
    for text, heading in lines:
        y += LINE + GAP * heading
        if text == "observation" and heading:
            break
        needed = y
    height = max(len(pixels), (needed + MARGIN) // 2 * 2)
    image = Image.new("RGB", (pixels.shape[1] + WIDTH, height), DARK)
    image.paste(Image.fromarray(pixels), (0, (height - len(pixels)) // 2))
    pen, font, y = ImageDraw.Draw(image), ImageFont.load_default(12), MARGIN
    for text, heading in lines:
        y += GAP * heading
        pen.text((pixels.shape[1] + 12, y), text, MUTED if heading else INK, font)
        y += LINE
    return np.asarray(image)


def record(
    vector: Any,
    path: str | Path,
    steps: int = 200,
    fps: float = 10,
    act: Chooser | None = None,
    seed: int = 0,
    size: int = 384,
    report: Callable[[int], None] = lambda step: None,
) -> None:
    """Write a film of environment 0: a ``.gif`` or an ``.mp4``.

    Args:
        vector: of one environment, native.
        path: the file.
        steps: how many.
        fps: steps per second; motion between them is smooth, at about 30 pictures per second.
        act: chooses actions; random ones by default.
        seed: of the first reset.
        size: pixels of the longer side.
        report: called with the number of steps that are in the film.
    """
    each = max(1, round((30 if Path(path).suffix == ".mp4" else 20) / fps))
    spec = vector._backend.spec
    random = np.random.default_rng(seed)
    observations, _ = vector.reset(seed=seed)
    starts = np.ones(vector.num_rows, bool)
    before: Drawing | None = None
    with Film(path, fps * each) as film:
        for done in range(steps + 1):
            drawing = vector.call("drawing")[0]
            for frame in frames(None if starts[0] else before, drawing, each):
                film.add(picture(frame, size))
            before = drawing
            actions = act(observations, starts) if act else random_actions(vector, spec, random)
            observations, _, terminations, truncations, _ = vector.step(actions)
            starts = terminations | truncations
            report(done)
