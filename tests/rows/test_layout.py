"""Layouts: the leaf table, views, JSON, the float32 form, errors, and look-alike spaces."""

import doctest
import json
import math
import pickle
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatten
from hypothesis import given, settings

from shoal.errors import LayoutError
from shoal.rows import layout as layout_module
from shoal.rows.layout import Layout
from tests.rows.space_list import SPACES, arrays, box, flat, full, merge, same, values

by_space = pytest.mark.parametrize("name", SPACES)
draw_50 = settings(max_examples=50, deadline=None, database=None, derandomize=True)

FORMS = [("bytes", False), ("float32", False), ("float32", True)]


def layout_of(key, **options):
    space, max_len = SPACES[key]
    return Layout.from_space(space, max_len=max_len, **options)


def too_long(layout):
    """One-hot rows of gigabytes (of Discrete(2**62), say) can be described but not made."""
    return math.prod(layout.shape) > 100_000


def sample(name, count=1):
    """Values of a space from a fixed seed, short enough for the declared maximum."""
    space, max_len = SPACES[name]
    drawn = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(values(space, max_len))
    def keep(value):
        drawn.append(value)

    keep()
    return drawn


def test_the_example_in_the_docstring_is_true():
    found = doctest.testmod(layout_module)
    assert found.failed == 0
    assert found.attempted > 5


# -- the table --------------------------------------------------------------------------------


@by_space
def test_leaves_are_aligned_and_do_not_overlap(name):
    layout = layout_of(name)
    end = 0
    for leaf in layout.leaves:
        assert leaf.offset >= end
        assert leaf.offset % np.dtype(leaf.dtype).alignment == 0
        end = leaf.offset + leaf.nbytes
    assert end <= layout.nbytes < end + layout.alignment
    # Rows of a batch follow one another, so each must begin as well aligned as the first.
    assert layout.nbytes % layout.alignment == 0
    assert layout.zeros(7).nbytes == 7 * layout.nbytes
    assert layout.zeros(2, 3).shape == (2, 3, *layout.shape)


@by_space
def test_struct_dtype_reads_the_same_row(name):
    layout = layout_of(name)
    paths = [leaf.path for leaf in layout.leaves]
    assert len(set(paths)) == len(paths)
    if not layout.nbytes:
        return
    for value in sample(name, 20):
        row = layout.pack(value)
        record = row.reshape(-1).view(layout.struct_dtype)
        assert record.shape == (1,)
        views = flat(layout.view(row[None]))
        assert len(views) == len(paths)
        for path, view in zip(paths, views):
            assert same(record[path or "value"], np.ascontiguousarray(view))


@pytest.mark.parametrize(
    "dtypes, dtype", [("ff", "float32"), ("dd", "float64"), ("fd", "uint8"), ("", "uint8")]
)
def test_row_has_the_dtype_that_all_leaves_share(dtypes, dtype):
    layout = Layout.from_space(spaces.Tuple([box(-1, 1, (3,), code) for code in dtypes]))
    assert layout.dtype == dtype
    assert layout.shape == (layout.nbytes // np.dtype(dtype).itemsize,)


def test_a_space_that_is_one_array_keeps_its_shape():
    assert layout_of("box uint8 image").shape == (84, 84, 3)
    assert layout_of("discrete").shape == ()
    assert layout_of("dict of one").shape == (2, 2)


def test_paths_are_written_as_python_writes_them():
    paths = [leaf.path for leaf in layout_of("character").leaves]
    assert "inventory[3].glyph" in paths and "inventory[0].name.chars" in paths
    keys = {0: "[0]", "a": "a", "a.b": "['a.b']", "": "['']", (1, "x"): "[(1, 'x')]"}
    space = spaces.Dict([(key, spaces.Discrete(2)) for key in keys])
    assert [leaf.path for leaf in Layout.from_space(space).leaves] == list(keys.values())
    inner = Layout.from_space(spaces.Dict({"in": space}))
    assert [leaf.path for leaf in inner.leaves] == [
        "in" + path if path[0] == "[" else "in." + path for path in keys.values()
    ]


def test_describe():
    space = spaces.Dict(
        [
            ("position", box(-1, 1, (3,), np.float64)),
            ("tile", full(np.uint8, (2, 2))),
            ("role", spaces.Discrete(13, start=-1)),
            (
                "apart",
                spaces.Box(np.array([-2, 0], np.int8), np.array([5, 9], np.int8), dtype=np.int8),
            ),
        ]
    )
    assert Layout.from_space(space).describe().splitlines() == [
        "path      kind      dtype    shape   byte    bounds",
        "---------------------------------------------------",
        "position  box       float64  3       0..24   [-1, 1]",
        "tile      box       uint8    2x2     24..28  [0, 255]",
        "role      discrete  int64    scalar  32..40  [-1, 11]",
        "apart     box       int8     2       40..42  [-2, 9] (varies)",
        "4 leaves, 48 bytes as uint8 (48,)",
    ]
    flat_lines = Layout.from_space(space, "float32", one_hot=True).describe().splitlines()
    assert flat_lines[0].split() == ["path", "kind", "dtype", "shape", "element", "bounds"]
    assert [line.split()[4] for line in flat_lines[2:-1]] == ["0..3", "3..7", "7..20", "20..22"]
    assert flat_lines[-1] == "4 leaves, 88 bytes as float32 (22,)"


@by_space
def test_describe_lists_every_leaf(name):
    lines = layout_of(name).describe().splitlines()
    assert len(lines) == 3 + len(layout_of(name).leaves)


# -- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form, one_hot", FORMS)
@by_space
def test_json_pickle_equality_and_hash(name, form, one_hot):
    layout = layout_of(name, form=form, one_hot=one_hot)
    for twin in (
        layout_of(name, form=form, one_hot=one_hot, name="other"),
        Layout.from_json(layout.to_json()),
        pickle.loads(pickle.dumps(layout)),
        Layout.from_space(layout.space, form, one_hot=one_hot, max_len=SPACES[name][1]),
    ):
        assert twin == layout and hash(twin) == hash(layout)
        assert repr(twin.leaves) == repr(layout.leaves)
        assert (twin.dtype, twin.shape, twin.nbytes) == (layout.dtype, layout.shape, layout.nbytes)
        assert twin.struct_dtype == layout.struct_dtype
    json.loads(layout.to_json())


def test_different_spaces_have_different_layouts():
    layouts = [layout_of(name, form=f, one_hot=hot) for name in SPACES for f, hot in FORMS]
    assert len(set(layouts)) == len(layouts)
    assert all(layout != layout.to_json() for layout in layouts)


@by_space
def test_space_is_rebuilt(name):
    space, _ = SPACES[name]
    rebuilt = layout_of(name).space
    if name == "box big-endian":  # rows have the byte order of the machine
        assert rebuilt.dtype == np.float32
        return
    assert space == rebuilt
    if isinstance(space, spaces.Dict):
        assert list(space.spaces) == list(rebuilt.spaces)


# -- views ------------------------------------------------------------------------------------


@by_space
def test_views_copy_nothing_and_agree_in_numpy_and_torch(name):
    space, max_len = SPACES[name]
    layout = layout_of(name)
    drawn = sample(name, 6)
    batch = np.stack([layout.pack(value) for value in drawn])
    expected = merge(
        [arrays(space, value, max_len) for value in drawn], None or arrays(space, None, max_len)
    )
    assert same(layout.view(batch), expected)
    for view in flat(layout.view(batch)):
        assert not view.size or np.shares_memory(view, batch)
    # Any batch shape, the empty one included.
    assert same(layout.view(batch[:0]), merge([], arrays(space, None, max_len)))
    for view, whole in zip(flat(layout.view(batch[None, :, None])), flat(expected)):
        assert same(view, whole[None, :, None])
    for view, whole in zip(flat(layout.view(np.ascontiguousarray(batch[::2]))), flat(expected)):
        assert same(np.ascontiguousarray(view), np.ascontiguousarray(whole[::2]))
    for view, whole in zip(flat(layout.view(batch[::2])), flat(expected)):
        assert same(np.ascontiguousarray(view), np.ascontiguousarray(whole[::2]))

    tensor = torch.from_numpy(batch)
    views = flat(layout.view(tensor))
    assert [type(view) for view in views] == [torch.Tensor] * len(layout.leaves)
    for view, whole, leaf in zip(views, flat(expected), layout.leaves):
        assert same(view.numpy(), whole)
        assert view.data_ptr() % np.dtype(leaf.dtype).alignment == 0
        if view.numel():
            assert view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "name", ["box uint8 image", "discrete", "dict one dtype", "character", "all kinds"]
)
def test_view_compiles_without_graph_breaks(name, backend):
    layout = layout_of(name)
    drawn = sample(name, 4)
    tensor = torch.from_numpy(np.stack([layout.pack(value) for value in drawn]))
    torch._dynamo.reset()
    compiled = torch.compile(layout.view, fullgraph=True, backend=backend)
    for got, plain in zip(flat(compiled(tensor)), flat(layout.view(tensor))):
        assert same(got.numpy(), plain.numpy())


@by_space
def test_float32_views(name):
    space, max_len = SPACES[name]
    layout = layout_of(name, form="float32")
    drawn = sample(name, 6)
    with np.errstate(over="ignore", invalid="ignore"):
        batch = np.stack([layout.pack(value) for value in drawn])
        whole = merge([arrays(space, v, max_len) for v in drawn], arrays(space, None, max_len))
        for view, native in zip(flat(layout.view(batch)), flat(whole)):
            assert same(view, native.astype(np.float32))
        for view, native in zip(flat(layout.view(torch.from_numpy(batch))), flat(whole)):
            assert same(view.numpy(), native.astype(np.float32))


def test_one_hot_views():
    space = spaces.Dict(
        {
            "d": spaces.Discrete(3, start=5),
            "even": spaces.MultiDiscrete([[2, 2], [2, 2]]),
            "one": spaces.Discrete(1, start=4),
            "ragged": spaces.MultiDiscrete([2, 3]),
            "binary": spaces.MultiBinary(2),
            "seq": spaces.Sequence(spaces.Discrete(2, start=1)),
            "of": spaces.OneOf([box(0, 1, (), np.float32), spaces.Discrete(2)]),
        }
    )
    layout = Layout.from_space(space, "float32", one_hot=True, max_len=2)
    value = {
        "d": np.int64(7),
        "even": np.array([[0, 1], [1, 0]]),
        "one": np.int64(4),
        "ragged": np.array([1, 2]),
        "binary": np.array([0, 1], np.int8),
        "seq": (np.int64(2),),
        "of": (np.int64(1), np.int64(0)),
    }
    view = layout.view(layout.pack(value)[None])
    assert view["d"].tolist() == [[0, 0, 1]]
    assert view["even"].tolist() == [[[[1, 0], [0, 1]], [[0, 1], [1, 0]]]]
    assert view["one"].tolist() == [[1]]
    assert view["ragged"].tolist() == [[0, 1, 0, 0, 1]]
    assert view["binary"].tolist() == [[0, 1]]
    assert view["seq"]["length"].tolist() == [1]
    assert view["seq"]["items"].tolist() == [[[0, 1], [0, 0]]]  # no category: an empty slot
    assert view["of"]["tag"].tolist() == [[0, 1]]
    assert view["of"]["options"][0].tolist() == [0]
    assert view["of"]["options"][1].tolist() == [[1, 0]]
    assert same(layout.unpack(layout.pack(value)), value)


def test_view_of_a_wrong_shape_raises():
    layout = Layout.from_space(spaces.Dict({"a": full(np.uint8, (3,)), "b": spaces.Discrete(2)}))
    with pytest.raises(LayoutError, match=r"\(\*batch, 16\), got \(4, 15\)"):
        layout.view(np.zeros((4, 15), np.uint8))
    with pytest.raises(LayoutError, match=r"got \(\)"):
        layout.view(np.zeros((), np.uint8))
    with pytest.raises(LayoutError, match=r"uint8.*float32"):
        layout.view(np.zeros((4, 16), np.float32))
    with pytest.raises(LayoutError, match=r"uint8.*torch.float32"):
        layout.view(torch.zeros((4, 16)))


@pytest.mark.parametrize("change", [np.asfortranarray, np.float64, lambda rows: rows[:, ::-1]])
def test_rows_of_one_dtype_may_be_of_another_and_lie_in_any_way(change):
    parts = {"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3, 1))}
    layout = Layout.from_space(spaces.Dict(parts))
    rows = change(np.arange(20, dtype=np.float32).reshape(4, 5))
    view = layout.view(rows)
    assert view["a"].dtype == rows.dtype and (view["a"] == rows[:, :2]).all()
    assert view["b"].shape == (4, 3, 1) and (view["b"][..., 0] == rows[:, 2:]).all()


# -- the float32 form and flat spaces ---------------------------------------------------------

FLATTENS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def flattens(space):
    """Whether Gymnasium flattens the space to numbers that mean what ours do."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return bool(parts) and all(map(flattens, parts))
    return isinstance(space, FLATTENS)


@pytest.mark.parametrize("name", [name for name in SPACES if flattens(SPACES[name][0])])
def test_one_hot_form_is_gymnasiums_flatten(name):
    space, _ = SPACES[name]
    layout = layout_of(name, form="float32", one_hot=True)
    if too_long(layout):
        return

    @draw_50
    @given(values(space))
    def check(value):
        with np.errstate(over="ignore", invalid="ignore"):
            ours, theirs = layout.pack(value), flatten(space, value).astype(np.float32)
        assert ours.shape == theirs.shape
        # Gymnasium rounds twice where it joins int64 to float16: hence one unit in the last place.
        np.testing.assert_allclose(ours, theirs, rtol=2**-23)

    check()


@pytest.mark.parametrize("form, one_hot", FORMS)
@by_space
def test_rows_are_in_the_flat_space(name, form, one_hot):
    space, max_len = SPACES[name]
    layout = layout_of(name, form=form, one_hot=one_hot)
    if too_long(layout):
        return
    row_space = layout.flat_space
    assert row_space.shape == layout.shape and row_space.dtype == layout.dtype

    @draw_50
    @given(values(space, max_len, nan=False))
    def check(value):
        with np.errstate(over="ignore", invalid="ignore"):
            assert layout.pack(value) in row_space

    with np.errstate(over="ignore", invalid="ignore"):
        check()


def test_flat_space_of_one_leaf_is_its_own_space():
    for name in ("discrete start", "multidiscrete start", "multibinary axes", "box bounds apart"):
        assert layout_of(name).flat_space == SPACES[name][0]


def test_float32_refuses_nan_for_integers():
    layout = Layout.from_space(
        spaces.Dict({"a": spaces.Discrete(3), "b": box(-1, 1, (), "f")}), "float32", name="obs"
    )
    with pytest.raises(LayoutError, match=r"obs\.a: NaN"):
        layout.unpack(np.array([np.nan, 0], np.float32))
    value = layout.unpack(np.array([1.4, np.nan], np.float32))
    assert value["a"] == 1 and np.isnan(value["b"])
    assert layout.unpack(np.array([99, 0], np.float32))["a"] == 2


def test_one_hot_needs_float32():
    with pytest.raises(LayoutError, match="one_hot"):
        Layout.from_space(spaces.Discrete(3), one_hot=True)
    with pytest.raises(LayoutError, match="'float64'"):
        Layout.from_space(spaces.Discrete(3), "float64")


# -- spaces that can't be laid out ------------------------------------------------------------


@pytest.mark.parametrize(
    "space, max_len, message",
    [
        (spaces.Sequence(spaces.Discrete(2)), None, r"^obs: .*max_len=N or max_len=\{'': N\}"),
        (
            spaces.Dict({"a": spaces.Tuple([spaces.Sequence(spaces.Discrete(2))])}),
            None,
            r"^obs\.a\[0\]: a Sequence has no fixed size.*\{'a\[0\]': N\}",
        ),
        (
            spaces.Dict({"g": spaces.Graph(spaces.Discrete(2), spaces.Discrete(2))}),
            None,
            r"^obs\.g\.nodes: a Graph has no fixed size.*\{'g\.nodes': N\}",
        ),
        (
            spaces.Dict({"g": spaces.Graph(spaces.Discrete(2), spaces.Discrete(2))}),
            {"g.nodes": 3},
            r"^obs\.g\.edges: a Graph has no fixed size.*\{'g\.edges': N\}",
        ),
        (
            spaces.Sequence(spaces.Sequence(spaces.Discrete(2))),
            {"": 3},
            r"^obs\.items: a Sequence has no fixed size",
        ),
        (spaces.Sequence(spaces.Discrete(2)), -1, r"^obs: max_len must be an integer >= 0"),
        (spaces.Sequence(spaces.Discrete(2)), 2.5, r"^obs: max_len must be an integer >= 0"),
        (spaces.Sequence(spaces.Discrete(2)), "many", r"^obs: max_len must be an integer >= 0"),
        (
            spaces.Dict({"s": spaces.Space()}),
            None,
            r"^obs\.s: expected one of.*got gymnasium.*Space",
        ),
        (None, None, r"^obs: expected one of.*got builtins\.NoneType"),
        (
            box(0, 1, (2,), np.longdouble),
            None,
            r"^obs: expected a Box of.*got (float128|longdouble)",
        ),
        (spaces.Dict({frozenset(): spaces.Discrete(2)}), None, r"^obs\[frozenset\(\)\]: .*JSON"),
    ],
)
def test_spaces_without_a_fixed_size_name_leaf_and_argument(space, max_len, message):
    with pytest.raises(LayoutError, match=message):
        Layout.from_space(space, max_len=max_len, name="obs")


class Mission(spaces.Space):
    """A custom space of strings, as MiniGrid has one."""

    def __init__(self):
        super().__init__(dtype=str)


def test_a_custom_space_of_strings_is_text_of_a_declared_length():
    space = spaces.Dict({"mission": Mission(), "n": spaces.Discrete(2)})
    with pytest.raises(LayoutError, match=r"^obs\.mission: a space of strings has no fixed"):
        Layout.from_space(space, name="obs")
    layout = Layout.from_space(space, max_len={"mission": 30}, name="obs")
    value = {"mission": "get to the green goal square!", "n": np.int64(1)}
    assert layout.unpack(layout.pack(value)) == value
    with pytest.raises(LayoutError, match=r"^obs\.mission: 31 characters, maximum 30"):
        layout.pack({**value, "mission": "x" * 31})
    with pytest.raises(LayoutError, match=r"^obs\.mission: character 'é'"):
        layout.pack({**value, "mission": "é"})


# -- look-alikes ------------------------------------------------------------------------------


def look_alike(kind, **attributes):
    """An object shaped like a space whose class only shares the name, as in old gym."""
    return type(kind, (), attributes)()


def test_old_gym_spaces_by_duck_typing():
    f4 = np.dtype("float32")
    low, high = np.full((2, 2), -1, f4), np.full((2, 2), 1, f4)
    old = look_alike(
        "Dict",
        spaces=OrderedDict(
            image=look_alike("Box", low=low, high=high, shape=(2, 2), dtype=f4),
            action=look_alike("Discrete", n=4, shape=(), dtype=np.dtype("int64")),
            many=look_alike("MultiDiscrete", nvec=np.array([2, 3]), dtype=np.dtype("int64")),
            bits=look_alike("MultiBinary", n=3, shape=(3,), dtype=np.dtype("int8")),
            both=look_alike("Tuple", spaces=[look_alike("Discrete", n=2, dtype=np.int64)]),
        ),
    )
    new = spaces.Dict(
        [
            ("image", box(-1, 1, (2, 2), np.float32)),
            ("action", spaces.Discrete(4)),
            ("many", spaces.MultiDiscrete([2, 3])),
            ("bits", spaces.MultiBinary(3)),
            ("both", spaces.Tuple([spaces.Discrete(2)])),
        ]
    )
    assert Layout.from_space(old) == Layout.from_space(new)


def test_named_tuples_as_spaces():
    Discrete = namedtuple("Discrete", "n")
    Box = namedtuple("Box", "low high shape dtype")
    MultiBinary = namedtuple("MultiBinary", "n")
    image = Layout.from_space(Box(0, 255, (64, 64, 3), np.uint8))
    assert image == Layout.from_space(full(np.uint8, (64, 64, 3)))
    assert Layout.from_space(Discrete(17)) == Layout.from_space(spaces.Discrete(17))
    assert Layout.from_space(MultiBinary(3)) == Layout.from_space(spaces.MultiBinary(3))


def test_subclasses_are_laid_out_as_what_they_derive_from():
    assert layout_of("box subclass") == Layout.from_space(box(-1, 1, (2,), np.float32))


def test_a_scalar_row_may_be_a_numpy_scalar():
    layout = Layout.from_space(spaces.Discrete(5))
    assert layout.unpack(layout.zeros(3)[1]) == 0
    with pytest.raises(LayoutError, match="expected"):
        layout.unpack(np.float64(0))


def test_a_batch_of_no_rows_has_views_too():
    layout = Layout.from_space(
        spaces.Dict({"a": spaces.Box(0, 1, (2, 3)), "b": spaces.Discrete(3)})
    )
    for rows in (layout.zeros(0), torch.from_numpy(layout.zeros(0))):
        view = layout.view(rows)
        assert tuple(view["a"].shape) == (0, 2, 3) and tuple(view["b"].shape) == (0,)
