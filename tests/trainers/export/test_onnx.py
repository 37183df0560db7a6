"""Policies as ONNX models, run by ONNX Runtime, against the same policies in torch."""

import numpy as np
import pytest
import torch

import shoal
from shoal.errors import ExportError
from shoal.trainers.config import Config
from shoal.trainers.policies import initial_state
from shoal.trainers.ppo import forward_step, make_policy
from tests.trainers.export.test_c import ready

onnxruntime = pytest.importorskip("onnxruntime")


def exported(env, memory, folder):
    from shoal.trainers.export.onnx import export_onnx

    vector = shoal.vectorize(env, 1, backend="native")
    layout, actions = vector.observation_layout, vector.action_layout
    vector.close()
    config = Config(env=env, memory=memory, hidden_size=32)
    policy = ready(make_policy(config, layout, actions), layout, actions)
    path = export_onnx(policy, folder / "policy.onnx")
    return policy, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("env", "memory"), [("squared", "lstm"), ("drone", "none")])
def test_a_model_computes_what_torch_does(env, memory, tmp_path):
    policy, session = exported(env, memory, tmp_path)
    layout = policy.observation_layout
    generator = np.random.default_rng(0)
    for n in (1, 3, 7):  # the batch is dynamic
        state = initial_state(policy, n)
        rows = generator.integers(0, 3, (n, *layout.shape)).astype(layout.dtype)
        for _ in range(3):
            given = {"observations": rows}
            if memory != "none":
                given["state"] = state.numpy()
            found = session.run(None, given)
            with torch.no_grad():
                *wanted, state = forward_step(policy, torch.from_numpy(rows), state)
            for one, other in zip(found, [*wanted, state] if state.numel() else wanted):
                np.testing.assert_allclose(one, other, atol=1e-5)


def test_observations_of_several_dtypes_are_refused(tmp_path):
    with pytest.raises(ExportError, match="float32, uint8"):
        exported("tetris", "none", tmp_path)
