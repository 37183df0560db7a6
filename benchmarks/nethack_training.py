"""Does the demo learn? Trains on NetHack as `make demo` does, and compares with random actions.

Every seed is a run of its own with examples/nethack.toml, in a temporary folder, one after the
other, and is then evaluated over whole episodes that it has not seen. The random policy plays as
many episodes of the same environments.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _common import ROOT, machine, machine_text, save, shoal, table

CONFIG = ROOT / "examples" / "nethack.toml"
KWARGS = 'observation_keys=["blstats","chars","misc"]'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="runs; default: 5")
    parser.add_argument("--episodes", type=int, default=50, help="of each; default: 50")
    parser.add_argument("options", nargs="*", help="further options of `shoal train`, after --")
    args = parser.parse_args()
    score = ["--episodes", str(args.episodes), "--json"]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        place = ["--runs-dir", folder]
        for seed in range(1, args.seeds + 1):
            own = ["--seed", str(seed), "--name", str(seed), "--display", "none"]
            shoal("train", "--config", str(CONFIG), *place, *own, *args.options)
            last = (Path(folder) / str(seed) / "metrics.jsonl").read_text().splitlines()[-1]
            first = ["--seed", str(10_000 * seed)]
            runs.append(
                {
                    "seed": seed,
                    **{name: json.loads(last)[name] for name in ("steps", "seconds")},
                    "trained": json.loads(shoal("eval", str(seed), *place, *score, *first)),
                    "random": json.loads(
                        shoal("eval", "nle:NetHackScore-v0", *score, *first, "--env-kwargs", KWARGS)
                    ),
                }
            )
            print(*row(runs[-1]), flush=True)
    means = [statistics.fmean(run[who]["return"] for run in runs) for who in ("trained", "random")]
    found = machine("numpy", "torch", "nle")
    head = ["seed", "steps", "seconds", "trained", "random"]
    text = f"""# The demo's training on NetHack

{machine_text(found)}

NetHackScore-v0 with examples/nethack.toml: mean return of {args.episodes} episodes, and its
standard error. Seconds are of training alone.

{table(head, [*map(row, runs), ["mean", "", "", *(f"**{mean:.1f}**" for mean in means)]])}"""
    if args.options:
        print(text)
    else:
        save("nethack_training", text, {"machine": found, "runs": runs})


def row(run: dict[str, Any]) -> list[str]:
    return [
        str(run["seed"]),
        f"{run['steps']:,.0f}",
        f"{run['seconds']:.0f}",
        *(f"{run[who]['return']:.1f} ± {run[who]['error']:.1f}" for who in ("trained", "random")),
    ]


if __name__ == "__main__":
    main()
