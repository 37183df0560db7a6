"""How well the sampler of `shoal sweep` finds the front of score against cost.

    python benchmarks/sweep.py [--seeds 30] [--only NAME ...] [--samplers NAME ...]

Five synthetic functions of 6 to 12 parameters, whose runs cost 1 to 100 and whose scores are noisy.
Each sampler may spend the same cost on each function. What counts is the hypervolume of what it
found: the area under the best *noiseless* score at each cost, over the logarithm of the cost, as a
share of the true front's. Every sampler sees the noise only.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import optuna
from _common import machine, machine_text, save, table

from shoal.trainers.sweep.sampler import CostSampler

BUDGET = 1000.0  # costs of all runs together: about 46 at random
MOST = 200  # runs
COST = 100.0  # of the dearest run
NOISE = 0.05
SAMPLERS = {
    "shoal": lambda seed: CostSampler(seed, steps="steps"),
    "random": lambda seed: optuna.samplers.RandomSampler(seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}

# Each takes x, of shape (size,) and within 0 to 1, whose x[0] is the share of the dearest run's
# steps on a logarithmic scale, and returns score and cost. Score: quality of the other parameters,
# 0 to 1, times what so many steps can learn. Each optimum is known.


def steps(x: np.ndarray) -> float:
    return math.exp((x[0] - 1) * math.log(COST))  # 1 / COST to 1


def bowl(x: np.ndarray) -> tuple[float, float]:
    """Return a quadratic; the cost is the steps alone."""
    centre = np.linspace(0.3, 0.7, len(x) - 1)
    quality = math.exp(-4 * float(((x[1:] - centre) ** 2).sum()))
    return quality * learned(steps(x)), COST * steps(x)


def width(x: np.ndarray) -> tuple[float, float]:
    """Score a network whose size, the second parameter, makes it better and dearer."""
    size = x[1]
    centre = np.linspace(0.2, 0.6, len(x) - 2)
    quality = math.exp(-4 * float(((x[2:] - centre) ** 2).sum())) * (0.6 + 0.4 * size)
    return quality * learned(steps(x)), max(1.0, COST * steps(x) * 10 ** (size - 1))


def cliff(x: np.ndarray) -> tuple[float, float]:
    """Score a learning rate that pays until it breaks, at an edge that another parameter moves."""
    rate, edge = x[1], 0.5 + 0.3 * x[2]
    centre = np.linspace(0.4, 0.8, len(x) - 3)
    quality = math.exp(-3 * float(((x[3:] - centre) ** 2).sum()))
    quality *= 0.2 + 0.8 * rate / 0.8 if rate < edge else 0.05
    return quality * learned(steps(x)), COST * steps(x)


def schedule(x: np.ndarray) -> tuple[float, float]:
    """Score a learning rate whose best value falls as runs get longer."""
    quality = math.exp(-6 * (x[1] - 0.8 + 0.5 * x[0]) ** 2)
    quality *= math.exp(-3 * float(((x[2:] - 0.5) ** 2).sum()))
    return quality * learned(steps(x)), COST * steps(x)


def ripples(x: np.ndarray) -> tuple[float, float]:
    """Score among small local optima everywhere; half of the parameters matter little."""
    weights = np.where(np.arange(len(x) - 1) % 2 == 0, 1.0, 0.1)
    z = x[1:] - 0.35
    bumps = 0.04 * (1 - np.cos(6 * math.pi * z))
    quality = math.exp(-float((weights * (4 * z**2 + bumps)).sum()))
    return quality * learned(steps(x)), COST * steps(x)


def learned(share: float) -> float:
    """Return how much of its best a run has learned: a saturating power law."""
    return 1 - 0.8 * (share**-0.35 - 1) / (COST**0.35 - 1)


FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], tuple[float, float]], int]] = {
    "bowl": (bowl, 6),
    "width": (width, 8),
    "cliff": (cliff, 8),
    "schedule": (schedule, 10),
    "ripples": (ripples, 12),
}


def hypervolume(scores: np.ndarray, costs: np.ndarray) -> float:
    """Return the area under the best score at each cost, over log cost / log COST."""
    order = np.argsort(costs, kind="stable")
    edges = np.log(np.maximum(costs[order], 1.0)) / math.log(COST)
    best = np.maximum.accumulate(np.maximum(scores[order], 0.0))
    return float((best * np.diff(np.append(edges.clip(0, 1), 1.0))).sum())


def true_hypervolume(name: str) -> float:
    """Return that of the true front: at each number of steps, the best of the others."""
    function, size = FUNCTIONS[name]
    scores, costs = [], []
    for share in np.linspace(0, 1, 201):
        for x in optima(name, float(share), size):
            score, cost = function(x)
            scores.append(score)
            costs.append(cost)
    return hypervolume(np.array(scores), np.array(costs))


def optima(name: str, share: float, size: int) -> list[np.ndarray]:
    first = np.array([share])
    if name == "bowl":
        return [np.concatenate([first, np.linspace(0.3, 0.7, size - 1)])]
    if name == "width":
        rest = np.linspace(0.2, 0.6, size - 2)
        return [np.concatenate([first, [s], rest]) for s in np.linspace(0, 1, 101)]
    if name == "cliff":
        return [np.concatenate([first, [0.8 - 1e-9, 1.0], np.linspace(0.4, 0.8, size - 3)])]
    if name == "schedule":
        return [np.concatenate([first, [0.8 - 0.5 * share], np.full(size - 2, 0.5)])]
    return [np.concatenate([first, np.full(size - 1, 0.35)])]


def sweep(name: str, sampler: str, seed: int) -> tuple[float, float]:
    """Return hypervolume and mean CPU seconds of a suggestion."""
    function, size = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[sampler](seed))
    spaces: dict[str, optuna.distributions.BaseDistribution] = {
        f"x{i}": optuna.distributions.FloatDistribution(0, 1) for i in range(1, size)
    }
    spaces["steps"] = optuna.distributions.FloatDistribution(1 / COST, 1, log=True)
    scores, costs, asked = [], [], 0.0
    while sum(costs) < BUDGET and len(costs) < MOST:
        begin = time.process_time()
        trial = study.ask(spaces)
        asked += time.process_time() - begin
        x = np.array([1 + math.log(trial.params["steps"]) / math.log(COST)])
        x = np.append(x, [trial.params[f"x{i}"] for i in range(1, size)]).clip(0, 1)
        score, cost = function(x)
        curve = []
        for part in (0.25, 0.5):  # the learning curve: what a run with fewer steps would score
            share = part * trial.params["steps"]
            if share >= 1 / COST:
                y = x.copy()
                y[0] = 1 + math.log(share) / math.log(COST)
                # Its schedule is that of the longer run.
                seen = 0.9 * function(y)[0] + NOISE * rng.standard_normal()
                curve.append([share, part * cost, seen])
        trial.set_user_attr("cost", cost)
        trial.set_user_attr("curve", curve)
        study.tell(trial, score + NOISE * rng.standard_normal())
        scores.append(score)
        costs.append(cost)
    return hypervolume(np.array(scores), np.array(costs)), asked / len(costs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(FUNCTIONS), choices=list(FUNCTIONS))
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--dry", action="store_true", help="write no results")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows, results = [], {}
    for name in args.only:
        best = true_hypervolume(name)
        found: dict[str, list[float]] = {}
        for sampler in args.samplers:
            pairs = [
                sweep(name, sampler, seed)
                for seed in range(args.first_seed, args.first_seed + args.seeds)
            ]
            found[sampler] = [volume / best for volume, _ in pairs]
            spent = statistics.fmean(seconds for _, seconds in pairs)
            print(
                f"{name:<10}{sampler:<8}{statistics.fmean(found[sampler]):.3f} "
                f"± {statistics.pstdev(found[sampler]):.3f}  {spent * 1e3:.0f} ms",
                flush=True,
            )
        results[name] = found
        rows.append(
            [name, str(FUNCTIONS[name][1])]
            + [f"{statistics.fmean(v):.3f} ± {statistics.pstdev(v):.3f}" for v in found.values()]
        )
    heads = ["function", "parameters", *args.samplers]
    text = table(heads, rows)
    print(text)
    if not args.dry:
        data = machine("optuna", "torch", "numpy") | {"seeds": args.seeds, "shares": results}
        save("sweep", f"{machine_text(data)}\n\n{text}", data)


if __name__ == "__main__":
    main()
