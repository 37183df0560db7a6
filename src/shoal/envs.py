"""Importing this registers the native environments with Gymnasium: ``shoal/Squared-v0``, ….

    import shoal.envs
    gymnasium.make("shoal/Squared-v0")
    gymnasium.make_vec("shoal/Squared-v0", num_envs=4096)

or, without the import, ``gymnasium.make("shoal.envs:shoal/Squared-v0")``. Nothing is loaded before
an environment is made. Environments with several agents are
`shoal.ocean_c.native_parallel_env.NativeParallelEnv`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from shoal.vectorization.vector import Vector

__all__ = ["make_vec", "names"]


def names() -> list[str]:
    """Return the names of the environments that come with Shoal."""
    return sorted(
        path.stem for path in (Path(__file__).parent / "ocean_c" / "environments").glob("*.c")
    )


def make_vec(num_envs: int = 1, *, name: str, **kwargs: Any) -> Vector:
    """Make a vector of a native environment, as ``gymnasium.make_vec("shoal/Squared-v0")`` does.

    Args:
        num_envs: number of environments.
        name: of the environment.
        kwargs: those of `shoal.vectorize`; all others are parameters of the environment.
    """
    from shoal.vectorization import vectorize

    own = inspect.signature(vectorize).parameters
    options = {key: kwargs.pop(key) for key in list(kwargs) if key in own}
    return vectorize(name, num_envs, env_kwargs=kwargs, **options)


for _name in names():
    register(
        f"shoal/{_name.capitalize()}-v0",
        entry_point="shoal.ocean_c.native_env:NativeEnv",
        vector_entry_point="shoal.envs:make_vec",
        kwargs={"name": _name},
    )
