"""Infos through slots, against `gymnasium.vector.VectorEnv._add_info` on the same dicts."""

import copy
import enum
import pickle
import sys
import threading
import warnings
from collections import OrderedDict

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.emulation.loop import MAX_DICTS, checked_info
from shoal.errors import EmulationError, ShoalError
from shoal.vectorization.info_slots import InfoReader, InfoWriter
from shoal.vectorization.infos import add_info


def gymnasium_infos(infos, num_rows):
    """What Gymnasium makes of row -> info."""
    vector = VectorEnv()
    vector.num_envs = num_rows
    result = {}
    for row, info in infos.items():
        result = vector._add_info(result, info, row)
    return result


def assert_same(got, expected, path="infos"):
    """Equal in value, type, dtype, shape and order of keys, down to NaN and minus zero."""
    if isinstance(expected, np.generic):  # a pickle makes int64 of the platform's "long long"
        got, expected = np.asarray(got), np.asarray(expected)
    assert type(got) is type(expected), path
    if isinstance(expected, dict):
        assert list(got) == list(expected), path
        for key in expected:
            assert_same(got[key], expected[key], f"{path}[{key!r}]")
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), path
        if expected.dtype == object:
            for a, b in zip(got.flat, expected.flat):
                assert_same(a, b, path)
        else:
            np.testing.assert_array_equal(got, expected, path)
            if expected.dtype.kind == "f":
                np.testing.assert_array_equal(np.signbit(got), np.signbit(expected), path)
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected), path
        for a, b in zip(got, expected):
            assert_same(a, b, path)
    else:
        assert got == expected or (got != got and expected != expected), path


class Pipe:
    """Writers and a reader around one block of slots, with guard bytes between the slots."""

    def __init__(self, num_rows, num_workers=1, capacity=512):
        self.memory = np.full((num_rows, capacity + 64), 0xA5, np.uint8)
        self.slots = self.memory[:, :capacity]
        self.slots[:] = 0
        self.writers = [InfoWriter(self.slots, worker) for worker in range(num_workers)]
        self.reader = InfoReader()

    def write(self, infos, workers=None):
        """Write row -> info; returns the messages. Rows without an info become empty."""
        messages = {}
        for row in range(len(self.slots)):
            writer = self.writers[workers[row] if workers else 0]
            message = writer.write(infos.get(row), row)
            if message is not None:
                messages[row] = message
        assert (self.memory[:, self.slots.shape[1] :] == 0xA5).all()
        return messages

    def send(self, infos, workers=None):
        return self.reader.read(self.slots, self.write(infos, workers).get)


class Colour(enum.Enum):
    RED = 1
    BLUE = (2, 3)


class Status(enum.IntEnum):
    RUNNING = 0
    DEAD = 1


class Word(enum.StrEnum):
    YES = "yes"


class Ratio(np.float64, enum.Enum):
    HALF = 0.5


class Table(dict, enum.Enum):
    LEGS = {"b": 4}  # noqa: RUF012


class Metres(float):
    pass


NUMPY_SCALARS = [np.dtype(char).type for char in "bBhHiIlLqQefdgFDG"]
scalars = st.sampled_from(NUMPY_SCALARS).flatmap(
    lambda kind: st.integers(0, 100).map(kind) | st.just(kind(1) / kind(1) * kind(3))
)
arrays = st.builds(
    lambda dtype, shape, value: np.full(shape, value, dtype),
    st.sampled_from(["?", "i1", "u8", "f2", "f4", "f8", ">f4", "c8", "g", "O", "U3", "m8[s]"]),
    st.sampled_from([(), (0,), (1,), (3,), (2, 2), (1, 1, 1, 1, 1)]),
    st.integers(0, 3),
)
values = st.one_of(
    st.floats(),
    st.integers(-5, 5),
    st.integers(2**62, 2**65),
    st.booleans(),
    scalars,
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.sampled_from([np.True_, np.False_, None, *Colour, *Status, *Word]),
    st.just(np.timedelta64(5, "s")),
    arrays,
    arrays.map(lambda array: array.T),
    st.just(np.arange(12)[::3]),
    st.just(np.ma.array([1.0, 2.0])),
    st.just(np.arange(40.0)),  # as large as a slot, or larger
    st.text(max_size=3),
    st.sampled_from(["x" * 60, "é" * 100, "\ud800"]),
    st.sampled_from([b"bytes", 1j, Metres(2.5)]),
    st.lists(st.integers(0, 3), max_size=2),
    st.tuples(st.integers(0, 3)),
)
keys = st.sampled_from(["a", "b", "c", "_a", "__a", "final_obs", "final_info", "grün", 7, ("t", 1)])
dicts = st.recursive(
    st.dictionaries(keys, values, max_size=4),
    lambda inner: (
        st.dictionaries(keys, values | inner, max_size=3)
        | inner.map(OrderedDict)
        | st.builds(lambda info: {"deep": info}, inner)
    ),
    max_leaves=8,
)
# Numbers only, under keys that recur: so that most rows of a batch lie in slots.
plain = st.fixed_dictionaries(
    {"a": st.floats(), "b": st.integers() | st.floats()},
    optional={
        "c": st.sampled_from(Status),
        "d": st.text(max_size=4),
        "e": st.lists(st.floats(), min_size=2, max_size=2).map(np.array),
        "f": st.fixed_dictionaries({"a": st.booleans()}, optional={"b": st.floats()}),
    },
)
NUM_ROWS, NUM_WORKERS = 4, 3
batches = st.tuples(
    st.lists(dicts | plain, min_size=1, max_size=3),
    st.lists(
        st.lists(st.none() | st.integers(0, 2) | plain, min_size=NUM_ROWS, max_size=NUM_ROWS).map(
            tuple
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0, NUM_WORKERS - 1), min_size=NUM_ROWS, max_size=NUM_ROWS),
)


def late_number(value):
    """Return a stream: a dict in one row's info, and a number under its key in the next row's."""
    return [{"a": {"b": value}}, {"a": 0.0}], [(None, None, 0, 1)], [0] * NUM_ROWS


def outcome(function, *arguments):
    """(result, None), or (None, the exception)."""
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def sort_of(value):
    """What decides the array that Gymnasium makes for a value."""
    if isinstance(value, dict):
        return "dict"
    if type(value) in (bool, float) or (type(value) is int and -(2**63) <= value < 2**63):
        return type(value)
    if isinstance(value, (np.number, np.ndarray)) and value.dtype.kind != "m":
        return np.asarray(value).dtype, value.shape
    return "none that Gymnasium keeps" if isinstance(value, (int, np.timedelta64)) else "object"


def alike(infos):
    """Whether each key's values are of one sort, so that Gymnasium's arrays lose nothing."""
    sorts, inner, ours = {}, {}, True
    for row, info in infos.items():
        for key, value in info.items():
            if key == "final_obs":
                continue
            sort = sort_of(value)
            ours = ours and sort == sorts.setdefault(key, sort) and "none" not in str(sort)
            if sort == "dict":
                inner.setdefault(key, {})[row] = value
    return ours and all(map(alike, inner.values()))


def has_masks(infos):
    """Whether a key looks like the mask of another."""
    return any(
        str(key)[:1] == "_" or (isinstance(value, dict) and has_masks({0: value}))
        for info in infos.values()
        for key, value in info.items()
    )


def assert_holds(got, infos, num_rows, path="infos"):
    """Every row's value is there as it was, whatever the array is made of."""
    for key in {key: None for info in infos.values() for key in info}:
        mine = {row: info[key] for row, info in infos.items() if key in info}
        assert got[f"_{key}"].tolist() == [row in mine for row in range(num_rows)], path
        if key != "final_obs" and isinstance(got[key], dict):
            assert_holds(got[key], mine, num_rows, f"{path}[{key!r}]")
            continue
        assert len(got[key]) == num_rows
        for row, value in mine.items():
            assert_kept(got[key][row], value, path)
        if got[key].dtype == object and got[key].ndim == 1:
            assert all(got[key][row] is None for row in range(num_rows) if row not in mine)


def assert_kept(found, value, path):
    """Compare by value: numbers may have become wider, and arrays plain ones."""
    if isinstance(value, np.ndarray):
        assert found.shape == value.shape, path
        np.testing.assert_array_equal(found, value, path)
    elif isinstance(value, dict) and not isinstance(value, enum.Enum):
        assert found.keys() == value.keys(), path
        for key in value:
            assert_kept(found[key], value[key], f"{path}[{key!r}]")
    else:
        assert found == value or (found != found and value != value), path
        assert (value is None) == (found is None)


def check_outcome(got, error, infos, num_rows):
    if error is not None or has_masks(infos):  # they meet the masks: all that holds is Gymnasium's
        expected, expected_error = outcome(gymnasium_infos, infos, num_rows)
        assert expected_error is not None if error is not None else True
        if expected_error is None and alike(infos):
            assert_same(got, expected)
        return
    if alike(infos):
        assert_same(got, gymnasium_infos(infos, num_rows))
    assert_holds(got, infos, num_rows)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(batches, st.sampled_from([64, 256, 1024]))
@example(late_number(np.ma.array([1.0, 2.0])), 64)
@example(late_number(np.timedelta64(5, "ns")), 64)
@example(late_number(np.float32(0.1)), 64)
@example(([{"a": {"a": 0.0, "__a": np.arange(4)}}], [({"a": 0.0}, None, 0, None)], [0] * 4), 64)
@example(([{"a": {"a": 0.0, "__a": np.arange(4)}}], [(0, {"a": 0.0}, None, None)], [0] * 4), 64)
def test_any_stream_arrives_whole_and_as_gymnasium_gives_it(stream, capacity):
    """Each batch's rows are templates (an index) or infos of their own; workers change places."""
    templates, rows_of_batches, workers = stream
    pipe = Pipe(NUM_ROWS, NUM_WORKERS, capacity)
    for rows in rows_of_batches:
        infos = {}
        for row, info in enumerate(rows):
            if isinstance(info, int):
                info = templates[info % len(templates)]
            if info is not None:
                infos[row] = info
        before = copy.deepcopy(infos)
        messages = pipe.write(infos, workers)
        got = outcome(pipe.reader.read, pipe.slots, messages.get)
        check_outcome(*got, infos, NUM_ROWS)
        each = pipe.reader.read_each(pipe.slots, messages.get)
        assert_same(each, [dict(infos.get(row, {})) for row in range(NUM_ROWS)])
        check_outcome(*outcome(one_by_one, infos, NUM_ROWS), infos, NUM_ROWS)
        assert_same(infos, before)
        workers = workers[1:] + workers[:1]


def one_by_one(infos, num_rows):
    result = {}
    for row, info in infos.items():
        add_info(result, info, row, num_rows)
    return result


def test_values_differ_by_row_and_step():
    """Every kind of value that slots hold, with values that tell rows and steps apart."""
    pipe = Pipe(num_rows=6, num_workers=2)
    rng = np.random.default_rng(0)
    for step in range(20):
        infos = {
            row: {
                "float": rng.normal(),
                "int": int(rng.integers(-(2**63), 2**63)),
                "bool": bool(rng.integers(2)),
                **{kind.__name__: kind(rng.integers(100)) for kind in NUMPY_SCALARS},
                "array": rng.integers(256, size=(2, 3), dtype=np.uint8),
                "empty array": np.zeros((0, 2), np.float32),
                "number array": np.array(rng.normal()),
                "text": "é" * int(rng.integers(5)) + str(step),
                "enum": [*Status, *Colour][rng.integers(4)],
                "numpy bool": np.bool_(rng.integers(2)),
                "none": None,
                "inner": {"x": rng.normal(), "deeper": {"y": int(rng.integers(9))}, "": {}},
            }
            for row in range(6)
            if rng.random() < 0.8
        }
        workers = [int(rng.integers(2)) for _ in range(6)]
        messages = pipe.write(infos, workers)
        assert step < 10 or not messages  # by then both workers have seen every constant
        assert_same(pipe.reader.read(pipe.slots, messages.get), gymnasium_infos(infos, 6))
        each = pipe.reader.read_each(pipe.slots, messages.get)
        assert_same(each, [infos.get(row, {}) for row in range(6)])


@pytest.mark.parametrize(
    "known, other",
    [
        ({"a": 1}, {"a": 2**63}),
        ({"a": 1}, {"a": True}),
        ({"a": True}, {"a": np.True_}),
        ({"a": 1.5}, {"a": np.float64(2.5)}),
        ({"a": np.float64(1.5)}, {"a": Metres(2.5)}),
        ({"a": np.int64(1)}, {"a": np.timedelta64(2, "s")}),
        ({"a": "x"}, {"a": "\ud800"}),
        ({"a": "x"}, {"a": "x" * 120}),
        ({"a": "x", "b": "y"}, {"a": "x" * 60, "b": "y" * 60}),
        ({"a": Colour.RED}, {"a": "x"}),
        ({"a": Colour.RED}, {"a": None}),
        ({"a": Colour.RED, "b": Colour.RED}, {"a": Colour.BLUE, "b": Colour.RED}),
        ({"a": np.arange(3)}, {"a": np.arange(3) > 1}),
        ({"a": np.arange(3.0)}, {"a": np.arange(6.0)[::2]}),
        ({"a": np.arange(3.0)}, {"a": np.arange(3.0).astype(">f8")}),
        ({"a": np.arange(3.0)}, {"a": np.arange(3.0)[None]}),
        ({"a": np.arange(3.0)}, {"a": np.ma.array([1.0, 2.0, 3.0])}),
        ({"a": np.eye(2)}, {"a": np.array([[1.0, 2], [3, 4]]).T}),
        ({"a": np.arange(3.0)}, {"a": np.arange(40.0)}),  # larger than a slot
        (dict.fromkeys("abcdefghijklmno", 1), dict.fromkeys("abcdefghijklmnop", 1.0)),  # by one
        ({"a": 1, "b": 2}, {"b": 3, "a": 4}),
        ({"a": 1, "b": 2}, {"a": 3}),
        ({"a": 1}, {"a": 2, "b": 3}),
        ({"a": 1}, {"A": 2}),
        ({"a": 1.0}, {"a": 2.0, "_a": 3.0}),
        ({"a": 1.0}, {"_a": 3.0, "a": 2.0}),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}),
        ({"a": {"b": 1}, "c": 2}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {"a": {}}),
        ({"a": {"b": 1}}, {"a": 3}),
        ({"a": {}}, {"a": 3}),
        ({"a": np.zeros((1,) * 8)}, {"a": np.ones((1,) * 8)}),
        ({"a": Ratio.HALF}, {"a": None}),
        ({"a": Table.LEGS}, {"a": None}),
        ({"a": Table.LEGS}, {"a": {"b": 3}}),
        ({"a": {"b": 1}}, {"a": OrderedDict(b=2)}),
        ({"a": {"b": 1}}, {"final_obs": {"b": 2}, "a": {"final_obs": 3}}),
    ],
)
def test_what_nearly_has_a_known_schema(known, other):
    """Alone and beside what it resembles, on both sides, when either's schema is known."""
    for mixed in (
        {1: other},
        {0: known, 1: other, 2: known},
        {0: other, 1: known},
        {0: other, 1: other},
    ):
        pipe = Pipe(num_rows=3, capacity=128)
        for infos in ({0: known}, mixed, {0: other}, mixed, {0: known}, mixed):
            check_outcome(*outcome(pipe.send, infos), infos, 3)


def make(name):
    if name.startswith("NetHack"):
        pytest.importorskip("nle")
    return gym.make(name, disable_env_checker=True)


@pytest.mark.parametrize(
    "name, empty",
    [
        ("CartPole-v1", True),
        ("Blackjack-v1", True),
        ("LunarLander-v3", True),
        ("FrozenLake-v1", False),
        ("Taxi-v4", False),
        ("HalfCheetah-v5", False),
        ("Humanoid-v5", False),
        ("NetHackScore-v0", False),
    ],
)
def test_infos_of_real_environments(name, empty):
    try:
        envs = [make(name) for _ in range(3)]
    except gym.error.DependencyNotInstalled as error:
        pytest.skip(str(error))
    pipe = Pipe(num_rows=3)
    for i, env in enumerate(envs):
        env.action_space.seed(i)
    infos = {i: env.reset(seed=i)[1] for i, env in enumerate(envs)}
    num_messages = []
    for _ in range(30):
        messages = pipe.write(infos)
        num_messages.append(len(messages))
        got = pipe.reader.read(pipe.slots, messages.get)
        check_outcome(got, None, infos, 3)
        assert (not got) == empty
        infos = {}
        for i, env in enumerate(envs):
            *_, terminated, truncated, infos[i] = env.step(env.action_space.sample())
            if terminated or truncated:
                infos[i] = env.reset()[1]
    assert sum(num_messages[10:]) == 0  # all in slots, once their schemas are known
    for env in envs:
        env.close()


def test_a_known_schema_needs_no_message_whatever_objects_its_keys_are():
    pipe = Pipe(num_rows=1)
    assert set(pipe.write({0: {"speed": 1.0}})) == {0}
    assert pipe.write({0: {"".join(["sp", "eed"]): 2.0}}) == {}
    assert set(pipe.write({0: {"sped": 1.0}})) == {0}
    assert set(pipe.write({0: {"speed": 1}})) == {0}
    assert set(pipe.write({0: {"speed": np.float64(1)}})) == {0}
    assert set(pipe.write({0: {"speed": 1.0, "more": 1.0}})) == {0}
    pipe = Pipe(num_rows=1, capacity=8 + 300 * 8)
    for num_keys, fits in ((300, True), (301, False)):
        info = dict.fromkeys(map(str, range(num_keys)))
        pipe.write({0: info})
        assert (pipe.write({0: info}) == {}) == fits


def test_arrays_are_new_each_time_and_outlive_the_slots():
    pipe = Pipe(num_rows=3)
    first_infos = {row: {"a": float(row), "b": np.full(2, row), "s": "s"} for row in range(3)}
    pipe.send(first_infos)
    first = pipe.send(first_infos)
    pipe.send({row: {"a": -1.0, "b": np.full(2, -1), "s": "t"} for row in range(3)})
    pipe.slots[:] = 0
    assert_same(first, gymnasium_infos(first_infos, 3))
    assert all(array.flags.owndata and array.flags.writeable for array in first.values())


def test_what_changes_in_place_is_sent_as_it_is_now():
    pipe = Pipe(num_rows=1)
    info = {"list": [0], "array": np.zeros(2), "inner": {"x": 0}}
    for step in range(4):
        got = pipe.send({0: info})
        assert_same(got, gymnasium_infos({0: info}, 1))
        assert got["list"][0] == [0, *range(step)]
        info["list"].append(step)
        info["array"] += 1
        info["inner"]["x"] += 1


def test_invented_keys_and_constants_stay_right_past_all_bounds():
    pipe = Pipe(num_rows=1)
    members = enum.Enum("Many", [f"m{i}" for i in range(300)], module=__name__)
    globals()["Many"] = members  # as if it had been defined here
    for i, member in enumerate(members):
        for info in ({f"key {i}": i}, {"member": member}, {"size": np.zeros(i % 80)}):
            assert_same(pipe.send({0: info}), gymnasium_infos({0: info}, 1))
    assert pipe.write({0: {"key 5": 1}}) == {}
    assert pipe.write({0: {"member": members.m3}}) == {}
    assert set(pipe.write({0: {"key 299": 1}})) == {0}


def test_constants_are_not_leaked():
    pipe = Pipe(num_rows=4)
    infos = {row: {"a": Colour.RED, "b": "text", "c": {"d": Colour.BLUE}} for row in range(4)}
    pipe.send(infos)
    pipe.send(infos)
    before = sys.getrefcount(Colour.RED), sys.getrefcount(Colour.BLUE), sys.getrefcount(None)
    held = [pipe.send(infos) for _ in range(1000)]
    during = sys.getrefcount(Colour.RED)
    del held
    after = sys.getrefcount(Colour.RED), sys.getrefcount(Colour.BLUE)
    assert (during, after) == (before[0] + 4000, before[:2])
    assert abs(sys.getrefcount(None) - before[2]) < 1000  # others use None, too


def test_what_cannot_be_pickled_travels_as_its_repr_with_one_warning():
    pipe = Pipe(num_rows=2)
    lock = threading.Lock()
    info = {"score": 1.5, "inner": {"lock": lock, "call": lambda: 42}}
    with pytest.warns(RuntimeWarning, match=r"info\['inner'\]\['lock'\].*_thread\.lock") as caught:
        got = pipe.send({0: info, 1: info})
    assert len(caught) == 1
    assert list(got["score"]) == [1.5, 1.5]
    assert list(got["inner"]["lock"]) == [repr(lock)] * 2
    assert got["inner"]["call"][1]() == 42
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(pipe.send({0: info})["inner"]["lock"]) == [repr(lock), None]
    # Neither does a key or a constant stop a run.
    local = enum.Enum("Local", {"LOCK": lock})
    with pytest.warns(RuntimeWarning, match="cannot be pickled"):
        got = pipe.send({0: {"state": local.LOCK, "score": 2.0}, 1: {lock: 3}})
    assert "LOCK" in got["state"][0]
    assert got["score"][0] == 2.0
    assert got[repr(lock)][1] == 3


def test_classes_that_only_the_worker_has_become_text(tmp_path, monkeypatch):
    (tmp_path / "only_there.py").write_text(
        "import enum\n"
        "class Kind(enum.Enum):\n    HUMAN = 'human'\n"
        "class Point:\n    def __init__(self, x):\n        self.x = x\n"
        "class Bag(list):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    only_there = pytest.importorskip("only_there")
    pipe = Pipe(num_rows=1)
    kind = {"kind": only_there.Kind.HUMAN, "score": 1.5}
    first = pipe.write({0: kind})
    point = pipe.write({0: {"point": only_there.Point(3), "score": 2.5}})
    bag = pipe.write({0: {"bag": only_there.Bag([1])}})
    assert pipe.write({0: kind}) == {}
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "only_there")
    slots = pipe.slots.copy()
    spilled = slots.copy()
    spilled[:, 0] = 1
    with pytest.warns(RuntimeWarning, match="only_there"):
        got = pipe.reader.read(spilled, first.get)
        # As Python's pickle writes it: by value, or, in early releases of 3.11, by name.
        assert got["kind"][0] in ("only_there.Kind('human')", "only_there.Kind.HUMAN")
        kind = got["kind"][0]
        got = pipe.reader.read(spilled, point.get)
        assert (got["point"][0], got["score"][0]) == ("only_there.Point()", 2.5)
        assert pipe.reader.read(spilled, bag.get) == {}
        got = pipe.reader.read(slots, None)
    assert (got["kind"][0], got["score"][0]) == (kind, 1.5)


def test_messages_may_be_learned_early_twice_and_in_any_order():
    pipe = Pipe(num_rows=1)
    infos = [{"a": Status.DEAD}, {"b": 1.5}, {"a": Status.RUNNING}, {"c": Colour.RED}]
    messages = [pipe.write({0: info})[0] for info in infos]
    for message in [*reversed(messages), messages[0]]:
        pipe.reader.learn(message)
    for info in infos:
        assert pipe.write({0: info}) == {}
        assert_same(pipe.reader.read(pipe.slots, None), gymnasium_infos({0: info}, 1))


def test_slots_of_a_worker_that_was_replaced_can_still_be_read():
    pipe = Pipe(num_rows=3)
    pipe.send({0: {"a": 1.0, "b": Colour.RED}})
    assert pipe.write({0: {"a": 2.0, "b": Colour.RED}}) == {}
    replacement = InfoWriter(pipe.slots, 1)
    messages = {1: replacement.write({"c": 3, "b": Colour.BLUE}, 1)}
    assert replacement.write({"c": 4, "b": Colour.BLUE}, 2) is None
    infos = {
        0: {"a": 2.0, "b": Colour.RED},
        1: {"c": 3, "b": Colour.BLUE},
        2: {"c": 4, "b": Colour.BLUE},
    }
    assert_same(pipe.reader.read(pipe.slots, messages.get), gymnasium_infos(infos, 3))


def test_a_message_that_is_missing_is_named():
    pipe = Pipe(num_rows=2)
    pipe.write({1: {"a": 1}})
    with pytest.raises(ShoalError, match="the message of row 1 is missing"):
        pipe.reader.read(pipe.slots, {}.get)
    assert pipe.write({1: {"a": 1}}) == {}
    with pytest.raises(ShoalError, match="row 1 has schema 0 of writer 0, which no message"):
        pipe.reader.read(pipe.slots, None)


def test_values_that_share_no_dtype_leave_the_reader_usable():
    pipe = Pipe(num_rows=2)
    values = np.zeros(2), np.zeros(3)
    for _ in range(3):
        column = pipe.send({0: {"a": values[0]}, 1: {"a": values[1]}})["a"]
        assert column.dtype == object
        assert [value.tolist() for value in column] == [value.tolist() for value in values]
    right = {0: {"a": np.ones(2)}, 1: {"a": np.zeros(2)}}
    assert_same(pipe.send(right), gymnasium_infos(right, 2))


def test_a_dict_beside_a_number_is_kept():
    column = Pipe(num_rows=2).send({0: {"a": 1}, 1: {"a": {"b": 1}}})["a"]
    assert column.dtype == object and column.tolist() == [1, {"b": 1}]


def test_an_info_that_contains_itself_is_refused_before_it_is_written():
    info = {"a": 1}
    info["self"] = info
    with pytest.raises(EmulationError, match=f"{MAX_DICTS} deep"):
        checked_info(info)


@pytest.mark.parametrize("info", [[1], 3, "text"])
def test_an_info_that_is_no_dict_is_an_error(info):
    with pytest.raises(EmulationError, match=f"expected a dict, got {type(info).__name__}"):
        Pipe(num_rows=1).write({0: info})
    with pytest.raises(EmulationError, match=f"expected a dict, got {type(info).__name__}"):
        add_info({}, info, 0, 1)


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "slots",
    [
        np.zeros((2, 60), np.uint8),
        np.zeros((2, 0), np.uint8),
        np.zeros((2, 64), np.int8),
        np.zeros(64, np.uint8),
        np.zeros((2, 128), np.uint8)[:, ::2],
        np.zeros((2, 68), np.uint8)[:, :64],
        np.zeros((2, 72), np.uint8)[:, 1:65],
        frozen(np.zeros((2, 64), np.uint8)),
        None,
    ],
)
def test_unsuitable_slots_are_refused(slots):
    with pytest.raises(ValueError, match=r"slots: expected writeable uint8 \(num_slots"):
        InfoWriter(slots, 0)


def test_a_slot_out_of_range_is_refused():
    writer = InfoWriter(np.zeros((2, 64), np.uint8), 0)
    for slot in (-1, 2):
        with pytest.raises(IndexError, match=f"expected one of 2, got {slot}"):
            writer.write({"a": 1}, slot)


def test_messages_hold_the_info_as_an_ordinary_pickle():
    message = InfoWriter(np.zeros((1, 64), np.uint8), 0).write({"list": [1, 2]}, 0)
    assert pickle.loads(InfoReader().learn(message)) == {"list": [1, 2]}
