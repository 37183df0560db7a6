"""How a (nested) space lies in a fixed number of bytes.

A `Layout` is plain data: a *spec* (nested dicts of JSON values that say what the space is) and a
flat table of leaves derived from it. Packing, unpacking and views work from that table, never from
the space, so a layout can travel as JSON to an interpreter that shares none of our packages.

Two forms exist. ``bytes`` keeps every leaf in its own dtype, naturally aligned, so that views need
no copy; ``float32`` casts and concatenates all leaves into one vector.

Values are written and read by the compiled packer (`pack.pyx`).
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import LayoutError

__all__ = ["Layout", "Leaf"]

# The kinds whose value is one array or scalar, and so one leaf with the path of the space itself.
ARRAYS = frozenset(["Box", "Discrete", "MultiDiscrete", "MultiBinary"])
KINDS = ARRAYS | {"Text", "Dict", "Tuple", "OneOf", "Sequence", "Graph"}
# The kinds of leaves that `one_hot` writes as categories.
HOT = frozenset(["discrete", "tag"])


@dataclass(frozen=True)
class Leaf:
    """One array inside a layout.

    Attributes:
        path: where it stands in the space, as one would write it in Python: ``inventory[3].glyph``.
            Empty for a space that is itself one array.
        kind: ``box``, ``discrete``, ``binary``, ``text``, ``count`` (how many items of a Sequence,
            Text or Graph are filled; -1 for a Graph without edges) or ``tag`` (which option of a
            OneOf holds the value).
        dtype: the native dtype's name, such as ``int64``.
        shape: full shape, with a leading axis for each Sequence or Graph around the leaf.
        offset: first byte in a row of the ``bytes`` form.
        start: first element in a row of the ``float32`` form.
        size: how many elements it takes in the ``float32`` form (one-hot included).
        low, high: inclusive bounds; a scalar where they are uniform, else an array of `shape`.
        depth: how many leading axes of `shape` come from enclosing Sequences or Graphs.
        optional: it may be absent, and then is zero whatever its bounds: a slot of a Sequence or
            Graph that is not filled, an option of a OneOf that is not taken.
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
        """Bytes taken in a row of the ``bytes`` form."""
        return self.count * np.dtype(self.dtype).itemsize

    @property
    def num_categories(self) -> np.ndarray:
        """Categories of each element (int64, `shape`). Not for a box, which has none."""
        n = np.asarray(self.high, np.int64) - np.asarray(self.low, np.int64) + 1
        return np.broadcast_to(n, self.shape)


class Layout:
    """The fixed place of every value of a space in one row of an array.

    Build one with `Layout.from_space` or `Layout.from_json`. Layouts compare and hash by content.

    Attributes:
        form: ``"bytes"`` or ``"float32"``.
        leaves: the table, in the order of the space.
        dtype: dtype of a row. In the ``bytes`` form this is the leaves' dtype when all share one,
            else uint8.
        shape: shape of one row: that of the leaf itself when there is just one (``bytes`` form),
            else ``(n,)``.
        nbytes: bytes of one row.
        alignment: what the address of a row must be a multiple of.
        struct_dtype: NumPy structured dtype of one ``bytes`` row, with a field for each leaf path.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        form: str = "bytes",
        one_hot: bool = False,
        name: str = "space",
    ):
        if form not in ("bytes", "float32"):
            raise LayoutError(f'form must be "bytes" or "float32", got {form!r}')
        if one_hot and form != "float32":
            raise LayoutError(
                'one_hot=True needs form="float32": the bytes form keeps values as is'
            )
        self.spec = spec
        self.form = form
        self.one_hot = one_hot
        self.name = name  # of the root in error messages; no part of equality
        self.leaves = _place(list(_walk(spec, "", ())), one_hot)
        end = max((leaf.offset + leaf.nbytes for leaf in self.leaves), default=0)
        align = max((np.dtype(leaf.dtype).alignment for leaf in self.leaves), default=1)
        self.native_nbytes = -(-end // align) * align
        self.alignment = 4 if form == "float32" else align
        self.struct_dtype = np.dtype(
            {
                "names": [leaf.path or "value" for leaf in self.leaves],
                "formats": [(leaf.dtype, leaf.shape) for leaf in self.leaves],
                "offsets": [leaf.offset for leaf in self.leaves],
                "itemsize": self.native_nbytes,
            }
        )
        # The name of each leaf's field where `view` has the leaf.
        self._names = _nested(spec, iter(self.struct_dtype.names or ()))
        dtypes = {leaf.dtype for leaf in self.leaves}
        self.dtype: np.dtype[Any]
        self.shape: tuple[int, ...]
        if form == "float32":
            self.dtype = np.dtype(np.float32)
            self.shape = (sum(leaf.size for leaf in self.leaves),)
        elif len(dtypes) == 1:
            self.dtype = np.dtype(dtypes.pop())
            single = len(self.leaves) == 1
            self.shape = (
                self.leaves[0].shape if single else (self.native_nbytes // self.dtype.itemsize,)
            )
        else:
            self.dtype = np.dtype(np.uint8)
            self.shape = (self.native_nbytes,)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self._key = json.dumps([spec, form, one_hot], sort_keys=False)
        self._packer: Any = None

    # -- making -------------------------------------------------------------------------------

    @classmethod
    def from_space(
        cls,
        space: Any,
        form: str = "bytes",
        *,
        one_hot: bool = False,
        max_len: int | Mapping[str, int] | None = None,
        name: str = "space",
    ) -> Layout:
        """Lay out a Gymnasium space, or anything shaped like one (old ``gym``, named tuples).

        Args:
            space: any of the ten Gymnasium spaces, nested at will, subclasses included.
            form: ``"bytes"`` (native dtypes, lossless, zero-copy views) or ``"float32"`` (one plain
                vector; integers beyond 2**24 and float64 lose precision).
            one_hot: with ``"float32"``, write discrete values one-hot, as Gymnasium flattens them.
            max_len: the most items that a Sequence, or nodes and edges that a Graph, may hold (or
                characters, for a space of strings other than Text): one number for all of them, or
                a mapping from path (``"inventory"``, ``"map.nodes"``, ``"map.edges"``) to number.
            name: what error messages call the root, such as ``obs``.

        Raises:
            LayoutError: a part of the space has no fixed size and no `max_len`, or is of no known
                kind; the message names it.
        """
        return cls(_spec(space, "", max_len, name), form, one_hot, name)

    def to_json(self) -> str:
        """This layout as a JSON string; `from_json` gives an equal layout."""
        return self._key

    @classmethod
    def from_json(cls, text: str, name: str = "space") -> Layout:
        """The layout that `to_json` wrote."""
        spec, form, one_hot = json.loads(text)
        return cls(spec, form, one_hot, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> Any:
        return Layout, (self.spec, self.form, self.one_hot, self.name)

    def __repr__(self) -> str:
        return (
            f"Layout({len(self.leaves)} leaves, form={self.form!r}, dtype={self.dtype}, "
            f"shape={self.shape}, {self.nbytes} bytes)"
        )

    # -- values -------------------------------------------------------------------------------

    def zeros(self, *batch: int) -> np.ndarray:
        """An array of zeros for a batch of rows: shape ``(*batch, *self.shape)``."""
        return np.zeros((*batch, *self.shape), self.dtype)

    @property
    def packer(self) -> Any:
        """The compiled packer of this layout."""
        if self._packer is None:
            from shoal.rows.pack import Packer

            self._packer = Packer(self)
        return self._packer

    def pack(self, value: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Write one value of the space into one row.

        Args:
            value: a member of the space. Arrays of another dtype are cast when no value changes
                (or between float dtypes); bounds are not checked here (see `shoal.check_env`).
            out: C-contiguous, writeable, aligned array of `shape` and `dtype`; fresh by default.

        Returns:
            `out`.

        Raises:
            LayoutError: the value doesn't fit (names the leaf), or `out` is unsuitable. Nothing is
                written to an unsuitable `out`.
        """
        if out is None:
            out = np.zeros(self.shape, self.dtype)
        self.packer.pack(value, out)
        return out

    def unpack(self, array: np.ndarray) -> Any:
        """The value that was packed: the inverse of `pack`, made of fresh objects.

        Args:
            array: one row, of `shape` and `dtype` (a NumPy scalar where the shape is ``()``).
        """
        if isinstance(array, np.generic):
            array = np.asarray(array)
        return self.packer.unpack(array)

    def view(self, array: Any) -> Any:
        """The nested structure of a batch of rows, as views that copy nothing.

        Args:
            array: NumPy array or torch tensor (any device) of shape ``(*batch, *self.shape)``.

        Returns:
            Dicts and tuples as in the space, with an array of shape ``(*batch, *leaf.shape)`` in
            place of each leaf. Text becomes ``{"length", "chars"}`` (codes: 0 is padding, i stands
            for the i-th character of the charset, sorted), Sequence ``{"length", "items"}``, Graph
            ``{"num_nodes", "num_edges", "nodes", "edges", "edge_links"}``, OneOf
            ``{"tag", "options"}``.
        """
        ndim = array.ndim - len(self.shape)
        if ndim < 0 or tuple(array.shape[ndim:]) != self.shape:
            raise LayoutError(
                f"view expects an array of shape (*batch, {', '.join(map(str, self.shape))}), "
                f"got {tuple(array.shape)}"
            )
        if self.form == "bytes" and len(self.leaves) == 1:
            fields: Any = {self.leaves[0].path or "value": array}
        elif (
            type(array) is np.ndarray
            and array.dtype == self.dtype
            and self.form == "bytes"
            and array.size
            and array.strides[-1] == array.itemsize
        ):  # fields are there several times as fast as slices
            fields = array.view(self.struct_dtype)[..., 0]
        else:
            batch = tuple(array.shape[:ndim])
            views = [self._leaf_view(array, leaf, batch) for leaf in self.leaves]
            fields = dict(zip(self.struct_dtype.names or (), views))
        return _nest(self._names, fields)

    def view_leaves(self, array: Any) -> dict[str, Any]:
        """Each leaf of a batch of rows by its path, as `view` gives them, without the nesting."""
        batch = tuple(array.shape[: array.ndim - len(self.shape)])
        return {leaf.path: self._leaf_view(array, leaf, batch) for leaf in self.leaves}

    def _leaf_view(self, array: Any, leaf: Leaf, batch: tuple[int, ...]) -> Any:
        shape = leaf.shape
        if self.form == "float32":
            if is_hot(leaf, self.one_hot):
                n = leaf.num_categories
                uniform = n.size > 0 and (n == n.flat[0]).all()
                # Ragged one-hot (MultiDiscrete of unequal nvec) has no rectangular view.
                shape = (*leaf.shape, int(n.flat[0])) if uniform else (leaf.size,)
            return array[..., leaf.start : leaf.start + leaf.size].reshape((*batch, *shape))
        if len(self.leaves) == 1:
            return array
        itemsize = self.dtype.itemsize
        part = array[..., leaf.offset // itemsize : (leaf.offset + leaf.nbytes) // itemsize]
        if leaf.dtype != self.dtype.name:
            part = _reinterpret(part, leaf, batch, self.name)
        return part.reshape((*batch, *shape))

    # -- spaces -------------------------------------------------------------------------------

    @property
    def space(self) -> Any:
        """The Gymnasium space that the layout describes, rebuilt."""
        return _space(self.spec)

    @property
    def flat_space(self) -> Any:
        """The Gymnasium space of one row: the leaf's own space if it is one, else a Box."""
        from gymnasium import spaces

        if self.form == "bytes" and len(self.leaves) == 1:
            return _space(leaf_spec(self.leaves[0]))
        if self.dtype == np.uint8 and any(leaf.dtype != "uint8" for leaf in self.leaves):
            return spaces.Box(0, 255, self.shape, np.uint8)
        if self.dtype.kind == "f":
            low, high = self.flat_bounds()
            return spaces.Box(low, high, self.shape, self.dtype.type)
        low, high = self.flat_bounds()
        return spaces.Box(low, high, self.shape, self.dtype.type)

    def flat_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Inclusive bounds of each element of a row, two arrays of `shape` and `dtype`.

        Only for rows of one meaning (not for mixed ``bytes`` rows, whose elements are raw bytes).
        """
        low = np.zeros(math.prod(self.shape), self.dtype)
        high = np.zeros_like(low)
        at = 0
        for leaf in self.leaves:
            size = leaf.size if self.form == "float32" else leaf.count
            hot = is_hot(leaf, self.one_hot)
            floor = 0 if hot else np.broadcast_to(leaf.low, leaf.shape).reshape(-1)
            roof = 1 if hot else np.broadcast_to(leaf.high, leaf.shape).reshape(-1)
            if leaf.optional:
                floor, roof = np.minimum(floor, 0), np.maximum(roof, 0)
            low[at : at + size] = floor
            high[at : at + size] = roof
            at += size
        return low.reshape(self.shape), high.reshape(self.shape)

    def describe(self) -> str:
        """A table of the leaves for people: what stands where in a row."""
        flat = self.form == "float32"
        unit = "element" if flat else "byte"
        rows = [("path", "kind", "dtype", "shape", unit, "bounds")]
        for leaf in self.leaves:
            at = leaf.start if flat else leaf.offset
            size = leaf.size if flat else leaf.nbytes
            rows.append(
                (
                    leaf.path or "(the whole)",
                    leaf.kind,
                    leaf.dtype,
                    "x".join(map(str, leaf.shape)) or "scalar",
                    f"{at}..{at + size}",
                    _bounds_text(leaf),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
        leaves = f"{len(self.leaves)} {'leaf' if len(self.leaves) == 1 else 'leaves'}"
        total = f"{leaves}, {self.nbytes:,} bytes as {self.dtype} {self.shape}"
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], total])


# -- from a space to a spec -------------------------------------------------------------------


def kind_of(space: Any) -> str | None:
    """Which of the ten spaces this is: by the name of its class or of a base class.

    Names, not ``isinstance``: old ``gym`` spaces and look-alikes qualify without importing them.
    """
    return next((c.__name__ for c in type(space).__mro__ if c.__name__ in KINDS), None)


def _spec(space: Any, path: str, max_len: Any, name: str) -> dict[str, Any]:
    kind = kind_of(space)

    def inner(child: Any, suffix: str) -> dict[str, Any]:
        return _spec(child, join(path, suffix), max_len, name)

    if kind == "Box":
        dtype = np.dtype(space.dtype)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise LayoutError(f"{where(name, path)}: a Box of {dtype} can't be laid out")
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
            # Its own order may be that of a set, which is another one in each process.
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
    if getattr(getattr(space, "dtype", None), "kind", None) == "U":  # strings, yet no Text
        return {
            "kind": "Text",
            "min_length": 0,
            "max_length": _declared(path, max_len, name, "space of strings"),
            "charset": string.printable,
        }
    raise LayoutError(
        f"{where(name, path)}: {type(space).__module__}.{type(space).__qualname__} is none of the "
        f"spaces that can be laid out ({', '.join(sorted(KINDS))})"
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
    """A path as error messages show it: ``obs.inventory[3]``."""
    return name + path if path.startswith("[") or not path else f"{name}.{path}"


def step(key: Any) -> str:
    """How one writes the part called `key` of a value: ``.name``, ``[3]``, ``['odd name']``."""
    is_name = isinstance(key, str) and key.isidentifier()
    return f".{key}" if is_name else f"[{_plain(key)!r}]"


def _plain(key: Any) -> Any:
    """Keys that equal a plain str or int (enum members, NumPy integers) are written as it."""
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    return key


def _key_json(key: Any, path: str, name: str) -> Any:
    """A dictionary key as JSON: itself where JSON has it, else a tagged list."""
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
    """The inverse of `_key_json`."""
    if not isinstance(key, list):
        return key
    tag, *parts = key
    return bytes.fromhex(parts[0]) if tag == "bytes" else tuple(map(key_from_json, parts))


def box_spec(low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """The spec of a Box with these bounds, two arrays of its shape and dtype."""
    return {
        "kind": "Box",
        "dtype": low.dtype.name,
        "shape": list(low.shape),
        "low": _uniform(low),
        "high": _uniform(high),
    }


def choice_spec(start: np.ndarray, count: np.ndarray, dtype: str = "int64") -> dict[str, Any]:
    """The spec of a MultiDiscrete, or Discrete if the arrays have no axis."""
    if start.shape == ():
        return {"kind": "Discrete", "dtype": dtype, "n": int(count), "start": int(start)}
    return {
        "kind": "MultiDiscrete",
        "dtype": dtype,
        "nvec": count.tolist(),
        "start": start.tolist(),
    }


def leaf_spec(leaf: Leaf) -> dict[str, Any]:
    """The spec of a space that is this one leaf."""
    if leaf.kind == "binary":
        return {"kind": "MultiBinary", "dtype": leaf.dtype, "shape": list(leaf.shape)}
    if leaf.kind == "box":
        low, high = (
            np.broadcast_to(b, leaf.shape).astype(leaf.dtype) for b in (leaf.low, leaf.high)
        )
        return box_spec(low, high)
    return choice_spec(np.broadcast_to(leaf.low, leaf.shape), leaf.num_categories, leaf.dtype)


def _uniform(bound: np.ndarray) -> Any:
    """A bound as a scalar where it is the same everywhere, else as nested lists."""
    first = bound.flat[0] if bound.size else bound.dtype.type(0)
    return first.item() if (bound == first).all() else bound.tolist()


# -- from a spec to the table of leaves -------------------------------------------------------


def _walk(
    spec: Mapping[str, Any], path: str, prefix: tuple[int, ...], optional: bool = False
) -> Iterator[tuple]:
    """Each leaf of a spec, in order: (path, kind, dtype, shape, low, high, depth, optional)."""
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
    """Dtype name and shape of a spec of one of the kinds in `ARRAYS`."""
    _, _, dtype, shape, *_ = next(_walk(spec, "", ()))
    return dtype, shape


def _place(found: list[tuple], one_hot: bool) -> tuple[Leaf, ...]:
    """Give each leaf its byte offset (naturally aligned) and its place in the float32 form."""
    leaves, offset, start = [], 0, 0
    for path, kind, dtype, shape, low, high, depth, optional in found:
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
    """Whether a layout with this `one_hot` writes the leaf as categories."""
    return one_hot and leaf.kind in HOT


def _bounds_text(leaf: Leaf) -> str:
    low, high = np.asarray(leaf.low), np.asarray(leaf.high)
    if low.size == 0 or high.size == 0:
        return "(empty)"
    if low.size == 1 and high.size == 1:
        return f"[{low.item():g}, {high.item():g}]"
    return f"[{low.min():g}, {high.max():g}] (varies)"


# -- views ------------------------------------------------------------------------------------


def _nested(spec: Mapping[str, Any], leaves: Iterator[Any]) -> Any:
    """Arrange something of each leaf, consumed in table order, as the space nests them."""
    kind = spec["kind"]
    if kind in ARRAYS:
        return next(leaves)
    if kind == "Dict":
        return {key_from_json(key): _nested(child, leaves) for key, child in spec["items"]}
    if kind == "Tuple":
        return tuple([_nested(child, leaves) for child in spec["items"]])
    if kind == "Text":
        return {"length": next(leaves), "chars": next(leaves)}
    if kind == "Sequence":
        return {"length": next(leaves), "items": _nested(spec["item"], leaves)}
    if kind == "OneOf":
        tag = next(leaves)
        return {"tag": tag, "options": tuple([_nested(child, leaves) for child in spec["items"]])}
    graph = {"num_nodes": next(leaves), "num_edges": next(leaves)}
    graph["nodes"] = _nested(spec["node"], leaves)
    graph["edges"] = graph["edge_links"] = None
    if spec["edge"] is not None:
        graph["edges"] = _nested(spec["edge"], leaves)
        graph["edge_links"] = next(leaves)
    return graph


def _nest(names: Any, fields: Any) -> Any:
    """What `fields` has by these names, nested as they are."""
    kind = type(names)
    if kind is str:
        return fields[names]
    if kind is dict:
        return {
            key: fields[part] if type(part) is str else _nest(part, fields)
            for key, part in names.items()
        }
    return None if names is None else tuple([_nest(part, fields) for part in names])


def _reinterpret(part: Any, leaf: Leaf, batch: tuple[int, ...], name: str) -> Any:
    """Bytes (last axis) as the leaf's dtype, without a copy."""
    if part.dtype.itemsize != 1:
        raise LayoutError(f"view expects an array of raw bytes (uint8), got {part.dtype}")
    if isinstance(part, np.ndarray):
        if part.size == 0:
            return np.zeros((*batch, leaf.count), leaf.dtype)
        return part.view(leaf.dtype)
    import torch

    dtype = getattr(torch, leaf.dtype, None)
    if dtype is None:
        raise LayoutError(f"{where(name, leaf.path)}: torch has no dtype {leaf.dtype}")
    if part.numel() == 0:  # torch does not view nothing as another dtype
        return part.new_empty((*batch, leaf.count), dtype=dtype)
    return part.view(dtype)


# -- from a spec back to a space --------------------------------------------------------------


def _space(spec: Mapping[str, Any]) -> Any:
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
        items = [(key_from_json(key), _space(child)) for key, child in spec["items"]]
        return spaces.Dict(items)
    if kind == "Tuple":
        return spaces.Tuple([_space(child) for child in spec["items"]])
    if kind == "OneOf":
        return spaces.OneOf([_space(child) for child in spec["items"]])
    if kind == "Sequence":
        return spaces.Sequence(_space(spec["item"]), stack=spec["stack"])
    return spaces.Graph(_space(spec["node"]), spec["edge"] and _space(spec["edge"]))


def _discrete(n: int, start: int, dtype: str) -> Any:
    from gymnasium.spaces import Discrete

    # Gymnasium 1.2 knows int64 alone, and no such argument.
    if dtype == "int64":
        return Discrete(n, start=start)
    return Discrete(n, start=start, dtype=np.dtype(dtype).type)
