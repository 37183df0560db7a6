"""The programs in docs/, which write pages and are in no package."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def load_script(name):
    """Return docs/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
