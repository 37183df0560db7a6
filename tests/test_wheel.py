"""What a user gets from `pip install`: the wheel alone, in an empty virtual environment."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command: object, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from an sdist in an environment of its own: what either of them lacks is missing here.

    The sdist holds what is committed, no more.
    """
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_no_sources_of_compiled_ones(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    source = ROOT / "src"
    committed = run("git", "ls-files", "src", cwd=ROOT).split()
    endings = (".py", ".pyi")
    python = {Path(p).relative_to("src").as_posix() for p in committed if p.endswith(endings)}
    assert python | {"shoal/py.typed"} <= set(names)
    for path in source.rglob("*.pyx"):
        stem = path.relative_to(source).with_suffix("").as_posix()
        assert stem + sysconfig.get_config_var("EXT_SUFFIX") in names
    stable = {n.partition(".")[0].rpartition("/")[2] for n in names if n.endswith(".abi3.so")}
    listed = re.search(
        r"stable_modules = \[(.*?)\]", (source / "shoal/meson.build").read_text(), re.S
    )
    assert stable == set(re.findall(r"'(\w+)'", listed[1]))
    assert not [n for n in names if n.endswith((".pyx", ".build"))]


def test_the_wheel_runs_without_a_compiler(wheel, tmp_path):
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    binaries = venv / "bin"
    # Nothing but the virtual environment is on the PATH, and nothing of this one is seen.
    outer = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CC", "VIRTUAL_ENV")}
    env = {**outer, "PATH": str(binaries)}
    pip = [binaries / "python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    run(*pip, wheel, env=env, cwd=tmp_path)
    out = run(binaries / "shoal", "run", "CartPole-v1", "--steps", "1000", env=env, cwd=tmp_path)
    assert "steps" in out
    run(*pip, f"shoal[nethack] @ {wheel.as_uri()}", env=env, cwd=tmp_path)
    out = run(
        binaries / "shoal", "run", "nle:NetHackScore-v0", "--steps", "1000", env=env, cwd=tmp_path
    )
    assert "tty_chars" in out


def test_the_wheel_builds_environments_in_c(wheel, tmp_path):
    """With a C compiler and nothing else: in a folder of its own, as the author's page says."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    command = venv / "bin" / "shoal"
    for arguments in (
        "new mine",
        "build mine.c",
        "check mine",
        "run mine --steps 10",
        "run squared",
    ):
        run(command, *arguments.split(), cwd=tmp_path)
