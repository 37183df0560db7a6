"""What a run shows while it trains: a dashboard in a terminal, or plain lines elsewhere."""

from __future__ import annotations

import itertools
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from shoal.trainers.config import Config

__all__ = ["Dashboard", "Lines", "duration", "open_display", "short"]

REDRAW = 0.1  # seconds between pictures, at the least
LINE = 5.0  # seconds between lines
LIFE = 10.0  # seconds without a line, after which one says that all is well
SPARKS = "▁▂▃▄▅▆▇█"


def open_display(config: Config, folder: Path | None) -> Dashboard | Lines | None:
    """Open what `config.display` asks for; None for nothing. Close it at the end.

    Args:
        config: of the run.
        folder: of the run, as far as there is one.
    """
    kind = config.display
    if kind == "auto":
        kind = "dashboard" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else "lines"
    if kind == "none":
        return None
    return Dashboard(config, folder) if kind == "dashboard" else Lines(config, folder)


class Lines:
    """One line every few seconds, for logs and pipes; warnings as they come.

    Args:
        config, folder: as for `open_display`.
        file: where to write; default: stdout.
    """

    def __init__(self, config: Config, folder: Path | None, file: TextIO | None = None):
        self.config = config
        self.file = file or sys.stdout
        self._next = 0.0
        self._alive = time.monotonic()  # when the last line was written
        self._said: set[str] = set()
        self._last: Mapping[str, float] = {}
        self._shown = 0.0  # steps of the last line
        self._say(f"training on {config.env}" + (f", run {folder}" if folder else ""))

    def show(self, history: Sequence[Mapping[str, float]], warnings: Sequence[str]) -> None:
        """Print the newest metrics, if it is time, and warnings that are new."""
        self._last = newest(history)
        if time.monotonic() >= self._next:
            self._line()
        for warning in warnings:
            key = "".join(c for c in warning if not c.isdigit())  # not again with other numbers
            if key not in self._said:
                self._said.add(key)
                self._say(f"warning: {warning}")

    def progress(self, steps: int) -> None:
        """Say that a slow rollout is under way: at most every `LIFE` seconds."""
        if time.monotonic() >= max(self._next, self._alive + LIFE):
            self._alive = time.monotonic()
            self._say(f"collecting: {steps:,} steps of this rollout")

    def close(self) -> None:
        if self._last and self._shown != self._last["steps"]:
            self._line()

    def _line(self) -> None:
        metrics = self._last
        self._alive = time.monotonic()
        self._next = self._alive + LINE
        self._shown = metrics["steps"]
        text = (
            f"{metrics['steps']:>13,.0f} steps {share_done(metrics, self.config):>4.0%}"
            f" {short(metrics['steps_per_second']):>6}/s"
            f"  return {number(metrics, 'episode/return')}"
            f"  length {number(metrics, 'episode/length')}"
            f"  entropy {number(metrics, 'loss/entropy')}  kl {number(metrics, 'kl')}"
            f"  explained {number(metrics, 'explained_variance')}"
            f"  left {duration(seconds_left(metrics, self.config))}"
        )
        self._say(text)

    def _say(self, text: str) -> None:
        print(text, file=self.file, flush=True)


class Dashboard:
    """A picture in place, redrawn as updates come; what else is printed goes above it.

    Args:
        config, folder: as for `open_display`.
        console: a rich console; default: one on stdout.
    """

    def __init__(self, config: Config, folder: Path | None, console: Any = None):
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self.config = config
        self.folder = folder
        self._next = 0.0
        self._latest: tuple[Sequence[Mapping[str, float]], Sequence[str]] = ([], [])
        # Drawn when there is news and never by a thread: no picture is drawn twice.
        self._live = Live(
            Text(f"training on {config.env}: collecting the first rollout …", style="dim"),
            console=console or Console(),
            auto_refresh=False,
            vertical_overflow="crop",
        )
        self._live.start(refresh=True)

    def show(self, history: Sequence[Mapping[str, float]], warnings: Sequence[str]) -> None:
        """Draw the newest metrics, unless the last picture is very new."""
        self._latest = history, warnings
        if time.monotonic() >= self._next:
            self._draw()

    def progress(self, steps: int) -> None:
        """Say that a slow rollout is under way, as long as there is no picture."""
        if not self._latest[0] and time.monotonic() >= self._next:
            from rich.text import Text

            self._next = time.monotonic() + 1.0
            text = f"training on {self.config.env}: first rollout, {steps:,} steps so far …"
            self._live.update(Text(text, style="dim"), refresh=True)

    def close(self) -> None:
        """Leave the last picture standing."""
        if self._latest[0]:
            self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._next = time.monotonic() + REDRAW
        self._live.update(picture(*self._latest, self.config, self.folder), refresh=True)


def picture(
    history: Sequence[Mapping[str, float]],
    warnings: Sequence[str],
    config: Config,
    folder: Path | None,
) -> Any:
    """Return the dashboard of a run, a rich renderable; fewer than 80 columns show less."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    metrics = newest(history)
    done = share_done(metrics, config)

    def pairs(title: str, rows: Sequence[tuple[str, Any]]) -> Table:
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_row(Text(title, style="bold cyan"), "")
        for name, value in rows:
            table.add_row(name, value)
        return table

    progress = Table.grid(expand=True, padding=(0, 1))
    progress.add_column(no_wrap=True)
    progress.add_column(ratio=1)
    progress.add_column(no_wrap=True, justify="right")
    left = duration(seconds_left(metrics, config))
    progress.add_row(
        f"{short(metrics['steps'])} of {short(config.total_steps)} steps",
        ProgressBar(total=1.0, completed=done, complete_style="cyan", finished_style="green"),
        f"{done:>4.0%}  {duration(metrics['seconds'])} so far, {left} left",
    )

    shares = [name for name in metrics if name.startswith("time/")]
    speed = [
        ("steps/s", Text(short(metrics["steps_per_second"]), style="bold")),
        *[(name.removeprefix("time/"), bar(metrics[name])) for name in shares],
        ("FLOP/s of peak", f"{metrics['peak_share']:.0%}" if "peak_share" in metrics else "–"),
        *memory_rows(),
    ]
    known = {"episode/return", "episode/length"}
    others = [name for name in metrics if name.startswith("episode/") and name not in known]
    episodes = [
        ("return", Text(number(metrics, "episode/return"), style="bold green")),
        ("length", number(metrics, "episode/length")),
        *[(name.removeprefix("episode/")[:11], number(metrics, name)) for name in others[:4]],
        ("episodes", short(metrics["episodes"])),
        ("mean reward", number(metrics, "reward/mean")),
    ]
    learning = [
        ("policy loss", number(metrics, "loss/policy")),
        ("value loss", number(metrics, "loss/value")),
        ("entropy", number(metrics, "loss/entropy")),
        ("KL", number(metrics, "kl")),
        ("clip fraction", number(metrics, "clip_fraction")),
        ("explained var.", number(metrics, "explained_variance")),
        ("gradient norm", number(metrics, "gradient_norm")),
        ("learning rate", number(metrics, "learning_rate")),
    ]
    body = Beside(pairs("episodes", episodes), pairs("learning", learning), pairs("speed", speed))
    curve = sparkline(history, "episode/return", 40)
    parts: list[Any] = [progress, Text(), body]
    if curve:
        parts += [Text(), Text.assemble(("return  ", "dim"), (curve, "green"))]
    if warnings:
        notes = Table.grid(padding=(0, 1))
        for warning in warnings[:4]:
            notes.add_row(Text("!", style="bold yellow"), Text(warning, style="yellow"))
        parts += [Text(), notes]
    return Panel(
        Group(*parts),
        title=Text(f" {config.env} ", style="bold"),
        title_align="left",
        subtitle=Text(f" {folder} ", style="dim") if folder else None,
        subtitle_align="right",
        box=box.ROUNDED,
        border_style="dim",
    )


class Beside:
    """Renderables side by side, as many of the first ones as fit without a cut."""

    def __init__(self, *parts: Any):
        self.parts = parts

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.table import Table

        table = Table.grid(expand=True, padding=(0, 2))
        shown = self.parts[: max(1, options.max_width // 25)]
        for ratio in (22, 24, 22)[: len(shown)]:  # three fit into 80 columns without a cut
            table.add_column(ratio=ratio)
        table.add_row(*shown)
        yield table


def bar(share: float, width: int = 6) -> str:
    """Return a share of 1 as blocks and per cent."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    blocks = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return f"{blocks} {share:>4.0%}"


def sparkline(history: Sequence[Mapping[str, float]], name: str, width: int) -> str:
    """Draw a metric over the whole run, in one line of at most `width` characters."""
    values = [metrics[name] for metrics in history if name in metrics]
    if len(values) < 2:
        return ""
    width = min(width, len(values))
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if not high - low > 0:  # also where something is not finite
        return SPARKS[0] * width
    return "".join(SPARKS[int((mean - low) / (high - low) * 7.999)] for mean in means)


def newest(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the last metrics, with those of episodes from the last update in which one ended."""
    episode = next((m for m in reversed(history) if "episode/return" in m), {})
    return {**{k: v for k, v in episode.items() if k.startswith("episode/")}, **history[-1]}


def share_done(metrics: Mapping[str, float], config: Config) -> float:
    return min(1.0, metrics["steps"] / config.total_steps)


def seconds_left(metrics: Mapping[str, float], config: Config) -> float:
    """Return the seconds left at the mean speed of the run."""
    left = max(0.0, config.total_steps - metrics["steps"])
    return left * metrics["seconds"] / max(metrics["steps"], 1)


def memory_rows() -> list[tuple[str, str]]:
    """Memory of this process and of the GPU, as far as they are known."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = [("memory", f"{peak * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB")]
    torch = sys.modules.get("torch")  # loaded by whoever trains
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        rows.append(("GPU memory", f"{(total - free) / 1e9:.1f}/{total / 1e9:.0f} GB"))
        try:
            rows.append(("GPU in use", f"{torch.cuda.utilization():.0f} %"))
        except (ImportError, RuntimeError):  # it needs pynvml, and a driver that answers
            pass
    return rows


def number(metrics: Mapping[str, float], name: str) -> str:
    """Format a metric in at most nine characters; a dash if it isn't there."""
    return f"{metrics[name]:.4g}" if name in metrics else "–"


def short(value: float) -> str:
    """Format a count in at most six characters: 950, 12.3k, 1.50M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            digits = 2 if value < 10 * unit else 1 if value < 100 * unit else 0
            return f"{value / unit:.{digits}f}{name}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Format a time as 42 s, 3:05 or 2:03:05."""
    if not seconds < 1e8:
        return "–"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"
