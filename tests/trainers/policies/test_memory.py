"""Memory along sequences: against torch's LSTM, against single steps, and across episodes."""

import pytest
import torch
from torch import nn

from shoal.trainers.policies.memory import LSTM, MEMORIES, MinGRU, Recurrent, initial_state

SIZE = 6


class Plain(nn.Module):
    num_features = SIZE


def draw(kind, steps, n, starts=0.15):
    torch.manual_seed(0)
    policy = Recurrent(Plain(), kind)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    state = initial_state(policy, n)
    return (
        policy,
        torch.randn(steps, n, SIZE),
        torch.randn_like(state),
        torch.rand(steps, n) < starts,
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", MEMORIES)
def test_a_sequence_equals_single_steps_with_emptied_states(kind):
    policy, features, state, starts = draw(kind, 20, 3)
    whole, last = policy.recur(features, state, starts)
    never = torch.zeros(1, 3, dtype=torch.bool)
    for t in range(20):
        state = state * ~starts[t, :, None]
        out, state = policy.recur(features[t : t + 1], state, never)
        torch.testing.assert_close(whole[t : t + 1], out)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("kind", MEMORIES)
def test_nothing_of_an_earlier_episode_is_remembered(kind):
    policy, features, state, starts = draw(kind, 9, 2, starts=0)
    starts[4, 0] = True
    features.requires_grad_()
    out, _ = policy.recur(features, state, starts)
    out[4:, 0].sum().backward()
    assert (features.grad[:4] == 0).all() and (features.grad[4:, 0] != 0).any()
    fresh, _ = policy.recur(features[4:], initial_state(policy, 2), starts[4:])
    torch.testing.assert_close(out[4:, 0], fresh[:, 0])


def test_the_lstm_is_torchs():
    """Without episodes that begin: outputs, state and gradients of the weights."""
    policy, features, state, starts = draw("lstm", 12, 5, starts=0)
    ours, theirs = policy.memory, nn.LSTM(SIZE, SIZE)
    assert isinstance(ours, LSTM)
    pairs = [
        (ours.inputs.weight, theirs.weight_ih_l0),
        (ours.hidden.weight, theirs.weight_hh_l0),
        (ours.inputs.bias, theirs.bias_ih_l0),
    ]
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine)
        theirs.bias_hh_l0.zero_()
    out, last = ours(features, state, starts)
    expected, (hidden, cell) = theirs(features, (state[:1], state[1:]))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(last, torch.cat([hidden, cell]))
    weights = torch.randn_like(out)
    for result in (out, expected):
        (result * weights).sum().backward()
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_mingrus_state_is_within_its_candidates():
    """h is a mean of candidates with the gates' weights: nothing explodes, however long."""
    policy, features, _, starts = draw("mingru", 200, 3)
    assert isinstance(policy.memory, MinGRU)
    out, _ = policy.recur(features, initial_state(policy, 3), starts)
    assert out.abs().max() <= policy.memory.candidate(features).abs().max()
