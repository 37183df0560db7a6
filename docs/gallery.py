"""Writes a page of every environment in C, with its trained agent if there is one.

`python docs/gallery.py FOLDER`; `make site` does it after the documentation is built. The agents
are docs/trained/NAME.h and NAME.f16, which benchmarks/trained.py makes.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import shoal
from shoal.ocean_c.find import own_names
from shoal.ocean_c.web import source_and_module, write_page

TRAINED = Path(__file__).parent / "trained"
NET = Path(shoal.__file__).parent / "trainers" / "export" / "shoal_net.h"


def write_demo(name: str, out: Path) -> int:
    """Write one environment's page; return the bytes of its files."""
    source, module = source_and_module(name)
    if not (TRAINED / f"{name}.f16").is_file():
        return sum(write_page(source, module, out).values())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(TRAINED / f"{name}.h", Path(folder, "policy.h"))
        shutil.copy(NET, folder)
        weights = np.fromfile(TRAINED / f"{name}.f16", "<f2").astype("<f4")
        files = write_page(source, module, out, policy=folder, weights=weights, half=True)
    return sum(files.values())


def main() -> None:
    for name in own_names():
        print(f"{name}: {write_demo(name, Path(sys.argv[1], name)) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
