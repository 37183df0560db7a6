"""Makes experiments of bsuite; runs in the environment's own interpreter."""

from __future__ import annotations

from typing import Any

__all__ = ["create"]


def create(experiment: str = "catch/0") -> Any:
    """Return the experiment with this id, with Gymnasium's interface."""
    import bsuite
    from shimmy.bsuite_compatibility import BSuiteCompatibilityV0

    return BSuiteCompatibilityV0(bsuite.load_from_id(experiment))
