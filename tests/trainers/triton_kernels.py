"""What tests of Triton kernels share: without a GPU, its interpreter and its compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run_kernels(code):
    """Run code in a process of its own, for Triton decides on its interpreter as it is imported."""
    pytest.importorskip("triton")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


def assert_compiles(kernel, signature, constants, capability):
    """Compile a kernel for a GPU that need not be here.

    The interpreter accepts what the compiler refuses, such as annotations that are no types.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in compiled.asm["ptx"]
    assert compiled.asm["cubin"]
