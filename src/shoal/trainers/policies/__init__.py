"""Policies: plain torch modules with `encode` and `decode`.

A policy is any `torch.nn.Module` that is made as ``Policy(observation_layout, action_layout,
config)`` and has

- ``num_features``: how many numbers it knows an observation by,
- ``encode(observations) -> features``: rows as the vector serves them, ``(n, *layout.shape)``, to
  float32 ``(n, num_features)``; `Layout.view` gives the nested structure back without a copy,
- ``decode(features) -> (parameters, values)``: ``(n, Distribution.num_parameters)`` and ``(n,)``;
  `ActionHead` makes the parameters.

`Recurrent` puts an LSTM or a MinGRU between the two.

Initial weights, as in the reference implementation of PPO (Huang et al. 2022, "The 37
implementation details of PPO", detail 2): orthogonal, with gain sqrt(2) in hidden layers, 0.01 for
what makes actions, 1 for the value; biases 0. Embeddings are normal with deviation 0.1.
"""

from shoal.trainers.policies.default import (
    ActionHead,
    DefaultPolicy,
    Normalizer,
    initialize,
    linear,
    typed,
)
from shoal.trainers.policies.memory import Recurrent, initial_state

__all__ = [
    "ActionHead",
    "DefaultPolicy",
    "Normalizer",
    "Recurrent",
    "initial_state",
    "initialize",
    "linear",
    "typed",
]
