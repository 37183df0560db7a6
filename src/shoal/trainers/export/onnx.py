"""A trained policy as an ONNX model."""

from __future__ import annotations

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shoal.errors import ExportError
from shoal.trainers.export.step import OneStep, entered, load
from shoal.trainers.policies import initial_state, typed
from shoal.trainers.runs import write_whole

__all__ = ["export_onnx"]


class Stateless(nn.Module):
    """The step of a policy without memory: observations to (logits, value)."""

    def __init__(self, step: OneStep):
        super().__init__()
        self.step = step

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        logits, value, _ = self.step(observations, torch.zeros(0, 0, 0))
        return logits, value


def export_onnx(source: Any, path: str | Path) -> Path:
    """Write a policy as an ONNX model.

    The inputs are ``observations`` ``(n, *layout.shape)`` in the layout's dtype, and with memory
    ``state`` ``(k, n, num_features)``, which is zero where an episode begins. The outputs are
    ``logits`` ``(n, num_parameters)``, all parameters of the distribution of actions; ``value``
    ``(n,)``; and with memory ``next_state``. ``n`` may differ from call to call.

    Args:
        source: the folder of a run, a checkpoint, or a policy from
            `shoal.trainers.ppo.load_policy`.
        path: of the file.

    Returns:
        The path.

    Raises:
        CheckpointError: the run has no checkpoint that can be read.
        ExportError: an observation has numbers of several dtypes, or torch can't export a part of
            the policy; the message names the module.
    """
    policy, _ = load(source)
    layout = policy.observation_layout
    dtypes = sorted({leaf.dtype for leaf in layout.leaves})
    if layout.form == "bytes" and len(dtypes) > 1:
        raise ExportError(
            f"observations: ONNX needs leaves of one dtype, got {', '.join(dtypes)}; C takes all"
        )
    rows = typed(torch.zeros(2, layout.nbytes, dtype=torch.uint8), layout)
    state, n = initial_state(policy, 2), torch.export.Dim("n")
    step: nn.Module = OneStep(policy).eval()
    inputs: tuple[Tensor, ...] = rows, state
    shapes: tuple[dict[int, Any], ...] = {0: n}, {1: n}
    names = ["observations", "state"], ["logits", "value", "next_state"]
    if not state.numel():
        step, inputs, shapes = Stateless(OneStep(policy)).eval(), inputs[:1], shapes[:1]
        names = names[0][:1], names[1][:2]
    with entered(policy) as modules, torch.no_grad(), quiet():
        try:
            program = torch.export.export(step, inputs, dynamic_shapes=shapes, strict=False)
            model: Any = torch.onnx.export(
                program,
                dynamo=True,
                input_names=names[0],
                output_names=names[1],
                external_data=False,
                verbose=False,
            )
        except ModuleNotFoundError:
            raise
        except Exception as error:  # torch has many kinds
            lines = [line for line in str(error).split("\n") if line.strip()] or [""]
            raise ExportError(
                f"{modules[-1]} can't be exported to ONNX: {type(error).__name__}: {lines[0]}"
            ) from error
    made = model.model_proto
    for each in (*made.graph.input, *made.graph.output):
        each.type.tensor_type.shape.dim[int("state" in each.name)].dim_param = "n"
    write_whole(Path(path), made.SerializeToString())
    return Path(path)


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what torch's exporter says of its own inner workings from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
