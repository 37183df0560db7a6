"""Turn an environment in C, and a policy that has been exported to C, into a web page.

The page is a folder of four files: index.html and page.js, which are the same for all pages, env.js
(names, bounds and the WebAssembly module) and weights.js. It works from a disk, without a server.
"""

from __future__ import annotations

import base64
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import EnvModuleError, ParameterError, install_extra
from shoal.ocean_c.build import HEADERS, build
from shoal.ocean_c.find import FOLDER, load
from shoal.ocean_c.spaces import observation_offsets
from shoal.ocean_c.table import Field, Spec, Table

__all__ = ["compile_wasm", "page_meta", "serve", "source_and_module", "wasm_compiler", "write_page"]

PAGE = HEADERS / "page"
# Contraction is off as in every build: the page's episodes are those of the engine, to the bit.
FLAGS = [
    *("-std=c11", "-O3", "-msimd128", "-mbulk-memory", "-ffp-contract=off", "-nostdlib"),
    *("-Wl,--no-entry", "-Wl,--strip-all"),
]
FPS = 15  # steps per second of a page, to begin with
MOST_BARS = 12  # numbers of an observation that are shown as bars; more are a picture
WEIGHTS = {"float32": "<f4", "float16": "<f2"}


def wasm_compiler() -> list[str]:
    """Return the command of a C compiler for wasm32: that of the package ziglang, or clang.

    Raises:
        EnvModuleError: there is neither.
    """
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "--target=wasm32-freestanding"]
    if clang := shutil.which("clang"):
        targets = subprocess.run([clang, "-print-targets"], capture_output=True, text=True).stdout
        if "wasm32" in targets and shutil.which("wasm-ld"):
            return [clang, "--target=wasm32", "-ffreestanding"]
    raise EnvModuleError(
        "a web page needs a C compiler for wasm32, the package ziglang or clang with wasm-ld: "
        + install_extra("web")
    )


def source_and_module(env: str) -> tuple[Path, Path]:
    """Return an environment's C file and its module; build the module if it is missing or older.

    Args:
        env: the name of one of Shoal's environments, or ``my_env``, ``my_env.c`` or ``my_env.so``.

    Raises:
        EnvModuleError: there is no such C file, or the compiler found errors.
    """
    if (FOLDER / f"{env}.c").is_file():
        return FOLDER / f"{env}.c", FOLDER / f"{env}.so"
    source = Path(env).with_suffix(".c")
    if not source.is_file():
        raise EnvModuleError(
            f"ENV must be one of Shoal's environments in C or the C file of your own, got {env!r}: "
            f"there is no file {source}"
        )
    module = source.with_suffix(".so")
    if not module.is_file() or module.stat().st_mtime < source.stat().st_mtime:
        build(source)
    return source.resolve(), module.resolve()


def compile_wasm(source: Path, policy: Path | None = None) -> bytes:
    """Compile an environment and its policy to one WebAssembly module.

    Args:
        source: the environment's C file.
        policy: a folder with ``policy.h`` and ``shoal_net.h``; None for no policy.

    Raises:
        EnvModuleError: there is no compiler, or it found errors, which have been printed.
    """
    command = [*wasm_compiler(), *FLAGS, f"-I{HEADERS}", f"-DENVIRONMENT={_quoted(source)}"]
    if policy is not None:
        command += [f"-I{policy}", f"-DPOLICY={_quoted(policy / 'policy.h')}"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "page.wasm")
        done = subprocess.run([*command, str(HEADERS / "c" / "page.c"), "-o", str(target)])
        if done.returncode:
            raise EnvModuleError(f"{source}: the compiler for wasm32 found errors")
        return target.read_bytes()


def _quoted(path: Path) -> str:
    return '"' + str(path.absolute()).replace("\\", "/") + '"'


def page_meta(table: Table, spec: Spec) -> dict[str, Any]:
    """Return what the page must know of an environment, as JSON has it."""
    offsets, _ = observation_offsets(spec)
    return {
        "name": table.name,
        "text": table.text,
        "fps": FPS,
        "params": list(spec.values),
        "logs": [list(log) for log in table.logs],
        "actions": [_action(field) for field in spec.actions],
        "observations": [_observation(f, at) for f, at in zip(spec.observations, offsets)],
    }


def _action(field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "float": field.dtype.kind == "f",
        "size": field.low.size,
        "low": field.low.reshape(-1).tolist(),
        "high": field.high.reshape(-1).tolist(),
        "labels": [label.replace("_", " ") for label in field.labels],
        "keys": list(field.keys),
    }


def _observation(field: Field, offset: int) -> dict[str, Any]:
    size = field.low.size
    finite = bool(np.isfinite(field.low).all() and np.isfinite(field.high).all())
    shape = field.shape
    if len(shape) < 2:  # a long vector is shown in rows
        columns = min(size, 18)
        shape = (-(-size // columns), columns)
    return {
        "name": field.name,
        "text": field.text,
        "dtype": field.dtype.name,
        "size": size,
        "offset": offset,
        "low": float(field.low.min()) if finite else None,
        "high": float(field.high.max()) if finite else None,
        "labels": [label.replace("_", " ") for label in field.labels],
        "list": len(field.shape) < 2 and size <= MOST_BARS,
        "planes": [int(np.prod(shape[:-2], dtype=np.int64)), shape[-2], shape[-1]],
    }


def write_page(
    source: str | Path,
    module: str | Path,
    out: str | Path,
    *,
    params: Mapping[str, Any] | None = None,
    policy: str | Path | None = None,
    weights: np.ndarray | None = None,
    half: bool = False,
) -> dict[str, int]:
    """Write a page in which an environment runs, and its agent, if there is one.

    Args:
        source: the environment's C file.
        module: the module that was built from the C file.
        out: the folder; it is made if there is none.
        params: of the environment; defaults for those not given.
        policy: a folder with the policy's ``policy.h`` and ``shoal_net.h``; None for no agent.
        weights: of the policy, float32; by default what is in the folder's ``weights.bin``.
        half: write the weights in 16 bits.

    Returns:
        Bytes of each file that was written.

    Raises:
        EnvModuleError: the compiler for wasm32 is missing or found errors.
        ParameterError: a parameter is wrong, the policy has other observations or actions than the
            environment, or `out` can't be written.
    """
    loaded = load(module)
    spec = loaded.spec(dict(params or {}))
    meta = page_meta(loaded.table, spec)
    folder = None if policy is None else Path(policy)
    encoded = ""
    if folder is not None:
        _check_policy(folder, spec)
        if weights is None:
            weights = np.fromfile(folder / "weights.bin", "<f4")
        meta["weights"] = "float16" if half else "float32"
        encoded = _base64(weights.astype(WEIGHTS[meta["weights"]]).tobytes())
    wasm = compile_wasm(Path(source), folder)
    files = {
        "index.html": (PAGE / "index.html").read_text(),
        "page.js": (PAGE / "page.js").read_text(),
        "env.js": f"const shoal = {json.dumps({'meta': meta, 'wasm': _base64(wasm)})};\n",
        "weights.js": f'shoal.weights = "{encoded}";\n',
    }
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            Path(out, name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ParameterError(f"--out {out} can't be written: {error.strerror or error}") from error
    return {name: len(text.encode()) for name, text in files.items()}


def _check_policy(folder: Path, spec: Spec) -> None:
    """Raise ParameterError if a policy's rows are not those of an environment."""
    text = (folder / "policy.h").read_text()
    elements = sum(field.low.size for field in spec.actions)
    have = observation_offsets(spec)[1], elements * spec.actions[0].dtype.itemsize
    for name, size in zip(("observation", "action"), have):
        found = re.search(rf"POLICY_{name.upper()} = (\d+)", text)
        if found is None or int(found[1]) != size:
            raise ParameterError(
                f"policy: expected an {name} of {size} bytes, as the environment has, got "
                f"{found[1] if found else 'none'}; a run's own parameters give its own rows"
            )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def serve(folder: str | Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """Return a server of a folder on localhost, which ``serve_forever`` runs.

    Args:
        folder: what is served.
        port: 0 for any that is free.

    Raises:
        ParameterError: the port is taken.
    """
    handler = functools.partial(_Quiet, directory=os.fspath(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise ParameterError(f"--port {port}: {error.strerror or error}") from error


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
