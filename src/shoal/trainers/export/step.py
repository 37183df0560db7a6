"""One step of a policy as a graph of torch's operations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shoal.errors import ConfigError, ExportError
from shoal.rows.layout import Layout
from shoal.trainers.policies import initial_state, typed
from shoal.trainers.policies.memory import LSTM, MinGRU, Recurrent
from shoal.trainers.runs import checkpoints, newest_checkpoint, read_checkpoint

__all__ = ["OneStep", "Trained", "load", "module_of", "trace"]


class Trained(NamedTuple):
    """A policy, and the run it is from.

    Attributes:
        policy: made by `shoal.trainers.ppo.load_policy`: in eval mode, on the CPU, and with
            ``observation_layout`` and ``distribution``.
        config: of the run, as plain values; None if only the policy is known.
    """

    policy: Any
    config: dict[str, Any] | None


def load(source: Any) -> Trained:
    """Return the policy to export.

    Args:
        source: the folder of a run, whose newest checkpoint is read; or a checkpoint's path; or a
            policy from `shoal.trainers.ppo.load_policy`.

    Raises:
        CheckpointError: there is no checkpoint, or it can't be read.
        ConfigError: `source` is none of these.
    """
    if isinstance(source, (str, Path)):
        from shoal.trainers.ppo import load_policy

        path = Path(source)
        if path.is_dir() and (checkpoints(path) or (path / "config.toml").is_file()):
            path = newest_checkpoint(path)
        state = read_checkpoint(path)
        return Trained(load_policy(state), state["config"])
    if hasattr(source, "observation_layout") and hasattr(source, "distribution"):
        return Trained(source, None)
    raise ConfigError(
        "source must be a run's folder, a checkpoint, or a policy from load_policy, got "
        f"{type(source).__name__}"
    )


class OneStep(nn.Module):
    """A policy's step: (observations, state) to (parameters, values, state after the step).

    Shapes are those of `shoal.trainers.ppo.forward_step`. No row begins an episode: whoever calls
    the step sets the state to zero there.
    """

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.policy.encode(observations)
        if isinstance(self.policy, Recurrent):
            features, state = step_memory(self.policy, features, state)
        parameters, values = self.policy.decode(features)
        return parameters.float(), values.float(), state.float()


def step_memory(policy: Any, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run a policy's memory for one step, as `Recurrent.recur` does for sequences."""
    memory = policy.memory
    if type(memory) is LSTM:
        bias, none = memory.inputs.bias, torch.zeros_like(memory.inputs.bias)
        weights = memory.inputs.weight, memory.hidden.weight
        hidden, cell = torch.lstm_cell(features, [state[0], state[1]], *weights, bias, none)
        return hidden, torch.stack([hidden, cell])
    if type(memory) is MinGRU:
        share = memory.gate(features).sigmoid()
        hidden = torch.lerp(state[0], memory.candidate(features), share)
        return hidden, hidden[None]
    begun = torch.zeros(1, len(features), dtype=torch.bool)
    features, state = policy.recur(features[None], state, begun)
    return features[0], state


def trace(policy: Any) -> torch.export.ExportedProgram:
    """Return the graph of one step of a policy, for one row.

    Raises:
        ExportError: what the policy does depends on the values of an observation, or torch can't
            trace it; the message names the module.
    """
    layout: Layout = policy.observation_layout
    rows = typed(torch.zeros(1, layout.nbytes, dtype=torch.uint8), layout)
    with entered(policy) as names, torch.no_grad():
        try:
            step = OneStep(policy).eval()
            program = torch.export.export(step, (rows, initial_state(policy, 1)), strict=False)
        except Exception as error:  # torch has many kinds
            text = str(error).strip().split("\n")[0]
            raise ExportError(
                f"{names[-1]} can't be traced: {type(error).__name__}: {text}"
            ) from error
        if any(each._schema.name.endswith("_") for each in operations(program)):
            program = program.run_decompositions({})  # operations in place become others
    return program


def operations(program: torch.export.ExportedProgram) -> list[torch._ops.OpOverload]:
    """Return ATen's operations in a graph, one for each node."""
    targets = [node.target for node in program.graph.nodes]
    return [target for target in targets if isinstance(target, torch._ops.OpOverload)]


@contextlib.contextmanager
def entered(policy: Any) -> Iterator[list[str]]:
    """Yield a list of the modules that are running, the innermost last."""
    names = [f"the policy ({type(policy).__name__})"]
    hooks = []
    for name, module in policy.named_modules():
        if name:

            def enter(*_: Any, text: str = f"{name} ({type(module).__name__})") -> None:
                names.append(text)

            def leave(*_: Any) -> None:
                names.pop()

            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def module_of(node: torch.fx.Node) -> str:
    """Return the path and the class of the module that an operation belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    path = path.removeprefix("policy").removeprefix(".")
    return f"{path} ({kind.rpartition('.')[2]})" if path else "the policy"
