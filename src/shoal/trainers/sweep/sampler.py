"""A sampler that knows that runs cost time: it looks for the best score at every cost.

A Gaussian process models the score, another the logarithm of the cost, both over parameters that
are scaled to 0 to 1. Each suggestion draws a cost target from cheap to dear, uniformly in its
logarithm, and takes the candidate of the highest

    E[max(score - best(target), 0)] · P(cost <= target) · P(the run does not fail)

where ``best(target)`` is the best score that is known at this cost or less. Cheap targets look for
cheap runs, dear targets for runs that beat all cheaper ones, so that the whole front of score
against cost is explored. (Expected improvement: Jones, Schonlau and Welch 1998; with an unknown
constraint: Gardner et al. 2014. PufferLib's Protein also pairs models of score and cost with a
drawn cost target.)

Points of a run's learning curve are observations of shorter runs, with more noise. A failed run has
no score and stays out of these models, so that it can't distort them; a third process models the
chance of success. A run whose score is far outside of what the others reach counts as failed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from shoal.trainers.sweep.models import Cube, Process

__all__ = ["CostSampler"]

FIRST = 10  # runs at random before the models are asked
MOST = 700  # observations of a model
FRESH = 1.1  # growth of what is known after which the kernels are fitted again
SHORTER = 0.5  # of the range of steps (of its logarithm) is for the first runs
FLOOR = -2.5  # scores further below the median, in deviations, count as this
BROKEN = -100.0  # those below this are no score: such a run counts as failed
SHORT = 4.0  # noise variance of a learning curve's point, in that of a whole run


@dataclass
class Seen:
    """What is known of the runs, one row each; whole runs and points of learning curves."""

    points: np.ndarray
    scores: np.ndarray  # more is better
    costs: np.ndarray  # seconds
    whole: np.ndarray  # bool

    def rows(self, which: np.ndarray) -> Seen:
        """Return some of the rows."""
        return Seen(self.points[which], self.scores[which], self.costs[which], self.whole[which])


class CostSampler(optuna.samplers.BaseSampler):
    """Suggest parameters whose runs should push the front of score against cost.

    A trial's user attributes hold ``cost`` (seconds; missing: unknown) and ``curve``: a list of
    ``[steps, cost, score]``.

    Args:
        seed: of the suggestions.
        steps: the parameter that says how long a run is, whose value a curve's point replaces;
            None: curves are not used.

    Attributes:
        limit: the most that a run should cost; a sweep lowers it as its budget comes to its end.
    """

    def __init__(self, seed: int | None = None, steps: str | None = None):
        self.steps = steps
        self.limit = math.inf
        self._rng = np.random.default_rng(seed)
        self._kernels: dict[str, torch.Tensor] = {}
        self._fitted = 0  # observations when the kernels were fitted last

    def reseed_rng(self) -> None:
        """Draw on with a seed from the operating system: each process of a sweep has its own."""
        self._rng = np.random.default_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters of all earlier trials."""
        return optuna.search_space.IntersectionSearchSpace(True).calculate(study)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """Return a value at random, of a parameter that no trial has had yet."""
        return self._at_random(Cube({name: distribution}))[name]

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the parameters to try next."""
        if not search_space:
            return {}
        cube = Cube(search_space)
        trials = [
            each
            for each in study.get_trials(deepcopy=False)
            if each.number != trial.number and search_space.keys() <= each.params.keys()
        ]
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        seen = self._look(cube, trials, sign)
        if seen.whole.sum() < FIRST:
            return self._at_random(cube)
        pending = [cube.encode(t.params) for t in trials if t.state == TrialState.RUNNING]
        failed = [cube.encode(t.params) for t in trials if t.state == TrialState.FAIL]
        with _one_thread():
            point = self._suggest(cube, seen, np.array(pending), np.array(failed))
        return cube.decode(point)

    def _at_random(self, cube: Cube) -> dict[str, Any]:
        """Return parameters at random, of a short run: nobody knows yet what runs cost."""
        point = self._rng.random((1, cube.size))
        if self.steps in cube.space:
            point[:, cube.columns[self.steps]] *= SHORTER
        return cube.decode(cube.snap(point)[0])

    def _look(self, cube: Cube, trials: Sequence[FrozenTrial], sign: float) -> Seen:
        rows: list[tuple[np.ndarray, float, float, bool]] = []
        for trial in trials:
            point, cost = cube.encode(trial.params), trial.user_attrs.get("cost")
            if not trial.state.is_finished() or cost is None or trial.state == TrialState.FAIL:
                continue
            whole = trial.state == TrialState.COMPLETE
            if whole and trial.value is not None and math.isfinite(trial.value):
                rows.append((point, sign * trial.value, max(cost, 1e-3), True))
            if self.steps not in cube.space:
                continue
            for steps, spent, score in trial.user_attrs.get("curve", ()):
                short = cube.encode({**trial.params, self.steps: steps})
                if math.isfinite(score) and spent > 0 and (not whole or spent < 0.9 * cost):
                    rows.append((short, sign * score, spent, False))
        columns: Sequence[Any] = list(zip(*rows)) or [(), (), (), ()]
        return Seen(
            np.array(columns[0]).reshape(-1, cube.size),
            np.array(columns[1], np.float64),
            np.array(columns[2], np.float64),
            np.array(columns[3], bool),
        )

    def _suggest(
        self, cube: Cube, seen: Seen, pending: np.ndarray, failed: np.ndarray
    ) -> np.ndarray:
        """Return the candidate that is expected to push the front most at a drawn cost."""
        rng = self._rng
        count = len(seen.scores) + len(failed)
        fit = count >= FRESH * self._fitted
        self._fitted = count if fit else self._fitted
        middle = np.median(seen.scores[seen.whole])
        spread = 1.4826 * np.median(np.abs(seen.scores[seen.whole] - middle))
        spread = spread or seen.scores[seen.whole].std() or 1.0
        sound = seen.scores >= middle + BROKEN * spread
        failed = np.concatenate([failed.reshape(-1, cube.size), seen.points[~sound & seen.whole]])
        seen = self._thinned(seen.rows(sound))
        values = np.maximum(seen.scores, middle + FLOOR * spread)
        noise = np.where(seen.whole, 1.0, SHORT)
        score = Process(seen.points, values, noise, rng, self._start("score", cube.size), fit)
        noise_of_cost = np.ones(len(noise))
        cost = Process(
            seen.points, np.log(seen.costs), noise_of_cost, rng, self._start("cost", cube.size), fit
        )
        self._kernels |= {"score": score.kernel, "cost": cost.kernel}
        whole = seen.points[seen.whole]
        succeeds = self._success(cube, whole, failed, fit)
        known, costs = score.predict(whole)[0], cost.predict(whole)[0]
        if len(pending):  # as if they had come out as foreseen
            values = np.concatenate([values, score.predict(pending)[0]])
            points = np.concatenate([seen.points, pending])
            noise = np.concatenate([noise, np.ones(len(pending))])
            score = Process(points, values, noise, rng, score.kernel, fit=False)
        low, high = costs.min(), min(costs.max(), math.log(self.limit))
        target = rng.uniform(low, max(high, low))
        affordable = costs <= target
        best = known[affordable].max() if affordable.any() else known.min()

        def gain(points: np.ndarray) -> np.ndarray:
            mean, deviation = score.predict(points)
            z = (mean - best) / deviation
            expected = deviation * (z * _normal(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
            mean, deviation = cost.predict(points)
            within = _normal((target - mean) / np.hypot(deviation, 0.05))
            return np.log(np.maximum(expected, 1e-300)) + np.log(
                np.maximum(within * succeeds(points), 1e-300)
            )

        front = whole[_front(known, costs)]
        near = whole[affordable][np.argsort(known[affordable])[-4:]] if affordable.any() else front
        candidates = cube.snap(
            np.concatenate(
                [rng.random((800, cube.size)), self._around(front, 500), self._around(near, 500)]
            )
        )
        gains = gain(candidates)
        for width in (0.1, 0.03, 0.01):
            best_ones = candidates[np.argsort(gains)[-8:]]
            fresh = cube.snap(self._around(best_ones, 160, width))
            candidates = np.concatenate([best_ones, fresh])
            gains = gain(candidates)
        return candidates[gains.argmax()]

    def _start(self, name: str, size: int) -> torch.Tensor | None:
        kernel = self._kernels.get(name)
        return kernel if kernel is not None and len(kernel) == size + 2 else None

    def _thinned(self, seen: Seen) -> Seen:
        """Return at most `MOST` observations: the best whole runs, others, then curves."""
        if len(seen.scores) <= MOST:
            return seen
        order = self._rng.permutation(len(seen.scores))
        best = seen.scores >= np.sort(seen.scores[seen.whole])[-min(seen.whole.sum(), MOST // 4)]
        rank = np.where(seen.whole[order], np.where(best[order], 0, 1), 2)
        keep = order[np.argsort(rank, kind="stable")[:MOST]]
        return seen.rows(keep)

    def _around(self, centres: np.ndarray, count: int, width: float | None = None) -> np.ndarray:
        """Return points near some of `centres`, each changed in a few columns."""
        rng = self._rng
        points = centres[rng.integers(len(centres), size=count)]
        size = points.shape[1]
        widths = rng.choice([0.03, 0.1, 0.3], (count, 1)) if width is None else width
        changed = rng.random(points.shape) < rng.choice([1.5 / size, 0.3, 1.0], (count, 1))
        return points + changed * widths * rng.standard_normal(points.shape)

    def _success(
        self, cube: Cube, whole: np.ndarray, failed: np.ndarray, fit: bool
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return the chance of success at points: a process of 1 for success and 0 for failure."""
        if not len(failed):
            return lambda points: np.ones(len(points))
        points = np.concatenate([whole, failed])
        values = np.concatenate([np.ones(len(whole)), np.zeros(len(failed))])
        process = Process(
            points, values, np.ones(len(points)), self._rng, self._start("success", cube.size), fit
        )
        self._kernels["success"] = process.kernel
        noise = process.scale * math.exp(float(process.kernel[-1]) / 2)

        def chance(points: np.ndarray) -> np.ndarray:
            mean, deviation = process.predict(points)
            return _normal((mean - 0.5) / np.hypot(deviation, noise))

        return chance


def _front(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the indices of points that no cheaper one equals, the cheapest first."""
    order = np.lexsort((-scores, costs))
    best = np.maximum.accumulate(scores[order])
    new = np.concatenate([[True], best[1:] > best[:-1]])
    return order[new]


def _normal(z: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(z)).numpy()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: more make matrices of this size no faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
