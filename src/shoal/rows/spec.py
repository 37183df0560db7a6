"""A space as plain data: its spec, its leaves and their paths.

A *spec* is nested dicts of JSON values that say what a space is. A *leaf* is one array of the space
with its place in a row, and its *path* names the leaf as in Python: ``inventory[3].glyph``.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import LayoutError

__all__ = [
    "ARRAYS",
    "KINDS",
    "Leaf",
    "array_of",
    "box_spec",
    "check_spec",
    "choice_spec",
    "is_hot",
    "join",
    "key_from_json",
    "kind_of",
    "leaf_spec",
    "leaves_of",
    "space_from_spec",
    "spec_from_space",
    "step",
    "where",
]

# Kinds of spaces whose value is one array or scalar. Such a space is one leaf with its own path.
ARRAYS = frozenset(["Box", "Discrete", "MultiDiscrete", "MultiBinary"])
KINDS = ARRAYS | {"Text", "Dict", "Tuple", "OneOf", "Sequence", "Graph"}
# Kinds of leaves that `one_hot` writes as categories.
HOT = frozenset(["discrete", "tag"])


@dataclass(frozen=True)
class Leaf:
    """One array inside a layout.

    Attributes:
        path: of the leaf in the space, as in Python: ``inventory[3].glyph``. Empty if the space is
            one array.
        kind: ``box``, ``discrete``, ``binary``, ``text``, ``count`` (how many items of a Sequence,
            Text or Graph are filled; -1 for a Graph without edges) or ``tag`` (which option of a
            OneOf holds the value).
        dtype: the native dtype's name, such as ``int64``.
        shape: full shape, with a leading axis for each Sequence or Graph around the leaf.
        offset: first byte in a row of the ``bytes`` form.
        start: first element in a row of the ``float32`` form.
        size: number of elements in the ``float32`` form (one-hot included).
        low, high: inclusive bounds; a scalar if they are uniform, else an array of `shape`.
        depth: number of leading axes of `shape` that come from enclosing Sequences or Graphs.
        optional: the leaf may be absent, and then is zero whatever its bounds: an unused item of a
            Sequence or Graph, an option of a OneOf that is not taken.
    """

    path: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    start: int
    size: int
    low: Any
    high: Any
    depth: int
    optional: bool

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes in a row of the ``bytes`` form."""
        return self.count * np.dtype(self.dtype).itemsize

    @property
    def num_categories(self) -> np.ndarray:
        """Number of categories of each element (int64, `shape`); undefined for a box."""
        n = np.asarray(self.high, np.int64) - np.asarray(self.low, np.int64) + 1
        return np.broadcast_to(n, self.shape)


# -- from a space to a spec -------------------------------------------------------------------


def kind_of(space: Any) -> str | None:
    """Return which of the ten kinds a space is, or None.

    The name of its class or of a base class decides, not ``isinstance``: so ``gym`` spaces and
    look-alikes qualify without importing ``gym``.
    """
    return next((c.__name__ for c in type(space).__mro__ if c.__name__ in KINDS), None)


def spec_from_space(
    space: Any, max_len: int | Mapping[str, int] | None, name: str, path: str = ""
) -> dict[str, Any]:
    """Return the spec of a space; see `Layout.from_space` for the arguments and errors.

    Args:
        path: of `space` in the outermost space.
    """
    kind = kind_of(space)

    def inner(child: Any, suffix: str) -> dict[str, Any]:
        return spec_from_space(child, max_len, name, join(path, suffix))

    if kind == "Box":
        dtype = np.dtype(space.dtype)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise LayoutError(
                f"{where(name, path)}: expected a Box of bool, integers or floats of at most "
                f"8 bytes, got {dtype}"
            )
        shape = tuple(int(n) for n in np.shape(space.low) or space.shape)
        return {
            "kind": kind,
            "dtype": dtype.name,
            "shape": list(shape),
            "low": _uniform(np.asarray(space.low, dtype)),
            "high": _uniform(np.asarray(space.high, dtype)),
        }
    if kind == "Discrete":
        dtype = np.dtype(getattr(space, "dtype", None) or np.int64)
        return {
            "kind": kind,
            "dtype": dtype.name,
            "n": int(space.n),
            "start": int(getattr(space, "start", 0)),
        }
    if kind == "MultiDiscrete":
        nvec = np.asarray(space.nvec)
        dtype = np.dtype(getattr(space, "dtype", None) or np.int64)
        start = np.asarray(getattr(space, "start", np.zeros_like(nvec)))
        return {"kind": kind, "dtype": dtype.name, "nvec": nvec.tolist(), "start": start.tolist()}
    if kind == "MultiBinary":
        n = space.n
        sizes = [int(n)] if np.ndim(n) == 0 else [int(i) for i in n]
        dtype = np.dtype(getattr(space, "dtype", None) or np.int8)
        return {"kind": kind, "dtype": dtype.name, "shape": sizes}
    if kind == "Text":
        return {
            "kind": kind,
            "min_length": int(space.min_length),
            "max_length": int(space.max_length),
            # The space's own order may be that of a set, which differs between processes.
            "charset": "".join(sorted(space.character_set)),
        }
    if kind == "Dict":
        items = [
            [_key_json(k, join(path, step(k)), name), inner(v, step(k))]
            for k, v in space.spaces.items()
        ]
        return {"kind": kind, "items": items}
    if kind in ("Tuple", "OneOf"):
        parts = [inner(child, f"[{i}]") for i, child in enumerate(space.spaces)]
        return {"kind": kind, "items": parts}
    if kind == "Sequence":
        return {
            "kind": kind,
            "max_len": _declared(path, max_len, name, "Sequence"),
            "stack": bool(getattr(space, "stack", False)),
            "item": inner(space.feature_space, ".items"),
        }
    if kind == "Graph":
        edges = None if space.edge_space is None else inner(space.edge_space, ".edges")
        return {
            "kind": kind,
            "max_nodes": _declared(join(path, ".nodes"), max_len, name, "Graph"),
            "max_edges": 0
            if edges is None
            else _declared(join(path, ".edges"), max_len, name, "Graph"),
            "node": inner(space.node_space, ".nodes"),
            "edge": edges,
        }
    if getattr(getattr(space, "dtype", None), "kind", None) == "U":  # strings, but not a Text
        return {
            "kind": "Text",
            "min_length": 0,
            "max_length": _declared(path, max_len, name, "space of strings"),
            "charset": string.printable,
        }
    raise LayoutError(
        f"{where(name, path)}: expected one of the spaces {', '.join(sorted(KINDS))}, got "
        f"{type(space).__module__}.{type(space).__qualname__}"
    )


def _declared(path: str, max_len: Any, name: str, kind: str) -> int:
    found = max_len.get(path) if isinstance(max_len, Mapping) else max_len
    if found is None:
        raise LayoutError(
            f"{where(name, path)}: a {kind} has no fixed size; declare its maximum with "
            f"max_len=N or max_len={{{path!r}: N}}"
        )
    if not isinstance(found, (int, np.integer)) or found < 0:
        raise LayoutError(f"{where(name, path)}: max_len must be an integer >= 0, got {found!r}")
    return int(found)


def join(path: str, suffix: str) -> str:
    """Append a step (``.name`` or ``[key]``) to a path."""
    return path + suffix if path or suffix.startswith("[") else suffix[1:]


def where(name: str, path: str) -> str:
    """Return a path as error messages show it: ``obs.inventory[3]``."""
    return name + path if path.startswith("[") or not path else f"{name}.{path}"


def step(key: Any) -> str:
    """Return the path's step to the part `key` of a value: ``.name``, ``[3]``, ``['odd name']``."""
    is_name = isinstance(key, str) and key.isidentifier()
    return f".{key}" if is_name else f"[{_plain(key)!r}]"


def _plain(key: Any) -> Any:
    """Return the plain str or int that a key equals (an enum member, NumPy integer), or the key."""
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    return key


def _key_json(key: Any, path: str, name: str) -> Any:
    """Return a dictionary key as JSON: the key if JSON has its type, else a tagged list."""
    key = _plain(key)
    if key is None or isinstance(key, (str, int, float, bool)):
        return key
    if isinstance(key, bytes):
        return ["bytes", key.hex()]
    if isinstance(key, tuple):
        return ["tuple", *(_key_json(part, path, name) for part in key)]
    raise LayoutError(
        f"{where(name, path)}: a dictionary key of type {type(key).__name__} can't be written as "
        "JSON; use str, int, float, bool, None, bytes or tuples of them"
    )


def key_from_json(key: Any) -> Any:
    """Return the dictionary key that `_key_json` wrote."""
    if not isinstance(key, list):
        return key
    tag, *parts = key
    return bytes.fromhex(parts[0]) if tag == "bytes" else tuple(map(key_from_json, parts))


def box_spec(low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Return the spec of a Box.

    Args:
        low, high: inclusive bounds: arrays of the Box's shape and dtype.
    """
    return {
        "kind": "Box",
        "dtype": low.dtype.name,
        "shape": list(low.shape),
        "low": _uniform(low),
        "high": _uniform(high),
    }


def choice_spec(start: np.ndarray, count: np.ndarray, dtype: str = "int64") -> dict[str, Any]:
    """Return the spec of a MultiDiscrete, or of a Discrete if the arrays have no axis.

    Args:
        start, count: first category and number of categories of each element: integer arrays of
            the same shape.
        dtype: of the space.
    """
    if start.shape == ():
        return {"kind": "Discrete", "dtype": dtype, "n": int(count), "start": int(start)}
    return {
        "kind": "MultiDiscrete",
        "dtype": dtype,
        "nvec": count.tolist(),
        "start": start.tolist(),
    }


def leaf_spec(leaf: Leaf) -> dict[str, Any]:
    """Return the spec of a space that consists of one leaf."""
    if leaf.kind == "binary":
        return {"kind": "MultiBinary", "dtype": leaf.dtype, "shape": list(leaf.shape)}
    if leaf.kind == "box":
        low, high = (
            np.broadcast_to(b, leaf.shape).astype(leaf.dtype) for b in (leaf.low, leaf.high)
        )
        return box_spec(low, high)
    return choice_spec(np.broadcast_to(leaf.low, leaf.shape), leaf.num_categories, leaf.dtype)


def _uniform(bound: np.ndarray) -> Any:
    """Return a bound as a scalar if it is the same everywhere, else as nested lists."""
    first = bound.flat[0] if bound.size else bound.dtype.type(0)
    return first.item() if (bound == first).all() else bound.tolist()


# -- a spec from a file or another process ---------------------------------------------------

MOST_NBYTES = 2**31 - 1  # of a row: NumPy's limit
SPEC_KEYS = {
    "Box": {"dtype", "shape", "low", "high"},
    "Discrete": {"dtype", "n", "start"},
    "MultiDiscrete": {"dtype", "nvec", "start"},
    "MultiBinary": {"dtype", "shape"},
    "Text": {"min_length", "max_length", "charset"},
    "Dict": {"items"},
    "Tuple": {"items"},
    "OneOf": {"items"},
    "Sequence": {"max_len", "stack", "item"},
    "Graph": {"max_nodes", "max_edges", "node", "edge"},
}


def check_spec(spec: Any, path: str = "", times: int = 1) -> None:
    """Raise LayoutError unless `spec_from_space` may have written a spec.

    Args:
        spec: what JSON gave.
        path: of its space in the outermost space.
        times: how often a row has the space: the product of the lengths of Sequences around it.
    """
    kind = spec.get("kind") if isinstance(spec, dict) else None
    if not isinstance(kind, str) or SPEC_KEYS.get(kind) != spec.keys() - {"kind"}:
        raise LayoutError(f"{where('space', path)}: expected the spec of a space, got {spec!r:.80}")

    def need(key: str, good: bool) -> None:
        if not good:
            got = f"{spec[key]!r:.80}"
            raise LayoutError(f"{where('space', path)}: {key} of a {kind} can't be {got}")

    def need_size(key: str, nbytes: int = 1) -> int:
        size = spec[key]
        need(key, type(size) is int and 0 <= size * nbytes * times <= MOST_NBYTES)
        return size

    def need_integers(key: str) -> np.ndarray:
        array = np.asarray(spec[key])
        need(key, array.dtype.kind == "i" or not array.size)
        return array

    if "dtype" in spec:
        name = spec["dtype"]
        dtype = np.dtype(name) if isinstance(name, str) else np.dtype(object)
        need("dtype", dtype.name == name and dtype.kind in "biuf" and dtype.itemsize <= 8)
        need("dtype", dtype.kind in "iu" or kind not in ("Discrete", "MultiDiscrete"))
    if "shape" in spec:
        shape = spec["shape"]
        need("shape", type(shape) is list and all(type(n) is int and n >= 0 for n in shape))
        need("shape", math.prod([dtype.itemsize, times, *filter(None, shape)]) <= MOST_NBYTES)
    if kind == "Box":
        low, high = (np.asarray(spec[bound], dtype) for bound in ("low", "high"))
        need("low", low.shape in ((), tuple(shape)))
        need("high", high.shape in ((), tuple(shape)) and bool((low <= high).all()))
    elif kind == "Discrete":
        count, start = need_integers("n"), need_integers("start")
        need("n", count.shape == () and int(count) > 0)
        most = 2 ** (8 * dtype.itemsize - (dtype.kind == "i")) - 1
        need("start", start.shape == () and int(start) + int(count) - 1 <= most)
    elif kind == "MultiDiscrete":
        counts, start = need_integers("nvec"), need_integers("start")
        need("nvec", bool((counts > 0).all()))
        need("start", start.shape == counts.shape and bool((start < 2**62).all()))
    elif kind == "Text":
        need("charset", type(spec["charset"]) is str)
        need("min_length", need_size("min_length") <= need_size("max_length", 4))
    elif kind == "Dict":
        items = spec["items"]
        need("items", type(items) is list and all(type(i) is list and len(i) == 2 for i in items))
        for key, child in items:
            check_spec(child, join(path, step(key_from_json(key))), times)
        need("items", len({key_from_json(key) for key, _ in items}) == len(items))
    elif kind in ("Tuple", "OneOf"):
        need("items", type(spec["items"]) is list and bool(spec["items"] or kind == "Tuple"))
        for i, child in enumerate(spec["items"]):
            check_spec(child, join(path, f"[{i}]"), times)
    elif kind == "Sequence":
        need("stack", type(spec["stack"]) is bool)
        check_spec(spec["item"], join(path, ".items"), times * need_size("max_len"))
    elif kind == "Graph":
        check_spec(spec["node"], join(path, ".nodes"), times * need_size("max_nodes"))
        num_edges = need_size("max_edges", 8)
        if spec["edge"] is not None:
            check_spec(spec["edge"], join(path, ".edges"), times * num_edges)


# -- from a spec to the table of leaves -------------------------------------------------------


def _walk(
    spec: Mapping[str, Any], path: str, prefix: tuple[int, ...], optional: bool = False
) -> Iterator[tuple]:
    """Yield each leaf of a spec: (path, kind, dtype, shape, low, high, depth, optional)."""
    kind, depth = spec["kind"], len(prefix)

    def leaf(suffix: str, leaf_kind: str, dtype: str, shape: Any, low: Any, high: Any) -> tuple:
        place, full = join(path, suffix) if suffix else path, (*prefix, *shape)
        return (place, leaf_kind, dtype, full, low, high, depth, optional)

    if kind == "Box":
        dtype = np.dtype(spec["dtype"])
        low, high = (np.asarray(spec[b], dtype)[()] for b in ("low", "high"))
        yield leaf("", "box", dtype.name, spec["shape"], low, high)
    elif kind == "Discrete":
        first = spec["start"]
        yield leaf("", "discrete", spec["dtype"], (), first, first + spec["n"] - 1)
    elif kind == "MultiDiscrete":
        start = np.asarray(spec["start"], np.int64)
        high = start + np.asarray(spec["nvec"], np.int64) - 1
        yield leaf("", "discrete", spec["dtype"], start.shape, start, high)
    elif kind == "MultiBinary":
        yield leaf("", "binary", spec["dtype"], spec["shape"], 0, 1)
    elif kind == "Text":
        most, chars = spec["max_length"], len(spec["charset"])
        yield leaf(".length", "count", "int32", (), spec["min_length"], most)
        # Codes count from 1, so that padding (0) is no character.
        yield leaf(".chars", "text", "uint8" if chars < 256 else "int32", (most,), 0, chars)
    elif kind == "Dict":
        for key, child in spec["items"]:
            yield from _walk(child, join(path, step(key_from_json(key))), prefix, optional)
    elif kind == "Tuple":
        for i, child in enumerate(spec["items"]):
            yield from _walk(child, join(path, f"[{i}]"), prefix, optional)
    elif kind == "OneOf":
        yield leaf(".tag", "tag", "int32", (), 0, len(spec["items"]) - 1)
        for i, child in enumerate(spec["items"]):
            yield from _walk(child, join(path, f"[{i}]"), prefix, True)
    elif kind == "Sequence":
        most = spec["max_len"]
        yield leaf(".length", "count", "int32", (), 0, most)
        yield from _walk(spec["item"], join(path, ".items"), (*prefix, most), True)
    elif kind == "Graph":
        nodes, edges = spec["max_nodes"], spec["max_edges"]
        yield leaf(".num_nodes", "count", "int32", (), 0, nodes)
        yield leaf(".num_edges", "count", "int32", (), -1, edges)
        yield from _walk(spec["node"], join(path, ".nodes"), (*prefix, nodes), True)
        if spec["edge"] is not None:
            yield from _walk(spec["edge"], join(path, ".edges"), (*prefix, edges), True)
            yield leaf(".edge_links", "discrete", "int32", (edges, 2), 0, max(nodes - 1, 0))


def array_of(spec: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return dtype name and shape of a spec of one of the kinds in `ARRAYS`."""
    _, _, dtype, shape, *_ = next(_walk(spec, "", ()))
    return dtype, shape


def leaves_of(spec: Mapping[str, Any], one_hot: bool = False) -> tuple[Leaf, ...]:
    """Return the leaves of a spec in order, with their (aligned) offsets and float32 starts."""
    leaves, offset, start = [], 0, 0
    for path, kind, dtype, shape, low, high, depth, optional in _walk(spec, "", ()):
        align = np.dtype(dtype).alignment
        offset = -(-offset // align) * align
        size = math.prod(shape)
        if one_hot and kind in HOT:
            n = np.asarray(high, np.int64) - np.asarray(low, np.int64) + 1
            size = int(np.broadcast_to(n, shape).sum())
        leaf = Leaf(
            path, kind, dtype, tuple(shape), offset, start, size, low, high, depth, optional
        )
        leaves.append(leaf)
        offset += leaf.nbytes
        start += size
    return tuple(leaves)


def is_hot(leaf: Leaf, one_hot: bool) -> bool:
    """Return whether a layout with this `one_hot` writes the leaf as categories."""
    return one_hot and leaf.kind in HOT


# -- from a spec back to a space --------------------------------------------------------------


def space_from_spec(spec: Mapping[str, Any]) -> Any:
    """Return the Gymnasium space that a spec describes."""
    from gymnasium import spaces

    kind = spec["kind"]
    if kind == "Box":
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        low, high = (
            np.broadcast_to(np.asarray(spec[b], dtype), shape).copy() for b in ("low", "high")
        )
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return _discrete(spec["n"], spec["start"], spec["dtype"])
    if kind == "MultiDiscrete":
        nvec, start = np.asarray(spec["nvec"]), np.asarray(spec["start"])
        return spaces.MultiDiscrete(nvec, np.dtype(spec["dtype"]).type, start=start)
    if kind == "MultiBinary":
        shape = spec["shape"]
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "Text":
        return spaces.Text(
            spec["max_length"], min_length=spec["min_length"], charset=spec["charset"]
        )
    if kind == "Dict":
        items = [(key_from_json(key), space_from_spec(child)) for key, child in spec["items"]]
        return spaces.Dict(items)
    if kind == "Tuple":
        return spaces.Tuple([space_from_spec(child) for child in spec["items"]])
    if kind == "OneOf":
        return spaces.OneOf([space_from_spec(child) for child in spec["items"]])
    if kind == "Sequence":
        return spaces.Sequence(space_from_spec(spec["item"]), stack=spec["stack"])
    return spaces.Graph(
        space_from_spec(spec["node"]), spec["edge"] and space_from_spec(spec["edge"])
    )


def _discrete(n: int, start: int, dtype: str) -> Any:
    from gymnasium.spaces import Discrete

    # Gymnasium 1.2 has int64 only, and no argument `dtype`.
    if dtype == "int64":
        return Discrete(n, start=start)
    return Discrete(n, start=start, dtype=np.dtype(dtype).type)
