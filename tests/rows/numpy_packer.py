"""The packer in NumPy alone: the oracle that the compiled one is compared with, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.rows.layout import Layout
from shoal.rows.spec import ARRAYS
from shoal.rows.values import (
    Node,
    check_row,
    coerce,
    from_float32,
    graph_items,
    graph_value,
    item,
    node_tree,
    parts,
    sequence_items,
    sequence_value,
    stored,
    tagged,
    text_codes,
    text_from_codes,
    to_float32,
)


class NumpyPacker:
    """Packs and unpacks values of a layout with NumPy alone."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.root = node_tree(layout.spec, layout.name)

    def pack(self, value: Any, out: np.ndarray) -> None:
        """Write `value` into the row `out`; see `Layout.pack`."""
        layout = self.layout
        check_row(layout.shape, layout.dtype, layout.alignment, out, write=True)
        native = np.zeros(layout.native_nbytes, np.uint8)
        self._pack(self.root, value, self._arrays(native), (0,))
        if layout.form == "float32":
            to_float32(layout.leaves, layout.one_hot, native, out)
        else:
            out.reshape(-1).view(np.uint8)[...] = native

    def unpack(self, array: np.ndarray) -> Any:
        """The value in the row `array`; see `Layout.unpack`."""
        layout = self.layout
        check_row(layout.shape, layout.dtype, layout.alignment, array, write=False)
        native = np.zeros(layout.native_nbytes, np.uint8)
        if layout.form == "float32":
            from_float32(layout.leaves, layout.one_hot, layout.name, array, native)
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
