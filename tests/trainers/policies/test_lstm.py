"""The LSTM with a gradient of its own against torch's operations, one after the other."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.trainers.policies.lstm import lstm


def loop(features, state, starts, to_gates, bias, recurrent):
    """The definition, step by step."""
    hidden, cell = state
    found = []
    for seen, begins in zip(features, starts):
        hidden = torch.where(begins[:, None], 0, hidden)
        cell = torch.where(begins[:, None], 0, cell)
        gates = seen @ to_gates.T + bias + hidden @ recurrent.T
        into, forget, new, out = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        found.append(hidden)
    return torch.stack(found), torch.stack([hidden, cell])


def draw(seed, steps, n, size, share):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    starts = torch.rand(steps, n, generator=generator) < share
    inputs = [normal(steps, n, size), normal(2, n, size)]
    weights = [normal(4 * size, size), normal(4 * size), normal(4 * size, size)]
    return [*inputs, starts, *weights]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 12),
    n=st.integers(0, 4),
    size=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_equals_the_loop_with_all_gradients(seed, steps, n, size, share):
    inputs = draw(seed, steps, n, size, share)
    results = []
    for function in (lstm, loop):
        out, last = function(*inputs)
        total = (out * (1 + torch.arange(steps))[:, None, None]).sum() + (last**2).sum()
        wanted = [each for each in inputs if each.requires_grad]
        results.append([out, last, *torch.autograd.grad(total, wanted)])
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected)


def test_gradients_are_those_of_finite_differences():
    inputs = draw(0, 4, 2, 2, 0.25)
    starts = inputs.pop(2)
    assert starts.any()
    assert torch.autograd.gradcheck(lambda f, s, *rest: lstm(f, s, starts, *rest), inputs)
