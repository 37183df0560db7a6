"""A trained policy and its environment as a web page."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ExportError
from shoal.ocean_c.web import write_page
from shoal.registry.creators import find_source
from shoal.trainers.export.c import export_c
from shoal.trainers.export.step import load

__all__ = ["export_web"]


def export_web(
    run: str | Path,
    folder: str | Path,
    *,
    env: tuple[Path, Path] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    half: bool = False,
) -> dict[str, int]:
    """Write a page in which a run's agent plays its environment, which is one in C.

    Args:
        run: the folder of a run, or a checkpoint.
        folder: where to write; it is made if there is none.
        env: the C file and the module of the environment; those of the run by default.
        env_kwargs: parameters of the environment that differ from the run's.
        half: write the weights in 16 bits, not in 32.

    Returns:
        Bytes of each file that was written.

    Raises:
        ExportError: the run's environment is not in C, its C file is missing, or a part of the
            policy can't be exported; the message names the part.
        EnvModuleError: there is no compiler for wasm32.
        ParameterError: the environment has other observations or actions than the policy.
    """
    policy, config = load(run)
    assert config is not None  # a run's, or a checkpoint's
    kwargs = {**config["env_kwargs"], **(env_kwargs or {})}
    if env is None:
        native = find_source(config["env"], None, dict(config["env_kwargs"])).native
        if native is None:
            raise ExportError(
                f"format web: the environment must be in C, and {config['env']} is not; formats c "
                "and onnx export the policy alone"
            )
        if not native.with_suffix(".c").is_file():
            raise ExportError(f"format web: there is no file {native.with_suffix('.c')}")
        env = native.with_suffix(".c"), native
    with tempfile.TemporaryDirectory() as place:
        export_c(policy, place)
        return write_page(*env, folder, params=kwargs, policy=place, half=half)
