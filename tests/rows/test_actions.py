"""Actions: what is sampled arrives in the environment's own space, and what is wrong is refused."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.errors import ActionError, LayoutError
from shoal.rows.actions import (
    MOST_MASKED,
    ActionLayout,
    RandomActions,
    choose_legal,
    flat_mask,
)
from tests.rows.space_list import SPACES, box, full, same

INF = np.inf


class Recorder(gymnasium.Env):
    """Remembers the last action it was given."""

    observation_space = spaces.Discrete(2)

    def __init__(self, action_space):
        self.action_space = action_space
        self.action = None

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        self.action = action
        return 0, 0.0, False, False, {}


# One of each of the ten types, then dtypes, nestings and mixtures: name -> (space, max_len).
NESTED = spaces.Dict(
    {
        "move": spaces.Discrete(5, start=-2),
        "attack": spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([4, 2], start=[1, 7])]),
        "use": spaces.MultiBinary(3),
    }
)
HYBRID = spaces.Dict(
    {
        "aim": box(-1, 1, (2,), np.float32),
        "fire": spaces.Discrete(2),
        "throttle": spaces.Tuple([box(0, INF, (), np.float64), spaces.MultiBinary(2)]),
        "step": box(-3, 3, (2,), np.int16),
        "half": box(-1, 1, (2,), np.float16),
    }
)
ACTIONS = {
    "Discrete": (spaces.Discrete(7, start=-3), None),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 5, 2], start=[0, -9, 4]), None),
    "MultiBinary": (spaces.MultiBinary([2, 3]), None),
    "Box": (box(-1, 1, (3,), np.float32), None),
    "Text": (spaces.Text(6, min_length=2, charset="abc"), None),
    "Dict": (NESTED, None),
    "Tuple": (spaces.Tuple([spaces.Discrete(3), spaces.Discrete(9, start=1)]), None),
    "OneOf": (spaces.OneOf([spaces.Discrete(4), spaces.MultiBinary(2), spaces.Text(3)]), None),
    "Sequence": (spaces.Sequence(spaces.Discrete(4, start=2)), 3),
    "Graph": (spaces.Graph(spaces.Discrete(3), spaces.Discrete(2)), {"nodes": 3, "edges": 4}),
    "hybrid": (HYBRID, None),
    "hybrid float64": (
        spaces.Tuple([box(-INF, INF, (2,), np.float64), spaces.Discrete(2)]),
        None,
    ),
    "two floats": (
        spaces.Tuple([box(-1, 1, (2,), np.float32), box(-5, 0, (1,), np.float64)]),
        None,
    ),
    "two halves": (spaces.Tuple([box(-1, 1, (2,), np.float16), box(0, 3, (), np.float16)]), None),
    "wide integers": (spaces.Tuple([full(np.int64, (2,)), full(np.uint64, (2,))]), None),
    "bounds that are no floats": (
        spaces.Tuple([box(1 - 2**60, 2**60 - 1, (2,), np.int64), box(7, 2**62 - 1, (), np.uint64)]),
        None,
    ),
    "hybrid oneof": (spaces.OneOf([box(-1, 1, (2,), np.float32), spaces.Discrete(3)]), None),
    **{
        f"Box {name}": (full(getattr(np, name), (3,)), None)
        for name in ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
    },
    "Box bool": (box(0, 1, (4,), np.bool_), None),
    "Box float16": (box(-2, 2, (2,), np.float16), None),
    "Box float64": (box(-INF, 3, (2, 2), np.float64), None),
    "small integers together": (
        spaces.Tuple([full(np.int8, (2,)), full(np.uint8, ()), box(0, 1, (2,), np.bool_)]),
        None,
    ),
}


def check_arrivals(space, max_len, count):
    """Step with sampled flat actions and with the corners of the flat space."""
    env = shoal.emulate(Recorder(space), max_len=max_len)
    layout = env.action_layout
    env.reset()
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(count)]
    flat = layout.flat.zeros()
    for corner in ("low", "high"):
        view = layout.flat.view(flat)
        parts = list(view.values()) if isinstance(view, dict) else [view]
        if not isinstance(space, spaces.Box) or space.is_bounded():
            for part, leaf in zip(parts, layout.flat.leaves):
                part[...] = getattr(leaf, corner)
            actions.append(layout.flat.unpack(flat))
    for action in actions:
        env.step(action)
        arrived = env.unwrapped.action
        assert space.contains(arrived), arrived
        # The compiled decoder did what the one in NumPy does.
        layout.flat.pack(action, flat)
        assert same(arrived, layout.decode(flat))
        if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
            assert np.array_equal(arrived, action)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_thousand_sampled_actions_arrive_in_the_space(name):
    check_arrivals(*ACTIONS[name], 1000)


@pytest.mark.parametrize("name", SPACES)
def test_any_space_will_do(name):
    check_arrivals(*SPACES[name], 100)


@pytest.mark.parametrize(
    ("space", "flat"),
    [
        *[(ACTIONS[name][0],) * 2 for name in ("Discrete", "MultiDiscrete", "MultiBinary", "Box")],
        *[(ACTIONS[name][0],) * 2 for name in ("Box int8", "Box uint64", "Box bool")],
        (spaces.Dict({"only": spaces.Discrete(3)}), spaces.Discrete(3)),
        (
            NESTED,
            # Dict sorts its keys: attack (3, then 4 from 1 and 2 from 7), move, use
            spaces.MultiDiscrete([3, 4, 2, 5, 2, 2, 2], start=[0, 1, 7, -2, 0, 0, 0]),
        ),
        (
            ACTIONS["two floats"][0],
            spaces.Box(np.array([-1, -1, -5.0]), np.array([1, 1, 0.0]), dtype=np.float64),
        ),
        (
            HYBRID,
            spaces.Dict(
                {
                    "continuous": spaces.Box(
                        np.array([-1, -1, -1, -1, 0]), np.array([1, 1, 1, 1, INF]), dtype=np.float64
                    ),
                    "discrete": spaces.MultiDiscrete([2, 7, 7, 2, 2], start=[0, -3, -3, 0, 0]),
                }
            ),
        ),
        (spaces.Dict({}), spaces.MultiDiscrete(np.zeros(0, np.int64))),
    ],
)
def test_flat_spaces(space, flat):
    assert ActionLayout.from_space(space).flat_space == flat


def test_elements_go_to_their_own_leaves():
    env = shoal.emulate(Recorder(HYBRID))
    env.reset()
    env.step(
        {
            "continuous": np.array([0.25, -0.5, 0.75, -1.0, 8.5]),
            "discrete": np.array([1, -3, 2, 0, 1]),
        }
    )
    assert same(
        env.unwrapped.action,
        {
            "aim": np.array([0.25, -0.5], np.float32),
            "fire": np.int64(1),
            "half": np.array([0.75, -1.0], np.float16),
            "step": np.array([-3, 2], np.int16),
            "throttle": (np.array(8.5, np.float64), np.array([0, 1], np.int8)),
        },
    )


def test_continuous_values_are_rounded_and_clipped_into_integers():
    layout = ActionLayout.from_space(spaces.Tuple([full(np.int64, (3,)), full(np.uint64, (2,))]))
    flat = np.array([2.5, -3.5, 1e30, -7.0, 1e30], layout.flat.dtype)
    signed, unsigned = layout.decode(flat)
    # The largest floats below 2**63 and 2**64.
    assert signed.tolist() == [2, -4, 2**63 - 1024] and unsigned.tolist() == [0, 2**64 - 2048]


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(3), 3, r"action: 3 is outside \[0, 2\]; .*Discrete\(3\)"),
        (spaces.Discrete(3, start=5), 4, r"4 is outside \[5, 7\]"),
        (spaces.Discrete(3), 1.5, "action"),
        (spaces.Discrete(3), None, "action"),
        (spaces.Discrete(3), "left", "action"),
        (spaces.Discrete(3), np.array([1, 1]), "action"),
        (spaces.Discrete(3), 2**70, "action"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], r"action\[1\]: 3 is outside \[0, 2\]"),
        (spaces.MultiDiscrete([2, 3]), [1], "action"),
        (spaces.MultiBinary([2, 2]), [[0, 1], [2, 0]], r"action\[1, 0\]: 2 is outside \[0, 1\]"),
        (box(-1, 1, (2,), np.float32), [0, 1.5], r"action\[1\]: 1.5 is outside \[-1.0, 1.0\]"),
        (box(-1, 1, (2,), np.float32), [np.nan, 0], r"action\[0\]: nan"),
        (box(-1, 1, (2,), np.float16), [0, 1.5], r"action\[1\]: 1.5 is outside \[-1.0, 1.0\]"),
        (box(-1, 1, (2,), np.float32), [0, 0, 0], "action"),
        (full(np.uint8, (1,)), [256], "action"),
        (full(np.uint8, (1,)), [0.5], "action"),
        (NESTED, [0, 1, 7, -2, 0, 0, 2], r"action\[6\]: 2 is outside \[0, 1\]"),
        (
            HYBRID,
            {"continuous": np.zeros(5), "discrete": np.array([0, 0, 4, 0, 0])},
            r"action\.discrete\[2\]: 4 is outside \[-3, 3\]",
        ),
        (HYBRID, {"continuous": np.zeros(5)}, "discrete"),
    ],
)
def test_a_wrong_action_is_refused_and_nothing_is_stepped(space, action, message):
    env = shoal.emulate(Recorder(space))
    env.reset()
    with pytest.raises(ActionError, match=message):
        env.step(action)
    assert env.unwrapped.action is None
    env.step(env.action_space.sample())  # it goes on


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_batch_is_within_bounds_exactly_if_numpy_says_so(data):
    name = data.draw(st.sampled_from([*ACTIONS, "box int bounds", "box bounds apart"]))
    space, max_len = ACTIONS.get(name) or SPACES[name]
    layout = ActionLayout.from_space(space, max_len)
    rows = data.draw(st.integers(0, 3))
    batch = layout.flat.zeros(rows)
    raw = data.draw(st.binary(min_size=64, max_size=64))
    whole = np.resize(np.frombuffer(raw, np.uint8), batch.nbytes).view(np.uint8)
    batch.reshape(-1).view(np.uint8)[:] = whole
    view = layout.flat.view(batch)
    for part, leaf in zip(view.values() if isinstance(view, dict) else [view], layout.flat.leaves):
        if leaf.dtype == "bool":
            part[...] = part.view(np.uint8) % 2 == 1
        elif data.draw(st.booleans()):  # else the raw bytes, which are hardly ever within
            with np.errstate(all="ignore"):
                np.clip(part, np.array(leaf.low, leaf.dtype), leaf.high, out=part)
                part[np.isnan(part)] = 0

    def inside(part, leaf):
        low, high = (
            np.broadcast_to(b, leaf.shape).astype(leaf.dtype) for b in (leaf.low, leaf.high)
        )
        return bool(((part >= low) & (part <= high)).all())

    parts = view.values() if isinstance(view, dict) else [view]
    if all(map(inside, parts, layout.flat.leaves)):
        layout.check(batch)
        compiled = not any(leaf.dtype == "float16" for leaf in layout.flat.leaves)
        assert layout.bounds.hold(batch) is (compiled or batch.size == 0)
    else:
        assert not layout.bounds.hold(batch)
        with pytest.raises(ActionError, match="is outside"):
            layout.check(batch)


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.MultiDiscrete([5, 5]), HYBRID])
def test_a_batch_may_lie_anyhow_in_memory(space):
    layout = ActionLayout.from_space(space)
    every_other = layout.flat.zeros(6)[::2]
    nbytes = 3 * layout.flat.nbytes
    odd = np.zeros(nbytes + 1, np.uint8)[1:].view(layout.flat.dtype)
    odd = odd.reshape(3, *layout.flat.shape)
    for batch in (every_other, odd):
        layout.check(batch)
        if not isinstance(space, spaces.Dict):
            batch[-1] = 9
            with pytest.raises(ActionError, match="9 is outside"):
                layout.check(batch)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((4, 3), np.int64),
        np.zeros((), np.int64),
        np.zeros((4, 2), np.int32),
        np.zeros((4, 2), np.float64),
        np.zeros((4, 2), ">i8"),
        [[0, 0]],
        None,
    ],
)
def test_a_batch_of_another_shape_or_dtype_is_refused(rows):
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 3]))
    with pytest.raises(ActionError, match=r"expected an array of int64 of shape \(\*batch, 2\)"):
        layout.check(rows)


def test_a_space_without_fixed_size_names_the_part():
    with pytest.raises(LayoutError, match=r"action\.say"):
        ActionLayout.from_space(spaces.Dict({"say": spaces.Sequence(spaces.Discrete(3))}))


# -- masks ------------------------------------------------------------------------------------


def test_masks_count_every_category_of_every_discrete_leaf():
    assert ActionLayout.from_space(NESTED).num_masked == 3 + 4 + 2 + 5 + 2 + 2 + 2
    assert ActionLayout.from_space(HYBRID).num_masked == 2 + 7 + 7 + 2 + 2
    assert ActionLayout.from_space(box(-1, 1, (2,), np.float32)).num_masked == 0
    assert ActionLayout.from_space(spaces.Discrete(MOST_MASKED)).num_masked == MOST_MASKED
    assert ActionLayout.from_space(spaces.Discrete(MOST_MASKED + 1)).num_masked == 0
    assert ActionLayout.from_space(spaces.Discrete(2**62)).num_masked == 0


MASKED = spaces.Dict(
    {"a": spaces.Discrete(3), "b": spaces.MultiDiscrete([2, 3]), "c": spaces.MultiBinary(2)}
)


class Choosy(gymnasium.Env):
    """Has this mask in its info."""

    observation_space = spaces.Discrete(1)
    action_space = MASKED

    def __init__(self, mask):
        self.mask = mask

    def reset(self, *, seed=None, options=None):
        return 0, {"action_mask": self.mask}


# What each part of the nested mask makes of the flat one: a 3, b 2 + 3, c 2 × 2 entries.
A, B, C = [1, 0, 1], [0, 1, 1, 0, 0], [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.array(A + B + C, np.int8), A + B + C),
        (
            {
                "a": np.array(A, np.int8),
                "b": (np.array([0, 1], np.int8), np.array([1, 0, 0], np.int8)),
                "c": np.array([0, 2], np.int8),  # only 0 is legal; both are
            },
            A + B + C,
        ),
        ({"a": None, "b": None, "c": np.array([1, 2])}, [1] * 8 + [0, 1, 1, 1]),
        ({"a": [True, False, True], "b": np.array(B, bool), "c": None}, A + B + [1] * 4),
        (
            {"a": np.array(A) != 0, "b": -np.array(B, np.int8), "c": np.array(C, np.uint8)},
            A + B + C,
        ),
        (
            {"a": np.array(A, np.int8), "b": np.array(B), "c": np.repeat(np.int8(C), 2)[::2]},
            A + B + C,
        ),
    ],
)
def test_masks_in_every_form(mask, expected):
    expected = [bool(entry) for entry in expected]
    layout = ActionLayout.from_space(MASKED)
    assert flat_mask(layout, mask).tolist() == expected
    # The compiled loop reads some forms by itself.
    vector = shoal.vectorize(functools.partial(Choosy, mask), 1, backend="serial")
    vector.reset()
    assert vector.action_masks[0].tolist() == expected


def test_a_nested_mask_agrees_with_gymnasiums_sampling():
    """What Gymnasium samples under a mask is what the flat mask says is legal."""
    layout = ActionLayout.from_space(MASKED)
    mask = {
        "a": np.array([0, 1, 1], np.int8),
        "b": (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8)),
        "c": np.array([2, 1], np.int8),
    }
    MASKED.seed(0)
    seen = np.zeros(layout.num_masked, bool)
    for _ in range(200):
        value = MASKED.sample(mask=mask)
        flat = np.concatenate([np.atleast_1d(value[key]) for key in "abc"])
        starts = np.concatenate([[0], np.cumsum([3, 2, 3, 2])])
        seen[starts + flat] = True
    assert flat_mask(layout, mask).tolist() == seen.tolist()


def test_a_mask_of_another_size_names_its_place():
    layout = ActionLayout.from_space(MASKED)
    with pytest.raises(ActionError, match=r"action_mask\['b'\]: expected 5 entries, got 4"):
        flat_mask(layout, {"a": None, "b": np.ones(4), "c": None})


@pytest.mark.parametrize("space", [MASKED, spaces.Discrete(4, start=-1), HYBRID])
def test_legal_choices_are_drawn_evenly(space):
    layout = ActionLayout.from_space(space)
    rng = np.random.default_rng(0)
    count = 4000
    rows = layout.flat.zeros(count)
    before = rows.copy()
    masks = np.broadcast_to(rng.random(layout.num_masked) < 0.5, (count, layout.num_masked)).copy()
    masks[:, ::2] = True  # nothing is without a legal choice
    masks[:, 1] = False
    masks[-1] = True
    choose_legal(layout, rows, masks, rng)
    assert same(rows[-1], before[-1])  # nothing was forbidden there
    layout.check(rows[:-1])
    view = layout.flat.view(rows)
    discrete = view["discrete"] if isinstance(view, dict) else view
    leaf = layout.flat.leaves[-1]
    at = 0
    for i, n in enumerate(leaf.num_categories.reshape(-1)):
        low = np.broadcast_to(leaf.low, leaf.shape).reshape(-1)[i]
        counts = np.bincount(discrete.reshape(count, -1)[:-1, i] - low, minlength=n)
        legal = masks[0, at : at + n]
        assert not counts[~legal].any()
        even = (count - 1) / legal.sum()
        assert np.all(abs(counts[legal] - even) < 6 * np.sqrt(even))
        at += n


@pytest.mark.parametrize(
    "space", [MASKED, HYBRID, spaces.Discrete(4), box(-1, 1, (2,), np.float32)]
)
def test_random_actions_are_legal_and_reproduce(space):
    layout = ActionLayout.from_space(space)
    rng = np.random.default_rng(3)
    masks = rng.random((50, layout.num_masked)) < 0.7
    drawn = []
    for seed in (1, 1, 2):
        rows = {"actions": layout.flat.zeros(50), "action_masks": masks}
        RandomActions(layout, seed)(rows)
        layout.check(rows["actions"])
        drawn.append(rows["actions"])
    assert same(drawn[0], drawn[1]) and not same(drawn[0], drawn[2])
    assert len(np.unique(drawn[0].reshape(50, -1), axis=0)) > 2
    if space is MASKED:
        starts = np.concatenate([[0], np.cumsum([3, 2, 3, 2])])
        for row, mask in zip(drawn[0], masks):
            for start, choice, n in zip(starts, row, [3, 2, 3, 2, 2]):
                assert mask[start + choice] or not mask[start : start + n].any()
