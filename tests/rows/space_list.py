"""Spaces of every kind, how to draw their values, and what layouts must make of them.

Written from Gymnasium's documentation and on purpose without a look at `shoal.emulation`: what
stands here is the independent reference that the tests compare with.
"""

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import strategies as st

INF = np.inf
GREEK = "".join(chr(code) for code in range(0x391, 0x391 + 300))  # more than 255 characters


class ScaledBox(spaces.Box):
    """A custom subclass, as environments define them."""


class NoisyDict(spaces.Dict):
    """Another one."""


def box(low, high, shape, dtype):
    return spaces.Box(low, high, shape, dtype)


def full(dtype, shape=(3, 2)):
    """A Box of the whole range of an integer dtype."""
    info = np.iinfo(dtype)
    return spaces.Box(info.min, info.max, shape, dtype)


def nested(depth):
    """Dicts and Tuples in turn, with a leaf at every level."""
    space = spaces.Discrete(5, start=-2)
    for i in range(depth):
        leaf = box(-1, 1, (i % 3,), (np.float32, np.float64, np.float16)[i % 3])
        space = spaces.Tuple([space, leaf]) if i % 2 else spaces.Dict({"in": space, "x": leaf})
    return space


def character():
    """What a role-playing game might observe."""
    item = spaces.Dict(
        {
            "glyph": box(0, 5976, (), np.int16),
            "name": spaces.Text(8, min_length=0),
            "weight": box(0, INF, (1,), np.float64),
        }
    )
    return spaces.Dict(
        {
            "stats": box(-INF, INF, (7,), np.float32),
            "map": full(np.uint8, (5, 6)),
            "inventory": spaces.Tuple([item] * 4),
            "status": spaces.MultiBinary(5),
            "role": spaces.Discrete(13),
        }
    )


AWKWARD_KEYS = [
    *(0, -3, "0", "a.b", "", "x y", "é漢", "class", "[0]", "'", '"', "\n"),
    *((1, "a"), (), ((2,), None), None, 2.5, b"\x00raw", True),
]
NODE = spaces.Dict({"pos": box(-1, 1, (2,), np.float32), "kind": spaces.Discrete(3)})

# name: (space, max_len). The maximum is small, so that drawn values often reach it.
SPACES: dict[str, tuple[spaces.Space, Any]] = {
    # Box: every dtype, bounded and not, every odd shape
    "box int8": (full(np.int8), None),
    "box int16": (full(np.int16), None),
    "box int32": (full(np.int32), None),
    "box int64": (full(np.int64), None),
    "box uint8 image": (full(np.uint8, (84, 84, 3)), None),
    "box uint16": (full(np.uint16), None),
    "box uint32": (full(np.uint32), None),
    "box uint64": (full(np.uint64), None),
    "box float16": (box(-INF, INF, (5,), np.float16), None),
    "box float32": (box(-INF, INF, (5,), np.float32), None),
    "box float64": (box(-INF, INF, (5,), np.float64), None),
    "box bool": (box(0, 1, (4, 3), np.bool_), None),
    "box int bounds": (box(-3, 12, (6,), np.int32), None),
    "box half-open": (box(0, INF, (4,), np.float32), None),
    "box bounds apart": (
        spaces.Box(np.array([-1, 0, -INF], np.float32), np.array([1, 9, 2], np.float32)),
        None,
    ),
    "box big-endian": (box(-1, 1, (3,), ">f4"), None),
    "box scalar": (box(-2, 2, (), np.float64), None),
    "box scalar uint8": (full(np.uint8, ()), None),
    "box no elements": (box(0, 1, (3, 0, 2), np.float32), None),
    "box five axes": (full(np.uint8, (2, 1, 3, 1, 2)), None),
    "box subclass": (ScaledBox(-1, 1, (2,), np.float32), None),
    # Discrete and its kin
    "discrete": (spaces.Discrete(6), None),
    "discrete start": (spaces.Discrete(4, start=-7), None),
    "discrete one": (spaces.Discrete(1, start=3), None),
    "discrete int8": (spaces.Discrete(100, start=-50, dtype=np.int8), None),
    "discrete uint8": (spaces.Discrete(255, start=1, dtype=np.uint8), None),
    "discrete int32": (spaces.Discrete(2**31 - 1, dtype=np.int32), None),
    "discrete huge": (spaces.Discrete(2**62, start=-(2**61)), None),
    "multidiscrete": (spaces.MultiDiscrete([3, 1, 7]), None),
    "multidiscrete start": (spaces.MultiDiscrete([3, 2], start=[-5, 10]), None),
    "multidiscrete axes": (
        spaces.MultiDiscrete(np.array([[2, 3, 4], [5, 6, 7]]), dtype=np.int16),
        None,
    ),
    "multidiscrete equal": (spaces.MultiDiscrete([4, 4, 4], dtype=np.uint8), None),
    "multidiscrete scalar": (spaces.MultiDiscrete(np.array(9)), None),
    "multidiscrete empty": (spaces.MultiDiscrete(np.zeros(0, np.int64)), None),
    "multibinary": (spaces.MultiBinary(9), None),
    "multibinary axes": (spaces.MultiBinary([3, 2, 2]), None),
    # Text
    "text": (spaces.Text(12), None),
    "text may be empty": (spaces.Text(5, min_length=0, charset="ab"), None),
    "text of one": (spaces.Text(3, min_length=3, charset="x"), None),
    "text unicode": (spaces.Text(6, min_length=0, charset="é漢🎲 \n"), None),
    "text large charset": (spaces.Text(6, min_length=0, charset=GREEK), None),
    "text of nothing": (spaces.Text(0, min_length=0), None),
    # Dict and Tuple
    "dict": (spaces.Dict({"a": box(0, 1, (2,), np.float32), "b": spaces.Discrete(3)}), None),
    "dict of one": (spaces.Dict({"only": full(np.int16, (2, 2))}), None),
    "dict one dtype": (
        spaces.Dict({"a": box(0, 1, (2,), np.float32), "b": box(0, 1, (), np.float32)}),
        None,
    ),
    "dict empty": (spaces.Dict({}), None),
    "dict order kept": (
        spaces.Dict([("z", full(np.uint8, (1,))), ("a", box(0, 1, (1,), np.float64))]),
        None,
    ),
    "dict awkward keys": (
        spaces.Dict(
            {
                key: box(-1, 1, (i,), np.float32) if i % 2 else full(np.uint8, (i,))
                for i, key in enumerate(AWKWARD_KEYS)
            }
        ),
        None,
    ),
    "dict subclass": (NoisyDict({"a": spaces.MultiBinary(2), "b": full(np.int32, ())}), None),
    "tuple": (spaces.Tuple([spaces.Discrete(3), full(np.uint8, (3,)), spaces.Text(4)]), None),
    "tuple empty": (spaces.Tuple([]), None),
    "tuple mixed alignment": (
        spaces.Tuple(
            [
                full(np.uint8, (1,)),
                box(-INF, INF, (1,), np.float64),
                full(np.uint8, (3,)),
                full(np.int16, ()),
                box(0, 1, (2,), np.bool_),
                box(-INF, INF, (1,), np.float16),
                full(np.uint64, (1,)),
                full(np.int8, (1,)),
            ]
        ),
        None,
    ),
    "nested": (nested(10), None),
    "empty inside": (
        spaces.Dict(
            {
                "nothing": spaces.Dict({}),
                "none": spaces.Tuple([spaces.Tuple([])]),
                "hollow": box(0, 1, (0,), np.float64),
                "byte": full(np.uint8, ()),
            }
        ),
        None,
    ),
    "character": (character(), None),
    # OneOf
    "oneof": (spaces.OneOf([spaces.Discrete(3, start=5), box(1, 2, (2, 2), np.float64)]), None),
    "oneof one": (spaces.OneOf([spaces.MultiBinary(3)]), None),
    "oneof of nothing": (spaces.OneOf([spaces.Tuple([]), spaces.Dict({})]), None),
    "oneof nested": (
        spaces.OneOf([spaces.OneOf([spaces.Text(3), spaces.Discrete(2)]), NODE, spaces.Tuple([])]),
        None,
    ),
    # Sequence
    "sequence": (spaces.Sequence(box(-1, 1, (2,), np.float32)), 4),
    "sequence stacked": (spaces.Sequence(box(-1, 1, (2,), np.float32), stack=True), 4),
    "sequence of discrete": (spaces.Sequence(spaces.Discrete(4, start=2)), 3),
    "sequence of discrete stacked": (
        spaces.Sequence(spaces.Discrete(4, start=2, dtype=np.int16), stack=True),
        3,
    ),
    "sequence of text": (spaces.Sequence(spaces.Text(3, min_length=0)), 3),
    "sequence of text stacked": (spaces.Sequence(spaces.Text(3), stack=True), 3),
    "sequence of dicts": (spaces.Sequence(NODE), 3),
    "sequence of dicts stacked": (spaces.Sequence(NODE, stack=True), 3),
    "sequence of tuples stacked": (
        spaces.Sequence(
            spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]), stack=True
        ),
        3,
    ),
    "sequence of sequences": (
        spaces.Sequence(spaces.Sequence(spaces.Discrete(3), stack=True)),
        {"": 3, "items": 2},
    ),
    "sequence of oneof": (spaces.Sequence(spaces.OneOf([spaces.Text(2), full(np.int8)])), 2),
    "sequence of none": (spaces.Sequence(spaces.Discrete(3)), 0),
    # Graph
    "graph": (spaces.Graph(box(-1, 1, (3,), np.float32), spaces.Discrete(4)), 4),
    "graph without edges": (spaces.Graph(spaces.Discrete(5, start=1), None), 3),
    "graph of dicts": (spaces.Graph(NODE, NODE), {"nodes": 3, "edges": 5}),
    "graph of texts": (spaces.Graph(spaces.Text(3), spaces.MultiBinary(2)), 3),
    "sequence of graphs": (spaces.Sequence(spaces.Graph(full(np.uint8, ()), full(np.int16))), 2),
    "all kinds": (
        spaces.Dict(
            {
                "box": box(-1, 1, (2,), np.float16),
                "discrete": spaces.Discrete(3),
                "multidiscrete": spaces.MultiDiscrete([2, 5]),
                "multibinary": spaces.MultiBinary(3),
                "text": spaces.Text(4),
                "tuple": spaces.Tuple([spaces.Discrete(2), full(np.uint16, (3,))]),
                "oneof": spaces.OneOf([spaces.Discrete(2), full(np.int64, ())]),
                "sequence": spaces.Sequence(spaces.Text(2)),
                "graph": spaces.Graph(full(np.uint8, (2,)), spaces.Discrete(2)),
            }
        ),
        2,
    ),
}


# -- drawing values ---------------------------------------------------------------------------


def values(space: spaces.Space, max_len: Any = None, nan: bool = True, path: str = "") -> Any:
    """A hypothesis strategy for values of a space.

    Arrays are drawn as raw bytes and brought within bounds, so that every bit pattern and both
    bounds occur; unbounded floats take infinities and, with `nan`, NaN.
    """

    def part(child, suffix):
        return values(child, max_len, nan, (path + suffix).lstrip("."))

    def most(suffix):
        place = (path + suffix).lstrip(".")
        return max_len[place] if isinstance(max_len, dict) else max_len

    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return st.integers(first, first + int(space.n) - 1).map(space.dtype.type)
    if isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        low, high = bounds(space)
        size = min(math.prod(space.shape) * space.dtype.itemsize, 64)
        raw = st.binary(min_size=size, max_size=size)
        mode = st.sampled_from(["raw", "raw", "low", "high"])
        return st.builds(lambda raw, mode: np.asarray(fill(raw, mode, low, high, nan)), raw, mode)
    if isinstance(space, spaces.Text):
        if not space.max_length:
            return st.just("")
        return st.text(space.character_list, min_size=space.min_length, max_size=space.max_length)
    if isinstance(space, spaces.Dict):
        return st.fixed_dictionaries({k: part(v, f".{k}") for k, v in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return st.tuples(*[part(child, f"[{i}]") for i, child in enumerate(space.spaces)])
    if isinstance(space, spaces.OneOf):
        options = enumerate(space.spaces)
        return st.one_of(*[st.tuples(st.just(np.int64(i)), part(s, f"[{i}]")) for i, s in options])
    if isinstance(space, spaces.Sequence):
        items = st.lists(part(space.feature_space, ".items"), max_size=most(""))
        feature = space.feature_space
        return items.map(lambda items: gather(feature, items) if space.stack else tuple(items))
    assert isinstance(space, spaces.Graph)
    nodes = st.lists(part(space.node_space, ".nodes"), max_size=most(".nodes"))
    links = st.none()
    if space.edge_space is not None:
        pair = st.tuples(part(space.edge_space, ".edges"), st.integers(0, 999), st.integers(0, 999))
        links |= st.lists(pair, max_size=most(".edges"))
    return st.builds(lambda nodes, links: graph(space, nodes, links), nodes, links)


def bounds(space):
    """Inclusive bounds of a space that is one array, as arrays."""
    if isinstance(space, spaces.Box):
        dtype = space.dtype.newbyteorder("=")
        return space.low.astype(dtype), space.high.astype(dtype)
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)
    return space.start, np.asarray(space.start + (space.nvec - 1), space.dtype)


def fill(raw, mode, low, high, nan):
    """An array within bounds from raw bytes (repeated as needed), or one at a bound."""
    if mode == "low" or not low.size:
        return low.copy()
    if mode == "high":
        return high.copy()
    if low.dtype == bool:
        return np.resize(np.frombuffer(raw, np.uint8) & 1, low.shape).astype(bool)
    array = np.resize(np.frombuffer(raw, low.dtype), low.shape)
    if low.dtype.kind == "f":
        clipped = np.clip(array, low, high)
        return clipped if nan else np.where(np.isnan(clipped), low, clipped)
    if (low == np.iinfo(low.dtype).min).all() and (high == np.iinfo(low.dtype).max).all():
        return array
    span = high.astype(object) - low + 1  # Python's integers know no overflow
    return (low + array.astype(object) % span).astype(low.dtype)


def gather(space, items):
    """Values of a space stacked as Gymnasium batches them."""
    batch = create_empty_array(space, len(items))
    return concatenate(space, items, batch) if items else batch


def graph(space, nodes, links):
    """A Graph's value; without nodes it can't have edges, but it may have none of them."""
    if links is None or (links and not nodes):
        return GraphInstance(gather(space.node_space, nodes), None, None)
    ends = [[a % len(nodes), b % len(nodes)] for _, a, b in links]
    return GraphInstance(
        gather(space.node_space, nodes),
        gather(space.edge_space, [edge for edge, _, _ in links]),
        np.array(ends, np.int32).reshape(len(links), 2),
    )


# -- comparing --------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype, shape and every bit, so that NaN equals NaN."""
    if isinstance(a, (np.ndarray, np.generic)):
        return (
            type(a) is type(b)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.astype(a.dtype.newbyteorder("=")).tobytes()
            == b.astype(b.dtype.newbyteorder("=")).tobytes()
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def arrays(space: spaces.Space, value: Any, max_len: Any = None, path: str = "") -> Any:
    """What `Layout.view` documents for one value: nested dicts and tuples of arrays.

    `value` None stands for a slot that is not filled: all zero.
    """

    def part(child, value, suffix):
        return arrays(child, value, max_len, (path + suffix).lstrip("."))

    def column(child, items, count, suffix):
        """The items as arrays with a leading axis of length `count`, padded with zeros."""
        padded = [*items, *[None] * (count - len(items))]
        rows = [part(child, item, suffix) for item in padded]
        empty = part(child, None, suffix)
        return merge(rows, empty)

    def most(suffix):
        place = (path + suffix).lstrip(".")
        return max_len[place] if isinstance(max_len, dict) else max_len

    absent = value is None
    if isinstance(space, spaces.Discrete):
        return np.array(0 if absent else value, space.dtype)
    if isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        dtype = space.dtype.newbyteorder("=")
        return np.zeros(space.shape, dtype) if absent else np.asarray(value, dtype)
    if isinstance(space, spaces.Text):
        codes = [sorted(space.character_set).index(char) + 1 for char in value or ""]
        chars = np.zeros(space.max_length, np.uint8 if len(space.character_set) < 256 else np.int32)
        chars[: len(codes)] = codes
        return {"length": np.array(len(codes), np.int32), "chars": chars}
    if isinstance(space, spaces.Dict):
        children = space.spaces.items()
        return {k: part(s, None if absent else value[k], f".{k}") for k, s in children}
    if isinstance(space, spaces.Tuple):
        children = enumerate(space.spaces)
        return tuple(part(s, None if absent else value[i], f"[{i}]") for i, s in children)
    if isinstance(space, spaces.OneOf):
        tag, chosen = (0, None) if absent else value
        options = [
            part(s, chosen if i == tag else None, f"[{i}]") for i, s in enumerate(space.spaces)
        ]
        return {"tag": np.array(tag, np.int32), "options": tuple(options)}
    if isinstance(space, spaces.Sequence):
        items = () if absent else value
        if space.stack and not absent:
            items = split(space.feature_space, value)
        return {
            "length": np.array(len(items), np.int32),
            "items": column(space.feature_space, items, most(""), ".items"),
        }
    assert isinstance(space, spaces.Graph)
    nodes = [] if absent else split(space.node_space, value.nodes)
    made = {
        "num_nodes": np.array(len(nodes), np.int32),
        "num_edges": np.array(0 if absent else -1, np.int32),
        "nodes": column(space.node_space, nodes, most(".nodes"), ".nodes"),
        "edges": None,
        "edge_links": None,
    }
    if space.edge_space is not None:
        bare = absent or value.edges is None
        edges = [] if bare else split(space.edge_space, value.edges)
        made["edges"] = column(space.edge_space, edges, most(".edges"), ".edges")
        made["edge_links"] = np.zeros((most(".edges"), 2), np.int32)
        if not bare:
            made["num_edges"] = np.array(len(edges), np.int32)
            made["edge_links"][: len(edges)] = value.edge_links
    return made


def split(space, batch):
    """The items of a stacked value."""
    if isinstance(space, spaces.Dict):
        columns = {key: split(child, batch[key]) for key, child in space.spaces.items()}
        return [dict(zip(columns, row)) for row in zip(*columns.values())]
    if isinstance(space, spaces.Tuple):
        return list(zip(*[split(child, part) for child, part in zip(space.spaces, batch)]))
    return list(batch)


def merge(rows, empty):
    """Stack nested arrays along a new first axis; `empty` gives the structure if there are none."""
    if isinstance(empty, dict):
        return {key: merge([row[key] for row in rows], part) for key, part in empty.items()}
    if isinstance(empty, tuple):
        return tuple(merge([row[i] for row in rows], part) for i, part in enumerate(empty))
    if empty is None:
        return None
    return np.stack(rows) if rows else np.zeros((0, *empty.shape), empty.dtype)


def flat(nest: Any) -> list[Any]:
    """The arrays of a nest, in order."""
    if isinstance(nest, dict):
        return [leaf for part in nest.values() for leaf in flat(part)]
    if isinstance(nest, tuple):
        return [leaf for part in nest for leaf in flat(part)]
    return [] if nest is None else [nest]
