"""How near training comes to what the network alone takes: python benchmarks/learner.py

    python benchmarks/learner.py [--only NAME ...] [--memory none lstm mingru] [--rounds 7]

The limit is a bare torch loop with the same network, the same batches and the same number of
passes on random data: it acts once a step and learns once a minibatch, and does nothing else. There
are no environments, no checks, no advantages and no shuffling. Updates of both are timed in turns;
the share of the limit is the median of the rounds' ratios.

`--clock cpu` counts the processor time of the process, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _common import machine, machine_text, save, table
from torch.nn import functional

from shoal.trainers import ppo
from shoal.trainers.config import Config
from shoal.trainers.defaults import filled
from shoal.trainers.phases import PHASES
from shoal.trainers.policies import Recurrent, initial_state, typed

ENVS = ("breakout", "cartpole", "pong", "squared", "connect4")
MEMORIES = ("none", "lstm", "mingru")
ROWS, HORIZON, MINIBATCH = 1024, 64, 8192
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def config_of(env: str, memory: Any, threads: int) -> Config:
    return Config(
        env,
        memory=memory,
        num_envs=ROWS,
        horizon=HORIZON,
        minibatch_size=MINIBATCH,
        update_epochs=1,
        hidden_size=128,
        anneal="none",
        total_steps=10**12,
        torch_threads=threads,
        device="cpu",
    )


def limit(config: Config, vector: Any) -> Callable[[], None]:
    """Return a function that does the network's work of one update, on random data."""
    layout, distribution = vector.observation_layout, ppo.Distribution(vector.action_layout)
    policy = ppo.make_policy(config, layout, vector.action_layout)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5, fused=True)
    sizes = [columns.shape for _, columns in distribution.groups]
    (elements, choices), *others = sizes
    assert not others and not distribution.num_continuous  # one kind of choice keeps this short
    kept = isinstance(policy, Recurrent)
    count = MINIBATCH // HORIZON if kept else MINIBATCH
    first, _ = vector.reset(seed=0)
    rows = torch.from_numpy(first.reshape(ROWS, -1).view("uint8").copy())
    many = rows.repeat(MINIBATCH // ROWS, 1)
    state = initial_state(policy, ROWS)
    starts = torch.rand(HORIZON, ROWS) < 0.01
    actions = torch.randint(choices, (MINIBATCH, elements, 1))
    old, advantage, returns = torch.randn(3, MINIBATCH)

    def act() -> None:
        nonlocal state
        with torch.no_grad():
            features = policy.encode(typed(rows, layout))
            if kept:
                features, state = policy.recur(features[None], state, starts[:1])
                features = features[0]
            parameters, _ = policy.decode(features)
            logs = parameters.reshape(ROWS, elements, choices).log_softmax(-1)
            noise = torch.empty_like(logs).exponential_().log()
            chosen = (logs - noise).argmax(-1, keepdim=True)
            logs.gather(-1, chosen).sum((1, 2))

    def learn() -> None:
        optimizer.zero_grad()
        features = policy.encode(typed(many, layout))
        if kept:
            features = features.reshape(HORIZON, count, -1)
            features, _ = policy.recur(features, state[:, :count], starts[:, :count])
            features = features.flatten(0, 1)
        parameters, values = policy.decode(features)
        logs = functional.log_softmax(parameters.reshape(MINIBATCH, elements, choices), -1)
        log_probability = logs.gather(-1, actions).sum((1, 2))
        entropy = -(logs.exp() * logs).sum((1, 2))
        ratio = (0.01 * (log_probability - old)).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        loss = -gain.mean() + 0.25 * ((values - returns) ** 2).mean() - 0.01 * entropy.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()

    def update() -> None:
        for _ in range(HORIZON + 1):  # the last observations are seen, too
            act()
        for _ in range(ROWS * HORIZON // MINIBATCH):
            learn()

    return update


def measure(
    env: str, memory: str, rounds: int, threads: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Return the speeds of both in turns, and the shares of the phases of training."""
    config = filled(config_of(env, memory, threads))
    with contextlib.closing(ppo.make_vector(config)) as vector, ppo.torch_settings(config):
        bare = limit(config, vector)
        trainer = ppo.Trainer(config, config, None, vector, torch.device("cpu"))
        variants = {"limit": bare, "training": trainer.update}
        times: dict[str, list[float]] = {name: [] for name in variants}
        phases: list[dict[str, float]] = []
        for i in range(rounds + 1):
            for name in list(variants)[:: 1 if i % 2 else -1]:
                begun = clock()
                variants[name]()
                if i:  # the first warms up
                    times[name].append(clock() - begun)
            phases.append(dict(trainer.phases.seconds))
    steps = ROWS * HORIZON
    total = sum(sum(each.values()) for each in phases[1:])
    return {
        "limit": steps / statistics.median(times["limit"]),
        "training": steps / statistics.median(times["training"]),
        "share": statistics.median(a / b for a, b in zip(times["limit"], times["training"])),
        "phases": {name: sum(each[name] for each in phases[1:]) / total for name in PHASES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=ENVS, choices=ENVS)
    parser.add_argument("--memory", nargs="+", default=MEMORIES, choices=MEMORIES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    found = machine("numpy", "torch")
    results: dict[str, Any] = {}
    for memory in args.memory:
        for env in args.only:
            results[f"{env}, {memory}"] = measured = measure(
                env, memory, args.rounds, args.threads, CLOCKS[args.clock]
            )
            print(env, memory, measured, flush=True)
    rows = [
        [
            name,
            f"{each['limit']:,.0f}",
            f"{each['training']:,.0f}",
            f"**{each['share']:.2f}**",
            *(f"{100 * share:.0f} %" for share in each["phases"].values()),
        ]
        for name, each in results.items()
    ]
    head = ["environment, memory", "limit, steps/s", "training, steps/s", "share", *PHASES]
    text = f"""# Training against the network alone

{machine_text(found)}

{ROWS:,} agents × {HORIZON} steps, minibatches of {MINIBATCH:,}, one pass, width 128,
{args.threads} thread(s) of torch, {args.clock} time. The limit is a bare torch loop that acts once
a step and learns once a minibatch on random data, and does nothing else. Both are timed in turns,
and the share is the median of {args.rounds} rounds' ratios. The other columns say where training's
time goes.

{table(head, rows)}"""
    save("learner", text, {"machine": found, "clock": args.clock, "runs": results})


if __name__ == "__main__":
    main()
