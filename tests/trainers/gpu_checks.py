"""What only a GPU can show of the trainer; `benchmarks/gpu.py` and the tests call these.

Needs nothing but torch, Triton and Shoal, since a machine with a GPU may have no pytest.
"""

import contextlib
import io
from dataclasses import replace

import torch

from shoal.trainers import ppo
from shoal.trainers.advantage import advantages
from shoal.trainers.config import Config
from shoal.trainers.distributions import Distribution
from shoal.trainers.policies.mingru import mingru

BREAKOUT = Config(
    "breakout",
    num_envs=64,
    num_workers=1,
    horizon=32,
    total_steps=64 * 32 * 2,
    device="cuda",
    precision="float32",
)


def kernel_equals_c():
    """Triton's advantages are those of the C kernel, over random ends, gaps and ratios."""
    generator = torch.Generator().manual_seed(0)
    for horizon in (1, 2, 7, 32, 100, 1024, 1025, 2500):
        shape = 64, horizon

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        def often(share, shape=shape):
            return torch.rand(*shape, generator=generator) < share

        inputs = [normal(*shape), normal(64, horizon + 1), often(0.02), often(0.02), often(0.98)]
        for rho, c in ((None, None), (1.0, 0.9)):
            given = {"gamma": 0.99, "gae_lambda": 0.95, "rho": rho, "c": c}
            ratios = None if rho is None else normal(*shape).exp()
            expected = advantages(*inputs, ratios=ratios, **given)
            on_gpu = None if ratios is None else ratios.cuda()
            got = advantages(*(x.cuda() for x in inputs), ratios=on_gpu, **given)
            assert got.device.type == "cuda"
            torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)


def runs_resume_across_devices():
    """A checkpoint of the GPU goes on on the CPU and the reverse, with finite metrics."""
    for start, end in (("cuda", "cpu"), ("cpu", "cuda")):
        saved = []
        config = replace(BREAKOUT, device=start, memory="lstm")
        ppo.train(config, save=lambda state, metrics, saved=saved: saved.append(state))
        file = io.BytesIO()
        torch.save(saved[-1], file)
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
        longer = replace(config, device=end, total_steps=2 * config.total_steps)
        metrics = ppo.train(longer, checkpoint=state).metrics
        assert metrics["steps"] == longer.total_steps
        assert metrics["ratio/first_error"] < 1e-3, metrics


def bfloat16_is_near_float32():
    """A policy's outputs in bfloat16 differ by its rounding, and training keeps its ratios."""
    with contextlib.closing(ppo.make_vector(BREAKOUT)) as vector:
        rows = torch.from_numpy(vector.reset(seed=0)[0]).cuda()
        torch.manual_seed(0)
        policy = ppo.make_policy(BREAKOUT, vector.observation_layout, vector.action_layout).cuda()
        exact = policy.decode(policy.encode(rows))
        with torch.autocast("cuda", torch.bfloat16):
            rounded = policy.decode(policy.encode(rows))
    for a, b in zip(exact, rounded):
        torch.testing.assert_close(b.float(), a, rtol=2e-2, atol=2e-2)
    metrics = ppo.train(replace(BREAKOUT, precision="bfloat16")).metrics
    assert metrics["ratio/first_error"] < 0.05, metrics


def sampling_follows_the_probabilities():
    """Actions drawn on the GPU are as frequent as the policy says, and differ between draws."""
    with contextlib.closing(ppo.make_vector(BREAKOUT)) as vector:
        distribution = Distribution(vector.action_layout)
    parameters = torch.linspace(-1, 1, distribution.num_parameters).cuda().repeat(200_000, 1)
    generator = torch.Generator("cuda").manual_seed(0)
    actions, _ = distribution.sample(parameters, None, generator)
    again, _ = distribution.sample(parameters, None, generator)
    counts = torch.bincount(actions.discrete.flatten(), minlength=parameters.shape[1]).cpu()
    expected = parameters[0].softmax(0).cpu()
    torch.testing.assert_close(counts / counts.sum(), expected, rtol=0, atol=0.01)
    assert not torch.equal(actions.discrete, again.discrete)


def mingru_equals_the_cpu():
    """Triton's recurrence and its gradients are those of the CPU's loop."""
    generator = torch.Generator().manual_seed(0)
    for steps in (1, 7, 64, 65, 200):
        inputs = [torch.randn(steps, 33, 40, generator=generator) for _ in range(2)]
        inputs.append(torch.randn(33, 40, generator=generator))
        starts = torch.rand(steps, 33, generator=generator) < 0.05
        weights = torch.randn(steps, 33, 40, generator=generator)
        results = []
        for device in ("cpu", "cuda"):
            given = [each.to(device).requires_grad_() for each in inputs]
            out = mingru(*given, starts.to(device))
            gradients = torch.autograd.grad((out * weights.to(device)).sum(), given)
            results.append([each.cpu() for each in (out, *gradients)])
        for expected, got in zip(*results):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


CHECKS = (
    mingru_equals_the_cpu,
    kernel_equals_c,
    runs_resume_across_devices,
    bfloat16_is_near_float32,
    sampling_follows_the_probabilities,
)
