"""The default policy reads observations of every shape."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.trainers.config import Config
from shoal.trainers.policies import DefaultPolicy
from shoal.trainers.policies.default import leaf_kind, one_hot

SHAPES = [(), (1,), (3,), (2, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 5])
def test_numbers_of_any_shape_are_read_as_they_are(shape, count):
    """Alone in the space, and beside another leaf."""
    box = spaces.Box(-10, 10, shape, np.float32)
    actions = ActionLayout.from_space(spaces.Discrete(2))
    rng = np.random.default_rng(0)
    for space in (box, spaces.Dict({"a": box, "b": spaces.Discrete(3)})):
        layout = Layout.from_space(space)
        policy = DefaultPolicy(layout, actions, Config("x"))
        rows = layout.zeros(count)
        values = rng.normal(size=(count, *shape)).astype(np.float32)
        view = layout.view(rows)
        (view if space is box else view["a"])[...] = values
        seen = policy.numbers(torch.from_numpy(rows))
        assert torch.equal(seen, torch.from_numpy(values.reshape(count, int(np.prod(shape)))))
        parameters, value = policy.decode(policy.encode(torch.from_numpy(rows)))
        assert parameters.shape == (count, 2) and value.shape == (count,)


@pytest.mark.parametrize("side, high, kind", [(11, 2, "one_hot"), (11, 9, "grid"), (21, 2, "grid")])
def test_small_grids_of_few_categories_are_one_hot(side, high, kind):
    """By their cells times their categories; each cell's category decides what the policy says."""
    space = spaces.Box(0, high, (side, side), np.uint8)
    layout = Layout.from_space(space)
    (leaf,) = layout.leaves
    assert leaf_kind(leaf, layout.form) == kind
    policy = DefaultPolicy(layout, ActionLayout.from_space(spaces.Discrete(2)), Config("x"))
    rows = torch.from_numpy(np.zeros((3, side, side), np.uint8))
    rows[1, 4, 7], rows[2, 4, 7] = 1, high
    features = policy.encode(rows)
    assert not torch.equal(features[0], features[1])
    assert not torch.equal(features[1], features[2])
    if kind == "one_hot":
        seen = one_hot(leaf, rows).reshape(3, side * side, high + 1)
        assert torch.equal(seen.argmax(2), rows.flatten(1).long())
        assert (seen.sum(2) == 1).all()
