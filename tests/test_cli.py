"""The command: what it prints, its exit status, and that no error shows a traceback."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import shoal
from shoal.cli import advice, main

COMMAND = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]

SLOW_ENV = """
import time
import gymnasium

class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        time.sleep(0.01)
        return 0, 0.0, False, False, {}

class Strict(Slow):
    '''Fails on an action that its mask forbids; ends after 5 steps.'''
    action_space = gymnasium.spaces.MultiDiscrete([3, 4])

    def reset(self, *, seed=None, options=None):
        self.at = 0
        return 0, self.info()

    def info(self):
        self.legal = (self.at % 3, self.at % 4)
        mask = [i == self.legal[0] for i in range(3)], [i == self.legal[1] for i in range(4)]
        return {"action_mask": mask}

    def step(self, action):
        if tuple(action) != self.legal:
            raise RuntimeError(f"illegal {action}\\nin two lines")
        self.at += 1
        return 0, 0.5, self.at == 5, False, self.info()

class Brief(Slow):
    def step(self, action):
        return 0, 0.0, True, False, {}

def reckless():
    env = Strict()
    env.info = lambda: setattr(env, "legal", None) or {}
    return env
"""


@pytest.fixture
def env_file(tmp_path):
    path = tmp_path / "slow_env.py"
    path.write_text(SLOW_ENV)
    return str(path)


def test_run_prints_layout_speed_episodes_and_overhead(capsys):
    assert main(["run", "CartPole-v1", "--steps", "500", "--num-envs", "3"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"box +float32 +4 +0\.\.16", out)
    assert re.search(r"1,500 steps in \S+ s: [\d,]+ steps per second, random actions drawn", out)
    assert re.search(r"without drawing actions: [\d,]+ steps per second", out)
    episodes, mean, low, high, length = re.search(
        r"(\d+) episodes ended: return (\S+) \((\S+) to (\S+)\), length (\S+) ", out
    ).groups()
    assert float(low) <= float(mean) <= float(high) and float(mean) == float(length)
    # All steps but those of the unfinished episodes are in an episode.
    assert 0 <= 1500 - int(episodes) * float(mean) <= 3 * 500
    assert re.search(r"emulation overhead: .* µs.* per step", out)
    assert re.fullmatch(r"shoal: (serial|multiprocess)[^:]*: .+\n", err)


def test_the_same_seed_gives_the_same_episodes(capsys):
    run = ["run", "CartPole-v1", "--steps", "300", "--backend", "serial"]

    def episodes(seed):
        assert main([*run, "--seed", seed]) == 0
        return re.search(r".*episodes ended.*", capsys.readouterr().out).group()

    assert episodes("1") == episodes("1") != episodes("2")


def test_run_steps_nethack_and_prints_its_layout(capsys):
    run = ["run", "nle:NetHackScore-v0", "--steps", "50", "--num-envs", "4"]
    assert main([*run, "--backend", "pool"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"tty_chars +box +uint8 +24x80", out)
    assert "14 leaves" in out and "pool of 2, 4 environments" in out and "200 steps" in out


@pytest.mark.parametrize(
    ("name", "agents"),
    [("mpe2.simple_spread_v3", 3), ("pettingzoo.classic.tictactoe_v3", 2)],
)
def test_run_steps_several_agents(name, agents, capsys):
    assert main(["run", name, "--steps", "60", "--num-envs", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: {agents} agents\n")
    assert "120 steps in" in out and "agent rows)" in out and "episodes ended" in out
    assert re.search(r"emulation overhead: .* µs.* per step", out)


def test_bench_compares_every_backend(capsys):
    assert main(["bench", "CartPole-v1", "--num-envs", "4", "--seconds", "0.1"]) == 0
    out = capsys.readouterr().out
    lines = dict(re.findall(r"^(serial|\d workers?(?:, pool of \d)?) +([\d,]+ .*)$", out, re.M))
    assert {"serial", "1 worker"} < lines.keys() and any("pool of 2" in name for name in lines)
    in_environments = set()
    for line in lines.values():
        rate, *shares, _, p99 = line.split()
        in_environments.add(shares[0])
        assert int(rate.replace(",", "")) > 0 and float(p99.replace(",", "")) > 0
        assert sum(int(share.strip("%")) for share in shares) in range(97, 104)
    assert in_environments != {"0%"}
    assert 'Use backend="' in out


def test_bench_says_what_to_use():
    assert 'backend="serial"' in advice("ordinary", 100.0, {1: 90.0, 2: 104.0}, {})
    said = advice("ordinary", 100.0, {1: 90.0, 2: 180.0}, {32: 185.0})
    assert 'backend="multiprocess", num_workers=2: 1.80 × serial' in said and "pool" not in said
    said = advice("ordinary", 100.0, {1: 90.0, 2: 150.0}, {32: 190.0, 16: 170.0})
    assert 'backend="pool", num_workers=2, batch_size=32, 1.90 × serial' in said
    assert "num_workers=1: more are no faster" in advice("native", 100.0, {1: 100.0, 2: 104.0}, {})
    said = advice("native", 100.0, {1: 100.0, 2: 150.0}, {2048: 190.0})
    assert 'backend="native", num_workers=2: 1.50 × one thread' in said
    assert 'backend="native", num_workers=2, batch_size=2048, 1.90 ×' in said


def test_bench_keeps_its_columns_apart(capsys, monkeypatch):
    """Of the widest numbers and names, each column's end is that of its title."""
    monkeypatch.setattr("shoal.cli.configuration", lambda vector: "16 threads, pool of 2048")
    assert main(["bench", "squared", "--num-envs", "2", "--seconds", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    title = next(line for line in lines if "steps/s" in line)
    row = next(line for line in lines if line.startswith("16 threads"))
    assert [m.end() for m in re.finditer(r"\S+", title)][:5] == [
        m.end() for m in re.finditer(r"\S+", row[24:].rjust(len(row)))
    ][:5]
    assert 'Use backend="native", num_workers=' in lines[-1] or "batch_size" in lines[-1]


BATCHED = f"{Path(__file__).parent}/vectorization/batched_environments.py:guess"


def test_a_batched_environment_is_asked_as_any_other(capsys):
    assert main(["describe", BATCHED]) == 0
    assert re.search(r"box +float32 +4 +0\.\.16", capsys.readouterr().out)
    assert main(["check", BATCHED, "--steps", "400"]) == 0
    assert "TorchGuess: 400 steps, 40 episodes, seed 0\nno faults" in capsys.readouterr().out
    assert main(["run", BATCHED, "--steps", "16", "--num-envs", "3"]) == 0
    out = capsys.readouterr().out
    assert "batched, 3 environments\n48 steps in" in out and "3 episodes ended" in out
    assert main(["bench", BATCHED, "--seconds", "0.05"]) == 0
    assert 'Use backend="batched"' in capsys.readouterr().out


FAULTY = """
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

class Faulty:
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    single_observation_space = spaces.Box(0, 1, (2,), np.float32)
    single_action_space = spaces.Discrete(2)

    def __init__(self, num_envs, broken=False):
        self.num_envs, self.broken, self.rng = num_envs, broken, np.random.default_rng()

    def look(self):
        seen = self.rng.random((self.num_envs, 2), np.float32)
        seen[1] = 2, np.nan
        return seen

    def reset(self, *, seed=None, options=None):
        return self.look(), {}

    def step(self, actions):
        if self.broken:
            raise ZeroDivisionError("a fault")
        none = np.zeros(self.num_envs, bool)
        return self.look(), np.full(self.num_envs, np.inf), none, none, {}
"""


def test_the_faults_of_a_batched_environment_are_found(tmp_path, capsys):
    file = tmp_path / "faulty_batched.py"
    file.write_text(FAULTY)
    assert main(["check", f"{file}:Faulty", "--steps", "80"]) == 1
    out = capsys.readouterr().out
    assert "error[bounds] obs[0]: environment 1: 2.0 in batch 1 (10 times)" in out
    assert "error[nan] obs[1]: environment 1: nan in batch 1 (10 times)" in out
    assert "error[reward-nan] reward: environment 0: inf (10 times)" in out
    assert "error[not-reproducible] reset: reset twice with seed 0, batch 1 differs" in out
    assert "note[never-ends]" in out
    assert main(["check", f"{file}:Faulty", "--kwargs", "broken=True"]) == 1
    assert "error[exception] step: ZeroDivisionError: a fault" in capsys.readouterr().out


def test_describe_shows_each_kind_of_agent(capsys):
    assert main(["describe", "mpe2.simple_speaker_listener_v4"]) == 0
    out = capsys.readouterr().out
    speaker, listener = out.index("agents: speaker_0"), out.index("agents: listener_0")
    assert speaker < out.index("action: Discrete(3)") < listener < out.index("action: Discrete(5)")


def test_an_overhead_that_cannot_be_measured_is_no_error(env_file, capsys):
    assert main(["run", f"{env_file}:Brief", "--steps", "20"]) == 0
    assert "overhead: not measured" in capsys.readouterr().out


def test_run_takes_only_legal_actions(env_file, capsys):
    """The environment fails on an illegal action, and each of its episodes is known."""
    assert main(["run", f"{env_file}:Strict", "--steps", "10", "--num-envs", "2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"[34] episodes ended: return 2.5 \(2.5 to 2.5\), length 5 \(5 to 5\)", out)


def test_describe_shows_both_layouts(capsys):
    assert main(["describe", "Blackjack-v1", "--kwargs", "sab=True"]) == 0
    out = capsys.readouterr().out
    for path in ("[0]", "[1]", "[2]"):
        assert re.search(rf"^{re.escape(path)} +discrete +int64 +scalar", out, re.MULTILINE)
    assert "action: Discrete(2)" in out and "action_masks: 2 choices" in out


def test_constructor_arguments_are_literals_or_strings(env_file, capsys):
    assert main(["describe", "FrozenLake-v1", "--kwargs", "map_name=8x8", "is_slippery=False"]) == 0
    assert "[0, 63]" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["describe", "FrozenLake-v1", "--kwargs", "map_name"])
    assert stopped.value.code == 2


def test_a_part_without_fixed_size_needs_its_maximum(capsys):
    for command in ("describe", "run"):
        assert main([command, "MiniGrid-Empty-5x5-v0"]) == 2
        assert "obs.mission: a space of strings has no fixed size" in capsys.readouterr().err
    assert main(["run", "MiniGrid-Empty-5x5-v0", "--max-len", "60", "--steps", "100"]) == 0
    assert re.search(r"mission\.chars +text +uint8 +60 ", capsys.readouterr().out)


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_numbers_of_steps_and_copies_are_positive(number, capsys):
    for option in ("--steps", "--num-envs"):
        with pytest.raises(SystemExit) as stopped:
            main(["run", "CartPole-v1", f"{option}={number}"])
        assert stopped.value.code == 2
        assert "expected an integer of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "describe", "check"])
def test_an_unknown_name_is_one_line_and_status_2(command, capsys):
    assert main([command, "CartPoel-v1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shoal: ") and err.count("\n") == 1 and "CartPole-v1" in err
    with pytest.raises(shoal.UnknownEnvError):
        main([command, "CartPoel-v1", "--traceback"])


def test_an_error_of_the_environment_is_one_line_and_status_2(env_file, capsys):
    assert main(["run", f"{env_file}:reckless", "--backend", "pool"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "RuntimeError: illegal" in err and "--traceback" in err
    with pytest.raises(RuntimeError, match="illegal"):
        main(["run", f"{env_file}:reckless", "--traceback"])


def test_ctrl_c_ends_quietly(env_file):
    process = subprocess.Popen(
        [*COMMAND, "run", f"{env_file}:Slow", "--backend", "serial"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    seen = b""
    while b"observation" not in seen:  # printed just before the first step
        seen += process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b""


def test_a_terminal_shows_progress_and_ends_with_a_clear_line(env_file):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            *COMMAND,
            "run",
            f"{env_file}:Slow",
            "--steps",
            "30",
            "--num-envs",
            "2",
            "--backend",
            "pool",
        ],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    assert process.wait(timeout=60) == 0
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert re.search(r"\[#+ *\] [\d,]+ of 60 steps", shown)
    assert shown.endswith("\r\x1b[K") and "\n" not in shown


def test_a_reader_that_leaves_is_no_error():
    command = " ".join(f"'{part}'" for part in COMMAND)
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"set -o pipefail; {command} run CartPole-v1 --steps 50 --backend serial | head -1",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "CartPole-v1: 1 agent\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys\n"
        "from shoal.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stopped:\n    assert not stopped.code\n"
        "assert not {'numpy', 'gymnasium', 'torch'} & set(sys.modules)\n"
    )
    for arguments in (["--help"], ["--version"], ["run", "--help"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def test_play_is_for_native_environments(capsys):
    assert main(["play", "CartPole-v1"]) == 2
    err = capsys.readouterr().err
    assert err == (
        "shoal: ENV must be a native environment, got CartPole-v1; "
        "shoal eval CartPole-v1 --render shows the others\n"
    )


def test_help_says_what_an_environment_can_be(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "a native environment" in out and "a recipe (shoal env list)" in out
