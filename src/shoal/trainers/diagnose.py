"""What looks wrong with a run, in plain language: each warning says what is so and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shoal.rows.layout import Layout
from shoal.rows.spec import Leaf

__all__ = ["METRICS", "ObservationWatch", "diagnose"]

# Every metric of an update, and what it means. docs/metrics.md is made of it.
METRICS = {
    "steps": "Transitions learnt from so far, over all agents.",
    "updates": "Rollouts learnt from so far.",
    "episodes": "Episodes that have ended so far; each agent's counts.",
    "seconds": "Seconds of training so far, those before a resume included.",
    "steps_per_second": "Transitions of the last update by the seconds that it took.",
    "peak_share": "The policy's FLOP/s as a share of those of a large matrix product.",
    "time/environment": "Share of the last update's time spent waiting for environments.",
    "time/copy": "Share spent copying observations, to the rollout and to the device.",
    "time/act": "Share spent computing actions.",
    "time/checks": "Share spent on looking for numbers that are not finite, and on statistics.",
    "time/learn": "Share spent on advantages, losses, gradients and the optimiser.",
    "time/rest": "Share of everything else.",
    "episode/return": "Sum of the rewards of an episode, the mean over those that ended since the "
    "last update. Absent if none did.",
    "episode/length": "Steps of an episode; the same mean.",
    "episode/*": "Any number that the environment puts in the info of an episode's last step; the "
    "same mean.",
    "loss/policy": "The clipped objective of PPO, negated. Its size says little.",
    "loss/value": "Half the squared error of the values, in squared units of return.",
    "loss/entropy": "Entropy of the actions' distribution in nats: how undecided the policy is. "
    "Should fall slowly.",
    "loss/total": "What is minimised: policy + coefficient × value − coefficient × entropy.",
    "kl": "How far the update has moved the policy: estimated KL divergence from the one that "
    "collected, in nats. 0.003 to 0.03 is usual.",
    "clip_fraction": "Share of transitions whose probability ratio was clipped. 0.05 to 0.3 is "
    "usual.",
    "explained_variance": "How much of the returns' variance the values foresee: 1 all of it, 0 as "
    "much as a constant, below 0 worse than that. Absent if the returns don't vary.",
    "gradient_norm": "Norm of the gradient before it is scaled down, the mean of all minibatches.",
    "learning_rate": "Of the last update, after annealing.",
    "value/mean": "Mean of the values that the policy gave to the rollout's observations.",
    "reward/mean": "Mean reward of a transition, as learnt from (clipped and scaled).",
    "reward/nonzero": "Share of transitions with a reward other than 0.",
    "advantage/std": "Standard deviation of the advantages before they are normalised.",
    "ratio/first_error": "How far the probability ratio is from 1 before anything is learnt from "
    "the rollout. Rounding apart it must be 0: collecting and learning see the same policy.",
}

ENOUGH = 10  # updates, before anything is said about what has always been so
LONG = 30  # updates, for what takes time to come right
COLLAPSE = 50  # updates without any reward
CERTAIN = 0.02  # nats: a policy of less entropy has nothing left to try
MOST_KL = 0.1
MOST_ERROR = 1e-2
MOST_ENVIRONMENT = 0.6
MOST_MAGNITUDE = 100.0


def diagnose(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Warnings about a run, the most serious first; none if nothing looks wrong.

    Args:
        history: the metrics of each update so far, in order; see `METRICS`.
    """
    if not history:
        return []
    last, recent = history[-1], history[-ENOUGH:]
    found = []
    error = last.get("ratio/first_error", 0.0)
    if error > MOST_ERROR:
        found.append(
            f"The policy gives other probabilities in learning than in collecting (ratio off by "
            f"{error:.2g}): something in it is random or keeps state, such as dropout or batch "
            "normalisation."
        )
    kl = _mean(history[-5:], "kl")
    if kl is not None and kl > MOST_KL:
        found.append(
            f"KL is {kl:.2g}: each update changes the policy too much. Lower --learning-rate or "
            "--update-epochs, or set --target-kl 0.02."
        )
    if len(history) < ENOUGH:
        return found
    if last["episodes"] == 0:
        found.append(
            f"No episode has ended in {last['steps']:,.0f} steps, so there is no return to show. "
            "Does the environment ever say terminated or truncated? A time limit would do."
        )
    if all(metrics.get("reward/nonzero", 1.0) == 0 for metrics in history):
        found.append(
            "The reward has always been 0: there is nothing to learn from. Check the environment "
            "(shoal check), reward steps on the way, or raise --entropy-coefficient to explore."
        )
    late = history[-COLLAPSE:]
    entropy = last.get("loss/entropy", 1.0)
    if (
        len(history) > COLLAPSE
        and all(metrics.get("reward/nonzero", 1.0) == 0 for metrics in late)
        and any(metrics.get("reward/nonzero", 0.0) > 0 for metrics in history)
        and abs(entropy) < CERTAIN
    ):
        found.append(
            f"The policy has collapsed: no reward in the last {COLLAPSE} updates, and it always "
            f"chooses the same actions (entropy {entropy:.2g}). Begin again with a higher "
            "--entropy-coefficient or a lower --learning-rate."
        )
    explained = [metrics.get("explained_variance", 0.0) for metrics in history[-LONG:]]
    if len(explained) == LONG and max(explained) < 0:
        found.append(
            f"Explained variance has been negative for {LONG} updates: the values foresee returns "
            "worse than a constant would. Try --normalize-rewards or a lower --learning-rate."
        )
    share = _mean(recent, "time/environment")
    if share is not None and share > MOST_ENVIRONMENT:
        found.append(
            f"The environment is the bottleneck: {share:.0%} of the time goes to waiting for it. "
            "More --num-workers may help, or a pool (--batch-size of half --num-envs); "
            "shoal bench compares them."
        )
    return found


def _mean(history: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [metrics[name] for metrics in history if name in metrics]
    return sum(values) / len(values) if values else None


class ObservationWatch:
    """Looks at samples of observations for what makes learning hard.

    Call it with rows; `warnings` says what has been seen.

    Args:
        layout: of the rows.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.samples = 0
        self._first: list[np.ndarray] = []  # value of each leaf in the first row
        self._changed = np.zeros(len(layout.leaves), bool)
        self._largest = np.zeros(len(layout.leaves))

    def __call__(self, rows: np.ndarray) -> None:
        """Look at some rows, an array of shape ``(n, *layout.shape)``."""
        flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
        leaves = [_values(self.layout, flat, leaf) for leaf in self.layout.leaves]
        if not self._first:
            self._first = [values[0].copy() for values in leaves]
        self.samples += 1
        for i, (leaf, values) in enumerate(zip(self.layout.leaves, leaves)):
            if values.size == 0:
                continue
            self._changed[i] |= bool((values != self._first[i]).any())
            if _has_scale(leaf):
                largest = max(abs(float(values.min())), abs(float(values.max())))
                self._largest[i] = max(self._largest[i], largest)

    def warnings(self) -> list[str]:
        """Return what looks wrong, once enough samples have been seen."""
        if self.samples < ENOUGH:
            return []
        found = []
        leaves = self.layout.leaves
        constant = [
            leaf.path for i, leaf in enumerate(leaves) if leaf.count and not self._changed[i]
        ]
        if constant:
            found.append(f"{_names(constant)} never changes: is it filled in?")
        large = [i for i in range(len(leaves)) if self._largest[i] > MOST_MAGNITUDE]
        if large:
            worst = max(self._largest[i] for i in large)
            found.append(
                f"{_names([leaves[i].path for i in large])} reaches {worst:,.4g}: networks learn "
                f"badly from magnitudes beyond {MOST_MAGNITUDE:.0f}. Scale it in the environment, "
                "or --normalize-observations."
            )
        return found


def _values(layout: Layout, flat: np.ndarray, leaf: Leaf) -> np.ndarray:
    """Return what flat rows hold of one leaf, shape ``(n, elements)``."""
    if layout.form == "float32":
        return flat[:, leaf.start : leaf.start + leaf.size]
    return flat.view(np.uint8)[:, leaf.offset : leaf.offset + leaf.nbytes].view(leaf.dtype)


def _has_scale(leaf: Leaf) -> bool:
    """Return whether a policy gets a leaf's numbers as they are; it scales or embeds integers."""
    return leaf.kind == "box" and leaf.dtype.startswith("float")


def _names(paths: list[str]) -> str:
    """Name some paths, but not too many of them."""
    if paths == [""]:
        return "The observation"
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{more} of the observation"
