"""The ways that NetHack's recipe shows are those which a search cell by cell finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.registry.recipes import make_nethack
from shoal.registry.recipes.make_nethack import COLUMNS, FAR, ROWS, Level, create

FREE, DOOR, DARK, CORRIDOR, FLOOR, DOWN, GOLD = (1 << i for i in range(7))
KINDS = [0, 0, 0, DARK, DARK, FREE | DOOR, FREE | CORRIDOR, FREE | CORRIDOR]
KINDS += [FREE | FLOOR] * 4 + [FREE | FLOOR | DOWN, FREE | GOLD]
AROUND = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


@st.composite
def places(draw):
    """A map, where one is on it, and where one was before."""
    kinds = np.zeros((ROWS, COLUMNS), np.uint8)
    # Small ones in the corners as well as the whole map, so that there are long and short ways.
    rows, columns = draw(st.sampled_from([(4, 6), (8, 12), (ROWS, COLUMNS)]))
    top, left = (
        draw(st.sampled_from([0, ROWS - rows])),
        draw(st.sampled_from([0, COLUMNS - columns])),
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds[top : top + rows, left : left + columns] = random.choice(KINDS, (rows, columns))
    path = [
        (left + draw(st.integers(0, columns - 1)), top + draw(st.integers(0, rows - 1)))
        for _ in range(draw(st.integers(1, 4)))
    ]
    return kinds, path


def by_search(kinds, path, level):
    """The same as `Level.look`, one cell after the other; `level` is remembered between calls."""
    x, y = path

    def at(cell, kind):
        return (
            0 <= cell[0] < COLUMNS and 0 <= cell[1] < ROWS and bool(kinds[cell[1], cell[0]] & kind)
        )

    def near(cell, kind):
        return any(at((cell[0] + dx, cell[1] + dy), kind) for dx, dy in AROUND)

    def side(cell, dx, dy):
        """Whether anything free is on that side of the cell."""
        beside = [(dx, k) if dx else (k, dy) for k in (-1, 0, 1)]
        return any(at((cell[0] + i, cell[1] + j), FREE) for i, j in beside)

    def step(one, other):
        corner = one[0] != other[0] and one[1] != other[1]
        return not (corner and (one in level["doors"] or other in level["doors"]))

    cells = [(i, j) for j in range(ROWS) for i in range(COLUMNS)]
    level["doors"] |= {cell for cell in cells if at(cell, DOOR)}
    level["down"] |= {cell for cell in cells if at(cell, DOWN)}
    level["visited"].add((x, y))
    unknown = set()
    for cell in cells:
        if at(cell, CORRIDOR):
            across = side(cell, -1, 0) and side(cell, 1, 0)
            along = side(cell, 0, -1) and side(cell, 0, 1)
            end = not (across or along)
        else:
            end = False
        edge = at(cell, FLOOR) and near(cell, DARK)
        opening = at(cell, DOOR) and near(cell, DARK) and not near(cell, CORRIDOR)
        if (end or edge or opening) and cell not in level["visited"]:
            unknown.add(cell)
    ways = np.zeros((3, 9), np.float32)
    gold = {cell for cell in cells if at(cell, GOLD)}
    for way, goal in zip(ways, (level["down"], unknown, gold), strict=True):
        goal = {cell for cell in goal if at(cell, FREE)}
        if (x, y) in goal:
            way[4] = 1
            continue
        distance, edge = dict.fromkeys(goal, 0), list(goal)
        for cell in edge:  # grows
            for dx, dy in AROUND:
                other = (cell[0] + dx, cell[1] + dy)
                if other not in distance and at(other, FREE) and step(cell, other):
                    if other == (x, y):
                        continue  # nothing goes through oneself
                    distance[other] = distance[cell] + 1
                    edge.append(other)
        first = {
            i: distance[x + dx, y + dy]
            for i, (dx, dy) in enumerate(AROUND)
            if (x + dx, y + dy) in distance and step((x + dx, y + dy), (x, y))
        }
        best = min(first.values(), default=FAR)
        if best < FAR:
            way[[i for i in first if first[i] == best]] = 1
            way[4] = 1 - (best + 1) / FAR
    return ways


@settings(max_examples=60, deadline=None)
@given(places())
def test_ways_are_those_of_a_search_cell_by_cell(place):
    kinds, path = place
    level, plain = Level(), {"doors": set(), "down": set(), "visited": set()}
    for x, y in path:
        np.testing.assert_array_equal(level.look(kinds, x, y), by_search(kinds, (x, y), plain))
        kinds[y, x] = FREE  # something stands on it, then


def test_what_one_stands_beside_for_long_is_not_the_unknown():
    kinds = np.zeros((ROWS, COLUMNS), np.uint8)
    kinds[5, 5], kinds[5, 6] = FREE, FREE | CORRIDOR  # a corridor that ends, or is blocked
    level = Level()
    for _ in range(make_nethack.PATIENCE - 1):
        assert level.look(kinds, 5, 5)[1, 5] == 1
    assert not level.look(kinds, 5, 5)[1].any()


def test_glyphs_are_what_the_screen_shows():
    pytest.importorskip("nle")
    kinds = make_nethack.kinds_of_glyphs()
    env = create(observation_keys=("glyphs", "chars", "blstats"))
    shown = {kind: set() for kind in (CORRIDOR, DOWN, GOLD, DARK)}
    rng = np.random.default_rng(0)
    for seed in range(10):
        env.unwrapped.seed(seed, seed)
        observation, _ = env.reset()
        for _ in range(400):
            for kind, chars in shown.items():
                chars |= set(observation["chars"][kinds[observation["glyphs"]] & kind > 0].tolist())
            observation, _, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
            if terminated or truncated:
                break
    env.close()
    expected = {CORRIDOR: "#", DOWN: ">", GOLD: "$", DARK: " "}
    assert {kind: {chr(c) for c in chars} for kind, chars in shown.items()} == {
        kind: {char} for kind, char in expected.items()
    }


def test_who_follows_the_ways_gets_down():
    pytest.importorskip("nle")
    env = create(ways=True, observation_keys=("glyphs", "blstats", "misc"))
    actions = {int(action): i for i, action in enumerate(env.unwrapped.actions)}
    towards = dict(zip((0, 1, 2, 3, 5, 6, 7, 8), b"ykuhlbjn", strict=True))
    more, search, down = 13, ord("s"), ord(">")
    deepest = []
    for seed in range(6):
        env.unwrapped.seed(seed, seed)
        observation, _ = env.reset()
        depth = 1
        rng = np.random.default_rng(seed)
        for _ in range(1000):
            ways = observation["ways"]
            key = search
            if observation["misc"][2]:
                key = more
            elif ways[0, 4] == 1:
                key = down
            elif rng.random() > 0.1:  # something may be in the way
                steps = [i for i in towards if ways[0, i]] or [i for i in towards if ways[1, i]]
                key = towards[int(rng.choice(steps))] if steps else search
            observation, _, terminated, truncated, _ = env.step(actions[key])
            if terminated or truncated:
                break
            depth = max(depth, int(observation["blstats"][12]))
        deepest.append(depth)
    env.close()
    assert sum(depth > 1 for depth in deepest) >= 2, deepest


def test_the_recipe_shows_ways_if_it_is_told_to():
    pytest.importorskip("nle")
    for kwargs in ({}, {"ways": True}, {"task": "NetHackEat-v0"}):
        vector = shoal.vectorize("nethack", 1, backend="serial", env_kwargs=kwargs)
        paths = {leaf.path: leaf.shape for leaf in vector.observation_layout.leaves}
        vector.close()
        assert paths.get("ways") == ((3, 9) if "ways" in kwargs else None)
        assert paths["glyphs"] == (21, 79)


def test_ways_need_the_map():
    pytest.importorskip("nle")
    with pytest.raises(ValueError, match=r"needs glyphs and blstats, .*\['blstats', 'chars'\]"):
        create(ways=True, observation_keys=("chars", "blstats"))
