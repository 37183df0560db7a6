"""Does the demo learn? Trains on NetHack as `make demo` does, and compares with random actions.

Every seed is a run of its own with examples/nethack.toml, in a temporary folder, one after the
other, and is then evaluated over whole episodes that it has not seen. The random policy plays as
many episodes of the same environments.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "examples" / "nethack.toml"
COMMAND = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]


def shoal(*arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=CONFIG.parents[1],
    )
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="runs; default: 5")
    parser.add_argument("--episodes", type=int, default=50, help="of each; default: 50")
    parser.add_argument("options", nargs="*", help="further options of `shoal train`, after --")
    args = parser.parse_args()
    score = ["--episodes", str(args.episodes), "--json"]
    rows = []
    print("seed  seconds     steps   trained    random", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = ["--runs-dir", folder]
        for seed in range(1, args.seeds + 1):
            begin = time.perf_counter()
            own = ["--seed", str(seed), "--name", str(seed), "--display", "none"]
            shoal("train", "--config", str(CONFIG), *place, *own, *args.options)
            seconds = time.perf_counter() - begin
            first = ["--seed", str(10_000 * seed)]
            trained = json.loads(shoal("eval", str(seed), *place, *score, *first))
            kwargs = 'observation_keys=["blstats","chars","misc"]'
            random = json.loads(
                shoal("eval", "nle:NetHackScore-v0", *score, *first, "--env-kwargs", kwargs)
            )
            last = json.loads(
                (Path(folder) / str(seed) / "metrics.jsonl").read_text().split("\n")[-2]
            )
            rows.append((trained["return"], random["return"]))
            print(
                f"{seed:>4}{seconds:>9.0f}{last['steps']:>10,.0f}{trained['return']:>7.1f}"
                f" ± {trained['error']:.1f}{random['return']:>7.1f} ± {random['error']:.1f}",
                flush=True,
            )
    means = [statistics.fmean(column) for column in zip(*rows)]
    print(f"mean of {len(rows)} seeds: {means[0]:.1f} against {means[1]:.1f}")


if __name__ == "__main__":
    main()
