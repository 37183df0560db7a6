"""Seeds of a run: from its one number to a stream for each use, none of which meet."""

from __future__ import annotations

import numpy as np

__all__ = ["EVALUATION", "TRAINING", "environment_seed", "generator_seed"]

TRAINING, EVALUATION = 0, 1  # streams of environments


def environment_seed(seed: int, stream: int, *more: int) -> int:
    """Return the seed of the first environment; environment i has this seed + i.

    Each stream has a range of its own below 2**31, so that no environment of a training run has
    the seed of one that is evaluated, whatever their seeds are. Runs of different seeds begin at
    random places of the range.

    Args:
        seed: of the run, at least 0.
        stream: `TRAINING` or `EVALUATION`.
        more: numbers that tell later starts of the same run apart.
    """
    word = np.random.SeedSequence([seed, stream, *more]).generate_state(1)[0]
    return (stream << 30) + int(word >> 3)


def generator_seed(seed: int, use: str, rank: int = 0) -> int:
    """Return the seed of a generator of torch.

    Args:
        seed: of the run, at least 0.
        use: what the generator is for, such as ``"actions"``.
        rank: of the process.
    """
    sequence = np.random.SeedSequence([seed, rank, *use.encode()])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
