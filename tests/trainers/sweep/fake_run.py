"""Stands in for `shoal.trainers.sweep.launch`: a run that only writes files, in no time.

The score is the learning rate; a run of 1000 steps costs 1 s and is written in 10 lines. Beside
the sweep, "faults.json" says which runs break, and how; "attempts.txt" gets a line for each start.
"""

import fcntl
import json
import os
import sys
import threading
import time
import tomllib
from pathlib import Path

from shoal.trainers.sweep.launch import die_with_sweep

LINES = 10
PAUSES = {"slow": 0.06, "slower": 0.25}  # seconds behind each line


def main(arguments: list[str]) -> int:
    threading.Thread(target=die_with_sweep, daemon=True).start()
    _, command, *rest = arguments
    if command == "train":
        source = Path(rest[1])
        values = tomllib.loads(source.read_text())
        folder = Path(values["runs_dir"]) / values["name"]
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.toml").write_text(source.read_text())
    else:
        folder = Path(rest[0])
        values = tomllib.loads((folder / "config.toml").read_text())
    root = folder.parents[1]
    with (root / "attempts.txt").open("a") as file:
        file.write(f"{command} {folder.name}\n")
    faults = json.loads((root / "faults.json").read_text())
    fault = faults.get(folder.name, faults.get("all", ""))
    with (folder / "metrics.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        saved = sorted(int(p.stem) for p in (folder / "checkpoints").glob("*.pt"))
        first = saved[-1] if saved else 0
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:first]
        os.truncate(file.fileno(), sum(map(len, lines)))
        for update in range(first + 1, LINES + 1):
            if fault == "crash" and update == 3:
                print("ValueError: this run breaks")
                return 1
            score = float("nan") if fault == "nan" else values["learning_rate"]
            steps = values["total_steps"] * update // LINES
            line = {"steps": steps, "updates": update, "seconds": steps / 1000}
            file.write(json.dumps({**line, "episode/score": score}) + "\n")
            file.flush()
            half = fault == "half" and command == "train" and update == 6
            time.sleep(1000 if fault == "hang" or half else PAUSES.get(fault, 0.005))
            if update in (5, LINES):
                (folder / "checkpoints" / f"{update:06}.pt").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
