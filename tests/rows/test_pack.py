"""Both packers: exact round trips, identical bytes, and refusal of what doesn't fit."""

import gc
import importlib.util
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from hypothesis import given, settings

from shoal.errors import LayoutError
from shoal.rows import pack
from shoal.rows.layout import Layout
from shoal.rows.pack import Packer
from tests.rows.numpy_packer import NumpyPacker
from tests.rows.space_list import SPACES, arrays, bounds, box, full, merge, same, values


def stable_packer():
    """The packer that workers under other interpreters load: compiled by the stable ABI."""
    path = Path(pack.__file__).with_name("pack.abi3.so")
    spec = importlib.util.spec_from_file_location("shoal.rows.pack", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.Packer is not Packer
    return module.Packer


PACKERS = [NumpyPacker, Packer, stable_packer()]
both = pytest.mark.parametrize("packer_class", PACKERS)
by_space = pytest.mark.parametrize("name", SPACES)
draw_300 = settings(max_examples=300, deadline=None, database=None, derandomize=True)
draw_50 = settings(max_examples=50, deadline=None, database=None, derandomize=True)


def garbage(layout, fill=0xA5):
    """A row that holds what an earlier step may have left in it."""
    row = np.empty(layout.shape, layout.dtype)
    row.reshape(-1).view(np.uint8)[...] = fill
    return row


def one_hot_fits(space):
    """Whether one-hot leaves a row of reasonable size (Discrete(2**62) doesn't)."""
    layout = Layout.from_space(space[0], "float32", one_hot=True, max_len=space[1])
    return layout.shape[0] < 10_000


def test_the_list_covers_every_kind_and_dtype():
    leaves = [leaf for s, m in SPACES.values() for leaf in Layout.from_space(s, max_len=m).leaves]
    ints = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    floats = {"float16", "float32", "float64"}
    assert {leaf.dtype for leaf in leaves if leaf.kind == "box"} == ints | floats | {"bool"}
    assert {leaf.kind for leaf in leaves} == {
        *("box", "discrete", "binary", "text", "count", "tag"),
    }
    kinds = {base.__name__ for s, _ in SPACES.values() for base in type(s).__mro__}
    assert kinds >= {
        *("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Text"),
        *("Dict", "Tuple", "OneOf", "Sequence", "Graph"),
    }
    assert len(SPACES) >= 40


@by_space
def test_unpack_inverts_pack_and_packers_agree(name):
    space, max_len = SPACES[name]
    layout = Layout.from_space(space, max_len=max_len)
    packers = [packer_class(layout) for packer_class in PACKERS]
    nothing = arrays(space, None, max_len)

    @draw_300
    @given(values(space, max_len))
    def check(value):
        rows = [garbage(layout, 0x5A + i) for i, _ in enumerate(packers)]
        for row, packer in zip(rows, packers):
            packer.pack(value, row)
            assert row.tobytes() == rows[0].tobytes()
            assert same(packer.unpack(row), value)
        # The bytes mean what the documentation says, by a reference that knows no layouts.
        assert same(layout.view(rows[0][None]), merge([arrays(space, value, max_len)], nothing))

    check()


@pytest.mark.parametrize("one_hot", [False, True])
@by_space
def test_float32_form_inverts_and_packers_agree(name, one_hot):
    space, max_len = SPACES[name]
    if one_hot and not one_hot_fits(SPACES[name]):
        return  # a one-hot row of gigabytes
    layout = Layout.from_space(space, "float32", one_hot=one_hot, max_len=max_len)
    packers = [packer_class(layout) for packer_class in PACKERS]

    @draw_50
    @given(values(space, max_len))
    def check(value):
        rows = [garbage(layout, 0x5A + i) for i, _ in enumerate(packers)]
        for row, packer in zip(rows, packers):
            packer.pack(value, row)
            assert row.tobytes() == rows[0].tobytes()
            assert same(packer.unpack(row), through_float32(space, value, one_hot))

    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # float64 beyond the range of float32 becomes infinite
        check()


def through_float32(space, value, one_hot):
    """What is left of a value once its numbers have been float32."""

    def number(x, low, high):
        return min(max(int(np.float32(x)), int(low)), int(high))

    if isinstance(space, spaces.Discrete):
        last = int(space.start) + int(space.n) - 1
        return value if one_hot else space.dtype.type(number(value, space.start, last))
    if isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        low, high = bounds(space)
        if low.dtype.kind == "f":
            return value.astype(np.float32).astype(low.dtype)
        if one_hot and isinstance(space, spaces.MultiDiscrete):
            return value
        numbers = map(number, value.ravel(), low.ravel(), high.ravel())
        return np.array(list(numbers), low.dtype).reshape(low.shape)
    if isinstance(space, spaces.Dict):
        return {k: through_float32(s, value[k], one_hot) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(through_float32(s, v, one_hot) for s, v in zip(space.spaces, value))
    if isinstance(space, spaces.OneOf):
        return value[0], through_float32(space.spaces[value[0]], value[1], one_hot)
    if isinstance(space, spaces.Sequence) and not space.stack:
        return tuple(through_float32(space.feature_space, v, one_hot) for v in value)
    return value  # the rest of the list holds nothing here that float32 would change


@both
def test_pack_casts_what_keeps_its_value(packer_class):
    space = spaces.Dict(
        {
            "f32": box(-1, 1, (2, 2), np.float32),
            "i16": full(np.int16, (3,)),
            "bool": box(0, 1, (2,), np.bool_),
            "n": spaces.Discrete(5),
            "u8": spaces.Discrete(5, dtype=np.uint8),
        }
    )
    layout = Layout.from_space(space)
    expected = {
        "f32": np.array([[0.5, -1], [0.25, 1]], np.float32),
        "i16": np.array([1, -2, 300], np.int16),
        "bool": np.array([True, False]),
        "n": np.int64(3),
        "u8": np.uint8(4),
    }
    wide = np.zeros((4, 4), np.float32)
    wide[::2, ::2] = expected["f32"]
    forms = {
        "f32": [
            [[0.5, -1], [0.25, 1]],
            expected["f32"].astype(np.float64),
            expected["f32"].astype(">f4"),
            np.asfortranarray(expected["f32"]),
            wide[::2, ::2],
            np.ma.masked_array(expected["f32"]),
        ],
        "i16": [(1, -2, 300), np.array([1.0, -2.0, 300.0]), np.array([1, -2, 300], ">i2")],
        "bool": [[1, 0], np.array([1, 0], np.int8), [True, False]],
        "n": [3, np.uint8(3), np.array(3), 3.0, np.array(3, np.int32)],
        "u8": [4, np.int64(4), np.array(4.0)],
    }
    packer = packer_class(layout)
    for key, alternatives in forms.items():
        for alternative in alternatives:
            row = garbage(layout)
            packer.pack({**expected, key: alternative}, row)
            assert same(packer.unpack(row), expected), (key, alternative)


OBS = spaces.Dict(
    {
        "image": full(np.uint8, (2, 3)),
        "inventory": spaces.Tuple([spaces.Discrete(3)] * 4),
        "x y": spaces.Dict({"z": box(-1, 1, (), np.float32)}),
        "name": spaces.Text(3, charset="abc"),
        "items": spaces.Sequence(full(np.int8, (2,))),
        "rows": spaces.Sequence(full(np.int8, (2,)), stack=True),
        "choice": spaces.OneOf([spaces.Discrete(2), full(np.int16, ())]),
        "map": spaces.Graph(full(np.uint8, (1,)), spaces.Discrete(2)),
        "bare": spaces.Graph(full(np.uint8, (1,)), None),
    }
)
NODES = np.zeros((2, 1), np.uint8)
GOOD = {
    "image": np.zeros((2, 3), np.uint8),
    "inventory": (0, 1, 2, 0),
    "x y": {"z": 0.5},
    "name": "cab",
    "items": (np.zeros(2, np.int8),),
    "rows": np.zeros((2, 2), np.int8),
    "choice": (np.int64(1), np.int16(7)),
    "map": GraphInstance(NODES, np.array([1]), np.array([[0, 1]], np.int32)),
    "bare": GraphInstance(NODES, None, None),
}


def graph_with(edges, links):
    return GraphInstance(NODES, edges, links)


FAULTS = {
    "image-shape": ("image", np.zeros((3, 2), np.uint8), r"obs\.image: .*\(2, 3\).*\(3, 2\)"),
    "image-none": ("image", None, r"obs\.image: "),
    "image-ragged": ("image", [[1, 2, 3], [1]], r"obs\.image: "),
    "image-float": ("image", np.full((2, 3), 0.5), r"obs\.image: .*0\.5.*uint8"),
    "image-negative": ("image", np.full((2, 3), -1), r"obs\.image: .*-1.*uint8"),
    "image-large": ("image", np.full((2, 3), 256), r"obs\.image: .*256.*uint8"),
    "image-nan": ("image", np.full((2, 3), np.nan), r"obs\.image: .*nan.*uint8"),
    "image-text": ("image", np.full((2, 3), "a"), r"obs\.image: .*uint8"),
    "image-complex": ("image", np.zeros((2, 3), complex), r"obs\.image: .*complex"),
    "tuple-short": ("inventory", (0, 1, 2), r"obs\.inventory: .*4 parts.*of 3"),
    "tuple-text": ("inventory", "0120", r"obs\.inventory: .*str"),
    "tuple-number": ("inventory", 3, r"obs\.inventory: .*int"),
    "tuple-part": ("inventory", (0, 1, 2, 0.5), r"obs\.inventory\[3\]: .*0\.5"),
    "tuple-part-shape": ("inventory", (0, [1], 2, 0), r"obs\.inventory\[1\]: .*\(1,\)"),
    "tuple-part-huge": ("inventory", (0, 1, 2**70, 0), r"obs\.inventory\[2\]: "),
    "dict-missing": ("x y", {}, r"obs\['x y'\]\.z: missing"),
    "dict-number": ("x y", 3, r"obs\['x y'\]: expected a dict, got int"),
    "dict-none": ("x y", None, r"obs\['x y'\]: expected a dict, got NoneType"),
    "dict-array": ("x y", np.zeros(3), r"obs\['x y'\]: expected a dict, got ndarray"),
    "dict-part": ("x y", {"z": [1.0, 2.0]}, r"obs\['x y'\]\.z: .*\(\).*\(2,\)"),
    "text-long": ("name", "abca", r"obs\.name: 4 characters, maximum 3"),
    "text-charset": ("name", "ax", r"obs\.name: .*'x'"),
    "text-bytes": ("name", b"abc", r"obs\.name: expected str, got bytes"),
    "sequence-long": ("items", (np.zeros(2, np.int8),) * 3, r"obs\.items: 3 items.*2.*max_len"),
    "sequence-item": ("items", (np.zeros(3, np.int8),), r"obs\.items\.items: .*\(3,\)"),
    "sequence-number": ("items", 5, r"obs\.items: expected a sequence"),
    "stacked-long": ("rows", np.zeros((3, 2), np.int8), r"obs\.rows: 3 items"),
    "stacked-number": ("rows", 5, r"obs\.rows: expected stacked items, got int"),
    "oneof-tag": ("choice", (2, 0), r"obs\.choice: .*index below 2"),
    "oneof-pair": ("choice", 3, r"obs\.choice: .*index below 2"),
    "oneof-part": ("choice", (np.int64(1), 70000), r"obs\.choice\[1\]: .*70000"),
    "graph-none": ("map", None, r"obs\.map: expected a GraphInstance"),
    "graph-large": (
        "map",
        GraphInstance(np.zeros((5, 1), np.uint8), None, None),
        r"obs\.map\.nodes: 5 items",
    ),
    "graph-node": (
        "map",
        GraphInstance(np.zeros((1, 2), np.uint8), None, None),
        r"obs\.map\.nodes: .*\(1,\)",
    ),
    "graph-links": (
        "map",
        graph_with(np.array([1]), np.array([[0, 2]])),
        r"obs\.map\.edge_links: .*2 nodes",
    ),
    "graph-link-shape": (
        "map",
        graph_with(np.array([1]), np.array([0, 1])),
        r"obs\.map\.edge_links: .*\(1, 2\)",
    ),
    "graph-link-float": (
        "map",
        graph_with(np.array([1]), np.array([[0.5, 1]])),
        r"obs\.map\.edge_links: .*float64",
    ),
    "graph-no-links": ("map", graph_with(np.array([1]), None), r"obs\.map\.edge_links: "),
    "graph-edges-unasked": (
        "bare",
        graph_with(np.array([1]), np.array([[0, 1]])),
        r"obs\.bare\.edges: expected None",
    ),
}
OBS_LAYOUT = Layout.from_space(OBS, max_len=2, name="obs")


@pytest.mark.parametrize("fault", FAULTS)
def test_values_that_do_not_fit_name_their_leaf(fault):
    key, value, message = FAULTS[fault]
    told = []
    for packer_class in PACKERS:
        packer = packer_class(OBS_LAYOUT)
        packer.pack(GOOD, OBS_LAYOUT.zeros())
        with pytest.raises(LayoutError, match=message) as error:
            packer.pack({**GOOD, key: value}, OBS_LAYOUT.zeros())
        told.append(str(error.value))
        packer.pack(GOOD, OBS_LAYOUT.zeros())  # and it still works
    assert told[0] == told[1]


@both
def test_missing_key_and_whole_of_wrong_kind(packer_class):
    packer = packer_class(OBS_LAYOUT)
    part = {key: value for key, value in GOOD.items() if key != "image"}
    with pytest.raises(LayoutError, match=r"obs\.image: missing; got keys \['inventory', "):
        packer.pack(part, OBS_LAYOUT.zeros())
    with pytest.raises(LayoutError, match=r"^obs: expected a dict, got ndarray"):
        packer.pack(np.zeros(3), OBS_LAYOUT.zeros())


@both
@pytest.mark.parametrize("form", ["bytes", "float32"])
def test_unsuitable_rows_are_refused_and_left_alone(packer_class, form):
    space = spaces.Dict({"a": box(-1, 1, (3,), np.float64), "b": full(np.uint8, (5,))})
    layout = Layout.from_space(space, form)
    packer = packer_class(layout)
    value = {"a": np.ones(3), "b": np.full(5, 7, np.uint8)}
    (n,), dtype = layout.shape, layout.dtype
    memory = np.zeros((n + 1) * dtype.itemsize + 16, np.uint8)
    odd = (-memory.ctypes.data % 16) + 1
    read_only = layout.zeros()
    read_only.flags.writeable = False
    unsuitable = {
        r"shape \(\d+,\)": [
            np.zeros(n + 1, dtype),
            np.zeros(n - 1, dtype),
            np.zeros((1, n), dtype),
            np.zeros((n, 1), dtype),
            np.zeros(n, np.int8 if form == "bytes" else np.float64),
            np.zeros(n, layout.dtype.newbyteorder() if form == "float32" else np.uint16),
        ],
        "C-contiguous": [np.zeros(2 * n, dtype)[::2], np.zeros(n, dtype)[::-1]],
        "aligned": [memory[odd : odd + n * dtype.itemsize].view(dtype)],
        "writeable": [read_only],
        "NumPy array": [[0] * n, bytearray(n), None],
    }
    for message, rows in unsuitable.items():
        for row in rows:
            with pytest.raises(LayoutError, match=f"output buffer: .*{message}"):
                packer.pack(value, row)
            assert row is None or not np.any(np.asarray(row)), "was written to"
            if message != "writeable":
                with pytest.raises(LayoutError, match=f"^row: .*{message}"):
                    packer.unpack(row)
    packer.unpack(read_only)  # reading needs no leave to write


@by_space
def test_rows_of_garbage_unpack_alike_or_raise(name):
    """A row may come from anywhere (a policy's action): no byte of it may lead out of bounds."""
    space, max_len = SPACES[name]
    layout = Layout.from_space(space, max_len=max_len)
    random = np.random.default_rng(0)
    for _ in range(20):
        row = layout.zeros()
        row.reshape(-1).view(np.uint8)[...] = random.integers(0, 256, layout.nbytes, np.uint8)
        if random.random() < 0.5:  # counts and tags that are nearly right
            for leaf in layout.leaves:
                if leaf.kind in ("count", "tag"):
                    at = slice(leaf.offset, leaf.offset + leaf.nbytes)
                    number = random.integers(-2, 6, leaf.count, np.int32)
                    row.reshape(-1).view(np.uint8)[at] = number.view(np.uint8)
        results = []
        for packer_class in PACKERS:
            try:
                results.append(packer_class(layout).unpack(row))
            except LayoutError as error:
                results.append(str(error))
        assert all(same(each, results[0]) for each in results)


@both
@pytest.mark.parametrize("form", ["bytes", "float32"])
def test_a_value_survives_its_source_and_its_row(packer_class, form):
    layout = Layout.from_space(SPACES["character"][0], form)
    packer = packer_class(layout)
    source = {
        "stats": np.arange(7, dtype=np.float32),
        "map": np.full((5, 6), 9, np.uint8),
        "inventory": tuple(
            {"glyph": np.int16(i), "name": "ab", "weight": np.ones(1)} for i in range(4)
        ),
        "status": np.ones(5, np.int8),
        "role": np.int64(4),
    }
    row = layout.zeros()
    packer.pack(source, row)
    kept = row.copy()
    for array in (source["stats"], source["map"], source["status"]):
        array[...] = 0
    assert row.tobytes() == kept.tobytes()
    value = packer.unpack(row)
    row[...] = 0
    assert value["stats"].tolist() == list(range(7))
    value["map"][0, 0] = 1  # fresh arrays can be written to
    assert value["inventory"][3]["glyph"] == 3 and value["role"] == 4


def test_layout_uses_the_compiled_packer():
    layout = Layout.from_space(spaces.Discrete(3))
    assert type(layout.packer) is Packer
    assert layout.pack(2).tolist() == 2
    row = layout.zeros()
    assert layout.pack(1, row) is row
    assert layout.unpack(row) == 1


class Name(str):
    """A key that equals a plain string, and is none."""

    __slots__ = ()


def test_keys_are_found_wherever_they_stand_in_the_dictionary():
    """In every order, after deletions, and as equal keys that are other objects."""
    names = ["alpha", "beta", "gamma", "delta delta", 7, ("a", 1)]
    space = spaces.Dict({name: spaces.Discrete(100) for name in names})
    layout = Layout.from_space(space)
    packer = Packer(layout)
    value = {name: np.int64(i) for i, name in enumerate(names)}
    row, expected = layout.zeros(), NumpyPacker(layout)
    reference = layout.zeros()
    expected.pack(value, reference)

    def check(given):
        row[...] = 0
        packer.pack(given, row)
        assert np.array_equal(row, reference)

    rng = np.random.default_rng(0)
    for _ in range(50):
        check({names[i]: value[names[i]] for i in rng.permutation(len(names))})
        holes = {f"gone {i}": i for i in range(rng.integers(5))} | value
        for key in list(holes):
            if key not in value:
                del holes[key]
        check(holes)
        check({"extra": 0} | value)
        fresh = {Name(k) if isinstance(k, str) else k: v for k, v in value.items()}
        check(fresh)
        check({"".join(list(k)) if isinstance(k, str) else k: v for k, v in value.items()})
    del holes["gamma"]
    with pytest.raises(LayoutError, match="gamma: missing"):
        packer.pack(holes, row)
    check(value)


class Doubling(dict):
    """Looks its items up in a way of its own."""

    def __getitem__(self, key):
        return 2 * super().__getitem__(key)


def test_dictionaries_that_make_their_items():
    layout = Layout.from_space(spaces.Dict(a=spaces.Discrete(100), b=box(0, 9, (2,), np.int32)))
    pair = np.array([3, 4], np.int32)
    for value, expected in (
        (Doubling(a=7, b=pair), (14, 2 * pair)),
        (defaultdict(lambda: 5, b=pair), (5, pair)),
        (OrderedDict(b=pair, a=6), (6, pair)),
    ):
        for packer in (Packer(layout), NumpyPacker(layout)):
            row = garbage(layout)
            packer.pack(value, row)
            found = packer.unpack(row)
            assert found["a"] == expected[0] and np.array_equal(found["b"], expected[1])


def test_a_value_that_vanishes_while_it_is_packed():
    """The conversion of a part may run code that drops the last reference to the whole."""
    inner = spaces.Dict(
        {"dropped by": box(0, 9, (2,), np.int32), "next": box(0, 9, (2,), np.int32)}
    )
    layout = Layout.from_space(spaces.Dict(inner=inner))

    class Dropping:
        def __array__(self, dtype=None, copy=None):
            value["inner"] = None
            gc.collect()
            return np.array([1, 2], np.int32)

    for packer in (Packer(layout), NumpyPacker(layout)):
        value = {"inner": {"dropped by": Dropping(), "next": np.array([3, 4], np.int32)}}
        row = garbage(layout)
        packer.pack(value, row)
        assert row.tolist() == [1, 2, 3, 4]


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_scalars_of_every_dtype(dtype):
    info = np.iinfo(dtype)
    span = int(info.max)  # as many as Gymnasium lets this dtype count
    for start in (int(info.min), 1):
        space = spaces.Discrete(span, start=start, dtype=getattr(np, dtype))
        layout = Layout.from_space(space)
        for number in (start, start + 1, start + span - 1):
            value = getattr(np, dtype)(number)
            for packer in (Packer(layout), NumpyPacker(layout)):
                row = layout.zeros()
                packer.pack(value, row)
                assert row[()] == number and same(packer.unpack(row), value)


@pytest.mark.parametrize("dtype", [*INTEGERS, "uint64", "float16", "float32", "float64", "bool"])
def test_scalars_of_every_dtype_as_arrays_without_dimensions(dtype):
    if dtype == "bool":
        low, high = 0, 1
    else:
        info = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
        low, high = info.min, info.max
    layout = Layout.from_space(spaces.Box(low, high, (), getattr(np, dtype)))
    for number in (low, 1, high):
        value = np.array(number, dtype)[()]
        assert isinstance(value, np.generic)
        for packer in (Packer(layout), NumpyPacker(layout)):
            row = garbage(layout)
            packer.pack(value, row)
            assert row.tobytes() == value.tobytes()
