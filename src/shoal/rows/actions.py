"""Flat actions, which any policy can produce, and the environment's own actions.

If the environment's action space is one array, the flat space is the same space. Several leaves
become one MultiDiscrete if all are discrete, one Box if all are continuous, and a Dict of the two
otherwise. Every member of the flat space decodes to a member of the environment's space.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shoal.errors import ActionError, LayoutError
from shoal.rows.bounds import Bounds
from shoal.rows.layout import Layout
from shoal.rows.spec import (
    ARRAYS,
    Leaf,
    box_spec,
    choice_spec,
    key_from_json,
    leaf_spec,
    leaves_of,
    where,
)

__all__ = ["ActionLayout"]

# An integer Box with more values than this is continuous: not a choice between categories.
MOST_CATEGORIES = 2**31 - 1

# Spaces with more choices than this (a Discrete(2**31), an image as action) have no masks: a mask
# would take megabytes in each row, and no environment fills it.
MOST_MASKED = 2**16

# Of one agent's action: each number of it has bounds as Python objects.
MOST_NBYTES = 2**26


class ActionLayout:
    """The flat form of one agent's actions, and its way back to the environment's own.

    Attributes:
        native: layout of the environment's own action space (``bytes`` form).
        flat: layout of a flat action (``bytes`` form): one row of an array of actions.
        identity: the flat row has the bytes of the native row.
        num_masked: number of entries of an action mask: the categories of all discrete elements, in
            the order of the leaves. 0 if nothing is discrete, or if there are more than
            `MOST_MASKED`.
    """

    def __init__(self, native: Layout):
        if native.nbytes > MOST_NBYTES:
            raise LayoutError(
                f"{native.name}: an action can have {MOST_NBYTES} bytes, got {native.nbytes}"
            )
        self.native = native
        leaves = native.leaves
        discrete = [leaf for leaf in leaves if is_discrete(leaf)]
        continuous = [leaf for leaf in leaves if not is_discrete(leaf)]
        num_choices = sum(int(count) for count in all_choices(discrete)[1])
        self.num_masked = num_choices if num_choices <= MOST_MASKED else 0
        self.identity = len(leaves) == 1 and leaves[0].kind in ("box", "discrete", "binary")
        if self.identity:
            spec = leaf_spec(leaves[0])
        else:
            parts: dict[str, Any] = {}
            if continuous:
                parts["continuous"] = _box(continuous)
            if discrete or not leaves:
                parts["discrete"] = choice_spec(*all_choices(discrete))
            items = [[name, part] for name, part in parts.items()]
            spec = {"kind": "Dict", "items": items} if len(parts) == 2 else items[0][1]
        self.flat = Layout(spec, name="action")
        # For each discrete leaf: the keys to its part of a nested mask, and the part's entries.
        self.mask_parts = [
            (keys, leaf.kind, int(choices(leaf)[1].sum()))
            for keys, leaf in zip(leaf_keys(native.spec), leaves)
            if is_discrete(leaf)
        ]
        self._only = "continuous" if continuous else "discrete"  # if there is just one part

    @classmethod
    def from_space(
        cls, space: Any, max_len: int | Mapping[str, int] | None = None, name: str = "action"
    ) -> ActionLayout:
        """Return the layout of an action space; see `Layout.from_space`."""
        return cls(Layout.from_space(space, max_len=max_len, name=name))

    @functools.cached_property
    def flat_space(self) -> Any:
        """Gymnasium space of a flat action; always the same object."""
        return self.flat.space

    def decode(self, row: np.ndarray) -> Any:
        """Return the environment's own action for one flat row.

        Args:
            row: array of shape ``flat.shape`` and dtype ``flat.dtype``.
        """
        if self.identity:
            return self.native.unpack(row)
        return self.native.unpack(self.to_native(row))

    def runs(self) -> list[tuple[str, str, int, int, int, list, list]]:
        """Return which elements of a flat row each native leaf is made of, in the leaves' order.

        Each run is (flat dtype, native dtype, flat byte, native byte, count, low, high). The bounds
        are lists of `count` floats.
        """
        parts = {leaf.path or self._only: leaf for leaf in self.flat.leaves}
        taken = dict.fromkeys(parts, 0)
        runs = []
        for leaf in self.native.leaves:
            part = "discrete" if is_discrete(leaf) else "continuous"
            source = parts[part]
            at = source.offset + taken[part] * np.dtype(source.dtype).itemsize
            runs.append(
                (source.dtype, leaf.dtype, at, leaf.offset, leaf.count, *float_bounds(leaf))
            )
            taken[part] += leaf.count
        return runs

    def to_native(self, rows: np.ndarray) -> np.ndarray:
        """Return flat rows as native rows; continuous values are clipped to the bounds.

        Args:
            rows: shape ``(*batch, *flat.shape)``, dtype ``flat.dtype``.

        Returns:
            Array of shape ``(*batch, *native.shape)`` and dtype ``native.dtype``.
        """
        batch = rows.shape[: rows.ndim - len(self.flat.shape)]
        flat = rows.reshape(*batch, -1).view(np.uint8)
        native = self.native.zeros(*batch)
        into = native.reshape(*batch, -1).view(np.uint8)
        for source, target, at, to, count, low, high in self.runs():
            from_dtype, to_dtype = np.dtype(source), np.dtype(target)
            values = flat[..., at : at + count * from_dtype.itemsize].view(from_dtype)
            if from_dtype.kind == "f":
                if to_dtype.kind != "f":
                    values = np.rint(values)
                values = np.clip(values.astype(np.float64), low, high)
            into[..., to : to + count * to_dtype.itemsize].view(to_dtype)[...] = values
        return native

    @functools.cached_property
    def bounds(self) -> Bounds:
        """Bounds of flat rows."""
        return Bounds(self.flat)

    def encode(self, action: Any, out: np.ndarray) -> None:
        """Check one flat action and write it into one row.

        Args:
            action: a member of `flat_space`.
            out: array of shape ``flat.shape`` and dtype ``flat.dtype``.

        Raises:
            ActionError: the action is not in `flat_space`.
        """
        try:
            self.flat.packer.pack(action, out)
        except LayoutError as error:
            raise ActionError(f"{error}; the action space is {self.flat_space}") from None
        self.check(out)

    def check(self, rows: np.ndarray) -> None:
        """Raise ActionError unless every element of `rows` is within its bounds.

        Args:
            rows: array of shape ``(*batch, *flat.shape)`` and dtype ``flat.dtype``.
        """
        if not self.bounds.hold(rows):
            self._explain(rows)

    def _explain(self, rows: np.ndarray) -> None:
        """Raise ActionError that says what is wrong with `rows`, or return if nothing is."""
        shape, dtype = self.flat.shape, self.flat.dtype
        if (
            not isinstance(rows, np.ndarray)
            or rows.dtype != dtype
            or rows.ndim < len(shape)
            or rows.shape[rows.ndim - len(shape) :] != shape
        ):
            got = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else repr(rows)
            raise ActionError(
                f"actions: expected an array of {dtype} of shape "
                f"(*batch{''.join(f', {n}' for n in shape)}), got {got}"
            )
        view = self.flat.view(rows)
        parts = view.items() if isinstance(view, dict) else [("", view)]
        for (name, values), leaf in zip(parts, self.flat.leaves):
            bad = np.argwhere(~((values >= leaf.low) & (values <= leaf.high)))  # NaN too
            if len(bad):
                index = tuple(int(i) for i in bad[0])
                low, high = (
                    np.broadcast_to(b, leaf.shape)[index[values.ndim - len(leaf.shape) :]]
                    for b in (leaf.low, leaf.high)
                )
                raise ActionError(
                    f"{where('action', name)}{list(index) if index else ''}: {values[index]} is "
                    f"outside [{low}, {high}]; the action space is {self.flat_space}"
                )


def _box(leaves: list[Leaf]) -> dict[str, Any]:
    """Return the spec of one Box that holds several continuous leaves."""
    dtype = np.result_type(
        np.float32, *[leaf.dtype for leaf in leaves if leaf.dtype[:5] == "float"]
    )
    low, high = (
        np.concatenate(
            [np.broadcast_to(getattr(leaf, b), leaf.shape).reshape(-1) for leaf in leaves]
        ).astype(dtype)
        for b in ("low", "high")
    )
    return box_spec(low, high)


def leaf_keys(spec: Mapping[str, Any], keys: tuple = ()) -> Iterator[tuple]:
    """Yield for each leaf of a spec the keys and indices that lead to it.

    All leaves of a Text, Sequence, Graph or OneOf get the keys of that space, because a mask has
    one part for the whole space.
    """
    if spec["kind"] in ARRAYS:
        yield keys
    elif spec["kind"] == "Dict":
        for key, child in spec["items"]:
            yield from leaf_keys(child, (*keys, key_from_json(key)))
    elif spec["kind"] == "Tuple":
        for i, child in enumerate(spec["items"]):
            yield from leaf_keys(child, (*keys, i))
    else:
        yield from [keys] * len(leaves_of(spec))


def is_discrete(leaf: Leaf) -> bool:
    """Return whether a leaf of an action space is a choice between categories."""
    if leaf.kind != "box":
        return True
    if leaf.dtype[:5] == "float":
        return False
    low, high = (np.asarray(b).astype(object) for b in (leaf.low, leaf.high))  # can't overflow
    return bool(np.all(high - low < MOST_CATEGORIES))


def float_bounds(leaf: Leaf) -> tuple[list[float], list[float]]:
    """Return the bounds of each element as floats that are not beyond the bounds.

    A bound of 64-bit integers may round to a float beyond it.
    """
    low, high = (np.broadcast_to(b, leaf.shape).reshape(-1).tolist() for b in (leaf.low, leaf.high))
    if leaf.dtype[:5] == "float":
        return low, high
    return (
        [float(b) if float(b) >= b else math.nextafter(b, math.inf) for b in low],
        [float(b) if float(b) <= b else math.nextafter(b, -math.inf) for b in high],
    )


def choices(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
    """Return first category and number of categories of each element of a leaf (int64, 1-D)."""
    low = np.broadcast_to(np.asarray(leaf.low, np.int64), leaf.shape).reshape(-1)
    count = np.broadcast_to(np.asarray(leaf.high, np.int64), leaf.shape).reshape(-1) - low + 1
    if leaf.kind == "text":  # code 0 is padding, and no action needs it
        low, count = low + 1, count - 1
    return low, count


def all_choices(leaves: list[Leaf]) -> tuple[np.ndarray, np.ndarray]:
    """Return first category and number of categories of each element of discrete leaves (int64)."""
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    low, count = zip(none, *map(choices, leaves))
    return np.concatenate(low), np.concatenate(count)


def choose_legal(
    layout: ActionLayout, rows: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> None:
    """Replace the discrete part of flat actions by uniform draws from the legal choices.

    Args:
        rows: shape ``(n, *flat.shape)``; only rows with a forbidden choice are changed.
        masks: bool, shape ``(n, num_masked)``. An element without a legal choice gets its first
            choice.
    """
    chosen = np.flatnonzero(~masks.all(axis=1))
    if not len(chosen):
        return
    view = layout.flat.view(rows)
    discrete = (view["discrete"] if isinstance(view, dict) else view).reshape(len(rows), -1)
    scores = np.where(masks[chosen], rng.random((len(chosen), layout.num_masked)), -1.0)
    at = 0
    low, count = all_choices([leaf for leaf in layout.native.leaves if is_discrete(leaf)])
    for i, (first, n) in enumerate(zip(low, count)):
        discrete[chosen, i] = first + scores[:, at : at + n].argmax(axis=1)
        at += n


class RandomActions:
    """Fills ``rows["actions"]`` with random legal actions, from a pool that is drawn once.

    Args:
        layout: of the actions.
        seed: of the pool and of the choice from the pool.
        size: number of actions in the pool.
    """

    def __init__(self, layout: ActionLayout, seed: int, size: int = 1024):
        space = copy.deepcopy(layout.flat_space)
        space.seed(seed)
        self.layout = layout
        self.rng = np.random.default_rng(seed)
        self.pool = layout.flat.zeros(size)
        for i in range(size):
            layout.flat.pack(space.sample(), self.pool[i : i + 1].reshape(layout.flat.shape))

    def __call__(self, rows: Mapping[str, np.ndarray]) -> None:
        actions = rows["actions"]
        actions[:] = self.pool[self.rng.integers(len(self.pool), size=len(actions))]
        if self.layout.num_masked:
            choose_legal(self.layout, actions, rows["action_masks"], self.rng)


def flat_mask(layout: ActionLayout, mask: Any) -> np.ndarray:
    """Return an action mask as one bool array of shape ``(layout.num_masked,)``.

    Args:
        mask: all entries in one array, or nested as the action space is, with the masks that
            Gymnasium's ``sample(mask=...)`` takes: ``(n,)`` for a Discrete, a tuple of such arrays
            for a MultiDiscrete, 0, 1 or 2 (both) for each element of a MultiBinary. None anywhere
            means that all is legal.

    Raises:
        ActionError: the number of entries is wrong.
    """
    if isinstance(mask, np.ndarray) and mask.size == layout.num_masked:
        return mask.reshape(-1) != 0
    parts = [np.zeros(0, bool)]
    for keys, kind, count in layout.mask_parts:
        part = mask
        for key in keys:
            part = None if part is None else part[key]
        if type(part) is np.ndarray and part.size == count:  # the fast path
            parts.append(part.reshape(-1))
            continue
        if part is None:
            entries = np.ones(count, bool)
        elif isinstance(part, (tuple, list)) and any(np.ndim(each) for each in part):
            entries = np.concatenate([np.reshape(each, -1) for each in part]) != 0
        else:
            entries = np.reshape(part, -1)
            if kind == "binary" and 2 * entries.size == count:
                entries = np.stack([entries != 1, entries != 0], axis=-1).reshape(-1)
            entries = entries != 0
        if entries.size != count:
            where_ = "".join(f"[{key!r}]" for key in keys)
            raise ActionError(f"action_mask{where_}: expected {count} entries, got {entries.size}")
        parts.append(entries)
    return np.concatenate(parts) != 0
