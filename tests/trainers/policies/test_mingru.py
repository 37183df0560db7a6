"""The recurrence of a MinGRU against a loop over its definition, gradients included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.trainers.policies.mingru import mingru
from tests.trainers.triton_kernels import assert_compiles, run_kernels


def loop(gates, candidates, state, starts):
    """The definition, step by step."""
    found = []
    for gate, candidate, begins in zip(gates, candidates, starts):
        state = torch.where(begins[:, None], 0, state)
        share = gate.sigmoid()
        state = (1 - share) * state + share * candidate
        found.append(state)
    return torch.stack(found)


def draw(seed, steps, n, size, share, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        made = torch.randn(*shape, generator=generator, dtype=torch.float64) * 2
        return made.to(dtype).to(device).requires_grad_()

    starts = torch.rand(steps, n, generator=generator) < share
    inputs = normal(steps, n, size), normal(steps, n, size), normal(n, size)
    return inputs, starts.to(device), normal(steps, n, size).detach()


def results(function, inputs, starts, weights):
    """What a function returns, and the gradients of what goes in."""
    out = function(*inputs, starts)
    return out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 20),
    n=st.integers(0, 4),
    size=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_equals_the_loop(seed, steps, n, size, share):
    inputs, starts, weights = draw(seed, steps, n, size, share)
    for got, expected in zip(
        results(mingru, inputs, starts, weights), results(loop, inputs, starts, weights)
    ):
        torch.testing.assert_close(got, expected)


def test_gradients_are_those_of_finite_differences():
    inputs, starts, _ = draw(0, 6, 3, 2, 0.2)
    assert torch.autograd.gradcheck(lambda *given: mingru(*given, starts), inputs)


def test_known_values():
    """By hand: a gate of 0 is a half, and the third step begins an episode."""
    gates = torch.zeros(3, 1, 1)
    candidates = torch.tensor([2.0, 4.0, 8.0])[:, None, None]
    starts = torch.tensor([[False], [False], [True]])
    out = mingru(gates, candidates, torch.full((1, 1), 6.0), starts)
    assert out.flatten().tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_nothing_is_carried_into_an_episode(what):
    (gates, candidates, state), starts, _ = draw(1, 5, 2, 3, 0.0, torch.float32)
    starts[3] = True
    spoilt = candidates.detach().clone()
    spoilt[:3] = what
    out = mingru(gates.detach(), spoilt, state.detach(), starts)
    torch.testing.assert_close(out[3:], mingru(gates, candidates, state, starts).detach()[3:])


def test_bfloat16_is_computed_in_float32():
    (gates, candidates, state), starts, _ = draw(2, 7, 3, 4, 0.1, torch.bfloat16)
    out = mingru(gates, candidates, state.float(), starts)
    assert out.dtype == torch.float32
    expected = loop(gates.float(), candidates.float(), state.float(), starts)
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert gates.grad.dtype == torch.bfloat16


# -- the Triton kernels ------------------------------------------------------------------------


def compare_kernels():
    """Triton's kernels, on a GPU or in its interpreter, against the loop."""
    from shoal.trainers.policies import mingru_cuda

    device, lengths = "cuda", [1, 2, 7, 64, 65, 200]
    if not torch.cuda.is_available():  # in the interpreter many steps take seconds
        device, lengths = "cpu", [1, 2, 7, 8, 9, 20]
        mingru_cuda.LARGEST_BLOCK, mingru_cuda.TILE = 8, 64
    # The last ones have several blocks of steps, and a part of one; 15 lanes are two blocks.
    for seed, steps in enumerate(lengths):
        for share in (0.0, 0.2):
            inputs, starts, weights = draw(seed, steps, 3, 5, share, torch.float32, device)
            hidden = mingru_cuda.forward(*inputs, starts)
            found = mingru_cuda.backward(weights, *inputs, starts, hidden)
            expected = results(loop, inputs, starts, weights)
            for got, right in zip((hidden, *found), expected):
                torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)
    inputs, starts, weights = draw(0, 20, 2, 3, 0.0, torch.float32, device)
    starts[11] = True
    gates, candidates, state = (each.detach() for each in inputs)
    candidates[:11] = float("nan")
    hidden = mingru_cuda.forward(gates, candidates, state, starts)
    assert hidden[:11].isnan().all() and hidden[11:].isfinite().all()
    to_gates, *_ = mingru_cuda.backward(weights, gates, candidates, state, starts, hidden)
    assert to_gates[11:].isfinite().all()


def test_triton_kernels_equal_the_loop():
    run_kernels(
        "from tests.trainers.policies.test_mingru import compare_kernels; compare_kernels()"
    )


@pytest.mark.parametrize("capability, steps", [(80, 64), (90, 1), (90, 64), (120, 64)])
def test_triton_kernels_compile_without_a_gpu(capability, steps):
    pytest.importorskip("triton")
    from shoal.trainers.policies import mingru_cuda

    kinds = {"starts": "*u8", "steps": "i32", "n": "i32", "size": "i32"}
    for kernel in (mingru_cuda._forward, mingru_cuda._backward):
        constants = {"STEPS": steps, "LANES": mingru_cuda.TILE // steps}
        signature = {
            name: "constexpr" if name in constants else kinds.get(name, "*fp32")
            for name in kernel.arg_names
        }
        assert_compiles(kernel, signature, constants, capability)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_cuda_tensors_reach_the_triton_kernels():
    inputs, starts, weights = draw(5, 100, 7, 33, 0.05, torch.float32, "cuda")
    for got, expected in zip(
        results(mingru, inputs, starts, weights), results(loop, inputs, starts, weights)
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
