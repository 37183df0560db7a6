"""What PPO learns on well-known tasks, and how fast, beside Stable-Baselines3 on the same.

    python benchmarks/training.py [--tasks NAME ...] [--seeds N ...] [--libraries NAME ...]
    python benchmarks/training.py --speed 5    # steps per second on CartPole, 5 rounds
    python benchmarks/training.py --table      # write results/training.md from what is stored

Every run (task, library, seed) is stored in results/training.json as it ends, and is not done
again, so the table can be made in pieces; `--again` does. Our configs are configs/TASK.toml, which
`shoal train --config` takes too. Stable-Baselines3 has the hyperparameters that its own collection
of tuned ones (rl-baselines3-zoo) gives for the task, named beside each; both have the same steps.
`sb3-same` is Stable-Baselines3 with our hyperparameters.

Scores are mean returns of episodes that are played after training, without exploration where
`greedy` says so, on environments with seeds that training has not used.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import statistics
import time
import tomllib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from _common import RESULTS, machine, machine_text, table

import shoal
from shoal.trainers import evaluate
from shoal.trainers.config import Config, from_dict
from shoal.trainers.ppo import train

ROOT = Path(__file__).parents[1]
STORE = RESULTS / "training.json"
EVALUATION_SEED = 10_000


@dataclass(frozen=True)
class Task:
    """One line of the table; our own options are in configs/NAME.toml."""

    title: str
    bar: str  # what has to be reached, in words
    reached: Callable[[float], bool]  # by the score of one seed
    episodes: int = 100
    greedy: bool = True
    seeds: tuple[int, ...] = (1, 2, 3)
    make: Callable[[], Any] | None = None  # the environment for Stable-Baselines3
    sb3: dict[str, Any] = field(default_factory=dict)  # for its PPO
    num_envs: int = 8  # for Stable-Baselines3
    normalize: bool = False  # its VecNormalize
    note: str = ""


def falling(start: float) -> Callable[[float], float]:
    """A schedule of Stable-Baselines3: from `start` to 0."""
    return lambda remaining: remaining * start


def simple_spread() -> Any:
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env()


def small_pong() -> Any:
    from _games import pong

    return pong()


TASKS = {
    "cartpole": Task(
        title="CartPole-v1",
        bar="475 or more, each seed",
        reached=lambda score: score >= 475,
        seeds=(1, 2, 3, 4, 5),
        make=lambda: gymnasium.make("CartPole-v1"),
        sb3={
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": falling(1e-3),
            "clip_range": falling(0.2),
        },
        note="zoo: CartPole-v1",
    ),
    "lunarlander": Task(
        title="LunarLander-v3",
        bar="200 or more, each seed",
        reached=lambda score: score >= 200,
        make=lambda: gymnasium.make("LunarLander-v3"),
        sb3={
            "n_steps": 1024,
            "batch_size": 64,
            "gae_lambda": 0.98,
            "gamma": 0.999,
            "n_epochs": 4,
            "ent_coef": 0.01,
        },
        num_envs=16,
        note="zoo: LunarLander-v2",
    ),
    "hopper": Task(
        title="Hopper-v5",
        # CleanRL's documentation, ppo_continuous_action.py on MuJoCo v4, tag pr-424, one million
        # steps: 2382.86 ± 271.74 on Hopper-v4. v5 differs in what a fall pays.
        bar="2383: CleanRL's PPO at one million steps (2382.86 ± 271.74, Hopper-v4)",
        reached=lambda score: score >= 2382.86,
        make=lambda: gymnasium.make("Hopper-v5"),
        sb3={
            "batch_size": 32,
            "n_steps": 512,
            "gamma": 0.999,
            "learning_rate": 9.80828e-05,
            "ent_coef": 0.00229519,
            "clip_range": 0.2,
            "n_epochs": 5,
            "gae_lambda": 0.99,
            "max_grad_norm": 0.7,
            "vf_coef": 0.835671,
            "policy_kwargs": {
                "log_std_init": -2,
                "ortho_init": False,
                "activation_fn": torch.nn.ReLU,
                "net_arch": {"pi": [256, 256], "vf": [256, 256]},
            },
        },
        num_envs=1,
        normalize=True,
        note="zoo: Hopper-v3",
    ),
    "pong": Task(
        title="ALE Pong, 40 × 40",
        bar="0 or more: level with its opponent (random: about -20.4)",
        reached=lambda score: score >= 0,
        episodes=20,
        greedy=False,
        seeds=(1,),
        make=small_pong,
        sb3={
            "policy": "CnnPolicy",
            "n_steps": 128,
            "n_epochs": 4,
            "batch_size": 256,
            "learning_rate": falling(2.5e-4),
            "clip_range": falling(0.1),
            "vf_coef": 0.5,
            "ent_coef": 0.01,
        },
        note="zoo: atari",
    ),
    "connect_four": Task(
        title="connect_four_v3, self-play",
        bar="wins 95 % of games against random moves",
        reached=lambda score: score >= 0.95,
    ),
    "simple_spread": Task(
        title="simple_spread_v3",
        bar="-20 or more (random: -26.8)",
        reached=lambda score: score >= -20,
        make=simple_spread,
        sb3={"n_steps": 128, "batch_size": 512, "n_epochs": 4},
        note="its defaults, with larger batches",
    ),
}


def config_of(name: str, **changes: Any) -> Config:
    """Our config of a task: the file, and what a benchmark run leaves out."""
    values = tomllib.loads((ROOT / "benchmarks" / "configs" / f"{name}.toml").read_text())
    if ".py:" in values["env"]:
        values["env"] = str(ROOT / values["env"])
    return from_dict({**values, "device": "cpu", **changes})


class Clock:
    """Seconds on the wall and of processor time since it was made.

    Processor time is that of this process and of the workers that it has ended since. On a machine
    that others use too, it says more.
    """

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()

    def read(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self.wall,
            "cpu_seconds": cpu_seconds() - self.cpu,
        }


def cpu_seconds() -> float:
    return sum(os.times()[:4])


# -- Shoal ---------------------------------------------------------------------------------------


def train_shoal(name: str, seed: int) -> dict[str, Any]:
    config = config_of(name, seed=seed, torch_threads=torch.get_num_threads())
    states: list[dict[str, Any]] = []
    clock = Clock()
    last: deque[float] = deque(maxlen=10)  # updates
    result = train(
        config,
        save=lambda state, _: states.append(state),
        report=lambda metrics: last.append(metrics.get("episode/return", math.nan)),
    )
    times = clock.read()
    if name == "connect_four":
        returns = against_random(states[-1])
    else:
        task = TASKS[name]
        returns = evaluate.evaluate(
            states[-1], config.env, task.episodes, greedy=task.greedy, seed=EVALUATION_SEED
        )["returns"].tolist()
    return {
        "steps": int(result.metrics["steps"]),
        **times,
        "training_return": float(np.nanmean(last)),
        "returns": returns,
    }


def against_random(state: dict[str, Any], games: int = 200) -> list[float]:
    """Connect four against random legal moves; each side begins half of the games.

    Returns:
        For each game 1 if the policy won, else 0.
    """
    vector = shoal.vectorize(
        "pettingzoo.classic.connect_four_v3", games, backend="serial", seed=EVALUATION_SEED
    )
    own = np.arange(games) * 2 + np.arange(games) % 2  # the policy's row in each game
    choose = evaluate.policy_chooser(vector, state, greedy=True, seed=0, device="cpu")
    rng = np.random.default_rng(0)
    observations, _ = vector.reset()
    scores = np.full(games, np.nan)
    while np.isnan(scores).any():
        actions = (rng.random(vector.action_masks.shape) * vector.action_masks).argmax(axis=1)
        actions[own] = choose(observations, ~vector.acting)[own]
        vector.send(actions)
        batch = vector.recv()
        observations = batch.observations
        ended = (batch.terminations & batch.masks)[own] & np.isnan(scores)
        scores[ended] = batch.rewards[own][ended] > 0
    vector.close()
    return scores.tolist()


# -- Stable-Baselines3 ---------------------------------------------------------------------------


def sb3_vector(task: Task, num_envs: int, seed: int) -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    if task.make is simple_spread:
        import supersuit

        vector = supersuit.pettingzoo_env_to_vec_env_v1(task.make())
        return supersuit.concat_vec_envs_v1(vector, num_envs, base_class="stable_baselines3")
    return make_vec_env(task.make, num_envs, seed=seed)


def same_options(config: Config) -> dict[str, Any]:
    """Our hyperparameters, as its PPO takes them."""
    hidden = [config.hidden_size] * 2
    return {
        "n_steps": config.horizon,
        "batch_size": config.minibatch_size,
        "n_epochs": config.update_epochs,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "clip_range": config.clip,
        "ent_coef": config.entropy_coefficient,
        "learning_rate": falling(config.learning_rate),
        "policy_kwargs": {"net_arch": {"pi": hidden, "vf": hidden}},
    }


def train_sb3_same(name: str, seed: int) -> dict[str, Any]:
    config = config_of(name)
    return train_sb3(name, seed, config.num_envs, same_options(config))


def train_sb3(
    name: str, seed: int, num_envs: int | None = None, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    task = TASKS[name]
    set_random_seed(seed)
    vector = sb3_vector(task, num_envs or task.num_envs, seed * 1000)
    options = options or task.sb3
    if task.normalize:
        vector = VecNormalize(vector, gamma=options.get("gamma", 0.99))
    arguments = {"policy": "MlpPolicy", **options}
    if task.make is not simple_spread:  # whose vector can't be seeded
        arguments["seed"] = seed
    model = PPO(env=vector, device="cpu", **arguments)
    clock = Clock()
    model.learn(config_of(name).total_steps)
    times = clock.read()
    test = VecMonitor(sb3_vector(task, 10, EVALUATION_SEED))
    if task.normalize:
        test = VecNormalize(test, training=False, norm_reward=False)
        test.obs_rms = vector.obs_rms
    returns, _ = evaluate_policy(
        model, test, task.episodes, deterministic=task.greedy, return_episode_rewards=True
    )
    last = [episode["r"] for episode in model.ep_info_buffer]
    return {
        "steps": model.num_timesteps,
        **times,
        "training_return": statistics.fmean(last) if last else None,
        "returns": returns,
    }


# -- the runs ------------------------------------------------------------------------------------


LIBRARIES = {"shoal": train_shoal, "sb3": train_sb3, "sb3-same": train_sb3_same}


def change_store(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Read the store, change it and write it back, one process at a time."""
    RESULTS.mkdir(exist_ok=True)
    with open(STORE, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        data = json.loads(file.read() or '{"runs": {}}')
        change(data)
        file.truncate(0)
        file.write(json.dumps(data, indent=1) + "\n")
    return data


def run(name: str, library: str, seed: int) -> None:
    found = LIBRARIES[library](name, seed)
    returns = found.pop("returns")
    found |= {
        "score": statistics.fmean(returns),
        "deviation": statistics.pstdev(returns),
        "episodes": len(returns),
        "threads": torch.get_num_threads(),
    }
    key = f"{name}/{library}/{seed}"
    change_store(lambda data: data["runs"].update({key: found}))
    print(key, json.dumps(found), flush=True)


# -- speed -----------------------------------------------------------------------------------------


def speed(count: int, steps: int = 40_960) -> dict[str, list[float]]:
    """Steps per second on CartPole: each variant trains for a while, in turns, `count` times.

    All have as many threads as torch has by default; OMP_NUM_THREADS changes that.
    """
    from stable_baselines3 import PPO

    task = TASKS["cartpole"]
    config = config_of("cartpole", total_steps=steps, torch_threads=torch.get_num_threads())

    def sb3(num_envs: int, options: dict[str, Any]) -> Callable[[], float]:
        def measure() -> float:
            vector = sb3_vector(task, num_envs, 0)
            model = PPO("MlpPolicy", vector, device="cpu", **options)
            begin = time.perf_counter()
            model.learn(steps)
            return model.num_timesteps / (time.perf_counter() - begin)

        return measure

    def ours(config: Config) -> Callable[[], float]:
        def measure() -> float:
            begin = time.perf_counter()
            return train(config).metrics["steps"] / (time.perf_counter() - begin)

        return measure

    defaults = Config(
        env=config.env, total_steps=steps, device="cpu", torch_threads=config.torch_threads
    )
    variants = {
        NAMES["shoal"]: ours(config),
        NAMES["sb3"]: sb3(task.num_envs, task.sb3),
        NAMES["sb3-same"]: sb3(config.num_envs, same_options(config)),
        "Shoal, its defaults": ours(defaults),
        "Stable-Baselines3, its defaults": sb3(1, {}),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(count):
        for name, measure in variants.items():
            rates[name].append(measure())
            print(name, round(rates[name][-1]), flush=True)
    return rates


# -- the table -------------------------------------------------------------------------------------

NAMES = {
    "shoal": "Shoal",
    "sb3": "Stable-Baselines3",
    "sb3-same": "Stable-Baselines3, our hyperparameters",
}


def lines_of(runs: dict[str, Any]) -> list[list[str]]:
    """A line for each task and library of which there are runs."""
    lines = []
    for name, task in TASKS.items():
        for library, title in NAMES.items():
            found = [run for key, run in runs.items() if key.startswith(f"{name}/{library}/")]
            if not found:
                continue
            scores = [run["score"] for run in found]
            spread = f" ({min(scores):.4g} to {max(scores):.4g})" if len(scores) > 1 else ""
            per_cpu = [run["steps"] / run["cpu_seconds"] for run in found if "cpu_seconds" in run]
            lines.append(
                [
                    task.title,
                    title,
                    str(len(found)),
                    f"{statistics.median(run['steps'] for run in found):,.0f}",
                    f"{statistics.fmean(scores):.4g}{spread}",
                    f"{sum(map(task.reached, scores))} of {len(found)}",
                    f"{statistics.median(run['seconds'] for run in found):,.0f}",
                    f"{statistics.median(per_cpu):,.0f}" if per_cpu else "",
                ]
            )
    return lines


def write_table() -> None:
    found = machine("torch", "gymnasium", "stable-baselines3", "mujoco", "ale-py", "pettingzoo")
    data = change_store(lambda data: data.update(machine=found))
    head = ["task", "", "seeds", "steps", "score", "reached", "wall s", "steps per CPU s"]
    bars = [[task.title, task.bar, task.note] for task in TASKS.values()]
    parts = [
        "# Training: Shoal beside Stable-Baselines3",
        machine_text(found),
        "Score: the mean over seeds (and the range) of the mean return of episodes played after "
        "training. Seconds are medians over seeds, of training alone. The machine may have been "
        "doing other things as well, so compare processor time, not the wall clock.",
        table(head, lines_of(data["runs"])),
        table(["task", "to be reached, by each seed", "Stable-Baselines3's hyperparameters"], bars),
    ]
    if "speed" in data:
        ours = data["speed"][NAMES["shoal"]]
        rows = [
            [
                name,
                f"{statistics.median(rates):,.0f}",
                f"{statistics.median(b / a for a, b in zip(ours, rates)):.2f}",
            ]
            for name, rates in data["speed"].items()
        ]
        parts += [
            "## CartPole, steps per second of training",
            f"Medians over {len(ours)} rounds, in which the variants took turns; "
            f"{data['speed_threads']} threads of torch.",
            table(["", "steps/s", "of the first"], rows),
        ]
    (RESULTS / "training.md").write_text("\n\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=["shoal", "sb3"])
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of each task")
    parser.add_argument("--again", action="store_true", help="also what is stored already")
    parser.add_argument("--speed", type=int, metavar="ROUNDS", help="measure that, and no tasks")
    parser.add_argument("--table", action="store_true", help="only write what is stored")
    args = parser.parse_args()
    if args.speed:
        rates = speed(args.speed)
        change_store(lambda data: data.update(speed=rates, speed_threads=torch.get_num_threads()))
    for name in [] if args.speed or args.table else args.tasks:
        for seed in args.seeds or TASKS[name].seeds:
            for library in args.libraries:
                stored = change_store(lambda data: None)["runs"]
                if library != "shoal" and TASKS[name].make is None:
                    continue
                if args.again or f"{name}/{library}/{seed}" not in stored:
                    run(name, library, seed)
    write_table()


if __name__ == "__main__":
    main()
