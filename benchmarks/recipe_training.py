"""What `shoal train` learns in half an hour where a recipe says how: Neural MMO 2 and NetHack.

    python benchmarks/recipe_training.py [--only NAME ...] [--seeds N] [--runs-dir FOLDER]

Every seed is a run of `shoal train NAME`, and nothing else; trained and random policy then play the
same episodes, which are not those of training. Runs that are complete in FOLDER are not trained
again, so that what was interrupted goes on where it was.
"""

import argparse
import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_text, save, shoal, table
from matplotlib.figure import Figure

from shoal.trainers.curve import smooth

# Of each environment: what counts (in an evaluation, in training), episodes, what it is called.
CASES = {
    "nethack": ("return", "episode/return", 100, "mean score of a game"),
    "nmmo": ("life", "episode/length", 4, "mean life of an agent, in ticks"),
}


def measure(name: str, seed: int, folder: Path) -> dict[str, Any]:
    what, metric, episodes, _ = CASES[name]
    run = f"{name}-{seed}"
    place = ["--runs-dir", str(folder)]
    if not (folder / run / "checkpoints").exists():
        shoal("train", name, "--seed", str(seed), "--name", run, "--display", "none", *place)
    history = [json.loads(line) for line in (folder / run / "metrics.jsonl").open()]
    total = tomllib.loads((folder / run / "config.toml").read_text())["total_steps"]
    options = ["--episodes", str(episodes), "--json", "--seed", str(10_000 * seed)]
    trained = json.loads(shoal("eval", run, *place, *options))
    random = json.loads(shoal("eval", name, *options, "--runs-dir", str(folder / "none")))
    scores = {"trained": trained, "random": random}
    column = {"life": "lives", "return": "returns"}[what]
    return {
        "seed": seed,
        "steps": history[-1]["steps"],
        "complete": history[-1]["steps"] >= total,
        "seconds": history[-1]["seconds"],
        "curve": thinned([[m["steps"], m[metric]] for m in history if metric in m]),
        **{
            who: {
                "mean": found[what],
                "error": float(np.std(found[column], ddof=1) / np.sqrt(episodes)),
            }
            for who, found in scores.items()
        },
    }


def thinned(points: list[list[float]], most: int = 200) -> list[list[float]]:
    """Means of so many successive points that no more than `most` are left."""
    many = -(-len(points) // most)
    return [np.mean(points[i : i + many], 0).tolist() for i in range(0, len(points), many)]


def draw(results: dict[str, list[dict[str, Any]]]) -> None:
    """The curves of all runs, and what random actions score: results/recipe_training.png."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    grid = figure.subplots(1, len(results), squeeze=False)
    for axes, (name, runs) in zip(grid[0], results.items()):
        for run in runs:
            steps, values = np.array(run["curve"]).T
            smoothed = smooth(values, len(values) // 20 + 1)
            axes.plot(steps / 1e6, smoothed, label=f"seed {run['seed']}")
        random = statistics.fmean(run["random"]["mean"] for run in runs)
        axes.axhline(random, color="black", linestyle="--", linewidth=1, label="random")
        axes.set_title(f"shoal train {name}")
        axes.set_xlabel("million agent steps")
        axes.set_ylabel(CASES[name][3])
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(RESULTS / "recipe_training.png", dpi=100)


def rows(name: str, runs: list[dict[str, Any]]) -> list[list[str]]:
    made = [
        [
            name,
            str(run["seed"]),
            f"{run['steps']:,.0f}{'' if run['complete'] else ' (stopped)'}",
            f"{run['seconds'] / 60:.0f}",
            *(f"{run[who]['mean']:.1f} ± {run[who]['error']:.1f}" for who in ("trained", "random")),
        ]
        for run in runs
    ]
    means = [statistics.fmean(run[who]["mean"] for run in runs) for who in ("trained", "random")]
    return [*made, [name, "mean", "", "", *(f"**{mean:.1f}**" for mean in means)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each; default: 3")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    args = parser.parse_args()
    file = RESULTS / "recipe_training.json"
    results = json.loads(file.read_text())["results"] if file.exists() else {}
    for name in args.only:
        results[name] = []
        for seed in range(1, args.seeds + 1):
            results[name].append(measure(name, seed, args.runs_dir.resolve()))
            print(*rows(name, results[name])[-2], flush=True)
    found = machine("numpy", "torch", "nle")
    head = ["environment", "seed", "steps", "minutes", "trained", "random"]
    notes = "\n".join(
        f"- {name}: {what}, over {episodes} whole episodes, and its standard error."
        for name, (_, _, episodes, what) in CASES.items()
    )
    text = f"""# What recipes train in half an hour

{machine_text(found)}

`shoal train NAME` and nothing else. Steps are counted over all agents. Minutes are of training
alone; two or three runs shared the two cores with each other and with other work. Trained and
random policy played the same episodes.

{notes}

{table(head, [row for name, runs in results.items() for row in rows(name, runs)])}

![Learning curves](recipe_training.png)"""
    draw(results)
    save("recipe_training", text, {"machine": found, "results": results})


if __name__ == "__main__":
    main()
