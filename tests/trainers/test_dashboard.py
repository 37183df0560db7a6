"""What a run shows: it fits, it is drawn in place, and it says what is so."""

import io
import re
from pathlib import Path

import pytest

from shoal.trainers import dashboard
from shoal.trainers.config import Config

rich_console = pytest.importorskip("rich.console")

CONFIG = Config("nle:NetHackScore-v0", total_steps=2_000_000)
FOLDER = Path("runs/nle-NetHackScore-v0-20261120-091200-1")
METRICS = {
    "steps": 500_000.0,
    "updates": 400.0,
    "episodes": 1234.0,
    "seconds": 100.0,
    "steps_per_second": 5432.1,
    "peak_share": 0.21,
    "time/environment": 0.62,
    "time/copy": 0.03,
    "time/act": 0.12,
    "time/learn": 0.23,
    "episode/return": -180.123456,
    "episode/length": 812.3456,
    "episode/a_long_name_of_a_number": 1.8,
    "loss/policy": -0.0001234567,
    "loss/value": 123456.789,
    "loss/entropy": 2.7123,
    "kl": 0.0123456,
    "clip_fraction": 0.123456,
    "explained_variance": -0.71234,
    "gradient_norm": 12.3456,
    "learning_rate": 2.345e-05,
    "reward/mean": 0.0123456,
}
WARNING = "The environment is the bottleneck: 62% of the time goes to waiting for it. " * 2


def drawn(width, metrics=METRICS, warnings=()):
    file = io.StringIO()
    console = rich_console.Console(file=file, width=width)
    console.print(dashboard.picture([metrics] * 9, warnings, CONFIG, FOLDER))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_everything_is_there_and_fits(width):
    text = drawn(width, warnings=[WARNING])
    assert {len(line) for line in text.splitlines()} == {width}
    assert "…" not in text  # nothing is cut off
    for shown in (
        *("500k of 2.00M steps", "25%", "1:40 so far, 5:00 left", "5.43k", "62%", "23%"),
        *("-180.1", "812.3", "1.23k", "-0.0001235", "1.235e+05", "2.712", "0.01235", "0.1235"),
        *("-0.7123", "12.35", "2.345e-05", "a_long_name", "NetHackScore", FOLDER.name),
        *("memory", "GB", "! The environment is the bottleneck"),
    ):
        assert shown in text, shown


def test_what_has_not_been_measured_yet_is_a_dash():
    few = {name: METRICS[name] for name in ("steps", "episodes", "seconds", "steps_per_second")}
    text = drawn(80, few)
    assert re.search(r"return +– ", text) and re.search(r"KL +– ", text)


def test_the_dashboard_is_drawn_in_place_and_not_too_often(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    console = rich_console.Console(file=file, width=80, height=40, force_terminal=True)
    display = dashboard.Dashboard(CONFIG, FOLDER, console)
    assert "collecting the first rollout" in file.getvalue()
    sizes = []
    for _ in range(20):
        now[0] += 0.02
        before = file.tell()
        display.show([METRICS], [])
        sizes.append(file.tell() - before)
    assert sum(size > 0 for size in sizes) == 4  # every tenth of a second
    before = file.tell()
    display.close()
    last = file.getvalue()[before:]
    # A redraw goes up over the lines of the picture before it, and clears the screen never.
    assert "\x1b[1A" in last and "\x1b[2J" not in file.getvalue()


def test_lines_are_few_and_warnings_come_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    display = dashboard.Lines(CONFIG, FOLDER, file)
    for i in range(12):
        display.show([{**METRICS, "steps": 1000.0 * i}], [f"KL is 0.{i}: too much"] * (i > 3))
        now[0] += 1
    display.close()
    head, *lines = file.getvalue().splitlines()
    assert head == f"training on nle:NetHackScore-v0, run {FOLDER}"
    assert [line.split(" steps")[0].strip() for line in lines if "steps" in line] == [
        *("0", "5,000", "10,000", "11,000"),
    ]
    assert [line for line in lines if "warning" in line] == ["warning: KL is 0.4: too much"]
    assert all("\x1b" not in line for line in lines)


def test_the_kind_follows_the_terminal(monkeypatch, capsys):
    assert isinstance(dashboard.open_display(CONFIG, None), dashboard.Lines)
    quiet = Config("x", display="none")
    assert dashboard.open_display(quiet, None) is None


def test_returns_stay_until_the_next_episode_ends():
    without = {name: value for name, value in METRICS.items() if not name.startswith("episode/")}
    assert dashboard.newest([METRICS, without])["episode/return"] == METRICS["episode/return"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1234, "1.23k"), (12_345, "12.3k"), (1e6, "1.00M"), (2.5e9, "2.50B")],
)
def test_counts(value, text):
    assert dashboard.short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1:00"), (3661, "1:01:01"), (float("nan"), "–")],
)
def test_durations(seconds, text):
    assert dashboard.duration(seconds) == text


def test_a_curve_in_one_line():
    def history(values):
        return [{"x": float(v)} for v in values]

    assert dashboard.sparkline(history(range(8)), "x", 8) == "▁▂▃▄▅▆▇█"
    assert dashboard.sparkline(history(range(1000)), "x", 8) == "▁▂▃▄▅▆▇█"
    assert dashboard.sparkline(history([5, 5, 5]), "x", 8) == "▁▁▁"
    assert dashboard.sparkline(history([float("nan"), 1]), "x", 8) == "▁▁"
    assert dashboard.sparkline(history([1]), "x", 8) == dashboard.sparkline([], "x", 8) == ""


def test_bars():
    assert dashboard.bar(0).strip() == "0%"
    assert dashboard.bar(0.5) == "███  50%"
    assert dashboard.bar(1) == "██████ 100%"
    assert dashboard.bar(1.7) == "██████ 170%"


def test_a_narrow_terminal_shows_fewer_columns_and_cuts_no_number():
    text = drawn(60)
    assert {len(line) for line in text.splitlines()} == {60}
    assert "…" not in text
    for shown in ("25%", "-180.1", "812.3", "2.712", "0.01235", "2.345e-05", "-0.7123"):
        assert shown in text, shown
    assert "memory" not in text


def test_a_slow_rollout_shows_signs_of_life(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    lines = dashboard.Lines(CONFIG, FOLDER, file)
    for second in range(35):
        now[0] = 100.0 + second
        lines.progress(second * 10)
    assert file.getvalue().count("collecting: ") == 3
