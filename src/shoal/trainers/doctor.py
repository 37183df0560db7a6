"""What this machine has for training and what it lacks, in plain words. Works without torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shoal.errors import install_extra

__all__ = ["Finding", "examine"]

# The modules that each extra consists of, with what they are for.
EXTRAS = {
    "train": ("torch", "rich", "tyro", "tensorboard", "matplotlib", "imageio", "imageio_ffmpeg"),
    "pettingzoo": ("pettingzoo",),
    "nethack": ("nle",),
    "atari": ("ale_py",),
    "sweep": ("optuna",),
    "sb3": ("stable_baselines3",),
    "ray": ("ray",),
}
# What belongs to no extra, and what works only with it.
OPTIONAL = {
    "wandb": ("wandb", "shoal train --wandb"),
    "neptune": ("neptune", "shoal train --neptune"),
    "trackio": ("trackio", "shoal train --trackio"),
}
LITTLE_DISK = 2e9
LITTLE_MEMORY = 2e9


class Finding(NamedTuple):
    """One line of the report: is it in order (None: optional and missing), of what, and how."""

    ok: bool | None
    name: str
    text: str


def examine(folder: Path) -> Iterator[Finding]:
    """Look at everything, one after the other.

    Args:
        folder: where runs go, whose disk is looked at.
    """
    yield _python()
    yield _kernels()
    yield _compiler()
    yield from _torch()
    yield _toolkit()
    yield _cores()
    yield _memory()
    yield _disk(folder)
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not _installed(module)]
        if missing:
            lack = f"lacks {', '.join(missing)}: {install_extra(extra)}"
            yield Finding(None, f"extra {extra}", lack)
        else:
            versions = ", ".join(f"{module} {_version(module)}" for module in modules)
            yield Finding(True, f"extra {extra}", versions)
    for module, (package, use) in OPTIONAL.items():
        if _installed(module):
            yield Finding(True, package, _version(module))
        else:
            yield Finding(None, package, f"not installed; needed for {use}: pip install {package}")


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}"
    return Finding(sys.version_info >= (3, 11), "Python", text)


def _kernels() -> Finding:
    """Check our own compiled modules: without them there is no packing and stepping in C."""
    try:
        import shoal.rows.pack
        import shoal.vectorization.sync  # noqa: F401
    except ImportError as error:
        return Finding(False, "compiled parts", f"{error}: install Shoal again")
    return Finding(True, "compiled parts", "they load")


def _compiler() -> Finding:
    command = os.environ.get("CC", "").split()[:1] or [
        name for name in ("cc", "gcc", "clang") if shutil.which(name)
    ]
    said = _output([command[0], "--version"]) if command else ""
    if said:
        return Finding(True, "C compiler", said.splitlines()[0])
    return Finding(
        None,
        "C compiler",
        "none found; needed to build Shoal, environments in C, and for --compile: install gcc",
    )


def _torch() -> Iterator[Finding]:
    driver = re.search(
        r"Driver Version: (\S+).*?CUDA Version: (\S+)", _output(["nvidia-smi"]), re.S
    )
    if not _installed("torch"):
        yield Finding(False, "torch", f"not installed; needed to train: {install_extra('train')}")
    else:
        try:
            import torch
        except Exception as error:  # a broken installation raises what it likes
            yield Finding(False, "torch", f"does not load: {type(error).__name__}: {error}")
            return
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        yield Finding(True, "torch", f"{torch.__version__}, {built}")
        if torch.cuda.is_available():
            for i in range(torch.cuda.device_count()):
                free, total = torch.cuda.mem_get_info(i)
                name, room = torch.cuda.get_device_name(i), f"{free / 1e9:.0f} of {total / 1e9:.0f}"
                yield Finding(True, f"GPU {i}", f"{name}, {room} GB free")
        elif driver and torch.version.cuda:
            text = (
                f"the driver {driver[1]} serves CUDA up to {driver[2]}, but torch "
                f"(CUDA {torch.version.cuda}) finds no GPU: update the driver, or look at "
                "CUDA_VISIBLE_DEVICES"
            )
            yield Finding(False, "GPU", text)
        elif driver:
            yield Finding(False, "GPU", "there is one, but this torch is built for CPUs only")
    if driver:
        yield Finding(True, "CUDA driver", f"{driver[1]}, for CUDA up to {driver[2]}")
    else:
        yield Finding(None, "CUDA driver", "none: training will use the CPU, a good beginning")


def _toolkit() -> Finding:
    found = re.search(r"release ([\d.]+)", _output(["nvcc", "--version"]))
    if found:
        return Finding(True, "CUDA toolkit", found[1])
    return Finding(
        None, "CUDA toolkit", "none; none is needed, for kernels are compiled at run time"
    )


def _cores() -> Finding:
    try:
        from shoal.vectorization.sync import usable_cores

        usable = usable_cores()
    except ImportError:
        usable = os.cpu_count() or 1
    text = f"{usable} usable of {os.cpu_count()}"
    if usable == 1:
        text += ": environments and learning take turns"
    return Finding(True, "cores", text)


def _memory() -> Finding:
    try:
        known = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
        total, free = (int(known[key]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError):  # not Linux
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Finding(True, "memory", f"{total / 1e9:.0f} GB")
    text = f"{free / 1e9:.1f} of {total / 1e9:.0f} GB available"
    return Finding(free > LITTLE_MEMORY, "memory", text + ": little" * (free <= LITTLE_MEMORY))


def _disk(folder: Path) -> Finding:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.1f} GB free at {there}"
    if not os.access(there, os.W_OK):
        return Finding(False, "disk", f"{text}, where nothing can be written")
    return Finding(free > LITTLE_DISK, "disk", text + ": little" * (free <= LITTLE_DISK))


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _output(command: list[str]) -> str:
    """Return what a command prints, or nothing where it can't run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
