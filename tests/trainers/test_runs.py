"""A run's folder: what is in it, and that nothing that happens to it loses anything."""

import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import CheckpointError, ConfigError, RunError
from shoal.trainers import ppo, runs
from shoal.trainers.config import Config, to_dict

torch = pytest.importorskip("torch")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Of a run in a folder of its own, with a temporary folder beside it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "rescued"))
    (tmp_path / "rescued").mkdir()
    return Config("CartPole-v1", runs_dir=str(tmp_path / "runs"), name="one", tensorboard=False)


def metrics(update, returned=None):
    made = {"steps": 100.0 * update, "updates": float(update), "seconds": 0.1 * update}
    return made if returned is None else {**made, "episode/return": returned}


def state(update):
    weights = {"w": torch.arange(1000.0) + update}
    return {"config": {"env": "x"}, "policy": weights, "updates": update, "steps": 100 * update}


def lines(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def names(run):
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir())


# -- what is in it ----------------------------------------------------------------------------


def test_a_run_holds_what_reproduces_it(config):
    run = runs.create(config)
    run.report(metrics(1))
    run.report(metrics(2, 5.0))
    run.close()
    assert runs.read_config(run.folder) == config
    assert lines(run) == runs.read_metrics(run.folder) == [metrics(1), metrics(2, 5.0)]
    (start,) = json.loads((run.folder / "system.json").read_text())
    assert start["packages"]["numpy"] and start["host"] and start["cores"] >= 1
    assert start["command"] == sys.argv
    assert (run.folder / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_git_commit_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.git_commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert runs.git_commit() == {"commit": commit.stdout.strip(), "modified": False}
    (tmp_path / "file").write_text("2")
    assert runs.git_commit()["modified"]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


@given(st.dictionaries(texts, values, max_size=4))
def test_toml_comes_back_as_it_was(table):
    read = tomllib.loads(runs.to_toml({"plain": 1, "table": table}))
    assert read == {"plain": 1, **({"table": table} if table else {})}
    assert json.dumps(read.get("table", {})) == json.dumps(table)  # also 1 against 1.0 and True


def test_what_toml_cannot_hold_is_an_error_that_names_it(config):
    with pytest.raises(ConfigError, match=r"env_kwargs\.a: None"):
        runs.to_toml({"env_kwargs": {"a": None}})
    with pytest.raises(ConfigError, match="keys are strings"):
        runs.to_toml({"env_kwargs": {1: 2}})


def test_latest_checkpoints_and_the_best_one_are_kept(config):
    run = runs.create(Config(**{**to_dict(config), "keep_checkpoints": 2}))
    for update, returned in ((1, 1.0), (2, 9.0), (3, None), (4, 3.0), (5, 2.0)):
        run.report(metrics(update, returned))
        run.save(state(update), metrics(update, returned))
    run.close()
    assert names(run) == ["000004.pt", "000005.pt", "best.pt"]
    best = runs.read_checkpoint(run.folder / "checkpoints" / "best.pt")
    assert best["updates"] == 2 and best["score"] == 9.0
    assert (best["policy"]["w"] == state(2)["policy"]["w"]).all()


def test_the_best_is_judged_by_all_updates_since_the_last_checkpoint(config):
    run = runs.create(config)
    for update, returned in enumerate((4.0, 6.0, 0.0, 9.0), 1):
        run.report(metrics(update, returned))
        if update % 2 == 0:
            run.save(state(update), metrics(update, returned))
    run.close()
    best = runs.read_checkpoint(run.folder / "checkpoints" / "best.pt")
    assert best["updates"] == 2 and best["score"] == 5.0


def test_names(config):
    assert runs.create(config).folder.name == "one"
    with pytest.raises(RunError, match="exists; give another --name"):
        runs.create(config)
    with pytest.raises(ConfigError, match="name of a folder"):
        runs.create(Config("CartPole-v1", name="../up", runs_dir=config.runs_dir))
    unnamed = Config("a/b.py:make it", runs_dir=config.runs_dir, tensorboard=False)
    made = {runs.create(unnamed).folder.name for _ in range(3)}
    assert len(made) == 3 and all(name.startswith("b.py-make-it-") for name in made)
    assert runs.find_run("one", config.runs_dir).name == "one"
    with pytest.raises(RunError, match=r"no run 'onee'; did you mean one\?"):
        runs.find_run("onee", config.runs_dir)


# -- resuming ---------------------------------------------------------------------------------


def begun(config, updates=5, every=2):
    """A run that was killed after some updates, in the middle of a line."""
    run = runs.create(config)
    for update in range(1, updates + 1):
        run.report(metrics(update, float(update)))
        if update % every == 0:
            run.save(state(update), metrics(update))
    os.close(run._file)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 123')
    return run


def test_resuming_cuts_off_what_came_after_the_checkpoint(config):
    killed = begun(config)
    run, found = runs.resume(killed.folder)
    assert found["updates"] == 4
    assert [m["updates"] for m in run.history] == [1, 2, 3, 4]
    run.report(metrics(5, 50.0))
    run.close()
    assert [m.get("episode/return") for m in lines(run)] == [1, 2, 3, 4, 50]
    assert len(json.loads((run.folder / "system.json").read_text())) == 2


def test_a_resume_that_comes_to_nothing_changes_nothing(config):
    killed = begun(config)
    before = (killed.folder / "metrics.jsonl").read_bytes(), names(killed)
    run, _ = runs.resume(killed.folder)
    os.close(run._file)  # killed again, before the first update
    assert ((killed.folder / "metrics.jsonl").read_bytes(), names(killed)) == before


def test_an_older_checkpoint_leaves_the_later_ones_behind(config):
    killed = begun(config)
    run, found = runs.resume(killed.folder, killed.folder / "checkpoints" / "000002.pt")
    assert found["updates"] == 2
    run.report(metrics(3))
    assert names(run) == ["000002.pt", "best.pt"]
    run.close()
    assert [m["updates"] for m in lines(run)] == [1, 2, 3]


def test_a_resumed_run_knows_its_best(config):
    killed = begun(config)
    run, _ = runs.resume(killed.folder)
    run.report(metrics(5, 3.0))  # less than the 3.5 of updates 3 and 4
    run.save(state(5), metrics(5))
    run.close()
    assert runs.read_checkpoint(run.folder / "checkpoints" / "best.pt")["updates"] == 4


def test_one_process_at_a_time_writes_a_run(config):
    run = runs.create(config)
    run.report(metrics(1))
    run.save(state(1), metrics(1))
    with pytest.raises(RunError, match="another process"):
        runs.resume(run.folder)
    run.close()
    resumed, _ = runs.resume(run.folder)
    resumed.close()


def test_a_run_without_a_checkpoint_says_so(config):
    run = runs.create(config)
    run.close()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        runs.resume(run.folder)


# -- faults -----------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size):
    """No file can grow beyond this: what a write to a full disk meets."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_no_line_and_no_checkpoint(config):
    run = runs.create(config)
    run.report(metrics(1))
    run.save(state(1), metrics(1))
    with largest_file((run.folder / "metrics.jsonl").stat().st_size + 10):  # a part of a line
        for update in (2, 3):
            run.report(metrics(update))
            run.save(state(update), metrics(update))
        assert "can't be written: File too large" in run.problems["metrics"]
        assert "training goes on" in run.problems["checkpoint"]
        assert lines(run) == [metrics(1)]  # whole lines, and no half one
        assert names(run) == ["000001.pt"]  # and no half a file
        assert runs.read_checkpoint(run.folder / "checkpoints" / "000001.pt")["updates"] == 1
    run.report(metrics(4))  # there is room again
    run.save(state(4), metrics(4))
    assert not run.problems
    run.close()
    assert lines(run) == [metrics(i) for i in (1, 2, 3, 4)]
    assert names(run) == ["000001.pt", "000004.pt"]


def test_what_a_full_disk_leaves_at_the_end_is_rescued(config, monkeypatch):
    run = runs.create(config)
    run.report(metrics(1))
    run.save(state(1), metrics(1))
    real = os.write

    def full(file, data):
        if file == run._file:
            raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(runs, "RESERVE", 1 << 62)
    run.report(metrics(2))
    run.save(state(2), metrics(2))
    with pytest.raises(RunError, match="No space left on device") as caught:
        run.close()
    assert len(str(caught.value).splitlines()) == 1 and "shoal resume" in str(caught.value)
    (rescued,) = os.scandir(tempfile.gettempdir())
    assert rescued.path in str(caught.value)
    for name in os.listdir(rescued.path):  # as the error says
        target = run.folder / ("checkpoints" if name.endswith(".pt") else "") / name
        os.replace(os.path.join(rescued.path, name), target)
    monkeypatch.undo()
    resumed, found = runs.resume(run.folder)
    resumed.close()
    assert found["updates"] == 2 and lines(run) == [metrics(1), metrics(2)]


def test_little_room_costs_old_checkpoints_before_new_ones(config, monkeypatch):
    run = runs.create(config)
    for update in (1, 2):
        run.report(metrics(update))
        run.save(state(update), metrics(update))
    usage = runs.shutil.disk_usage(run.folder)

    def free(path):  # each checkpoint that goes makes room for one
        there = len(runs.checkpoints(run.folder))
        return usage._replace(free=runs.RESERVE + (20_000 if there == 1 else 0))

    monkeypatch.setattr(runs.shutil, "disk_usage", free)
    run.report(metrics(3))
    run.save(state(3), metrics(3))
    assert names(run) == ["000002.pt", "000003.pt"] and not run.problems
    run.close()


@pytest.mark.parametrize("where", ["runs_dir", "run"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(config, where, tmp_path, monkeypatch):
    if where == "runs_dir":
        (tmp_path / "runs").write_text("a file in its place")
    else:

        def refuse(path, data):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(runs, "write_whole", refuse)
    with pytest.raises(RunError, match=r"run .*/one can't be made: "):
        runs.create(config)
    assert where == "runs_dir" or os.listdir(tmp_path / "runs") == []


def test_resuming_where_nothing_can_be_written_is_one_clear_error(config, monkeypatch):
    killed = begun(config)
    before = (killed.folder / "metrics.jsonl").read_bytes()
    real = os.open

    def read_only(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RunError, match="can't be written: Read-only file system"):
        runs.resume(killed.folder)
    assert (killed.folder / "metrics.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The file of a checkpoint, and what it holds."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    folder.mkdir()
    path = folder / "000001.pt"
    path.write_bytes(runs._serialise(state(1)))
    return path


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value["w"], other[key]["w"]) if key == "policy" else value == other[key]
        for key, value in one.items()
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_bit_that_flips_is_found_or_changes_nothing(checkpoint, data):
    whole = checkpoint.read_bytes()
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[at // 8] ^= 1 << at % 8
    path = checkpoint.with_name("000002.pt")
    path.write_bytes(broken)
    try:
        found = runs.read_checkpoint(path)
    except CheckpointError as error:
        assert "000002.pt is broken" in str(error) and "000001.pt is intact" in str(error)
    else:
        assert same(found, state(1))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_checkpoint_that_is_cut_off_is_found(checkpoint, data):
    whole = checkpoint.read_bytes()
    path = checkpoint.with_name("000002.pt")
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=r"000002.pt is broken.*--checkpoint 000001.pt"):
        runs.read_checkpoint(path)


def test_other_files_are_no_checkpoints(tmp_path):
    torch.save({"weights": 1}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of a run"):
        runs.read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="can't be read: No such file"):
        runs.read_checkpoint(tmp_path / "b.pt")


def test_a_file_of_metrics_that_somebody_has_edited_is_an_error(config):
    killed = begun(config)
    path = killed.folder / "metrics.jsonl"
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(RunError, match=r"metrics.jsonl, line 1: "):
        runs.read_metrics(killed.folder)


def test_a_follower_that_fails_does_not_end_the_run(config, monkeypatch):
    def fails(metrics):
        raise ConnectionError("gone")

    monkeypatch.setattr(
        runs, "open_trackers", lambda *_: {"wandb": (fails, lambda: None)}, raising=True
    )
    run = runs.create(config)
    run.report(metrics(1))
    run.report(metrics(2))
    assert run.problems == {"wandb": "wandb has stopped: ConnectionError: gone"}
    run.close()
    assert lines(run) == [metrics(1), metrics(2)]


def test_a_follower_that_is_not_installed_is_one_clear_error(config):
    for name in ("wandb", "neptune", "trackio"):
        try:
            __import__(name)
        except ImportError:
            asked = Config(**{**to_dict(config), name: True})
            with pytest.raises(ConfigError, match=f"{name} is not installed: pip install {name}"):
                runs.create(asked)
            assert not (runs.Path(config.runs_dir) / "one").exists()


def test_tensorboard_shows_no_step_twice_after_a_resume(config):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = Config(**{**to_dict(config), "tensorboard": True})
    run = runs.create(config)
    for update in range(1, 6):
        run.report(metrics(update, 1.0))
        if update == 2:
            run.save(state(update), metrics(update))
    os.close(run._file)  # killed
    for _, close in run._trackers.values():
        close()
    resumed, _ = runs.resume(run.folder)
    for update in range(3, 5):
        resumed.report(metrics(update, 2.0))
    resumed.close()
    events = reader.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("episode/return")] == [
        (100, 1.0),
        (200, 1.0),
        (300, 2.0),
        (400, 2.0),
    ]


# -- what others made --------------------------------------------------------------------------


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_reading_a_checkpoint_runs_no_code(tmp_path):
    path, trace = tmp_path / "bad.pt", tmp_path / "trace"
    torch.save({"config": {}, "policy": {}, "updates": 1, "x": Bomb(trace)}, path)
    with pytest.raises(CheckpointError, match="more than tensors, numbers and text"):
        runs.read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"env": "breakout"},
        {"env": "CartPole-v1", "memory": "lstm", "normalize_rewards": True},
        {"env": "Pendulum-v1", "optimizer": "muon", "normalize_observations": True},
        {"env": "pettingzoo.classic.tictactoe_v3"},
    ],
    ids=lambda changes: changes["env"],
)
def test_what_training_saves_is_plain(changes, tmp_path):
    """Tensors, numbers, text, bytes, lists and dicts: nothing of NumPy's, and nothing else."""

    def kinds(value):
        if isinstance(value, dict):
            return {type(value)}.union(*map(kinds, value), *map(kinds, value.values()))
        if isinstance(value, list):
            return {list}.union(*map(kinds, value))
        return {type(value)}

    states = []
    config = Config(num_envs=2, num_workers=0, horizon=8, hidden_size=8, total_steps=64, **changes)
    ppo.train(config, save=lambda state, metrics: states.append(state))
    plain = {dict, list, torch.Tensor, int, float, bool, str, bytes, type(None)}
    assert kinds(states[-1]) <= plain
    torch.save(states[-1], tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=True)


# -- what somebody has edited ------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [b"5", b"[]", b'"text"', b"null", b"{}", b'{"steps": "many", "updates": 1, "seconds": 1}',
     b"\xff\xfe", b"[" * 100_000, b'{"steps": 1, "updates": null, "seconds": 2}'],
)  # fmt: skip
def test_odd_metrics_are_one_clear_error(config, line):
    run = runs.create(config)
    run.close()
    (run.folder / "metrics.jsonl").write_bytes(line + b"\n")
    with pytest.raises(RunError, match="line 1"):
        runs.read_metrics(run.folder)


@pytest.mark.parametrize("text", ["{}", "5", '"x"', "null", "no JSON", "[" * 100_000])
def test_an_odd_system_json_is_no_obstacle(config, text):
    run = runs.create(config)
    run.close()
    (run.folder / "system.json").write_text(text)
    runs._note_start(run.folder)
    assert json.loads((run.folder / "system.json").read_text())[-1]["python"]


def test_secrets_are_in_no_file_of_a_run(config, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["shoal", "train", "x", "--env-kwargs", "token=sesame", "a=1"])
    run = runs.create(dataclasses.replace(config, env_kwargs={"token": "sesame", "a": 1}))
    run.close()
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if b"sesame" in path.read_bytes()]
    assert "a=1" in (run.folder / "system.json").read_text()
