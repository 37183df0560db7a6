"""Measure which functions of a native environment take the time."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from shoal.errors import EnvModuleError
from shoal.ocean_c.build import FLAGS, HEADERS, compiler

__all__ = ["perf"]


def perf(source: Path, steps: int) -> str:
    """Step an environment without Python under a profiler, and return the profiler's report.

    The profiler is ``perf``, or else ``gprof``. The compiler does not inline the environment's
    functions, so the report can name each; small functions are a little slower than usual.

    Args:
        source: the C file.
        steps: to take, with random actions.

    Raises:
        EnvModuleError: the file does not compile, the program ends early, or there is no profiler.
    """
    if not source.is_file():
        raise EnvModuleError(f"source: there is no file {source}")
    perf_command, gprof = shutil.which("perf"), shutil.which("gprof")
    if not perf_command and not gprof:
        raise EnvModuleError("no profiler was found: install perf, or gprof (of binutils)")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "drive"
        kind = ["-g", "-fno-omit-frame-pointer"] if perf_command else ["-pg"]
        kind += ["-DSHOAL_FN=static __attribute__((noinline, unused))"]
        defines = [f'-DENVIRONMENT="{source.resolve()}"', f"-I{HEADERS}"]
        drive = str(HEADERS / "c" / "drive.c")
        _run([*compiler(), *FLAGS, "-O3", *kind, *defines, drive, "-lm", "-o", str(program)])
        if perf_command:
            data = f"{folder}/data"
            _run([perf_command, "record", "-q", "-o", data, str(program), str(steps)], folder)
            report = [perf_command, "report", "-i", data, "--stdio", "--percent-limit", "0.5"]
            return _run(report, folder)
        said = _run([str(program), str(steps)], folder)
        assert gprof is not None
        return said + _run([gprof, "-b", "-p", str(program), f"{folder}/gmon.out"], folder)


def _run(command: list[str], folder: str | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise EnvModuleError(f"{' '.join(command[:2])} failed:\n{done.stderr}")
    return done.stdout
