"""The distributions, against torch.distributions and counting."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from shoal.errors import ConfigError
from shoal.rows.actions import ActionLayout, is_discrete
from shoal.trainers.distributions import Distribution

SPACES = {
    "Discrete": spaces.Discrete(5, start=-2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 5, 3], start=[1, 0, -4]),
    "MultiBinary": spaces.MultiBinary(4),
    "Box": spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64),
    "unbounded": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "wide integers": spaces.Box(-(2**40), 2**40, (2,), np.int64),
    "hybrid": spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2, 2), np.float32)),
    "nested": spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([3, 4]))),
}


def family(name, squash=False):
    layout = ActionLayout.from_space(SPACES[name])
    return layout, Distribution(layout, squash)


def sizes(kind):
    """How many categories each discrete element has."""
    leaves = [leaf for leaf in kind.layout.flat.leaves if is_discrete(leaf)]
    return [int(n) for leaf in leaves for n in leaf.num_categories.reshape(-1)]


def reference(kind, parameters, actions):
    """Log-probability and entropy of each row by torch's own distributions."""
    log_probability, entropy = torch.zeros(len(parameters)), torch.zeros(len(parameters))
    at = 0
    for i, size in enumerate(sizes(kind)):
        each = distributions.Categorical(logits=parameters[:, at : at + size])
        log_probability += each.log_prob(actions.discrete[:, i])
        entropy += each.entropy()
        at += size
    mean, log_std = parameters[:, at:].chunk(2, 1)
    each = distributions.Normal(mean, log_std.exp())
    return (
        log_probability + each.log_prob(actions.continuous).sum(1),
        entropy + each.entropy().sum(1),
    )


@pytest.mark.parametrize("name", SPACES)
def test_log_probability_and_entropy_equal_torchs(name):
    _, kind = family(name)
    torch.manual_seed(0)
    parameters = torch.randn(64, kind.num_parameters)
    actions, log_probability = kind.sample(parameters)
    expected, entropy = reference(kind, parameters, actions)
    torch.testing.assert_close(log_probability, expected)
    torch.testing.assert_close(kind.evaluate(parameters, actions), (expected, entropy))


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_what_reaches_the_environment_is_in_its_space(name, squash):
    if squash and name == "unbounded":
        pytest.skip("squash needs bounds")
    layout, kind = family(name, squash)
    torch.manual_seed(1)
    actions, _ = kind.sample(5 * torch.randn(200, kind.num_parameters))
    flat = kind.to_env(actions)
    rows = layout.flat.zeros(200)
    if isinstance(flat, dict):
        for key, part in layout.flat.view(rows).items():
            assert part.dtype == flat[key].dtype
            part[...] = flat[key]
    else:
        assert flat.dtype == layout.flat.dtype
        rows[...] = flat
    layout.check(rows)
    for row in rows:
        assert SPACES[name].contains(layout.decode(row))


def test_samples_come_as_often_as_their_probability_says():
    _, kind = family("MultiDiscrete")
    parameters = torch.randn(1, kind.num_parameters, generator=torch.Generator().manual_seed(3))
    actions, _ = kind.sample(parameters.expand(100_000, -1), None, torch.Generator().manual_seed(4))
    for i, part in enumerate(parameters[0].split([2, 5, 3])):
        share = torch.bincount(actions.discrete[:, i], minlength=len(part)) / 100_000
        torch.testing.assert_close(share, part.softmax(0), atol=0.006, rtol=0)


def test_the_greedy_action_is_the_likeliest():
    _, kind = family("hybrid")
    parameters = torch.randn(50, kind.num_parameters)
    actions, _ = kind.sample(parameters, greedy=True)
    assert (actions.discrete[:, 0] == parameters[:, :3].argmax(1)).all()
    torch.testing.assert_close(actions.continuous, parameters[:, 3:7])


@pytest.mark.parametrize("name", ["Discrete", "MultiDiscrete", "nested", "MultiBinary", "hybrid"])
def test_an_illegal_choice_is_never_drawn_and_has_no_probability(name):
    layout, kind = family(name)
    rng = np.random.default_rng(0)
    masks = rng.random((5000, layout.num_masked)) < 0.4
    parameters = torch.randn(5000, kind.num_parameters) * 3
    parameters[:, : kind.num_logits][~torch.from_numpy(masks)] += 20  # the policy wants them
    actions, log_probability = kind.sample(parameters, torch.from_numpy(masks))
    at = 0
    for i, size in enumerate(sizes(kind)):
        legal = masks[:, at : at + size]
        chosen = legal[np.arange(5000), actions.discrete[:, i].numpy()]
        assert (chosen | ~legal.any(1)).all()  # where nothing is legal, everything is
        assert (actions.discrete[:, i] < size).all()
        at += size
    assert torch.isfinite(log_probability).all()
    same, entropy = kind.evaluate(parameters, actions, torch.from_numpy(masks))
    torch.testing.assert_close(same, log_probability)
    assert (entropy > -1e-4 if kind.num_continuous == 0 else torch.isfinite(entropy)).all()


def test_masked_gradients_are_finite_and_reach_legal_logits_only():
    _, kind = family("Discrete")
    parameters = torch.zeros(1, 5, requires_grad=True)
    masks = torch.tensor([[True, False, True, False, False]])
    actions, _ = kind.sample(parameters, masks)
    log_probability, entropy = kind.evaluate(parameters, actions, masks)
    (log_probability + entropy).sum().backward()
    gradient = parameters.grad[0]
    assert torch.isfinite(gradient).all()
    assert (gradient[~masks[0]] == 0).all()
    assert (gradient[masks[0]] != 0).all()


def test_the_squashed_density_integrates_to_one():
    _, kind = family("Box", squash=True)
    mean, log_std = torch.tensor([0.7, -0.4]), torch.tensor([0.2, -0.3])
    parameters = torch.cat([mean, log_std])[None]
    # Over y = tanh(u): the density of y, at the middle of cells of (-1, 1)^2.
    grid = (torch.arange(1000) + 0.5) / 500 - 1
    u = torch.atanh(grid)
    pairs = torch.cartesian_prod(u, u)
    empty = torch.zeros(len(pairs), 0, dtype=torch.int64)
    from shoal.trainers.distributions import Actions

    density, _ = kind.evaluate(parameters.expand(len(pairs), -1), Actions(empty, pairs))
    assert float(density.exp().mean() * 4) == pytest.approx(1, abs=2e-3)


def test_bounds_are_at_minus_one_and_one():
    _, kind = family("Box")
    from shoal.trainers.distributions import Actions

    raw = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [5.0, -5.0]])
    flat = kind.to_env(Actions(torch.zeros(4, 0, dtype=torch.int64), raw))
    np.testing.assert_array_equal(flat, [[-2, 0], [0, 5], [2, 10], [2, 0]])


def test_spaces_that_no_policy_can_serve_are_refused():
    with pytest.raises(ConfigError, match="at most 1,048,576 logits"):
        Distribution(ActionLayout.from_space(gymnasium.spaces.Discrete(2**30)))
    with pytest.raises(ConfigError, match="squash needs finite bounds"):
        family("unbounded", squash=True)
