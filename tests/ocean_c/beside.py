"""Compiled environments stepped beside games that the tests have written again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import shoal
from shoal.ocean_c import find
from tests.ocean_c.chance import Chance


class Game(Protocol):
    """The rules of an environment with one agent, once more."""

    def reset(self) -> None: ...

    def step(self, action: int) -> tuple[float, bool]:
        """(reward, whether the episode has ended by the rules)."""

    def observation(self) -> Any: ...

    def mask(self) -> list[bool]:
        """Of an environment with action masks."""

    def logs(self) -> dict[str, float]: ...


def step_beside(
    name: str,
    make: Callable[[Chance], Game],
    steps: int = 300,
    count: int = 50,
    choose: Callable[[Game, np.random.Generator], int | None] = lambda game, random: None,
    **params: Any,
) -> list[dict[str, float]]:
    """`count` copies of an environment beside as many games: all that they return is the same.

    Args:
        name: of the environment.
        make: a game from its source of chance.
        steps: of each copy.
        choose: an action, or None for a random one, which is legal nine times in ten.
        params: of the environment.

    Returns:
        The log fields of the episodes that have ended.
    """
    vector = shoal.vectorize(name, count, env_kwargs=params)
    observations, _ = vector.reset(seed=5)
    games = [make(Chance(5 + i)) for i in range(count)]
    for game in games:
        game.reset()
    limit = params.get("max_steps") or vector._backend.spec.max_steps or np.inf
    random, over, lengths = np.random.default_rng(1), np.zeros(count, bool), np.zeros(count, int)
    ended = []
    masked = find.load(find.FOLDER / f"{name}.so").table.action_mask
    for _ in range(steps):
        expected = np.stack([np.asarray(game.observation()) for game in games])
        np.testing.assert_array_equal(observations, expected.astype(observations.dtype))
        actions = random.integers(0, vector.single_action_space.n, count)
        if masked:
            legal = np.array([game.mask() for game in games])
            np.testing.assert_array_equal(vector.action_masks, legal)
            within = random.random(count) < 0.9
            actions[within] = np.argmax(random.random(legal.shape) * legal, axis=1)[within]
        for i, game in enumerate(games):
            chosen = choose(game, random)
            actions[i] = actions[i] if chosen is None else chosen
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        for i, game in enumerate(games):
            if over[i]:
                game.reset()
                reward, ends, lengths[i] = 0.0, False, 0
            else:
                reward, ends = game.step(int(actions[i]))
                lengths[i] += 1
            assert rewards[i] == np.float32(reward) and terminations[i] == ends
            assert truncations[i] == (lengths[i] >= limit)
            over[i] = ends or truncations[i]
            if over[i]:
                logs = game.logs()
                assert {key: np.float32(value) for key, value in logs.items()} == {
                    key: infos[key][i] for key in logs
                }
                ended.append(logs)
    vector.close()
    return ended


def mean(ended: list[dict[str, float]], name: str = "score") -> float:
    return float(np.mean([logs[name] for logs in ended]))
