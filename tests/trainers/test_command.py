"""`shoal train` and what belongs to it, as they are used; among that, kill -9 and resume."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.errors import ConfigError
from shoal.trainers.config import Config, described

pytest.importorskip("tyro")
pytest.importorskip("torch")

from shoal.trainers import command
from shoal.trainers.command import parse_train
from shoal.trainers.runs import read_checkpoint, read_config, read_metrics

COMMAND = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]
OPTIONS = (
    "--num-workers=0 --num-envs=4 --horizon=32 --hidden-size=16 --update-epochs=2 "
    "--minibatch-size=64 --learning-rate=1e-3 --torch-threads=1 --display=lines --no-tensorboard"
)
TINY = OPTIONS.split()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- options ----------------------------------------------------------------------------------


def test_options_in_any_order_and_every_spelling():
    text = (
        "--total-steps 1e8 --no-tensorboard --num-workers 2 CartPole-v1 --memory lstm "
        "--gamma 1 --seed 1_000 --env-kwargs a=1 b=text c=[1,2] --target_kl 0.1"
    )
    asked = parse_train(text.split())
    assert asked == Config(
        "CartPole-v1",
        total_steps=10**8,
        tensorboard=False,
        num_workers=2,
        memory="lstm",
        gamma=1.0,
        seed=1000,
        env_kwargs={"a": 1, "b": "text", "c": [1, 2]},
        target_kl=0.1,
    )
    assert type(asked) is Config


def test_the_command_line_goes_before_the_file(folder):
    (folder / "some.toml").write_text(
        'env = "CartPole-v1"\nnum_envs = 4\nbatch_size = 8\nseed = 5\ntensorboard = false\n'
        "total_steps = 1e6\n[env_kwargs]\na = 1\n"
    )
    # Even where the file alone would make no sense, and where an option has its default value.
    asked = parse_train(["--config", "some.toml", "--num-envs", "16", "--seed", "1"])
    expected = {"num_envs": 16, "batch_size": 8, "seed": 1, "tensorboard": False}
    assert {name: getattr(asked, name) for name in expected} == expected
    assert asked.env_kwargs == {"a": 1} and asked.total_steps == 10**6
    assert parse_train(["Acrobot-v1", "--config=some.toml", "--num-envs=8"]).env == "Acrobot-v1"


@pytest.mark.parametrize("name", ["my_env.py:make", "mine.toml"])
def test_files_are_found_from_anywhere_else_later(name, folder):
    (folder / "mine.toml").write_text('summary = "mine"\nenv = "my_env.py:make"\n')
    assert parse_train([name]).env == f"{folder.resolve()}/{name}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "ENV is missing"),
        ("x --learning-ratee 2", "--learning-ratee: no such option; did you mean --learning-rate?"),
        ("x --no-tensorbord", "--no-tensorbord: no such option; did you mean --tensorboard?"),
        ("x --zzz", "--zzz: no such option$"),
        ("x y", "y: no such option"),
        ("x --gamma 2", "gamma: expected 0 to 1, got 2"),
        ("x --num-envs 0", "num_envs: expected at least 1"),
        ("x --config missing.toml", "missing.toml: No such file"),
        ("x --config broken.toml", "broken.toml: .*line 1"),
        ("x --config unknown.toml", "unknown.toml: learning_rat: .*did you mean learning_rate"),
        ("x --config wrong.toml", "wrong.toml: seed: expected int, got 'one'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments, said, folder, capsys):
    (folder / "broken.toml").write_text("env = \n")
    (folder / "unknown.toml").write_text("learning_rat = 1\n")
    (folder / "wrong.toml").write_text('seed = "one"\n')
    with pytest.raises(ConfigError, match=said):
        parse_train(arguments.split())
    assert main(["train", *arguments.split()]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("arguments", ["x --seed 1.5", "x --gamma x", "x --anneal sometimes"])
def test_what_cannot_be_read_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments.split()])
    assert caught.value.code == 2
    assert arguments.split()[1] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "eval", "resume", "runs", "config"])
def test_help_needs_neither_torch_nor_numpy(name):
    code = (
        "import sys; from shoal.cli import main\n"
        f"try: main([{name!r}, '--help'])\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'gymnasium', 'matplotlib', 'tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"usage: shoal {name}" in done.stdout


def test_help_explains_every_option(capsys):
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in Config.__dataclass_fields__:
        assert name == "env" or f"--{name.replace('_', '-')}" in shown
    assert "Discount of future rewards." in shown and "--no-tensorboard" in shown
    groups = dict.fromkeys(section for section, *_ in described())
    places = [shown.index(f" {group}: ") for group in groups]
    assert len(places) == 6 and places == sorted(places)


def test_without_the_extra_one_line_says_what_to_install(folder):
    for missing in ("tyro", "torch"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None\n"
            "from shoal.cli import main; sys.exit(main(['train', 'CartPole-v1']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"needs {missing}" in line and "pip install '.[train]'" in line
    assert list(folder.iterdir()) == []


# -- a run from end to end --------------------------------------------------------------------


def test_train_eval_runs_and_config(folder, capsys):
    """One run, then all that can be done with it."""
    train = ["train", "CartPole-v1", *TINY, "--total-steps", "1500", "--checkpoint-interval", "4"]
    assert main([*train, "--name", "a"]) == 0
    out, _ = capsys.readouterr()
    assert "training on CartPole-v1, run runs/a" in out and "run runs/a is complete" in out
    assert (folder / "runs/a/curve.png").stat().st_size > 5000
    history = read_metrics(Path("runs/a"))
    assert history[-1]["steps"] >= 1500
    assert [m["updates"] for m in history] == list(range(1, len(history) + 1))

    assert main(["eval", "runs/a", "--episodes", "5", "--greedy"]) == 0
    greedy = capsys.readouterr().out
    assert main(["eval", "a", "--episodes", "5", "--greedy"]) == 0  # the same, by its name
    assert capsys.readouterr().out == greedy
    assert "5 episodes" in greedy and "greedy" in greedy
    assert main(["eval", "a", "--checkpoint", "best.pt", "--episodes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["returns"]) == found["episodes"] == 2
    assert main(["eval", "runs/a/checkpoints/best.pt", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["eval", "runs/a", "--env", "Acrobot-v1"]) == 2
    assert "another observation space" in capsys.readouterr().err

    assert main(["config", "a"]) == 0
    text = capsys.readouterr().out
    assert "name" not in tomllib.loads(text)
    (folder / "again.toml").write_text(text)
    assert main(["train", "--config", "again.toml", "--name", "b", "--gamma", "0.9"]) == 0
    assert main(["train", "--config", "again.toml", "--name", "c"]) == 0
    assert without_timing("runs/c") == without_timing("runs/a") != without_timing("runs/b")

    capsys.readouterr()
    assert main(["runs"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in table] == ["run", "a", "b", "c"]
    assert main(["runs", "compare", "a", "b"]) == 0
    compared = capsys.readouterr().out
    assert ["gamma", "0.99", "0.9"] in [row.split() for row in compared.splitlines()]
    assert "episode/return" in compared
    assert main(["runs", "best"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["runs", "list", "--env", "Acrobot-v1"]) == 2
    assert main(["resume", "a"]) == 2
    assert "run runs/a is complete" in capsys.readouterr().err


def without_timing(run):
    """The metrics of a run as text, but for those that measure time."""
    return [
        json.dumps(
            {
                name: value
                for name, value in metrics.items()
                if name not in ("seconds", "steps_per_second", "peak_share")
                and not name.startswith("time/")
            }
        )
        for metrics in read_metrics(Path(run))
    ]


def test_what_never_begins_leaves_nothing_behind(folder, capsys):
    assert main(["train", "NoSuchEnv-v1"]) == 2
    assert main(["train", "CartPole-v1", *TINY, "--policy", "nowhere.py:Policy"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not any((folder / "runs").glob("*"))


@pytest.mark.parametrize(
    "options",
    [pytest.param([], marks=pytest.mark.slow), ["--memory", "lstm"]],
    ids=["feed-forward", "lstm"],
)
def test_a_killed_run_goes_on_as_if_it_had_never_stopped(options, folder):
    train = ["train", "CartPole-v1", *TINY, *options, "--total-steps", "3200"]
    train += ["--checkpoint-interval", "5", "--normalize-rewards", "--normalize-observations"]
    killed = subprocess.Popen([*COMMAND, *train, "--name", "killed"], stdout=subprocess.DEVNULL)
    metrics = folder / "runs/killed/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 8:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    with metrics.open("a") as file:
        file.write('{"half a li')
    before = read_metrics(folder / "runs/killed")
    assert before[-1]["steps"] < 3200

    assert main(["resume", "killed"]) == 0
    assert main([*train, "--name", "whole"]) == 0
    assert without_timing("runs/killed") == without_timing("runs/whole")
    seconds = [m["seconds"] for m in read_metrics(folder / "runs/killed")]
    assert sorted(seconds) == seconds  # and the clock does not begin anew
    final = [
        read_checkpoint(sorted((folder / f"runs/{name}/checkpoints").glob("0*"))[-1])
        for name in ("killed", "whole")
    ]
    for name, weights in final[0]["policy"].items():
        assert weights.equal(final[1]["policy"][name]), name


def test_ctrl_c_ends_after_a_checkpoint_and_resume_goes_on(folder, capsys):
    train = ["train", "CartPole-v1", *TINY, "--total-steps", "3200", "--name", "a"]
    running = subprocess.Popen(
        [*COMMAND, *train], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    metrics = folder / "runs/a/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in err
    history = read_metrics(folder / "runs/a")
    (checkpoint,) = (folder / "runs/a/checkpoints").glob("0*")
    assert read_checkpoint(checkpoint)["updates"] == history[-1]["updates"] < 25
    assert main(["resume", "a"]) == 0
    assert read_metrics(folder / "runs/a")[: len(history)] == history


# -- faults -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder, monkeypatch):
    """A disk of half a megabyte."""
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_training_on_a_full_disk_ends_with_one_error_and_nothing_lost(
    small_disk, folder, capsys, monkeypatch
):
    (folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    monkeypatch.setattr("shoal.trainers.runs.RESERVE", 0)
    train = ["train", "CartPole-v1", *TINY, "--runs-dir", str(small_disk), "--name", "a"]
    train += ["--total-steps", "2560", "--checkpoint-interval", "5"]
    filler = small_disk / "filler"
    filler.write_bytes(bytes(430_000))
    assert main(train) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert "No space left on device" in line and "shoal resume" in line
    assert "warning: checkpoint" in out  # it said so while it trained
    (rescued,) = (folder / "temporary").iterdir()
    history = read_metrics(rescued)
    assert history[-1]["steps"] >= 2560
    assert read_checkpoint(next(rescued.glob("*.pt")))["updates"] == len(history)
    read_metrics(small_disk / "a")  # whole lines


def test_a_broken_checkpoint_is_one_clear_error(folder, capsys):
    train = ["train", "CartPole-v1", *TINY, "--total-steps", "1280", "--checkpoint-interval", "4"]
    assert main([*train, "--name", "a"]) == 0
    _, second, last = sorted((folder / "runs/a/checkpoints").glob("0*"))
    last.write_bytes(last.read_bytes()[:-100])
    config = folder / "runs/a/config.toml"  # of a run that is not complete
    complete = config.read_text()
    config.write_text(complete.replace("total_steps = 1280", "total_steps = 5000"))
    capsys.readouterr()
    before = (folder / "runs/a/metrics.jsonl").read_bytes()
    assert main(["resume", "a"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{last.name} is broken" in line and f"--checkpoint {second.name}" in line
    assert (folder / "runs/a/metrics.jsonl").read_bytes() == before
    config.write_text(complete)
    assert main(["resume", "a", "--checkpoint", second.name]) == 0
    assert len(read_metrics(folder / "runs/a")) == len(before.splitlines())


def test_a_checkpoint_from_another_space_is_one_clear_error(folder, capsys):
    assert main(["train", "CartPole-v1", *TINY, "--total-steps", "256", "--name", "a"]) == 0
    path = folder / "runs/a/config.toml"
    text = path.read_text().replace("total_steps = 256", "total_steps = 1000")
    path.write_text(text.replace("CartPole-v1", "Acrobot-v1"))
    before = (folder / "runs/a/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["resume", "a"]) == 2
    pickled, line = capsys.readouterr().err.splitlines()
    assert "--reset-environments" in pickled  # Python environments are unpickled
    assert "another observation space" in line and len(line) < 300
    assert (folder / "runs/a/metrics.jsonl").read_bytes() == before


# -- doctor -----------------------------------------------------------------------------------


def test_doctor_speaks_of_everything(folder, capsys):
    assert main(["doctor"]) in (0, 1)
    out = capsys.readouterr().out
    for name in (
        *("Python", "compiled parts", "C compiler", "torch", "CUDA driver", "CUDA toolkit"),
        *("cores", "memory", "disk", "extra train", "extra nethack", "wandb"),
    ):
        assert f" {name} " in out, name
    assert list(folder.iterdir()) == []


def test_doctor_works_without_torch_and_says_what_to_install():
    code = (
        "import sys, importlib.util as util\nfind = util.find_spec\n"
        "def hide(name, *a): return None if name in ('torch', 'tyro') else find(name, *a)\n"
        "util.find_spec = hide\n"
        "sys.modules['torch'] = sys.modules['tyro'] = None\n"
        "from shoal.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not done.stderr
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if len(line.split()) > 1}
    assert lines["torch"].startswith("NO") and "pip install '.[train]'" in lines["torch"]
    assert re.search(r"lacks torch, tyro.*: pip install '\.\[train\]'", done.stdout)


def test_doctor_names_a_folder_that_cannot_be_written(capsys):
    assert main(["doctor", "--runs-dir", "/proc"]) == 1
    assert "nothing can be written" in capsys.readouterr().out or os.access("/proc", os.W_OK)


def test_a_config_survives_its_file(folder):
    assert main(["train", "CartPole-v1", *TINY, "--total-steps", "128", "--name", "a"]) == 0
    asked = parse_train(["CartPole-v1", *TINY, "--total-steps", "128", "--name", "a"])
    assert read_config(folder / "runs/a") == asked


# -- several processes ------------------------------------------------------------------------


def start_two(*arguments):
    """The command in two processes, with the environment that torchrun gives each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, **meeting, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
        )
        for rank in "01"
    ]


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(folder):
    run = folder / "runs" / "pair"
    total = 20_000
    first, second = start_two(
        "train", "CartPole-v1", *TINY, "--name=pair", f"--total-steps={total}"
    )
    while not (run / "metrics.jsonl").exists() or len(read_metrics(run)) < 3:
        assert first.poll() is None and second.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130 and second.wait(60) == 0
    before = read_metrics(run)
    assert before[-1]["steps"] < total
    assert [process.wait(200) for process in start_two("resume", "pair")] == [0, 0]
    after = read_metrics(run)
    assert after[: len(before)] == before and after[-1]["steps"] >= total


# -- what has moved, what is kept back, what never ends ----------------------------------------

ENDLESS = """
import gymnasium, numpy as np

class Endless(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, token=None, ends=True):
        assert token == "sesame"
        self.ends = ends

    def reset(self, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.ends and self.t >= 5, False, {}
"""


def test_a_moved_project_with_a_secret_goes_on(folder, capsys):
    (folder / "old").mkdir()
    (folder / "old/mine.py").write_text(ENDLESS)
    secret = ["--env-kwargs", "token=sesame"]
    train = ["train", "old/mine.py:Endless", *TINY, "--total-steps=250", "--name=a", *secret]
    assert main(train) == 0
    said = re.search(
        r"is complete: (\d+) steps \(--total-steps is rounded", capsys.readouterr().out
    )
    assert int(said[1]) == read_metrics(folder / "runs/a")[-1]["steps"] > 250
    path = folder / "runs/a/config.toml"
    path.write_text(path.read_text().replace("total_steps = 250", "total_steps = 500"))
    (folder / "old").rename(folder / "new")
    assert main(["resume", "a", *secret]) == 2
    assert "shoal resume a --env FILE.py:NAME" in capsys.readouterr().err
    moved = ["resume", "a", "--env", "new/mine.py:Endless"]
    assert main(moved) == 2
    assert "--env-kwargs token=VALUE" in capsys.readouterr().err
    assert main([*moved, *secret]) == 0
    error = capsys.readouterr().err
    assert "this runs the code in" in error
    assert read_metrics(folder / "runs/a")[-1]["steps"] >= 500
    assert "new/mine.py:Endless" in path.read_text() and "sesame" not in path.read_text()
    play = ["eval", "a", "--episodes=1", *secret]
    assert main(play) == 0
    out = capsys.readouterr().out
    assert "return 5 (from" in out and "nan" not in out
    assert main([*play, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] is None
    assert main([*play, "ends=False", "--max-steps=9"]) == 0
    assert "length 9" in capsys.readouterr().out
    state = read_checkpoint(folder / "runs/a/checkpoints/best.pt")
    assert state["config"]["env_kwargs"] == {"token": "***"}


def test_one_odd_run_is_left_out_of_the_list(folder, capsys):
    for name in ("a", "b"):
        assert main(["train", "CartPole-v1", *TINY, "--total-steps=256", f"--name={name}"]) == 0
    (folder / "runs/a/metrics.jsonl").write_text("[1, 2]\n")
    (folder / "runs/a/system.json").write_text("7")
    capsys.readouterr()
    assert main(["runs"]) == 0
    said = capsys.readouterr()
    assert "b " in said.out and "a " not in said.out.replace("environment", "")
    assert "metrics.jsonl, line 1" in said.err


def test_the_best_run_is_a_complete_one(folder, capsys):
    for name in ("done", "stopped"):
        assert main(["train", "CartPole-v1", *TINY, "--total-steps=256", f"--name={name}"]) == 0
    path = folder / "runs/stopped"
    text = (path / "config.toml").read_text()
    (path / "config.toml").write_text(text.replace("total_steps = 256", "total_steps = 1000"))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    better = [json.dumps({**metrics, "episode/return": 1e6}) for metrics in lines]
    (path / "metrics.jsonl").write_text("\n".join(better) + "\n")
    capsys.readouterr()
    assert main(["runs", "best"]) == 0
    out = capsys.readouterr().out
    assert "done" in out.splitlines()[1] and "stopped" not in out


def test_a_counter_shows_signs_of_life_and_warns_of_endless_episodes(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(command.time, "monotonic", lambda: now[0])
    show = command.counter(3, endless=True, quiet=False)
    for second in range(35):
        now[0] = float(second)
        show(0, 10_000 * second)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "no episode has ended" in line] == [
        "shoal: no episode has ended in 100,000 steps; --max-steps N cuts them off"
    ]
    assert sum("0 of 3 episodes" in line for line in lines) == 3
