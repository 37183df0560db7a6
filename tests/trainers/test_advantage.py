"""Advantages against a NumPy loop in float64, over random patterns of ends and invalid rows."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.trainers.advantage import advantages
from tests.trainers.triton_kernels import assert_compiles, run_kernels

C_SOURCE = Path(__file__).parents[2] / "src" / "shoal" / "trainers" / "c" / "advantage.c"


def loop(rewards, values, terminated, truncated, valid, gamma, gae_lambda, ratios, rho, c):
    """The definition, step by step, and the sum of all magnitudes that went into each step."""
    segments, horizon = rewards.shape
    result, largest = np.zeros((segments, horizon)), np.zeros((segments, horizon))
    for s in range(segments):
        following, size = 0.0, 0.0
        for t in reversed(range(horizon)):
            if not valid[s, t]:
                following, size = 0.0, 0.0
                continue
            weight = 1.0 if ratios is None else min(rho, float(ratios[s, t]))
            trace = 1.0 if ratios is None else min(c, float(ratios[s, t]))
            reward, value, next_value = map(float, (rewards[s, t], *values[s, t : t + 2]))
            if terminated[s, t]:
                next_value = 0.0
            if terminated[s, t] or truncated[s, t]:
                following, size = 0.0, 0.0
            decay = gamma * gae_lambda * trace
            following = weight * (reward + gamma * next_value - value) + decay * following
            size = weight * (abs(reward) + abs(next_value) + abs(value)) + decay * size
            result[s, t], largest[s, t] = following, size
    return result, largest


def draw(seed, segments, horizon, ends=0.2, invalid=0.2, scale=1.0):
    """Inputs in the order of `advantages`; NaN wherever an invalid step may hold anything."""
    rng = np.random.default_rng(seed)
    rewards = rng.normal(scale=scale, size=(segments, horizon)).astype(np.float32)
    values = rng.normal(scale=scale, size=(segments, horizon + 1)).astype(np.float32)
    terminated = rng.random((segments, horizon)) < ends
    truncated = rng.random((segments, horizon)) < ends
    valid = rng.random((segments, horizon)) >= invalid
    ratios = np.exp(rng.normal(size=(segments, horizon))).astype(np.float32)
    rewards[~valid] = np.nan
    ratios[~valid] = np.nan
    # A value is needed of a valid step, and of what followed one that did not terminate.
    needed = np.zeros((segments, horizon + 1), bool)
    needed[:, :-1] |= valid
    needed[:, 1:] |= valid & ~terminated
    values[~needed] = np.nan
    return [rewards, values, terminated, truncated, valid], ratios


def call(arrays, **options):
    ratios = options.pop("ratios", None)
    ratios = None if ratios is None else torch.as_tensor(ratios)
    return advantages(*map(torch.as_tensor, arrays), ratios=ratios, **options)


def assert_close(got, expected, largest, tolerance=1e-6):
    assert got.dtype == torch.float32
    error = np.abs(got.cpu().numpy() - expected)  # NaN fails too: it compares as False
    assert (error <= tolerance * np.maximum(1, largest)).all(), error.max()


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    segments=st.integers(0, 5),
    horizon=st.integers(0, 40),
    ends=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    invalid=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    clips=st.none() | st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)),
)
def test_equals_the_loop(seed, segments, horizon, ends, invalid, scale, gamma, gae_lambda, clips):
    arrays, ratios = draw(seed, segments, horizon, ends, invalid, scale)
    options = {"gamma": gamma, "gae_lambda": gae_lambda}
    if clips is None:
        expected = loop(*arrays, **options, ratios=None, rho=1, c=1)
    else:
        options |= {"ratios": ratios, "rho": clips[0], "c": clips[1]}
        expected = loop(*arrays, **options)
    assert_close(call(arrays, **options), *expected)


def test_a_long_segment_loses_no_precision():
    arrays, _ = draw(0, 2, 20_000, ends=0, invalid=0)
    options = {"gamma": 1.0, "gae_lambda": 1.0}
    expected, _ = loop(*arrays, **options, ratios=None, rho=1, c=1)
    np.testing.assert_allclose(call(arrays, **options), expected, rtol=1e-6, atol=1e-6)


def test_known_values():
    """By hand, with gamma = lambda = 1/2: a truncation, its final observation, a termination."""
    rewards = [[1.0, 2.0, 99.0, 4.0, 8.0]]
    values = [[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]]
    no, yes = False, True
    arrays = [
        np.float32(rewards),
        np.float32(values),
        np.array([[no, no, no, no, yes]]),
        np.array([[no, yes, no, no, yes]]),
        np.array([[yes, yes, no, yes, yes]]),
    ]
    # delta: 1 + 1 - 1, 2 + 2 - 2, -, 4 + 8 - 8, 8 - 16
    expected = [[1 + 2 / 4, 2, 0, 4 - 8 / 4, -8]]
    assert call(arrays, gamma=0.5, gae_lambda=0.5).tolist() == expected


def test_ratios_without_limits_weigh_in_full():
    arrays, ratios = draw(1, 3, 12)
    options = {"gamma": 0.9, "gae_lambda": 0.8, "ratios": ratios}
    assert_close(call(arrays, **options), *loop(*arrays, **options, rho=np.inf, c=np.inf))


def test_limits_without_ratios_change_nothing():
    arrays, _ = draw(1, 3, 12)
    plain = call(arrays, gamma=0.9, gae_lambda=0.8)
    assert call(arrays, gamma=0.9, gae_lambda=0.8, rho=0.1, c=0.1).equal(plain)


def test_vtrace_equals_the_definition_of_its_paper():
    """A + V is v_s of equation 1: V plus the sum of discounted, weighted errors."""
    arrays, ratios = draw(2, 1, 10, ends=0, invalid=0)
    gamma, rho, c = 0.9, 1.0, 0.7
    got = call(arrays, gamma=gamma, gae_lambda=1.0, ratios=ratios, rho=rho, c=c)
    rewards, values, ratio = arrays[0][0], arrays[1][0], ratios[0]
    delta = np.minimum(rho, ratio) * (rewards + gamma * values[1:] - values[:-1])
    for s in range(10):
        target = values[s] + sum(
            gamma ** (t - s) * np.prod(np.minimum(c, ratio[s:t])) * delta[t] for t in range(s, 10)
        )
        assert got[0, s] + values[s] == pytest.approx(target, abs=1e-5)


@pytest.mark.parametrize("clips", [None, (1.0, 0.9)])
def test_nothing_of_an_invalid_step_reaches_others(clips):
    """Not even when what follows it, in another episode, is not a number."""
    arrays, ratios = draw(3, 4, 16, ends=0, invalid=0)
    arrays[4][:, 7] = False
    options = {"gamma": 0.99, "gae_lambda": 0.95}
    if clips is not None:
        options |= {"ratios": ratios, "rho": clips[0], "c": clips[1]}
    before = call(arrays, **options)
    for array in (arrays[0], ratios):
        array[:, 7:] = np.nan
    arrays[1][:, 8:] = np.nan
    arrays[2][:, 7], arrays[3][:, 7] = True, True
    after = call(arrays, **options)
    assert after[:, :7].equal(before[:, :7])
    assert (after[:, 7] == 0).all()
    assert after[:, 8:].isnan().all()


def test_a_terminated_step_does_not_look_at_what_follows():
    arrays, _ = draw(4, 2, 6, ends=0, invalid=0)
    arrays[2][:, 2] = True
    before = call(arrays, gamma=0.99, gae_lambda=0.95)
    arrays[0][:, 3:], arrays[1][:, 3:] = np.nan, np.inf
    assert call(arrays, gamma=0.99, gae_lambda=0.95)[:, :3].equal(before[:, :3])


def test_inputs_need_not_be_contiguous():
    arrays, ratios = draw(5, 6, 9)
    options = {"gamma": 0.9, "gae_lambda": 0.8, "rho": 1.0, "c": 1.0}
    expected = call(arrays, ratios=ratios, **options)
    transposed = [np.ascontiguousarray(array.T).T for array in [*arrays, ratios]]
    assert not any(array.flags.c_contiguous for array in transposed)
    assert call(transposed[:5], ratios=transposed[5], **options).equal(expected)
    wide = [np.repeat(array, 2, axis=1)[:, ::2] for array in [*arrays, ratios]]
    assert call(wide[:5], ratios=wide[5], **options).equal(expected)


def test_out_is_written_and_inputs_are_not():
    arrays, ratios = draw(6, 3, 7)
    copies = [array.copy() for array in [*arrays, ratios]]
    out = torch.full((3, 7), 5.0)
    options = {"gamma": 0.9, "gae_lambda": 0.8, "ratios": ratios, "rho": 1.0, "c": 1.0}
    assert call(arrays, out=out, **options) is out
    assert out.equal(call(arrays, **options))
    for array, copy in zip([*arrays, ratios], copies):
        np.testing.assert_array_equal(array, copy)


def test_no_gradient_flows_through():
    arrays, _ = draw(7, 2, 5, ends=0, invalid=0)
    tensors = [torch.as_tensor(array) for array in arrays]
    tensors[1].requires_grad_()
    assert not advantages(*tensors, gamma=0.9, gae_lambda=0.8).requires_grad


@pytest.mark.parametrize("name", ["values", "terminated", "truncated", "valid", "ratios", "out"])
def test_a_wrong_shape_is_an_error(name):
    tensors = dict(zip(("rewards", "values", "terminated", "truncated", "valid"), draw(8, 3, 4)[0]))
    tensors = {key: torch.as_tensor(array) for key, array in tensors.items()}
    tensors["ratios"], tensors["out"] = torch.ones(3, 4), torch.ones(3, 4)
    expected = r"\(3, 5\)" if name == "values" else r"\(3, 4\)"
    for wrong in (tensors[name][:2], tensors[name][:, :3], tensors[name][0]):
        with pytest.raises(ValueError, match=f"{name}: expected shape {expected}, got"):
            advantages(**{**tensors, name: wrong}, gamma=0.9, gae_lambda=0.9)
    wrong = tensors[name].double()
    with pytest.raises(TypeError, match=rf"{name}: expected .*, got torch.float64"):
        advantages(**{**tensors, name: wrong}, gamma=0.9, gae_lambda=0.9)
    with pytest.raises(ValueError, match=f"{name}: expected on cpu, got meta"):
        advantages(**{**tensors, name: tensors[name].to("meta")}, gamma=0.9, gae_lambda=0.9)


def test_other_wrong_arguments_are_errors():
    tensors = [torch.as_tensor(array) for array in draw(9, 3, 4)[0]]
    with pytest.raises(ValueError, match=r"rewards: expected shape .*, got \(4,\)"):
        advantages(tensors[0][0], *tensors[1:], gamma=0.9, gae_lambda=0.9)
    with pytest.raises(TypeError, match=r"rewards: expected .*float32, got .*float16"):
        advantages(tensors[0].half(), *tensors[1:], gamma=0.9, gae_lambda=0.9)
    with pytest.raises(ValueError, match="out: expected contiguous"):
        advantages(*tensors, gamma=0.9, gae_lambda=0.9, out=torch.ones(4, 3).T)


# -- the other kernel ------------------------------------------------------------------------------


def compare_kernels():
    """Triton's kernel, on a GPU or in its interpreter, against the C one."""
    from shoal.trainers import advantage_cuda

    device, horizons = "cuda", [1, 2, 7, 32, 100, 1024, 1025, 2500]
    if not torch.cuda.is_available():  # in the interpreter 1,024 steps take seconds
        device, horizons = "cpu", [1, 2, 7, 8, 9, 20]
        advantage_cuda.LARGEST_BLOCK = 8
    # The last ones have several blocks of steps, and a part of one.
    for seed, horizon in enumerate(horizons):
        for clips in (None, (1.0, 0.9), (np.inf, np.inf)):
            arrays, ratios = draw(seed, 3, horizon, ends=0.02, invalid=0.02)
            options = {"gamma": 0.99, "gae_lambda": 0.95}
            numbers = [0.99, 0.95, np.inf, np.inf]
            if clips is not None:
                options |= {"ratios": ratios, "rho": clips[0], "c": clips[1]}
                numbers[2:] = clips
            _, largest = loop(*arrays, **{"ratios": None, "rho": 1, "c": 1} | options)
            tensors = [torch.as_tensor(array, device=device) for array in [*arrays, ratios]]
            if clips is None:
                tensors[5] = None
            out = torch.full((3, horizon), 5.0, device=device)
            advantage_cuda.advantages(out, *tensors, *numbers)
            assert_close(out, call(arrays, **options).numpy(), largest, 1e-5)
    arrays, _ = draw(0, 2, 50, ends=0, invalid=0)
    arrays[4][:, 20] = False
    arrays[0][:, 30] = np.nan
    options = {"gamma": 0.99, "gae_lambda": 0.95}
    out = torch.empty(2, 50, device=device)
    tensors = [torch.as_tensor(array, device=device) for array in arrays]
    advantage_cuda.advantages(out, *tensors, None, 0.99, 0.95, 1.0, 1.0)
    assert_close(out[:, :21], call(arrays, **options).numpy()[:, :21], 1.0, 1e-5)
    assert out[:, 21:31].isnan().all()


def test_triton_kernel_equals_the_c_one():
    run_kernels("from tests.trainers.test_advantage import compare_kernels; compare_kernels()")


@pytest.mark.parametrize("capability", [80, 90, 120])
def test_triton_kernel_compiles_without_a_gpu(capability):
    pytest.importorskip("triton")
    from shoal.trainers.advantage_cuda import _kernel

    kinds = {
        "*fp32": ("out", "rewards", "values", "ratios"),
        "*u8": ("terminated", "truncated", "valid"),
        "i32": ("horizon",),
        "fp32": ("gamma", "gae_lambda", "rho", "c"),
        "constexpr": ("WEIGHTED", "BLOCK"),
    }
    signature = {name: kind for kind, names in kinds.items() for name in names}
    for weighted, block in ((False, 1), (True, 1024)):
        constants = {"WEIGHTED": weighted, "BLOCK": block}
        assert_compiles(_kernel, signature, constants, capability)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_cuda_tensors_reach_the_triton_kernel():
    arrays, ratios = draw(10, 4, 200)
    options = {"gamma": 0.99, "gae_lambda": 0.95, "rho": 1.0, "c": 1.0}
    tensors = [torch.as_tensor(array, device="cuda") for array in [*arrays, ratios]]
    got = advantages(*tensors[:5], ratios=tensors[5], **options)
    assert got.device.type == "cuda"
    assert_close(got, *loop(*arrays, **options, ratios=ratios), 1e-5)


# -- the C source ----------------------------------------------------------------------------------


def test_the_c_source_is_strict_c11_and_cpp():
    compilers = {"cc -x c -std=c11 -pedantic -Wconversion": "CC", "c++ -x c++ -std=c++17": "CXX"}
    for flags, variable in compilers.items():
        name, *rest = flags.split()
        command = [*os.environ.get(variable, name).split(), *rest, "-Wall", "-Wextra", "-Werror"]
        if not shutil.which(command[0]):
            pytest.skip(f"no {command[0]}")
        done = subprocess.run(
            [*command, "-fsyntax-only", str(C_SOURCE)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
