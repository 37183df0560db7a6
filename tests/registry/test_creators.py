"""What `env` means: one list of all kinds of names, which every command understands alike."""

import contextlib
import functools
import os
import sys
from pathlib import Path

import gymnasium
import pytest

import shoal
from shoal.cli import main
from shoal.errors import EnvModuleError, UnknownEnvError
from shoal.registry.creators import find_source, foreign_code
from shoal.registry.names import absolute, split
from shoal.registry.recipe import find
from shoal.trainers.command import parse_train

BATCHED = f"{Path(__file__).parents[1]}/vectorization/batched_environments.py:guess"
FILE = "import gymnasium\ndef make(**kwargs):\n    return gymnasium.make('CartPole-v1', **kwargs)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a file of environments and three recipes."""
    monkeypatch.chdir(tmp_path)
    for name in ("", "a:b/", "a:b/c.py:d/"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "file_env.py").write_text(FILE)
    recipe = 'summary = "x"\nenv = {!r}\n[train]\nhorizon = 16\n'
    (tmp_path / "ordinary.toml").write_text(recipe.format("file_env.py:make"))
    (tmp_path / "batched.toml").write_text(recipe.format(BATCHED))
    (tmp_path / "native.toml").write_text(recipe.format("squared"))
    # One with an interpreter of its own, as `shoal env install` would leave it.
    isolated = tmp_path / "isolated.toml"
    isolated.write_text('python = ["3.11"]\n' + recipe.format("file_env.py:make"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    python = find(str(isolated)).interpreter
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (find(str(isolated)).folder / "installed").touch()
    return tmp_path


# Each name with what it is understood as, and the class that is made. All kinds are here.
NAMES = {
    "CartPole-v1": ("ordinary", "CartPoleEnv"),
    "gymnasium:CartPole-v1": ("ordinary", "CartPoleEnv"),
    "gymnasium.envs.classic_control.cartpole.CartPoleEnv": ("ordinary", "CartPoleEnv"),
    "mpe2.simple_spread_v3": ("ordinary", "raw_env"),
    "file_env.py:make": ("ordinary", "CartPoleEnv"),
    "a:b/file_env.py:make": ("ordinary", "CartPoleEnv"),
    "a:b/c.py:d/file_env.py:make": ("ordinary", "CartPoleEnv"),
    "ordinary.toml": ("ordinary", "CartPoleEnv"),
    "minigrid": ("ordinary", "DoorKeyEnv"),
    "batched.toml": ("batched", "TorchGuess"),
    BATCHED: ("batched", "TorchGuess"),
    "squared": ("native", "NativeEnv"),
    "native.toml": ("native", "NativeEnv"),
    "shoal/Squared-v0": ("ordinary", "NativeEnv"),
    "isolated.toml": ("isolated", "CartPoleEnv"),
}
BACKENDS = {
    "ordinary": "serial",
    "batched": "batched",
    "native": "native",
    "isolated": "multiprocess",
}


@pytest.mark.parametrize(("name", "kind", "made"), [(name, *each) for name, each in NAMES.items()])
def test_every_command_understands_a_name_alike(folder, name, kind, made, capfd, monkeypatch):
    source = find_source(name, 2)
    assert source.kind == kind and len(source.creators) == (0 if name == "batched.toml" else 2)
    env = source.batched() if kind == "batched" else source.creators[0]()
    assert type(getattr(env, "unwrapped", env)).__name__ == made
    if callable(getattr(env, "close", None)):
        env.close()
    with contextlib.closing(shoal.vectorize(name, 2, backend=BACKENDS[kind])) as vector:
        assert vector.backend == BACKENDS[kind]
        size = vector.observation_layout.nbytes
    found = {}
    for command in (
        ["describe"],
        ["check", "--steps", "20"],
        ["run", "--steps", "8", "--num-envs=2"],
    ):
        more = ["--backend", BACKENDS[kind]] if command[0] == "run" else []
        assert main([command[0], name, *command[1:], *more]) == 0
        found[command[0]] = capfd.readouterr().out
    assert f"{size:,} bytes" in found["describe"] and f"{size:,} bytes" in found["run"]
    said = {"native": "1 thread", "isolated": "workers"}.get(kind, BACKENDS[kind])
    assert said + ", 2 env" in found["run"]
    asked = []
    monkeypatch.setattr("shoal.cli.measure", lambda args, options: asked.append(options) or 1.0)
    assert main(["bench", name, "--num-envs", "2"]) == 0
    assert asked[0]["backend"] == BACKENDS[kind]
    config = parse_train([name])
    again = find_source(config.env, 2)
    assert again.kind == kind and again.kwargs == source.kwargs
    assert config.horizon == (16 if name.endswith(".toml") else None)
    monkeypatch.chdir("/")  # what training has written down is found from anywhere
    assert find_source(config.env, 2).kind == kind


UNKNOWN = {
    "CartPoel-v1": (
        UnknownEnvError,
        "there is no environment 'CartPoel-v1'; did you mean CartPole-v",
    ),
    "squard": (UnknownEnvError, "there is no environment 'squard'; did you mean squared"),
    "minigird": (UnknownEnvError, "there is no environment 'minigird'; did you mean minigrid"),
    "file_env.py:mak": (UnknownEnvError, "has no environment 'mak'; did you mean make?"),
    "gone.py:make": (UnknownEnvError, "there is no file"),
    "gone.so": (EnvModuleError, "there is no file gone.so"),
    "no_such_module_:Env-v0": (UnknownEnvError, "No module named 'no_such_module_'"),
}


@pytest.mark.parametrize(
    ("name", "error", "said"), [(name, *each) for name, each in UNKNOWN.items()]
)
def test_every_command_says_the_same_of_an_unknown_name(folder, name, error, said, capsys):
    with pytest.raises(error) as caught:
        shoal.vectorize(name, 2)
    message = str(caught.value)
    assert said in message and message.count("did you mean") <= 1
    for command in ("describe", "check", "run", "bench", "train", "eval"):
        assert main([command, name]) == 2
        out, err = capsys.readouterr()
        assert err.replace(f"{folder}/", "") == f"shoal: {message}\n".replace(f"{folder}/", "")
        assert out == ""
    assert not (folder / "runs").exists()


def test_what_is_not_a_name_is_understood_too(folder):
    one = functools.partial(gymnasium.make, "CartPole-v1")
    emulated = shoal.emulate(one())
    for env in (one, emulated, [one, "CartPole-v1"]):
        assert find_source(env, 2).kind == "ordinary"
        with contextlib.closing(shoal.vectorize(env, 2, backend="serial")) as vector:
            assert (vector.num_envs, vector.observation_layout.nbytes) == (2, 16)
    mixed = find_source([one, "CartPole-v1", "squared"])
    assert mixed.kind == "ordinary" and len(mixed.creators) == 3
    with pytest.raises(ValueError, match=r"env\[0\].*is a batched environment, which can't be"):
        find_source(["batched.toml"])
    with pytest.raises(ValueError, match=r"env\[1\].*is an interpreter of its own, which can't be"):
        find_source([one, "isolated.toml"])
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got True"):
        find_source(one, True)
    for env in (3, None, one()):
        with pytest.raises(ValueError, match="env must be a name, a function"):
            find_source(env)


def test_a_name_is_split_where_its_file_ends():
    assert split("a:b/c.py:make") == ("a:b/c.py", "make")
    assert split("a.py:b/c.py") == ("a.py:b/c.py", "")
    assert split("nle:NetHackScore-v0") == ("nle", "NetHackScore-v0")
    assert split("ale_py:ALE/Pong-v5") == ("ale_py", "ALE/Pong-v5")
    assert split("/a:b/my.so") == ("/a:b/my.so", "")
    assert split("CartPole-v1") == ("CartPole-v1", "")
    assert absolute("a:b/c.py:make") == f"{Path.cwd().resolve()}/a:b/c.py:make"


def test_whose_code_a_name_runs(folder):
    assert foreign_code("CartPole-v1", "squared", "minigrid", "default", "shoal.x:Policy") == []
    ours = str(folder / "file_env.py")
    (folder / "my.so").touch()
    assert foreign_code("gone.py:make", "gone.toml") == []
    assert foreign_code("ordinary.toml") == [str(folder / "ordinary.toml"), ours]
    assert foreign_code("file_env.py:make", "file_env.py:other", "my.so") == [
        ours,
        str(folder / "my.so"),
    ]


MOVING = """
import os, tempfile
import gymnasium

class Moving(gymnasium.wrappers.TransformReward):
    '''Changes the working directory, as some simulators do.'''

    def __init__(self):
        os.chdir(tempfile.gettempdir())
        super().__init__(gymnasium.make("CartPole-v1"), lambda reward: reward)
"""


@pytest.mark.slow
def test_an_environment_that_changes_the_working_directory_moves_no_file(folder, capfd):
    (folder / "moving.py").write_text(MOVING)
    train = ["train", "moving.py:Moving", "--total-steps", "256", "--num-envs", "2", "--horizon"]
    assert main([*train, "64", "--num-workers", "0", "--name", "one", "--display", "none"]) == 0
    assert (folder / "runs" / "one" / "config.toml").is_file()
    assert list((folder / "runs" / "one" / "checkpoints").glob("*.pt"))
    assert capfd.readouterr().out == "run runs/one is complete\n  shoal eval runs/one\n"
    os.chdir(folder)
    assert main(["eval", "one", "--episodes", "2", "--num-envs", "1"]) == 0
    out, err = capfd.readouterr()
    assert "checkpoint runs/one/checkpoints/" in out
    assert err == f"shoal: this runs the code in {folder / 'moving.py'}\n"
    os.chdir(folder)
    assert main(["resume", "one"]) == 2
    assert "run runs/one is complete: 3" in capfd.readouterr().err


def test_a_typing_error_is_reported_before_torch_is_imported(folder):
    import subprocess

    code = (
        "import sys; from shoal.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules and status == 2, status\n"
    )
    (folder / "runs" / "cart").mkdir(parents=True)
    (folder / "runs" / "cart" / "config.toml").write_text('env = "CartPole-v1"\n')
    for arguments, said in (
        ("trian x", "there is no command 'trian'; did you mean train?"),
        ("train CartPoel-v1", "did you mean CartPole-v"),
        ("train CartPole-v1 --trackio", "trackio is not installed: pip install trackio"),
        ("eval crat", "there is no run or environment 'crat'; did you mean cart?"),
        ("resume crat", "there is no run 'crat'; did you mean cart?"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stderr and done.stderr.count("\n") == 1
