"""RLlib (new API stack): vectors as what its environment runners step.

RLlib's multi-agent environments are stepped one by one: give its ``ParallelPettingZooEnv`` a
`shoal.wrappers.pettingzoo.ShoalParallelEnv`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shoal.emulation import emulate
from shoal.errors import ConfigError
from shoal.registry.creators import find_source
from shoal.vectorization import vectorize

__all__ = ["environment"]

# What `vectorize` passes on to `emulate`.
EMULATION = ("form", "one_hot", "max_len")


def environment(env: Any, **kwargs: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Return what to register with RLlib; each environment runner then steps one vector::

        register_env("shoal", environment("CartPole-v1", backend="serial"))
        config.environment("shoal").env_runners(
            num_envs_per_env_runner=8, gym_env_vectorize_mode="vector_entry_point"
        )

    Args:
        env: as for `shoal.vectorize`, single-agent: an id or a function.
        kwargs: for `shoal.vectorize`; the autoreset mode is the one that RLlib counts on,
            ``"next_step"``, and a batch is all environments. The default backend is
            ``"multiprocess"``.

    Returns:
        A function of RLlib's ``env_config``: a vector of ``num_envs`` where RLlib asks for several,
        else one emulated environment (to learn its spaces from).
    """
    given = {"backend": "multiprocess", **kwargs, "copy": True}  # its episodes keep observations

    def create(config: Mapping[str, Any]) -> Any:
        num_envs = config.get("num_envs")
        if num_envs is not None:
            return vectorize(env, num_envs, **given)
        source = find_source(env, 1, kwargs.get("env_kwargs"), kwargs.get("python"))
        if source.kind in ("batched", "isolated"):
            raise ConfigError(
                "env must be an environment that RLlib can make in its own process, to learn its "
                f"spaces; {env!r} is {source.kind}"
            )
        (make,) = source.creators
        options = {**source.emulation, **given}
        return emulate(make(), **{name: options[name] for name in EMULATION if name in options})

    return create
