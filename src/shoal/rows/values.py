"""Packing and unpacking of layouts with NumPy alone.

The oracle that the compiled packer (`pack.pyx`) is tested against, byte for byte. What both have in
common (the node tree, the checks, the rare kinds of spaces) stands here once and is called by both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import LayoutError
from shoal.rows.layout import (
    ARRAYS,
    Layout,
    Leaf,
    array_of,
    is_hot,
    join,
    key_from_json,
    step,
    where,
)

__all__ = ["NumpyPacker"]


@dataclass(frozen=True)
class Node:
    """A spec joined to its place in the leaf table: what both packers walk."""

    spec: Mapping[str, Any]
    name: str  # of the root, for error messages
    path: str
    leaf: int  # index of its first leaf
    num_leaves: int
    keys: tuple[Any, ...]  # dictionary keys of `children`; empty otherwise
    children: tuple[Node, ...]


def node_tree(spec: Mapping[str, Any], name: str, path: str = "", leaf: int = 0) -> Node:
    """The tree of nodes of a spec, whose first leaf is number `leaf` of the table."""
    kind, first = spec["kind"], leaf
    keys: tuple[Any, ...] = ()
    steps: list[tuple[str, Any]] = []
    if kind in ARRAYS:
        leaf += 1
    elif kind == "Text":
        leaf += 2
    elif kind == "Dict":
        keys = tuple(key_from_json(key) for key, _ in spec["items"])
        steps = [(step(key), child) for key, (_, child) in zip(keys, spec["items"])]
    elif kind in ("Tuple", "OneOf"):
        leaf += kind == "OneOf"
        steps = [(f"[{i}]", child) for i, child in enumerate(spec["items"])]
    elif kind == "Sequence":
        leaf += 1
        steps = [(".items", spec["item"])]
    else:
        leaf += 2
        steps = [(".nodes", spec["node"])]
        if spec["edge"] is not None:
            steps.append((".edges", spec["edge"]))
    children = []
    for name_step, child in steps:
        children.append(node_tree(child, name, join(path, name_step), leaf))
        leaf += children[-1].num_leaves
    if kind == "Graph" and spec["edge"] is not None:
        leaf += 1  # edge_links, after the edges
    return Node(spec, name, path, first, leaf - first, keys, tuple(children))


class NumpyPacker:
    """Packs and unpacks values of a layout with NumPy alone, to the same bytes as the compiled one."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.root = node_tree(layout.spec, layout.name)

    def pack(self, value: Any, out: np.ndarray) -> None:
        """Write `value` into the row `out`; see `Layout.pack`."""
        layout = self.layout
        check_row(layout, out, write=True)
        native = np.zeros(layout.native_nbytes, np.uint8)
        self._pack(self.root, value, self._arrays(native), (0,))
        if layout.form == "float32":
            to_float32(layout, native, out)
        else:
            out.reshape(-1).view(np.uint8)[...] = native

    def unpack(self, array: np.ndarray) -> Any:
        """The value in the row `array`; see `Layout.unpack`."""
        layout = self.layout
        check_row(layout, array, write=False)
        native = np.zeros(layout.native_nbytes, np.uint8)
        if layout.form == "float32":
            from_float32(layout, array, native)
        else:
            native[...] = array.reshape(-1).view(np.uint8)
        return self._unpack(self.root, self._arrays(native), (0,))

    def _arrays(self, native: np.ndarray) -> list[np.ndarray]:
        if not self.layout.native_nbytes:
            return [np.zeros((1, *leaf.shape), leaf.dtype) for leaf in self.layout.leaves]
        record = native.view(self.layout.struct_dtype)
        return [record[name] for name in record.dtype.names or ()]

    def _pack(self, node: Node, value: Any, arrays: list[np.ndarray], index: tuple) -> None:
        kind, first = node.spec["kind"], node.leaf
        if kind in ARRAYS:
            arrays[first][index] = coerce(value, self.layout.leaves[first], self.layout.name)
        elif kind == "Dict":
            for key, child in zip(node.keys, node.children):
                self._pack(child, item(value, key, node, child), arrays, index)
        elif kind == "Tuple":
            for child, part in zip(node.children, parts(value, node)):
                self._pack(child, part, arrays, index)
        elif kind == "OneOf":
            tag, part = tagged(value, node)
            arrays[first][index] = tag
            self._pack(node.children[tag], part, arrays, index)
        elif kind == "Text":
            codes = text_codes(value, node)
            arrays[first][index] = len(codes)
            arrays[first + 1][(*index, slice(len(codes)))] = codes
        elif kind == "Sequence":
            items = sequence_items(value, node)
            arrays[first][index] = len(items)
            for i, part in enumerate(items):
                self._pack(node.children[0], part, arrays, (*index, i))
        else:
            nodes, edges, links = graph_items(value, node)
            arrays[first][index] = len(nodes)
            arrays[first + 1][index] = -1 if edges is None else len(edges)
            for i, part in enumerate(nodes):
                self._pack(node.children[0], part, arrays, (*index, i))
            for i, part in enumerate(edges or ()):
                self._pack(node.children[1], part, arrays, (*index, i))
            if edges:
                arrays[first + node.num_leaves - 1][(*index, slice(len(edges)))] = links

    def _unpack(self, node: Node, arrays: list[np.ndarray], index: tuple) -> Any:
        kind, first, spec = node.spec["kind"], node.leaf, node.spec
        if kind == "Discrete":
            return arrays[first][index]
        if kind in ARRAYS:
            return np.array(arrays[first][index])
        if kind == "Dict":
            return {
                key: self._unpack(child, arrays, index)
                for key, child in zip(node.keys, node.children)
            }
        if kind == "Tuple":
            return tuple(self._unpack(child, arrays, index) for child in node.children)
        if kind == "OneOf":
            tag = stored(arrays[first][index], 0, len(node.children) - 1, node, ".tag")
            return np.int64(tag), self._unpack(node.children[tag], arrays, index)
        if kind == "Text":
            most = spec["max_length"] if spec["charset"] else 0
            length = stored(arrays[first][index], 0, most, node, ".length")
            return text_from_codes(arrays[first + 1][index][:length], spec)
        if kind == "Sequence":
            child = node.children[0]
            length = stored(arrays[first][index], 0, spec["max_len"], node, ".length")
            items = [self._unpack(child, arrays, (*index, i)) for i in range(length)]
            return sequence_value(items, spec)
        num_nodes = stored(arrays[first][index], 0, spec["max_nodes"], node, ".num_nodes")
        nodes = [self._unpack(node.children[0], arrays, (*index, i)) for i in range(num_nodes)]
        edges = links = None
        num_edges = stored(arrays[first + 1][index], -1, spec["max_edges"], node, ".num_edges")
        if len(node.children) == 2 and num_edges >= 0:
            edges = [self._unpack(node.children[1], arrays, (*index, i)) for i in range(num_edges)]
            links = np.array(arrays[first + node.num_leaves - 1][index][:num_edges])
        return graph_value(nodes, edges, links, spec)


def check_row(layout: Layout, array: Any, write: bool) -> None:
    """Raise LayoutError unless `array` is one row of `layout` that memory can be copied to/from."""
    what = "output buffer" if write else "row"
    if not isinstance(array, np.ndarray):
        raise LayoutError(f"{what}: expected a NumPy array, got {type(array).__name__}")
    if array.dtype != layout.dtype or array.shape != layout.shape:
        raise LayoutError(
            f"{what}: expected shape {layout.shape} and dtype {layout.dtype}, "
            f"got shape {array.shape} and dtype {array.dtype}"
        )
    if not array.flags.c_contiguous:
        raise LayoutError(f"{what}: expected a C-contiguous array, got strides {array.strides}")
    if array.ctypes.data % layout.alignment:  # a row of raw bytes may lie anywhere
        raise LayoutError(f"{what}: expected an address aligned to {layout.alignment} bytes")
    if write and not array.flags.writeable:
        raise LayoutError(f"{what}: expected a writeable array, got a read-only one")


def coerce(value: Any, leaf: Leaf, name: str) -> np.ndarray:
    """`value` as an array of the leaf's own dtype and shape, if no information is lost by it.

    Float to float and integer to float round; every other cast must keep each value.
    """
    dtype, shape = np.dtype(leaf.dtype), leaf.shape[leaf.depth :]
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # a ragged list, a tensor elsewhere
        raise LayoutError(f"{where(name, leaf.path)}: {error}") from None
    if array.shape != shape:
        raise LayoutError(
            f"{where(name, leaf.path)}: expected shape {shape}, got {array.shape} "
            f"({type(value).__name__})"
        )
    if array.dtype == dtype:
        return array if array.dtype.isnative else array.astype(dtype)
    if array.dtype.kind not in "biuf":
        raise LayoutError(
            f"{where(name, leaf.path)}: expected {dtype} of shape {shape}, "
            f"got {type(value).__name__} ({array.dtype})"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind != "f" and not (cast == array).all():
        wrong = array[cast != array].flat[0] if array.ndim else array[()]
        raise LayoutError(f"{where(name, leaf.path)}: value {wrong} doesn't fit {dtype}")
    return cast


def stored(number: Any, low: int, high: int, node: Node, suffix: str) -> int:
    """A count or tag read from a row, once it is known to be within its bounds."""
    if not low <= number <= high:
        raise LayoutError(
            f"{where(node.name, join(node.path, suffix))}: the row holds {number}, "
            f"expected {low}..{high}"
        )
    return int(number)


def item(value: Any, key: Any, node: Node, child: Node) -> Any:
    """``value[key]`` of a Dict's value, or an error that names the missing part."""
    try:
        return value[key]
    except (KeyError, IndexError, TypeError, ValueError):
        if isinstance(value, Mapping):
            message = f"{where(child.name, child.path)}: missing; got keys {list(value)}"
        else:
            message = f"{where(node.name, node.path)}: expected a dict, got {type(value).__name__}"
        raise LayoutError(message) from None


def parts(value: Any, node: Node) -> Any:
    """The parts of a Tuple's value, whose number is checked."""
    try:
        count = len(value)
    except TypeError:
        count = -1
    if count != len(node.children) or isinstance(value, (str, bytes, Mapping)):
        raise LayoutError(
            f"{where(node.name, node.path)}: expected a tuple of {len(node.children)} parts, got "
            f"{type(value).__name__}" + (f" of {count}" if count >= 0 else "")
        )
    return value


def tagged(value: Any, node: Node) -> tuple[int, Any]:
    """The (index, value) pair of a OneOf's value, checked."""
    options = len(node.children)
    if isinstance(value, tuple) and len(value) == 2:
        tag = value[0]
        if isinstance(tag, (int, np.integer)) and 0 <= tag < options:
            return int(tag), value[1]
    raise LayoutError(
        f"{where(node.name, node.path)}: expected (index below {options}, value), got {value!r}"
    )


def text_codes(value: Any, node: Node) -> list[int]:
    """A Text's value as codes from 1 (the first character of the charset)."""
    spec, place = node.spec, where(node.name, node.path)
    if not isinstance(value, str):
        raise LayoutError(f"{place}: expected str, got {type(value).__name__}")
    if len(value) > spec["max_length"]:
        raise LayoutError(f"{place}: {len(value)} characters, maximum {spec['max_length']}")
    codes = [spec["charset"].find(char) + 1 for char in value]
    if 0 in codes:
        raise LayoutError(f"{place}: character {value[codes.index(0)]!r} is not in the charset")
    return codes


def text_from_codes(codes: np.ndarray, spec: Mapping[str, Any]) -> str:
    """The inverse of `text_codes`; codes of no character read as the first or the last one."""
    chars = spec["charset"]
    return "".join([chars[min(max(int(code), 1), len(chars)) - 1] for code in codes])


def sequence_items(value: Any, node: Node) -> Any:
    """The items of a Sequence's value, taken apart if stacked; their number is checked."""
    stacked_as = node.spec["item"] if node.spec["stack"] else None
    return _counted(stacked_as, value, node.spec["max_len"], node.name, node.path)


def sequence_value(items: list[Any], spec: Mapping[str, Any]) -> Any:
    """A Sequence's value from its items."""
    return stack(spec["item"], items) if spec["stack"] else tuple(items)


def graph_items(value: Any, node: Node) -> tuple[Any, Any, Any]:
    """Nodes, edges (or None) and links of a Graph's value, whose numbers are checked."""
    spec, place = node.spec, where(node.name, node.path)
    if not hasattr(value, "nodes"):
        raise LayoutError(f"{place}: expected a GraphInstance, got {type(value).__name__}")
    nodes = _counted(
        spec["node"], value.nodes, spec["max_nodes"], node.name, join(node.path, ".nodes")
    )
    if value.edges is None:
        return nodes, None, None
    if spec["edge"] is None:
        raise LayoutError(f"{where(node.name, join(node.path, '.edges'))}: expected None")
    edges = _counted(
        spec["edge"], value.edges, spec["max_edges"], node.name, join(node.path, ".edges")
    )
    links = np.asarray(value.edge_links)
    if links.shape != (len(edges), 2):
        raise LayoutError(
            f"{where(node.name, join(node.path, '.edge_links'))}: expected shape "
            f"({len(edges)}, 2), got {links.shape}"
        )
    if links.dtype.kind not in "iu" or not ((links >= 0) & (links < len(nodes))).all():
        raise LayoutError(
            f"{where(node.name, join(node.path, '.edge_links'))}: expected indices of the "
            f"{len(nodes)} nodes, got {links.tolist()} ({links.dtype})"
        )
    return nodes, edges, links


def graph_value(nodes: list[Any], edges: Any, links: Any, spec: Mapping[str, Any]) -> Any:
    """A Graph's value from its parts; links are brought below the number of nodes."""
    from gymnasium.spaces import GraphInstance

    if edges is None or (edges and not nodes):
        return GraphInstance(stack(spec["node"], nodes), None, None)
    links %= max(len(nodes), 1)
    return GraphInstance(stack(spec["node"], nodes), stack(spec["edge"], edges), links)


def _counted(
    stacked_as: Mapping[str, Any] | None, items: Any, most: int, name: str, path: str
) -> Any:
    """Items whose number is checked, taken apart first if they are `stacked_as` a spec."""
    try:
        if stacked_as is not None:
            items = unstack(stacked_as, items)
        count = len(items)
    except (TypeError, ValueError, LookupError):
        expected = "a sequence" if stacked_as is None else "stacked items"
        raise LayoutError(
            f"{where(name, path)}: expected {expected}, got {type(items).__name__}"
        ) from None
    if count > most:
        raise LayoutError(
            f"{where(name, path)}: {count} items, but the declared maximum is {most}; "
            "give a larger max_len"
        )
    return items


def unstack(spec: Mapping[str, Any], value: Any) -> list[Any]:
    """Take a batch apart into its items (batched as Gymnasium's `batch_space` does it)."""
    if spec["kind"] == "Dict" and spec["items"]:
        keys = [key_from_json(key) for key, _ in spec["items"]]
        columns = [unstack(child, value[key]) for key, (_, child) in zip(keys, spec["items"])]
        return [dict(zip(keys, row)) for row in same_length(columns)]
    if spec["kind"] == "Tuple" and spec["items"]:
        pairs = same_length([spec["items"], value])
        return same_length([unstack(child, part) for child, part in pairs])
    return list(value)


def same_length(columns: list[Any]) -> list[tuple]:
    """``zip(*columns, strict=True)``, which Python 3.8 doesn't have."""
    if len(set(map(len, columns))) > 1:
        raise ValueError(f"expected columns of one length, got {list(map(len, columns))}")
    return list(zip(*columns))


def stack(spec: Mapping[str, Any], items: list[Any]) -> Any:
    """Put items together into a batch: the inverse of `unstack`."""
    kind = spec["kind"]
    if kind in ARRAYS:
        dtype, shape = array_of(spec)
        return np.array(items, dtype).reshape(len(items), *shape)
    if kind == "Dict":
        keys = [key_from_json(key) for key, _ in spec["items"]]
        return {
            key: stack(child, [value[key] for value in items])
            for key, (_, child) in zip(keys, spec["items"])
        }
    if kind == "Tuple":
        return tuple(
            stack(child, [value[i] for value in items]) for i, child in enumerate(spec["items"])
        )
    return tuple(items)


# -- the float32 form -------------------------------------------------------------------------


def to_float32(layout: Layout, native: np.ndarray, out: np.ndarray) -> None:
    """Cast one native row (bytes) into one float32 row."""
    for leaf in layout.leaves:
        values = _native_leaf(native, leaf)
        part = out[leaf.start : leaf.start + leaf.size]
        if leaf.size == leaf.count:
            part[...] = values
            if is_hot(leaf, layout.one_hot):  # one category each: the hot element is always 1
                part[...] = values == np.broadcast_to(leaf.low, leaf.shape).reshape(-1)
        else:
            part[...] = 0
            at = 0
            for value, low, n in _categories(leaf, values):
                if 0 <= value - low < n:
                    part[at + value - low] = 1
                at += n


def from_float32(layout: Layout, row: np.ndarray, native: np.ndarray) -> None:
    """Invert `to_float32`; integers are rounded and clipped to their bounds."""
    for leaf in layout.leaves:
        values = _native_leaf(native, leaf)
        part = row[leaf.start : leaf.start + leaf.size]
        if np.isnan(part).any() and leaf.dtype[:5] != "float":
            raise LayoutError(f"{where(layout.name, leaf.path)}: NaN can't become {leaf.dtype}")
        if is_hot(leaf, layout.one_hot):
            at = 0
            for i, (_, first, n) in enumerate(_categories(leaf, values)):
                hot = part[at : at + n]
                values[i] = first + int(hot.argmax()) if hot.any() else 0
                at += n
        elif leaf.dtype[:5] == "float":
            values[...] = part
        else:
            # In 64-bit arithmetic: bounds beyond 2**53 would round past the dtype's range.
            low, high = (np.broadcast_to(b, leaf.shape).reshape(-1) for b in (leaf.low, leaf.high))
            whole = np.rint(part.astype(np.float64))
            below, above = whole <= low, whole >= high
            inside = np.where(below | above, 0, whole).astype(leaf.dtype)
            empty = (whole == 0) & leaf.optional
            values[...] = np.where(below, low, np.where(above, high, inside))
            values[empty] = 0


def _native_leaf(native: np.ndarray, leaf: Leaf) -> np.ndarray:
    if not leaf.nbytes:
        return np.zeros(0, leaf.dtype)
    return native[leaf.offset : leaf.offset + leaf.nbytes].view(leaf.dtype)


def _categories(leaf: Leaf, values: np.ndarray) -> Iterator[tuple[int, int, int]]:
    low = np.broadcast_to(leaf.low, leaf.shape).reshape(-1)
    n = leaf.num_categories
    assert n is not None
    return zip(values.tolist(), low.tolist(), n.reshape(-1).tolist())
