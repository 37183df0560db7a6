"""The loop of a sweep: whatever ends a run or the sweep, each trial is in the journal once."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from pathlib import Path

import pytest
from optuna.trial import TrialState

from shoal.errors import ConfigError, RunError
from shoal.trainers.sweep import run as loop
from shoal.trainers.sweep import show, study
from shoal.trainers.sweep.command import NamedOptions, best_config
from shoal.trainers.sweep.study import Plan, open_study, parse_duration, read_plan, score_of
from tests.trainers.sweep.sweeping import attempts, make_plan, start_fake

ROOT = Path(__file__).parents[3]
NAME = "tests.trainers.sweep.sweeping"


@pytest.fixture(autouse=True)
def fake_runs(monkeypatch):
    monkeypatch.setattr(loop, "start", start_fake)
    monkeypatch.setattr(loop, "POLL", 0.02)


def trials_of(plan):
    return open_study(plan).get_trials(deepcopy=False)


def states(plan):
    return Counter(trial.state.name for trial in trials_of(plan))


def test_a_sweep_runs_what_it_was_told_to(tmp_path):
    plan = make_plan(tmp_path, runs=6)
    assert loop.sweep(plan, parallel=2)
    trials = trials_of(plan)
    assert [t.number for t in trials] == list(range(6))
    assert states(plan) == {"COMPLETE": 6}
    assert attempts(tmp_path) and Counter(attempts(tmp_path)).most_common(1)[0][1] == 1
    for trial in trials:
        assert trial.value == pytest.approx(trial.params["learning_rate"])
        assert trial.user_attrs["cost"] == pytest.approx(trial.params["total_steps"] / 1000)
        config = loop.config_of(plan, trial)
        assert (config.seed, config.group) == (1 + trial.number, "sweep")
    assert trials[0].params["learning_rate"] == plan.config.learning_rate  # the config's own first
    best = max(trials, key=lambda t: t.value)
    what, values = best_config(plan, NamedOptions("sweep"))
    assert f"sweep/{best.number:04}" in what
    assert values["learning_rate"] == best.params["learning_rate"]
    assert values["seed"] == 1 + best.number and values["name"] is None and values["group"] is None
    cheap = [t for t in trials if t.user_attrs["cost"] <= 4]
    _, values = best_config(plan, NamedOptions("sweep", cost="4s"))
    assert values["learning_rate"] == max(t.value for t in cheap)


def test_half_of_the_runs_are_nan(tmp_path):
    plan = make_plan(tmp_path, {f"{i:04}": "nan" for i in range(0, 12, 2)}, runs=12)
    loop.sweep(plan, parallel=4)
    assert states(plan) == {"COMPLETE": 6, "FAIL": 6}
    failed = trials_of(plan)[2]
    assert "no finite score" in failed.user_attrs["failure"]


def test_a_run_that_breaks_is_one_failed_trial_with_the_end_of_its_log(tmp_path):
    plan = make_plan(tmp_path, {"0001": "crash"}, runs=4)
    loop.sweep(plan, parallel=2)
    assert states(plan) == {"COMPLETE": 3, "FAIL": 1}
    assert trials_of(plan)[1].user_attrs["failure"] == "ValueError: this run breaks"
    text = show.report(plan, trials_of(plan), time.time())
    assert "3 complete" in text and "1 failed" in text and "this run breaks" in text


def test_a_sweep_whose_runs_all_fail_gives_up(tmp_path):
    plan = make_plan(tmp_path, {"all": "crash"}, runs=50)
    with pytest.raises(RunError, match="have all failed; the last one: ValueError"):
        loop.sweep(plan, parallel=2)
    assert len(trials_of(plan)) < 10


def test_values_that_do_not_fit_to_each_other_are_a_failed_trial(tmp_path, monkeypatch):
    def refuse(plan, trial):
        if trial.number == 1:
            raise ConfigError("num_envs: too many")
        return config_of(plan, trial)

    config_of = loop.config_of
    plan = make_plan(tmp_path, runs=3)
    monkeypatch.setattr(loop, "config_of", refuse)
    loop.sweep(plan)
    assert states(plan) == {"COMPLETE": 2, "FAIL": 1}
    assert trials_of(plan)[1].user_attrs["failure"] == "num_envs: too many"


def killer(plan, pids):
    """Kill the first run that shows up, once."""

    def look(study, end):
        if not end and pids.empty and (plan.folder / "0001" / "metrics.jsonl").exists():
            found = subprocess.run(
                ["pgrep", "-f", f"{plan.folder}/configs/0001"], capture_output=True, text=True
            )
            for pid in found.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
                pids.empty = False

    return look


def test_a_run_that_is_killed_is_one_failed_trial(tmp_path):
    plan = make_plan(tmp_path, {"0001": "hang"}, runs=3)
    pids = type("Once", (), {"empty": True})()
    loop.sweep(plan, 2, killer(plan, pids))
    assert not pids.empty
    assert states(plan) == {"COMPLETE": 2, "FAIL": 1}


def test_a_sweep_that_is_interrupted_goes_on_where_it_was(tmp_path):
    """Runs that were under way go on from their checkpoint; complete ones are not run again."""
    plan = make_plan(tmp_path, {"0003": "half"}, runs=6)

    def interrupt(study, end):
        if (plan.folder / "0003" / "checkpoints" / "000005.pt").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.sweep(plan, 2, interrupt)
    before = {t.number: (t.state, t.datetime_complete) for t in trials_of(plan)}
    assert [n for n, (state, _) in before.items() if state == TrialState.RUNNING]
    assert "to go on with" in show.report(plan, trials_of(plan), time.time())
    assert loop.sweep(read_plan(plan.folder), 2)
    assert states(plan) == {"COMPLETE": 6}
    for trial in trials_of(plan):
        if before.get(trial.number, (None,))[0] == TrialState.COMPLETE:
            assert trial.datetime_complete == before[trial.number][1]
    count = Counter(attempts(tmp_path))
    assert count["train", "0003"] == 1 and count["resume", "0003"] == 1
    assert count["train", "0000"] == 1 and count["resume", "0000"] == 0


def test_a_run_that_ended_while_nobody_looked_is_not_run_again(tmp_path, monkeypatch):
    plan = make_plan(tmp_path, runs=2)
    tell = loop.Active._finish
    monkeypatch.setattr(loop.Active, "_finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.sweep(plan)
    monkeypatch.setattr(loop.Active, "_finish", tell)
    loop.sweep(plan)
    assert states(plan) == {"COMPLETE": 2}
    assert Counter(attempts(tmp_path))["train", "0000"] == 1


@pytest.mark.slow
def test_poor_runs_are_stopped_early(tmp_path):
    plan = make_plan(tmp_path, {f"{i:04}": "slow" for i in range(12, 24)}, runs=24, early_stop=True)
    loop.sweep(plan, 4)
    found = states(plan)
    assert found["PRUNED"] > 0 and found["PRUNED"] + found["COMPLETE"] == 24
    trials = trials_of(plan)
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    assert max(t.params["learning_rate"] for t in pruned) < 2e-3  # of 1e-4 to 1e-2, in logarithms
    assert "30 % quantile" in pruned[0].user_attrs["failure"]


def test_runs_end_with_the_budget(tmp_path, monkeypatch):
    plan = make_plan(tmp_path, {"all": "hang"}, budget=4.0)
    monkeypatch.setattr(loop, "LONGEST", 2.0)  # so that only the budget ends them
    assert loop.sweep(plan, parallel=2)
    trials = trials_of(plan)
    assert len(trials) == 2 and states(plan) == {"PRUNED": 2}
    assert trials[0].user_attrs["failure"] == "the budget was used up"
    assert study.elapsed(plan, trials, time.time()) >= 4.0


@pytest.mark.slow
def test_no_run_takes_all_of_the_budget(tmp_path):
    plan = make_plan(tmp_path, {"0000": "hang"}, budget=12.0, runs=3)
    assert loop.sweep(plan)
    assert states(plan) == {"PRUNED": 1, "COMPLETE": 2}
    assert trials_of(plan)[0].user_attrs["failure"] == "a run may take 25% of the budget"


def test_a_full_disk_stops_the_sweep_and_loses_nothing(tmp_path, monkeypatch):
    plan = make_plan(tmp_path, {"0001": "crash"}, runs=3)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as full:
        full.setattr(loop.shutil, "disk_usage", lambda path: usage(1, 1, 1000))
        with pytest.raises(RunError, match="MB of disk left"):
            loop.sweep(plan)
    (tmp_path / "faults.json").write_text("{}")
    loop.sweep(plan)
    assert states(plan) == {"COMPLETE": 3}


def test_the_journal_takes_a_line_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    study.append_whole(path, b"one\n")
    write = os.write

    def fills(file, data):
        if len(data) < 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, bytes(data)[:5])

    with monkeypatch.context() as full:
        full.setattr(study.os, "write", fills)
        with pytest.raises(OSError, match="No space"):
            study.append_whole(path, b"two two\n")
    assert path.read_bytes() == b"one\n"
    with path.open("ab") as file:
        file.write(b"torn" * 40_000)  # longer than what is read at once
    study.append_whole(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_torn_journal_goes_on(tmp_path):
    plan = make_plan(tmp_path, runs=2)
    loop.sweep(plan)
    with (plan.folder / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert len(trials_of(plan)) == 2
    loop.sweep(dataclasses.replace(plan, runs=4))
    assert states(plan) == {"COMPLETE": 4}


@pytest.mark.parametrize(("window", "goal", "expected"), [
    ("final", "maximize", 4.5), ("best", "maximize", 9.5), ("best", "minimize", 0.5),
])  # fmt: skip
def test_where_a_run_is_scored(tmp_path, window, goal, expected):
    values = [0.0, 1.0, *[9.0, 10.0], *[5.0] * 14, 4.0, 5.0]
    history = [{"episode/score": v, "episode/return": -1.0} for v in values]
    plan = Plan(tmp_path, None, {}, None, goal, window)
    assert score_of(plan, history) == expected
    assert score_of(plan, [{"steps": 1.0}]) is None
    assert score_of(plan, [{"episode/return": 3.0}]) == 3.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90s", 90), ("1h30m", 5400), ("10m", 600), ("45", 45)]
)
def test_times(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2x", "h", "1.2.3s", "m5"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match="expected a time"):
        parse_duration(text)


def process(plan, runs, parallel):
    return subprocess.Popen(
        [sys.executable, "-m", NAME, plan.folder, str(runs), str(parallel)],
        cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_commands_share_one_study(tmp_path):
    plan = make_plan(tmp_path, {"all": "slow"}, runs=24)
    both = [process(plan, 24, 2), process(plan, 24, 2)]
    assert [each.wait(240) for each in both] == [0, 0]
    assert states(plan) == {"COMPLETE": 24}
    assert Counter(attempts(tmp_path)).most_common(1)[0][1] == 1
    lines = (plan.folder / "journal.log").read_text().splitlines()
    owners = {json.loads(line)["worker_id"] for line in lines if '"op_code":4' in line}
    assert len(owners) >= 2  # each has made some of the trials


@pytest.mark.slow
def test_kill_anything_at_random_twenty_times(tmp_path):
    """Of a run, of the sweep, of both: each trial is once in the journal, and all are complete."""
    chance = random.Random(0)
    plan = make_plan(tmp_path, {"all": "slower"}, runs=100)
    killed_runs, killed = 0, 0
    while killed < 20:
        sweeping = process(plan, 100, 2)
        deadline = time.monotonic() + chance.uniform(3, 9)
        while time.monotonic() < deadline and sweeping.poll() is None:
            time.sleep(0.02)
        assert sweeping.poll() is None, "the runs are used up before the kills"
        what = chance.choice(["run", "sweep", "both"])
        if what in ("run", "both"):
            found = subprocess.run(
                ["pgrep", "-f", f"fake_run.py.*{plan.folder}"], capture_output=True, text=True
            )
            for pid in found.stdout.split()[:1]:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                    killed_runs += 1
                except ProcessLookupError:
                    pass
        if what == "run":
            time.sleep(0.5)
        os.kill(sweeping.pid, signal.SIGKILL)
        sweeping.wait()
        killed += 1
    assert process(plan, 100, 2).wait(240) == 0
    trials = trials_of(plan)
    found = states(plan)
    assert found["RUNNING"] == found["WAITING"] == 0
    begun = [t for t in trials if "begin" in t.user_attrs]
    assert len(begun) == 100 and [t.number for t in trials] == list(range(len(trials)))
    failed = [t for t in begun if t.state == TrialState.FAIL]
    assert len(failed) <= killed_runs
    assert all((plan.folder / f"{t.number:04}").is_dir() for t in begun)
    again = Counter(attempts(tmp_path))
    assert killed == 20 and sum(again.values()) <= 100 + 2 * killed + killed_runs
