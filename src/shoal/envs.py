"""Importing this registers the native environments with Gymnasium: ``shoal/Squared-v0``, ….

    import shoal.envs
    gymnasium.make("shoal/Squared-v0")
    gymnasium.make_vec("shoal/Squared-v0", num_envs=4096)

or, without the import, ``gymnasium.make("shoal.envs:shoal/Squared-v0")``. Nothing is loaded before
an environment is made. Environments with several agents are
`shoal.ocean_c.native_parallel_env.NativeParallelEnv`.
"""

from __future__ import annotations

from pathlib import Path

from gymnasium.envs.registration import register

__all__ = ["names"]


def names() -> list[str]:
    """Return the names of the environments that come with Shoal."""
    return sorted(
        path.stem for path in (Path(__file__).parent / "ocean_c" / "environments").glob("*.c")
    )


for _name in names():
    register(
        f"shoal/{_name.capitalize()}-v0",
        entry_point="shoal.ocean_c.native_env:NativeEnv",
        vector_entry_point="shoal.vectorization.backends.native:make_vec",
        kwargs={"name": _name},
    )
