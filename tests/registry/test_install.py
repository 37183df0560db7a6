"""Recipes and their installation, from an index of our own on this disk."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import typing
import zipfile
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

import shoal
from shoal.cli import main
from shoal.errors import ConfigError, InstallError, UnknownEnvError
from shoal.ocean_c.find import own_names
from shoal.registry import recipe as recipes
from shoal.registry.install import diagnose, install, reason

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
        install(recipe, yes=True, say=said.append)
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
        install(recipe, yes=True, say=said.append)
    write_wheel(index, "tiny_env", "1.1")
    said.clear()
    install(recipe, yes=True, say=said.append)
    assert [line for line in said if "done before" in line] == [
        f"[1/4] make a virtual environment (Python {OWN}): done before",
        "[2/4] pip install first_package: done before",
    ]
    assert recipe.installed()


@pytest.mark.parametrize(
    ("said", "best"),
    [
        (  # pip, a compiler
            """
            Building wheel for broken (pyproject.toml): finished with status 'error'
            error: subprocess-exited-with-error
            b.c:1:10: fatal error: no_such_header.h: No such file or directory
            compilation terminated.
            error: Command '['gcc', '-c', 'b.c']' failed with exit code 1
            note: This error originates from a subprocess, and is likely not a problem with pip.
            ERROR: Failed building wheel for broken
            Failed to build broken
            ERROR: Could not build wheels for broken, which is required to install
            """,
            "b.c:1:10: fatal error: no_such_header.h: No such file or directory",
        ),
        (  # pip, no network
            """
            WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/six/
            ERROR: Could not find a version that satisfies the requirement six (from versions: none)
            ERROR: No matching distribution found for six
            """,
            "a download failed: WARNING: Retrying after connection broken by "
            "'NewConnectionError(...)': /simple/six/",
        ),
        (  # a retry that went well
            """
            WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/six/
            ModuleNotFoundError: No module named 'Cython'
            ERROR: Failed building wheel for old
            """,
            "ModuleNotFoundError: No module named 'Cython'",
        ),
        (  # uv, no network
            """
            error: Request failed after 3 retries in 10.1s
            cause: Failed to fetch: http://127.0.0.1:9/simple/six/
            cause: Connection refused (os error 111)
            """,
            "a download failed: cause: Failed to fetch: http://127.0.0.1:9/simple/six/",
        ),
        (  # uv, no package
            """
            error: No solution found when resolving dependencies
            cause: Because gone was not found in the package registry, it can't be installed.
            """,
            "cause: Because gone was not found in the package registry, it can't be installed",
        ),
        ("ImportError: libGL.so.1: cannot open shared object file", None),
        ("Killed", None),
        ("", "it said nothing"),
    ],
)
def test_the_reason_is_the_line_that_says_most(said, best):
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    assert reason(lines) == (best or said)


def test_a_module_that_can_not_be_imported_is_a_step_of_its_own(index, tmp_path, venv):
    for name in ("first_package", "tiny_env"):
        write_wheel(index, name)
    recipe = write_recipe(tmp_path, imports=["tiny_env", "libmissing"])
    has_venv(recipe, venv)
    with pytest.raises(InstallError, match=r"step 4 of 4 \(import .*No module named 'libmissing'"):
        install(recipe, yes=True, say=lambda line: None)


def test_a_recipe_that_changed_begins_again(index, tmp_path, venv, monkeypatch):
    began = []
    monkeypatch.setattr("shoal.registry.install.run", lambda recipe, what, *_: began.append(what))
    recipe = write_recipe(tmp_path, imports=[])
    has_venv(recipe, venv)
    install(recipe, yes=True, say=lambda line: None)
    assert [what[:11] for what in began] == ["step 2 of 3", "step 3 of 3"]
    began.clear()
    install(
        write_recipe(tmp_path, install=[["tiny_env"]], imports=[]), yes=True, say=lambda line: None
    )
    assert [what[:11] for what in began] == ["step 1 of 2", "step 2 of 2"]


def write_python(recipe, script):
    """A virtual environment whose interpreter is a shell script."""
    has_venv(recipe, recipe.folder / "fake")
    python = recipe.folder / "fake" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def test_ctrl_c_says_where_and_goes_on(index, tmp_path):
    recipe = write_recipe(tmp_path)
    write_python(recipe, 'case "$*" in *tiny_env) exec sleep 100;; esac')
    command = [sys.executable, "-c", "import sys; from shoal.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*command, "env", "install", "--yes", str(recipe.file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PATH": "/usr/bin:/bin"},
    )
    while "[3/4]" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == ""
    again = f"to go on from there: shoal env install {recipe.file}\n"
    assert out == f"interrupted in step 3 of 4 (pip install tiny_env); {again}"
    recipe.interpreter.write_text("#!/bin/sh\n")
    said = []
    install(recipe, yes=True, say=said.append)
    assert recipe.installed()
    assert [line[:5] for line in said if "done before" in line] == ["[1/4]", "[2/4]"]


def test_two_at_once_install_it_once(index, tmp_path, monkeypatch):
    """The second waits for the first, and finds all done; it is never taken for not installed."""
    recipe = write_recipe(tmp_path, imports=[])
    write_python(recipe, "exit 0")
    began, go_on, ran = threading.Event(), threading.Event(), []

    def run(recipe, what, *rest):
        ran.append(what)
        began.set()
        assert go_on.wait(60)

    def say(line):
        second.append(line)
        if "waiting" in line:
            go_on.set()
        elif "done before" in line:
            assert recipe.installed()

    monkeypatch.setattr("shoal.registry.install.run", run)
    first, second = [], []
    thread = threading.Thread(target=install, args=(recipe, True, first.append))
    thread.start()
    assert began.wait(60)
    install(recipe, yes=True, say=say)
    thread.join()
    assert [what[:11] for what in ran] == ["step 2 of 3", "step 3 of 3"]
    assert "another process is installing it: waiting" in second
    assert len([line for line in second if "done before" in line]) == 3
    assert not any("waiting" in line for line in first)


def test_a_cache_that_can_not_be_written(index, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path)
    (tmp_path / "cache").write_text("")
    with pytest.raises(InstallError, match=r"cache/shoal\S* can't be written: Not a dir.*XDG_"):
        install(recipe, yes=True, say=lambda line: None)
    if not Path("/dev/full").exists():
        pytest.skip("there is no disk that is always full")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    write_python(recipe, "exit 0")
    (recipe.folder / "install.log").symlink_to("/dev/full")
    with pytest.raises(InstallError, match=r"can't be written: No space left"):
        install(recipe, yes=True, say=lambda line: None)
    (recipe.folder / "install.log").unlink()
    install(recipe, yes=True, say=lambda line: None)
    assert recipe.installed()


def test_files_of_the_same_name_do_not_share_a_folder(tmp_path):
    others = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        others.append(write_recipe(tmp_path / name))
    own = recipes.find("nmmo")
    copy = tmp_path / "nmmo.toml"
    shutil.copy(own.file, copy)
    folders = {each.folder for each in (*others, own, recipes.find(str(copy)))}
    assert len(folders) == 4
    assert (own.called, others[0].called) == ("nmmo", str(tmp_path / "one" / "tiny.toml"))


def answers(monkeypatch, *given):
    """Let the user give these answers; a list that gets the questions."""
    asked, left = [], list(given)

    def answer(question):
        asked.append(question)
        if isinstance(left[0], Exception):
            raise left.pop(0)
        return left.pop(0)

    monkeypatch.setattr("builtins.input", answer)
    return asked


def test_a_recipe_of_others_is_run_only_after_a_yes(index, tmp_path, monkeypatch):
    """What is run stands above the question; Shoal's own recipes are not asked about."""
    ran, said = [], []
    monkeypatch.setattr("shoal.registry.install.run", lambda recipe, what, *_: ran.append(what))
    recipe = write_recipe(tmp_path, install=[["one", "two<3"], ["--no-deps", "four"]], imports=[])
    write_python(recipe, "exit 0")
    for given in ("n", "", EOFError(), OSError()):
        answers(monkeypatch, given)
        with pytest.raises(InstallError, match=r"nothing was installed.*not yes \(--yes\)"):
            install(recipe, say=said.append)
    assert ran == [] and not (recipe.folder / "installed").exists()
    for line in ("pip install one 'two<3'", "pip install --no-deps four"):
        assert f"    {line}" in said
    asked = answers(monkeypatch, "y")
    install(recipe, say=said.append)
    assert [what[:11] for what in ran] == ["step 2 of 3", "step 3 of 3"]
    assert asked == [
        f"{recipe.file} does not come with Shoal. These commands run its code. Run them? [y/N] "
    ]
    answers(monkeypatch)  # no answer is left: none may be asked for
    install(recipe, yes=True, say=said.append)
    own = recipes.find("minigrid")
    install(own, say=said.append)
    assert f"conventions: {own.conventions}" in said


def test_a_long_step_shows_that_it_is_running(index, tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.registry.install.ALIVE", 0.2)
    recipe, said = write_recipe(tmp_path, install=[["slow"]], imports=[]), []
    write_python(recipe, "echo building; sleep 1")
    install(recipe, yes=True, say=said.append)
    alive = [line for line in said if line.endswith(" s: building")]
    assert len(alive) >= 2 and alive[0].startswith("    0.2 s")


def test_missing_system_packages_are_named_with_the_command(index, tmp_path, monkeypatch):
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "dpkg-query").write_text('#!/bin/sh\necho "libhere installed"\nexit 1\n')
    (fake / "dpkg-query").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    recipe = write_recipe(tmp_path, system=["libhere", "libgone1"])
    monkeypatch.setattr("shoal.registry.install.run", lambda *_: pytest.fail("was run"))
    for answer in ("y", "n"), ("y", EOFError()):
        asked, said = answers(monkeypatch, *answer), []
        with pytest.raises(
            InstallError, match=r"not yes \(install them yourself: libgone1; or --y"
        ):
            install(recipe, say=said.append)
        assert "does not come with Shoal" in asked[0]
        assert re.search("Run `.*apt-get install --yes libgone1`", asked[1])
        assert any(line.endswith("apt-get install --yes libgone1") for line in said)
    assert diagnose(recipe)[0] == (False, "system", "missing: libgone1")


def test_a_python_that_is_not_there(index, tmp_path):
    with pytest.raises(InstallError, match=r"runs under Python 3\.1, and there is no python3\.1"):
        install(write_recipe(tmp_path, python=["3.1"]), yes=True, say=lambda line: None)


def test_the_command(index, tmp_path, capsys, venv):
    recipe = write_recipe(tmp_path, install=[["absent_package"]])
    has_venv(recipe, venv)
    assert main(["env", "install", "--yes", str(recipe.file)]) == 2
    assert "step 2 of 3 (pip install absent_package) failed" in capsys.readouterr().err
    assert main(["env", "doctor", str(recipe.file)]) == 1
    assert "NO  installed" in capsys.readouterr().out
    assert main(["env", "install", "nmo"]) == 2
    assert "there is no recipe 'nmo'; did you mean nmmo" in capsys.readouterr().err
    assert main(["env", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == recipes.names()
    assert main(["env", "list", "nmmo"]) == 0
    out = capsys.readouterr().out
    assert f"conventions: {recipes.find('nmmo').conventions}" in out and "runs in: " in out


WHOLE = 'summary = "x"\nenv = "y"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("env = 3 4", "at line 1"),
        ('env = "x"', "the key 'summary' is missing"),
        (WHOLE + "colour = 1", "there is no key 'colour'"),
        (WHOLE + 'name = "z"', "there is no key 'name'"),
        ('summary = 3\nenv = "y"', "summary must be a text, got 3"),
        (WHOLE + 'install = ["numpy"]', r"install must be a list of lists .*, got \['numpy'\]"),
        (WHOLE + 'install = "numpy"', "install must be a list of lists"),
        (WHOLE + "install = [[]]", "install must be a list of lists"),
        (WHOLE + 'install = [[""]]', "install must be a list of lists"),
        (WHOLE + "install = [[1]]", "install must be a list of lists"),
        (WHOLE + 'imports = "numpy"', "imports must be a list of texts"),
        (WHOLE + 'imports = ["os; 1 / 0"]', "imports must hold the name of a module each"),
        (WHOLE + 'python = "3.11"', "python must be a list of texts"),
        (WHOLE + "python = [3.11]", "python must be a list of texts"),
        (WHOLE + 'python = ["newest"]', "python must hold a version of Python each"),
        (
            WHOLE + 'system = ["--allow-downgrades"]',
            "system must hold the name of a Debian package",
        ),
        (WHOLE + "kwargs = 3", "kwargs must be a table"),
        (WHOLE + "emulation = {max_length = 3}", "emulation: unknown option 'max_length'"),
        (WHOLE + 'emulation = {max_len = "long"}', "emulation: max_len must be"),
        (WHOLE + 'emulation = {pad = "yes"}', "emulation: pad must be"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, why, monkeypatch):
    """It is refused before anything runs, by every command."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bad\.toml is not a recipe: .*{why}"):
        recipes.find(str(path))
    monkeypatch.setattr(subprocess, "Popen", None)
    for command in (["env", "install", "--yes"], ["env", "doctor"], ["run"], ["train"]):
        assert main([*command, str(path)]) == 2


SHORT = st.text(max_size=2)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | SHORT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(SHORT, inner, max_size=2),
)


@hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(key=st.sampled_from(dataclasses.fields(recipes.Recipe)[2:]), value=VALUES)
def test_a_value_of_another_type_is_never_accepted(key, value):
    kinds = {
        "str": str,
        "list[str]": list[str],
        "list[list[str]]": list[list[str]],
        "dict[str, Any]": dict[str, Any],
    }
    content = {"summary": "x", "env": "y", key.name: value}
    try:
        recipes.check_keys(content)
    except ConfigError as error:
        assert key.name in str(error)
    else:
        assert_type(value, kinds[key.type])


def assert_type(value, kind):
    """Assert that a value is of a type, as deep as the type says."""
    outer, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    assert type(value) is outer
    for each in value if outer is list else ():
        assert_type(each, inner[0])


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
    (recipe.folder / "venv").unlink()
    with pytest.raises(UnknownEnvError, match="is not installed here: shoal env install"):
        shoal.vectorize(str(recipe.file), 2)
