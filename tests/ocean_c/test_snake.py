"""snake.c beside the game written again with lists of cells."""

from collections import deque

import numpy as np
import pytest

import shoal
from shoal.ocean_c.find import module_named
from tests.ocean_c.chance import Chance

EMPTY, FOOD, BODY, HEAD, BORDER = range(5)
RADIUS = 5
NORTH_EAST_SOUTH_WEST = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # rows down, columns right


class Snake:
    def __init__(self, cell: tuple[int, int], heading: int):
        self.body = deque([cell])  # the head last
        self.heading, self.to_grow = heading, 2


class Game:
    def __init__(self, seed: int, num_snakes: int, size: int, num_food: int, max_length: int):
        self.chance, self.num_snakes, self.size = Chance(seed), num_snakes, size
        self.num_food, self.max_length = num_food, max_length

    def reset(self) -> None:
        self.cells = np.full((self.size + 2 * RADIUS,) * 2, BORDER, np.uint8)
        self.cells[RADIUS:-RADIUS, RADIUS:-RADIUS] = EMPTY
        for _ in range(self.num_food):
            self.cells[self.free()] = FOOD
        self.snakes = [self.born() for _ in range(self.num_snakes)]

    def free(self) -> tuple[int, int]:
        while True:
            cell = (RADIUS + self.chance.below(self.size), RADIUS + self.chance.below(self.size))
            if self.cells[cell] == EMPTY:
                return cell

    def born(self) -> Snake:
        snake = Snake(self.free(), self.chance.below(4))
        self.cells[snake.body[0]] = HEAD
        return snake

    def step(self, actions: list[int]) -> tuple[list[float], dict[int, int]]:
        """Rewards, and the lengths of those that died."""
        rewards, died = [], {}
        for i, action in enumerate(actions):
            snake = self.snakes[i]
            snake.heading = (snake.heading + [0, -1, 1][action]) % 4
            length, head = len(snake.body), snake.body[-1]
            down, right = NORTH_EAST_SOUTH_WEST[snake.heading]
            target = (head[0] + down, head[1] + right)
            self.cells[head] = BODY
            if snake.to_grow:
                snake.to_grow -= 1
            else:
                self.cells[snake.body.popleft()] = EMPTY
            there = self.cells[target]
            if there in (BODY, HEAD, BORDER):
                for cell in snake.body:
                    self.cells[cell] = EMPTY
                self.snakes[i], died[i] = self.born(), length
                rewards.append(-1)
                continue
            snake.body.append(target)
            self.cells[target] = HEAD
            rewards.append(0)
            if there == FOOD:
                rewards[i] = 1
                snake.to_grow += len(snake.body) + snake.to_grow < self.max_length
                self.cells[self.free()] = FOOD
        return rewards, died

    def views(self) -> np.ndarray:
        """What each snake sees, turned so that it looks up."""
        found = np.empty((self.num_snakes, 3, 11, 11), np.uint8)
        for view, snake in zip(found, self.snakes):
            row, column = snake.body[-1]
            around = self.cells[
                row - RADIUS : row + RADIUS + 1, column - RADIUS : column + RADIUS + 1
            ]
            around = np.rot90(around, snake.heading)  # anticlockwise
            view[...] = around == FOOD, around >= BODY, around == HEAD
        return found


@pytest.mark.parametrize(
    "num_snakes, size, num_food, max_length, steps",
    [(256, 192, 1024, 64, 250), (20, 20, 60, 7, 2100), (1, 8, 20, 12, 2100)],
)
def test_it_is_the_game(num_snakes, size, num_food, max_length, steps):
    """100,000 moves on a wide map, a crowded one, and alone; two of them with the time limit."""
    kwargs = {"size": size, "num_food": num_food, "max_length": max_length}
    vector = shoal.vectorize("snake", 1, env_kwargs={"num_snakes": num_snakes, **kwargs})
    game = Game(11, num_snakes, size, num_food, max_length)
    observations, _ = vector.reset(seed=11)
    game.reset()
    random = np.random.default_rng(0)
    deaths, longest, num_steps = 0, 0, 0
    for _ in range(steps):
        views = game.views()
        assert (observations == views).all()
        # Turns at random, mostly for food, and away from what is deadly right ahead.
        actions = random.integers(0, 3, num_snakes)
        food, deadly, _ = views.transpose(1, 2, 3, 0)
        calm = random.random(num_snakes) < 0.9
        actions[calm] = np.where(deadly[4, 5], np.where(deadly[5, 4], 2, 1), 0)[calm]
        for action, there in ((1, food[5, 4]), (2, food[5, 6]), (0, food[4, 5])):
            actions[calm & (there == 1)] = action
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        if num_steps == 1000:  # the step that only resets
            game.reset()
            num_steps = 0
            continue
        expected, died = game.step(actions.tolist())
        num_steps += 1
        assert rewards.tolist() == expected
        assert np.flatnonzero(terminations).tolist() == sorted(died)
        assert (truncations == (num_steps == 1000)).all()
        lengths = dict(died)
        if num_steps == 1000:
            lengths = {i: died.get(i, len(game.snakes[i].body)) for i in range(num_snakes)}
        if lengths:
            assert np.flatnonzero(infos["_length"]).tolist() == sorted(lengths)
        for i, length in lengths.items():
            assert infos["length"][i] == length
            assert infos["score"][i] == np.float32(length / max_length)
        deaths, longest = deaths + len(died), max(longest, *lengths.values(), 0)
        assert (game.cells == FOOD).sum() == num_food
    assert deaths > 20 and (size > 100 or longest == max_length)
    vector.close()


def test_a_map_must_have_room():
    with pytest.raises(shoal.ParameterError, match="half of the map"):
        shoal.vectorize("snake", 1, env_kwargs={"size": 64})
    assert module_named("snake").spec({}).agents == 256
