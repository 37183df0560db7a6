"""Recipes and their installation, from an index of our own on this disk."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import shoal
from shoal.cli import main
from shoal.emulation import recipes
from shoal.emulation.install import diagnose, install
from shoal.errors import ConfigError, InstallError, UnknownEnvError
from shoal.ocean_c.find import own_names

OWN = ".".join(map(str, sys.version_info[:2]))
CODE = """
import numpy as np
from gymnasium.spaces import Box, Discrete
class Tiny:
    observation_space, action_space = Box(0, 9, (1,), np.float32), Discrete(2)
    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.float32([action]), 1.0, False, False, {}
"""


def write_wheel(folder, name, version="1.0", needs=()):
    """A package with one module, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty folder, the only place where pip looks for packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "uv" else which(name))
    return folder


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """A virtual environment with pip and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


def has_venv(recipe, venv):
    """Let the first step have been done: it is what takes longest."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    (recipe.folder / "venv").symlink_to(venv)
    (recipe.folder / "steps.json").write_text(f'["make a virtual environment (Python {OWN})"]')


def write_recipe(tmp_path, **keys):
    keys = {
        "summary": "tiny",
        "env": "tiny_env:Tiny",
        "install": [["first_package"], ["tiny_env"]],
        "imports": ["tiny_env"],
        "python": [OWN],
        **keys,
    }
    path = tmp_path / "tiny.toml"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in keys.items()))
    return recipes.find(str(path))


def test_a_broken_installation_says_where_and_goes_on(index, tmp_path):
    recipe = write_recipe(tmp_path)
    write_wheel(index, "first_package")
    said = []
    with pytest.raises(InstallError) as caught:
        install(recipe, say=said.append)
    message = str(caught.value)
    log = recipe.folder / "install.log"
    assert "tiny: step 3 of 4 (pip install tiny_env) failed with exit code 1" in message
    assert "No matching distribution found for tiny_env" in message
    assert str(log) in message and "No matching distribution" in log.read_text()
    assert not recipe.installed()
    with pytest.raises(UnknownEnvError, match="is not installed here: shoal env install"):
        shoal.vectorize(str(recipe.file))
    # The package appears, but needs one that is gone.
    write_wheel(index, "tiny_env", needs=["gone"])
    with pytest.raises(InstallError, match=r"step 3 of 4.*No matching distribution found for gone"):
        install(recipe, say=said.append)
    write_wheel(index, "tiny_env", "1.1")
    said.clear()
    install(recipe, say=said.append)
    assert [line for line in said if "done before" in line] == [
        f"[1/4] make a virtual environment (Python {OWN}): done before",
        "[2/4] pip install first_package: done before",
    ]
    assert recipe.installed()


def test_a_module_that_can_not_be_imported_is_a_step_of_its_own(index, tmp_path, venv):
    for name in ("first_package", "tiny_env"):
        write_wheel(index, name)
    recipe = write_recipe(tmp_path, imports=["tiny_env", "libmissing"])
    has_venv(recipe, venv)
    with pytest.raises(InstallError, match=r"step 4 of 4 \(import .*No module named 'libmissing'"):
        install(recipe, say=lambda line: None)


def test_a_recipe_that_changed_begins_again(index, tmp_path, venv, monkeypatch):
    began = []
    monkeypatch.setattr("shoal.emulation.install.run", lambda recipe, what, *_: began.append(what))
    recipe = write_recipe(tmp_path, imports=[])
    has_venv(recipe, venv)
    install(recipe, say=lambda line: None)
    assert [what[:11] for what in began] == ["step 2 of 3", "step 3 of 3"]
    began.clear()
    install(write_recipe(tmp_path, install=[["tiny_env"]], imports=[]), say=lambda line: None)
    assert [what[:11] for what in began] == ["step 1 of 2", "step 2 of 2"]


def test_missing_system_packages_are_named_with_the_command(index, tmp_path, monkeypatch):
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "dpkg-query").write_text('#!/bin/sh\necho "libhere installed"\nexit 1\n')
    (fake / "dpkg-query").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    recipe = write_recipe(tmp_path, system=["libhere", "libgone1"])
    with pytest.raises(
        InstallError, match=r"missing: libgone1; run `.*apt-get install --yes libgone1"
    ):
        install(recipe, say=lambda line: None)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    with pytest.raises(InstallError, match="nothing was installed"):
        install(recipe, system=True, say=lambda line: None)
    assert diagnose(recipe)[0] == (False, "system", "missing: libgone1")


def test_a_python_that_is_not_there(index, tmp_path):
    with pytest.raises(InstallError, match=r"runs under Python 3\.1, and there is no python3\.1"):
        install(write_recipe(tmp_path, python=["3.1"]), say=lambda line: None)


def test_the_command(index, tmp_path, capsys, venv):
    recipe = write_recipe(tmp_path, install=[["absent_package"]])
    has_venv(recipe, venv)
    assert main(["env", "install", str(recipe.file)]) == 2
    assert "step 2 of 3 (pip install absent_package) failed" in capsys.readouterr().err
    assert main(["env", "doctor", str(recipe.file)]) == 1
    assert "NO  installed" in capsys.readouterr().out
    assert main(["env", "install", "nmo"]) == 2
    assert "there is no recipe 'nmo'; did you mean nmmo" in capsys.readouterr().err
    assert main(["env", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == recipes.names()


@pytest.mark.parametrize("text", ["env = 3 4", 'env = "x"', 'summary = "x"\nenv = "y"\ncolour = 1'])
def test_a_file_that_is_no_recipe(tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.toml: this is no recipe"):
        recipes.find(str(tmp_path / "bad.toml"))


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_are_whole(name):
    recipe = recipes.find(name)
    assert recipe.summary and recipe.env and recipe.install and recipe.imports and recipe.licence
    assert name not in own_names()  # a compiled environment would be hidden
    file = Path(recipe.creator.partition(":")[0])
    assert file.suffix != ".py" or file.is_file()


def test_recipes_beside_shoal_need_no_installation_where_their_packages_are():
    pytest.importorskip("minigrid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", None)
        vector = shoal.vectorize("minigrid", 2, backend="serial", seed=0)
    vector.reset()
    assert "mission" in vector.observation_layout.view(vector.reset()[0])
    vector.close()


def test_an_installed_recipe_works_by_its_name(index, tmp_path, monkeypatch):
    """The virtual environment here is one that the other tests have: the index has no NumPy."""
    from tests.other_python import old_python

    recipe = write_recipe(tmp_path, env="tiny_env.py:Tiny")
    (tmp_path / "tiny_env.py").write_text(CODE)
    recipe.folder.mkdir(parents=True)
    (recipe.folder / "venv").symlink_to(Path(old_python()).parents[1])
    (recipe.folder / "installed").touch()
    vector = shoal.vectorize(str(recipe.file), 2, num_workers=1)
    vector.reset()
    assert vector.step([1, 0])[0].tolist() == [[1], [0]]
    vector.close()
    assert diagnose(recipe)[-1][:2] == (True, "20 steps")
