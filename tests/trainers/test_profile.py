"""`shoal profile`: phases that add up, a trace, and advice."""

import json
from dataclasses import replace

import pytest

from shoal.errors import ConfigError
from shoal.trainers import command
from shoal.trainers.config import Config
from shoal.trainers.phases import PHASES
from shoal.trainers.profile import Profile, advice, measure, report

CONFIG = Config(
    "cartpole",
    num_envs=16,
    num_workers=1,
    horizon=16,
    hidden_size=16,
    update_epochs=2,
    device="cpu",
)


@pytest.mark.parametrize("memory", ["none", "mingru"])
def test_the_phases_add_up_to_the_wall_time(memory):
    profile = measure(replace(CONFIG, memory=memory), updates=3)
    assert list(profile.seconds) == list(PHASES)
    assert sum(profile.seconds.values()) == pytest.approx(profile.wall, rel=0.02)
    assert min(profile.seconds.values()) > 0
    assert profile.steps >= 3 * 16 * 16 * 0.9
    assert 0 < profile.flops / profile.wall < 2 * profile.peak
    text = report(profile)
    assert "100.0%" in text or "99.9%" in text or "99.8%" in text
    assert all(name in text for name in PHASES)


def test_the_command_prints_a_table_and_writes_a_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "cartpole --num-envs 8 --num-workers 1 --horizon 8 --updates 1 --trace trace.json"
    assert command.profile(options.split()) == 0
    printed = capsys.readouterr().out
    assert "learn: backward" in printed and "advice: " in printed
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("aten::addmm" in str(event.get("name")) for event in events)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]  # and no run
    with pytest.raises(ConfigError, match="updates: expected at least 1, got 0"):
        command.profile(["cartpole", "--updates", "0"])


def profile_of(flops=50.0, **changes):
    """A profile of one second whose other phases take the rest in equal parts."""
    seconds = {k: v for k, v in changes.items() if k in PHASES}
    others = [name for name in PHASES if name not in seconds]
    left = 1.0 - sum(seconds.values())
    seconds |= dict.fromkeys(others, left / len(others))
    config = replace(CONFIG, **{k: v for k, v in changes.items() if k not in PHASES})
    return Profile(config, "processor", 100, 1.0, seconds, flops, 100.0)


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (profile_of(environment=0.7), "the environment takes 70%: use more --num-workers"),
        (profile_of(flops=5.0, forward=0.5), "reach 5% of the peak: use more --num-envs"),
        (profile_of(act=0.6), "acting takes 60%"),
        (profile_of(backward=0.6, memory="lstm"), "use --memory mingru"),
        (profile_of(backward=0.6, memory="mingru"), "fewer --update-epochs"),
        (profile_of(backward=0.6, update_epochs=1), "smaller --hidden-size"),
        (profile_of(copy=0.5, act=0, forward=0, backward=0), "make the observation smaller"),
    ],
)
def test_the_advice_is_about_the_largest_part(profile, words):
    assert words in advice(profile)
