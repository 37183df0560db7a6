"""The optimisers that a config asks for."""

from __future__ import annotations

import torch
from torch import nn

from shoal.errors import ConfigError
from shoal.trainers.config import Config

__all__ = ["make_optimizers"]


def make_optimizers(policy: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """Return Adam for everything; or Muon for the matrices of hidden layers, and Adam for the rest.

    Raises:
        ConfigError: this torch has no Muon.
    """
    if config.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"optimizer: muon needs torch 2.9 or newer, got {torch.__version__}")
    muon: list[nn.Parameter] = []
    adam: list[nn.Parameter] = []
    ends = {id(m.weight) for m in policy.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in policy.named_parameters():
        if not parameter.requires_grad:
            continue
        head = parameter.ndim == 2 and (min(parameter.shape) == 1 or ".head." in f".{name}")
        hidden = parameter.ndim == 2 and not head and id(parameter) not in ends
        (muon if config.optimizer == "muon" and hidden else adam).append(parameter)
    made: list[torch.optim.Optimizer] = []
    if muon:
        # Updates as large as Adam's, so that one learning rate serves both.
        made.append(
            torch.optim.Muon(
                muon,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if adam:
        made.append(
            torch.optim.AdamW(
                adam,
                lr=config.learning_rate,
                eps=config.adam_eps,
                weight_decay=config.weight_decay,
                fused=True,
            )
        )
    return made
