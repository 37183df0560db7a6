"""What `shoal train` learns of the compiled environments with its default options.

    python benchmarks/ocean_training.py [--only NAME ...]

Every environment is trained and evaluated by the command, as a user would do it, and is then filmed
for docs/trained/NAME.gif. What has been measured of others before is kept.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _common import RESULTS, ROOT, machine, machine_text, save, shoal, table
from PIL import Image, ImageSequence

OPTIONS: dict[str, list[str]] = {  # all that is not a default
    "squared": [],
    "target": [],
    "cartpole": [],
    "pong": [],
    "breakout": [],
    "snake": [],
    "memory": ["--memory", "lstm"],
    "password": [],
}
EPISODES = 100
GIFS = ROOT / "docs" / "trained"
MOST_FRAMES = 120
SIDE = 240  # pixels, the longer one


def measure(name: str, folder: Path) -> dict[str, Any]:
    place = ["--runs-dir", str(folder)]
    shoal("train", name, *OPTIONS[name], *place, "--name", name, "--display", "none")
    history = [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]
    scores = [m["episode/score"] for m in history if "episode/score" in m]
    score = ["--episodes", str(EPISODES), "--json"]
    trained = json.loads(shoal("eval", name, *place, *score))
    random = json.loads(shoal("eval", name, *score, "--runs-dir", str(folder / "none")))
    film = folder / f"{name}.gif"
    shoal("eval", name, *place, "--video", str(film))
    shrink(film, GIFS / film.name)
    return {
        "options": OPTIONS[name],
        "steps": history[-1]["steps"],
        "seconds": history[-1]["seconds"],
        "first_score": statistics.fmean(scores[:1]),
        "last_score": statistics.fmean(scores[-10:]),
        "trained": trained["return"],
        "random": random["return"],
    }


def shrink(film: Path, target: Path) -> None:
    """The first seconds of a GIF, in a size that a page can hold many of."""
    with Image.open(film) as whole:
        frames = []
        for frame in ImageSequence.Iterator(whole):
            picture = frame.convert("RGB")
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            frames.append(picture.quantize(64, dither=Image.Dither.NONE))
            if len(frames) == MOST_FRAMES:
                break
        target.parent.mkdir(exist_ok=True)
        duration = whole.info["duration"]
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=duration, loop=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    args = parser.parse_args()
    store = RESULTS / "ocean_training.json"
    runs = json.loads(store.read_text())["runs"] if store.exists() else {}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = measure(name, Path(folder))
        print(name, runs[name], flush=True)
    found = machine("numpy", "torch")
    rows = [
        [
            name,
            " ".join(run["options"]),
            f"{run['steps']:,.0f}",
            f"{run['seconds']:.0f}",
            f"{run['first_score']:.3f}",
            f"{run['last_score']:.3f}",
            f"{run['trained']:.4g}",
            f"{run['random']:.4g}",
        ]
        for name, run in sorted(runs.items())
    ]
    head = ["environment", "options", "steps", "seconds", "score at first", "score at last"]
    head += ["return", "random"]
    text = f"""# Training on compiled environments

{machine_text(found)}

`shoal train NAME` with no other options than those named, one seed. Score (0 to 1): mean over the
episodes that ended in the first update, and in the last 10. Return: mean of {EPISODES} episodes
after training, and of random actions. Seconds are of training alone.

{table(head, rows)}"""
    save("ocean_training", text, {"machine": found, "runs": runs})


if __name__ == "__main__":
    main()
