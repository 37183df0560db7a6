"""The clock of the trainer's phases: what it counts adds up to the time that passed."""

import pytest

from shoal.trainers import phases, ppo
from shoal.trainers.config import Config
from shoal.trainers.phases import PHASES, Phases, grouped


def test_every_moment_is_in_one_phase(monkeypatch):
    """With a clock that is set by hand."""
    now = 10.0
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now)
    clock = Phases()
    for name, at in (("act", 11.0), ("backward", 13.0), ("act", 17.0), ("rest", 25.0)):
        now = at
        clock.enter(name)
    assert {name: taken for name, taken in clock.seconds.items() if taken} == {
        "rest": 1.0,
        "act": 10.0,
        "backward": 4.0,
    }
    assert grouped(clock.seconds)["learn"] == 4.0
    assert sum(grouped(clock.seconds).values()) == 15.0
    clock.restart()
    assert not any(clock.seconds.values())


def test_a_phase_ends_when_the_device_is_done(monkeypatch):
    now = 0.0
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now)

    def wait():
        nonlocal now
        now += 5.0

    clock = Phases()
    clock.wait = wait
    clock.enter("act")
    clock.enter("copy")
    assert clock.seconds["rest"] == clock.seconds["act"] == 5.0


@pytest.mark.parametrize("memory", ["none", "mingru"])
def test_the_trainer_enters_every_phase(memory):
    seen = []
    config = Config(
        "CartPole-v1", num_envs=4, num_workers=0, horizon=8, total_steps=64, memory=memory
    )
    real = Phases.enter

    class Spy(Phases):
        def enter(self, name):
            seen.append(name)
            real(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "Phases", Spy)
        metrics = ppo.train(config).metrics
    assert set(seen) == set(PHASES)
    shares = {name: share for name, share in metrics.items() if name.startswith("time/")}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares["time/learn"], shares["time/act"], shares["time/environment"]) > 0
