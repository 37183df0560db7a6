"""Where each value of a (nested) space lies in a row of bytes, and views without a copy.

A `Layout` is plain data: a spec and the table of its leaves (see `spec.py`). Packing, unpacking and
views use only that table, never the space. So a layout can travel as JSON to an interpreter that
shares none of our packages.

There are two forms. ``bytes`` keeps every leaf in its own dtype, naturally aligned, so that views
need no copy. ``float32`` casts and concatenates all leaves into one vector.

The compiled packer (`pack.pyx`) writes and reads the values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shoal.errors import LayoutError
from shoal.rows.pack import Packer
from shoal.rows.spec import (
    ARRAYS,
    Leaf,
    check_spec,
    is_hot,
    key_from_json,
    leaf_spec,
    leaves_of,
    space_from_spec,
    spec_from_space,
    where,
)

__all__ = ["Layout"]


class Layout:
    """The fixed place of every value of a space in one row of an array.

    Make a layout with `Layout.from_space` or `Layout.from_json`. Layouts compare and hash by
    content.

    Attributes:
        spec: the space as JSON values.
        form: ``"bytes"`` or ``"float32"``.
        one_hot: the ``float32`` form writes discrete values one-hot.
        leaves: all `Leaf` objects, in the order of the space.
        dtype: dtype of a row. In the ``bytes`` form: the leaves' dtype if all share one, else
            uint8.
        shape: shape of one row. In the ``bytes`` form with one leaf: the shape of the leaf. Else
            ``(n,)``.
        nbytes: number of bytes of one row.
        native_nbytes: number of bytes of one row in the ``bytes`` form.
        alignment: the address of a row must be a multiple of this number of bytes.
        struct_dtype: NumPy structured dtype of one ``bytes`` row, with a field for each leaf path.

    Example:
        >>> import numpy as np
        >>> from gymnasium import spaces
        >>> room = spaces.Box(0, 255, (2, 3), np.uint8)
        >>> layout = Layout.from_space(spaces.Dict(health=spaces.Discrete(10), room=room))
        >>> print(layout.describe())
        path    kind      dtype  shape   byte   bounds
        ----------------------------------------------
        health  discrete  int64  scalar  0..8   [0, 9]
        room    box       uint8  2x3     8..14  [0, 255]
        2 leaves, 16 bytes as uint8 (16,)
        >>> rows = layout.zeros(4)
        >>> _ = layout.pack({"health": 7, "room": np.ones((2, 3), np.uint8)}, rows[1])
        >>> layout.view(rows)["health"]
        array([0, 7, 0, 0])
        >>> layout.unpack(rows[1])["room"]
        array([[1, 1, 1],
               [1, 1, 1]], dtype=uint8)
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
        self.name = name  # of the root in error messages; not compared
        self.leaves = leaves_of(spec, one_hot)
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
        # Nested as `view` nests the leaves: the name of each leaf's field.
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
        """Return the layout of a space of Gymnasium or old ``gym``, or of one that looks like it.

        Args:
            space: any of the ten Gymnasium spaces, nested or not, subclasses included.
            form: ``"bytes"`` (native dtypes, lossless, zero-copy views) or ``"float32"`` (one plain
                vector; integers beyond 2**24 and float64 lose precision).
            one_hot: with ``"float32"``, write discrete values one-hot, as Gymnasium flattens them.
            max_len: the maximum number of items of a Sequence, of nodes and edges of a Graph, and
                of characters of a space of strings other than Text. One number for all, or a
                mapping from path (``"inventory"``, ``"map.nodes"``, ``"map.edges"``) to number.
            name: of the root in error messages, such as ``obs``.

        Raises:
            LayoutError: a part of the space has no fixed size and no `max_len`, or is of an unknown
                kind. The message names the part.
        """
        return cls(spec_from_space(space, max_len, name), form, one_hot, name)

    def to_json(self) -> str:
        """Return this layout as JSON; `from_json` makes an equal layout from it."""
        return self._key

    @classmethod
    def from_json(cls, text: str, name: str = "space") -> Layout:
        """Return the layout that `to_json` wrote.

        Raises:
            LayoutError: `to_json` can't have written this.
        """
        try:
            spec, form, one_hot = json.loads(text)
            check_spec(spec)
            return cls(spec, form, bool(one_hot), name)
        except LayoutError:
            raise
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise LayoutError(f"{name}: not a layout ({error!s:.200})") from None

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
        """Return zeros for a batch of rows: shape ``(*batch, *self.shape)``, dtype `dtype`."""
        return np.zeros((*batch, *self.shape), self.dtype)

    @property
    def packer(self) -> Packer:
        """Packer of this layout, made when first asked for."""
        if self._packer is None:
            self._packer = Packer(self)
        return self._packer

    def pack(self, value: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Write one value of the space into one row.

        Args:
            value: a member of the space. Arrays of another dtype are cast if no value changes, or
                between float dtypes. Bounds are not checked (see `shoal.check_env`).
            out: C-contiguous, writeable, aligned array of `shape` and `dtype`; a new array by
                default.

        Returns:
            `out`.

        Raises:
            LayoutError: the value doesn't fit (the message names the leaf), or `out` is unsuitable.
                Nothing is written to an unsuitable `out`.
        """
        if out is None:
            out = np.zeros(self.shape, self.dtype)
        self.packer.pack(value, out)
        return out

    def unpack(self, array: np.ndarray) -> Any:
        """Return the value that `pack` wrote, made of new objects.

        Args:
            array: one row, of `shape` and `dtype` (or a NumPy scalar, if the shape is ``()``).

        Raises:
            LayoutError: `array` is not a row, or holds a count or tag that is out of bounds.
        """
        if isinstance(array, np.generic):
            array = np.asarray(array)
        return self.packer.unpack(array)

    def view(self, array: Any) -> Any:
        """Return a batch of rows nested as the space, as views that copy nothing.

        Args:
            array: NumPy array or torch tensor (any device) of shape ``(*batch, *self.shape)``.

        Returns:
            Dicts and tuples as in the space, with an array of shape ``(*batch, *leaf.shape)`` for
            each leaf. Text becomes ``{"length", "chars"}`` (codes: 0 is padding, i stands
            for the i-th character of the charset, sorted), Sequence ``{"length", "items"}``, Graph
            ``{"num_nodes", "num_edges", "nodes", "edges", "edge_links"}``, OneOf
            ``{"tag", "options"}``.

        Raises:
            LayoutError: `array` has another shape, or torch lacks a leaf's dtype.
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
        ):  # several times as fast as slices
            fields = array.view(self.struct_dtype)[..., 0]
        else:
            batch = tuple(array.shape[:ndim])
            views = [self._leaf_view(array, leaf, batch) for leaf in self.leaves]
            fields = dict(zip(self.struct_dtype.names or (), views))
        return _nest(self._names, fields)

    def view_leaves(self, array: Any) -> dict[str, Any]:
        """Return the leaves of a batch of rows by path: views as those of `view`, not nested.

        Args:
            array: NumPy array or torch tensor of shape ``(*batch, *self.shape)``.
        """
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
        """Gymnasium space that the layout describes, made from the spec."""
        return space_from_spec(self.spec)

    @property
    def flat_space(self) -> Any:
        """Gymnasium space of one row: the space of the only leaf, or a Box for several leaves."""
        from gymnasium import spaces

        if self.form == "bytes" and len(self.leaves) == 1:
            return space_from_spec(leaf_spec(self.leaves[0]))
        if self.dtype == np.uint8 and any(leaf.dtype != "uint8" for leaf in self.leaves):
            return spaces.Box(0, 255, self.shape, np.uint8)
        low, high = self.flat_bounds()
        return spaces.Box(low, high, self.shape, self.dtype.type)

    def flat_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inclusive bounds of each element of a row: two arrays of `shape` and `dtype`.

        Not for ``bytes`` rows of leaves with several dtypes: their elements are raw bytes.
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
        """Return a text table of the leaves: what lies where in a row."""
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


def _bounds_text(leaf: Leaf) -> str:
    low, high = np.asarray(leaf.low), np.asarray(leaf.high)
    if low.size == 0 or high.size == 0:
        return "(empty)"
    if low.size == 1 and high.size == 1:
        return f"[{low.item():g}, {high.item():g}]"
    return f"[{low.min():g}, {high.max():g}] (varies)"


# -- views ------------------------------------------------------------------------------------


def _nested(spec: Mapping[str, Any], leaves: Iterator[Any]) -> Any:
    """Return `leaves` (one item for each leaf, in order) nested as the space is."""
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
    """Return the items of `fields` with these names, nested as the names are."""
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
    """Return bytes (on the last axis) viewed as the leaf's dtype."""
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
