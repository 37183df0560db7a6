"""`shoal sweep` as a user calls it, with runs that really train."""

import tomllib

import pytest

from shoal.cli import main
from shoal.trainers.command import env_options
from shoal.trainers.runs import read_config, read_metrics
from shoal.trainers.sweep.study import open_study, read_plan

PYTHON_ENV = """
import gymnasium
from gymnasium import spaces

class Env(gymnasium.Env):
    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def __init__(self, bonus=1.0):
        self.bonus = bonus

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return int(self.np_random.integers(2)), {}

    def step(self, action):
        self.left -= 1
        reward = self.bonus * float(action)
        info = {"score": float(action)}
        return int(self.np_random.integers(2)), reward, self.left == 0, False, info
"""
SMALL = """
total_steps = 600
num_envs = 2
horizon = 32
num_workers = 0
hidden_size = 8
tensorboard = false
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_env.py").write_text(PYTHON_ENV)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "param"),
    [
        ("my_env.py:Env", "bonus = {low = 0.5, high = 2.0}"),
        ("squared", "size = {low = 5, high = 9}"),
    ],
)
def test_a_parameter_of_the_environment_is_swept_and_the_best_run_is_repeated(
    folder, capsys, env, param
):
    (folder / "s.toml").write_text(
        f'env = "{env}"\n{SMALL}\n[sweep]\nlearning_rate = {{distribution = "log", low = 1e-4, '
        f"high = 1e-2}}\n[sweep.env_kwargs]\n{param}\n"
    )
    assert main(["sweep", "--config", "s.toml", "--runs", "3", "--name", "s"]) == 0
    name = param.split()[0]
    configs = [read_config(folder / "runs" / "s" / f"{i:04}") for i in range(3)]
    trials = open_study(read_plan(folder / "runs" / "s")).get_trials()
    swept = [trial.params[f"env_kwargs.{name}"] for trial in trials]
    assert [config.env_kwargs[name] for config in configs] == swept
    assert (folder / "runs" / "s" / "front.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(["runs"]) == 0
    listed = capsys.readouterr().out
    assert all(f"s/{i:04}" in listed for i in range(3))
    assert main(["sweep", "show", "s"]) == 0
    assert "3 runs of 3, 3 complete" in capsys.readouterr().out
    assert main(["sweep", "best", "s"]) == 0
    text = capsys.readouterr().out
    number = text.split("/")[1][:4]
    (folder / "best.toml").write_text(text)
    assert main(["train", "--config", "best.toml", "--name", "again", "--display", "none"]) == 0
    own = [name for name in read_metrics(folder / "runs" / "again")[-1] if "second" not in name]
    pairs = zip(
        read_metrics(folder / "runs" / "again"), read_metrics(folder / "runs" / "s" / number)
    )
    for one, other in pairs:
        for key in own:
            if not key.startswith("time/") and key != "peak_share":  # they say how fast it was
                assert one.get(key) == other.get(key), key
    if env == "my_env.py:Env":
        assert main(["sweep", "apply", "s"]) == 0
        tuned = tomllib.loads((folder / "my_env.tuned").read_text())
        assert set(tuned) == {"learning_rate", "env_kwargs"}
        assert env_options(env)["env_kwargs"] == tuned["env_kwargs"]


def test_what_is_missing_or_misspelt_is_said(folder, capsys):
    for arguments, message in [
        (["cartpole"], "--budget or --runs is missing"),
        (["cartpol", "--runs", "1"], "cartpole"),
        (["cartpole", "--runs", "0"], "runs must be at least 1, got 0"),
        (["cartpole", "--budget", "soon"], "expected a time such as 2h"),
        (["cartpole", "--bugdet", "2h"], "--budget"),
        (["show", "mine"], "there is no sweep 'mine'"),
    ]:
        assert main(["sweep", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_help_names_every_action(capsys):
    assert main(["sweep", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("resume", "show", "best", "apply", "--budget", "--cost"))
