"""Checks of values, and the rare kinds of spaces (Text, Sequence, Graph, OneOf), for the packer.

The compiled packer (`pack.pyx`) calls these functions for all that is rare or wrong. The packer in
tests/rows/numpy_packer.py, which `pack.pyx` is compared with byte for byte, calls them too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import LayoutError
from shoal.rows.spec import ARRAYS, Leaf, array_of, is_hot, join, key_from_json, step, where

__all__ = [
    "Node",
    "check_row",
    "coerce",
    "from_float32",
    "graph_items",
    "graph_value",
    "item",
    "node_tree",
    "parts",
    "sequence_items",
    "sequence_value",
    "stored",
    "tagged",
    "text_codes",
    "text_from_codes",
    "to_float32",
]


@dataclass(frozen=True)
class Node:
    """A spec with its place in the table of leaves. Packers walk a tree of nodes."""

    spec: Mapping[str, Any]
    name: str  # of the root, for error messages
    path: str
    leaf: int  # index of its first leaf
    num_leaves: int
    keys: tuple[Any, ...]  # dictionary keys of `children`; empty otherwise
    children: tuple[Node, ...]


def node_tree(spec: Mapping[str, Any], name: str, path: str = "", leaf: int = 0) -> Node:
    """Return the tree of nodes of a spec, whose first leaf is number `leaf` of the table."""
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


def check_row(
    shape: tuple[int, ...], dtype: np.dtype, alignment: int, array: Any, write: bool
) -> None:
    """Raise LayoutError unless memory can be copied to or from the row `array`.

    Args:
        shape, dtype, alignment: of a row; see `Layout`.
        write: check also that `array` is writeable.
    """
    what = "output buffer" if write else "row"
    if not isinstance(array, np.ndarray):
        raise LayoutError(f"{what}: expected a NumPy array, got {type(array).__name__}")
    if array.dtype != dtype or array.shape != shape:
        raise LayoutError(
            f"{what}: expected shape {shape} and dtype {dtype}, "
            f"got shape {array.shape} and dtype {array.dtype}"
        )
    if not array.flags.c_contiguous:
        raise LayoutError(f"{what}: expected a C-contiguous array, got strides {array.strides}")
    if array.ctypes.data % alignment:  # a row of raw bytes may lie anywhere
        raise LayoutError(f"{what}: expected an address aligned to {alignment} bytes")
    if write and not array.flags.writeable:
        raise LayoutError(f"{what}: expected a writeable array, got a read-only one")


def coerce(value: Any, leaf: Leaf, name: str) -> np.ndarray:
    """Return `value` as an array of the leaf's dtype and of the shape of one item of the leaf.

    Casts from float to float and from integer to float round. Other casts must keep each value.

    Raises:
        LayoutError: the shape differs, or a value doesn't fit the dtype.
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
    """Return a count or tag that was read from a row, after checking its bounds."""
    if not low <= number <= high:
        raise LayoutError(
            f"{where(node.name, join(node.path, suffix))}: the row holds {number}, "
            f"expected {low}..{high}"
        )
    return int(number)


def item(value: Any, key: Any, node: Node, child: Node) -> Any:
    """Return ``value[key]`` of a Dict's value, or raise LayoutError that names the missing part."""
    try:
        return value[key]
    except (KeyError, IndexError, TypeError, ValueError):
        if isinstance(value, Mapping):
            message = f"{where(child.name, child.path)}: missing; got keys {list(value)}"
        else:
            message = f"{where(node.name, node.path)}: expected a dict, got {type(value).__name__}"
        raise LayoutError(message) from None


def parts(value: Any, node: Node) -> Any:
    """Return the parts of a Tuple's value, after checking their number."""
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
    """Return the (index, value) pair of a OneOf's value, after checking it."""
    options = len(node.children)
    if isinstance(value, tuple) and len(value) == 2:
        tag = value[0]
        if isinstance(tag, (int, np.integer)) and 0 <= tag < options:
            return int(tag), value[1]
    raise LayoutError(
        f"{where(node.name, node.path)}: expected (index below {options}, value), got {value!r}"
    )


def text_codes(value: Any, node: Node) -> list[int]:
    """Return a Text's value as codes from 1 (the first character of the charset)."""
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
    """Return the text of some codes (integers, 1-D); others read as the first or last character."""
    chars = spec["charset"]
    return "".join([chars[min(max(int(code), 1), len(chars)) - 1] for code in codes])


def sequence_items(value: Any, node: Node) -> Any:
    """Return the items of a Sequence's value (stacked or not), after checking their number."""
    stacked_as = node.spec["item"] if node.spec["stack"] else None
    return _counted(stacked_as, value, node.spec["max_len"], node.name, node.path)


def sequence_value(items: list[Any], spec: Mapping[str, Any]) -> Any:
    """Return a Sequence's value made of its items."""
    return stack(spec["item"], items) if spec["stack"] else tuple(items)


def graph_items(value: Any, node: Node) -> tuple[Any, Any, Any]:
    """Return nodes, edges (or None) and links of a Graph's value, after checking their numbers.

    The links are an integer array of shape ``(len(edges), 2)``: indices of nodes.
    """
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
    """Return a Graph's value made of its parts; links are taken modulo the number of nodes."""
    from gymnasium.spaces import GraphInstance

    if edges is None or (edges and not nodes):
        return GraphInstance(stack(spec["node"], nodes), None, None)
    links %= max(len(nodes), 1)
    return GraphInstance(stack(spec["node"], nodes), stack(spec["edge"], edges), links)


def _counted(
    stacked_as: Mapping[str, Any] | None, items: Any, most: int, name: str, path: str
) -> Any:
    """Return `items` after checking their number; unstack them first if `stacked_as` is a spec."""
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
    """Return the items of a batch that is laid out as by Gymnasium's `batch_space`."""
    if spec["kind"] == "Dict" and spec["items"]:
        keys = [key_from_json(key) for key, _ in spec["items"]]
        columns = [unstack(child, value[key]) for key, (_, child) in zip(keys, spec["items"])]
        return [dict(zip(keys, row)) for row in same_length(columns)]
    if spec["kind"] == "Tuple" and spec["items"]:
        pairs = same_length([spec["items"], value])
        return same_length([unstack(child, part) for child, part in pairs])
    return list(value)


def same_length(columns: list[Any]) -> list[tuple]:
    """Return ``list(zip(*columns, strict=True))``, which Python 3.8 doesn't have."""
    if len(set(map(len, columns))) > 1:
        raise ValueError(f"expected columns of one length, got {list(map(len, columns))}")
    return list(zip(*columns))


def stack(spec: Mapping[str, Any], items: list[Any]) -> Any:
    """Return items as one batch: the inverse of `unstack`."""
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


def to_float32(leaves: Sequence[Leaf], one_hot: bool, native: np.ndarray, out: np.ndarray) -> None:
    """Cast one row of the ``bytes`` form into one row of the ``float32`` form.

    Args:
        leaves, one_hot: of the layout.
        native: uint8, shape ``(layout.native_nbytes,)``.
        out: float32, shape ``layout.shape``; written.
    """
    for leaf in leaves:
        values = _native_leaf(native, leaf)
        part = out[leaf.start : leaf.start + leaf.size]
        if leaf.size == leaf.count:
            part[...] = values
            if is_hot(leaf, one_hot):  # one category each: the hot element is always 1
                part[...] = values == np.broadcast_to(leaf.low, leaf.shape).reshape(-1)
        else:
            part[...] = 0
            at = 0
            for value, low, n in _categories(leaf, values):
                if 0 <= value - low < n:
                    part[at + value - low] = 1
                at += n


def from_float32(
    leaves: Sequence[Leaf], one_hot: bool, name: str, row: np.ndarray, native: np.ndarray
) -> None:
    """Cast one row of the ``float32`` form into one row of the ``bytes`` form.

    Integers are rounded and clipped to their bounds.

    Args:
        leaves, one_hot, name: of the layout.
        row: float32, shape ``layout.shape``.
        native: uint8, shape ``(layout.native_nbytes,)``; written.

    Raises:
        LayoutError: an integer's value is NaN.
    """
    for leaf in leaves:
        values = _native_leaf(native, leaf)
        part = row[leaf.start : leaf.start + leaf.size]
        if np.isnan(part).any() and leaf.dtype[:5] != "float":
            raise LayoutError(f"{where(name, leaf.path)}: NaN can't become {leaf.dtype}")
        if is_hot(leaf, one_hot):
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
