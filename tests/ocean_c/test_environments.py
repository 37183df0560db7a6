"""What holds for every environment that comes with Shoal; each C file of the folder is found."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shoal
from shoal.ocean_c import find
from shoal.ocean_c.engine import Module
from shoal.ocean_c.native_env import NativeEnv
from shoal.registry.creators import make_native

OCEAN = Path(find.__file__).parent
FOLDER = find.FOLDER
NAMES = sorted(path.stem for path in FOLDER.glob("*.c"))
EVERY = pytest.mark.parametrize("name", NAMES)


def agents(name: str) -> int:
    return find.load(FOLDER / f"{name}.so").spec({}).agents


def random_actions(vector, random: np.random.Generator):
    """Actions within the space, legal where the environment says what is."""
    space = vector.single_action_space
    rows = vector.num_rows
    if vector.action_masks.shape[1] and not vector.action_masks.all():
        masks = vector.action_masks
        choices = getattr(space, "nvec", None)
        if choices is None:
            return np.argmax(random.random(masks.shape) * masks, axis=1)
        parts = np.split(masks, np.cumsum(choices)[:-1], axis=1)
        return np.stack([np.argmax(random.random(p.shape) * p, axis=1) for p in parts], axis=1)
    if hasattr(space, "nvec"):
        return random.integers(0, space.nvec, (rows, len(space.nvec)))
    if hasattr(space, "n"):
        return random.integers(0, space.n, rows)
    return random.uniform(space.low, space.high, (rows, *space.shape)).astype(np.float32)


def digest(vector, steps: int, seed: int) -> str:
    sums, random = hashlib.sha256(), np.random.default_rng(seed)
    for _ in range(steps):
        for array in vector.step(random_actions(vector, random))[:4]:
            sums.update(array.tobytes())
    return sums.hexdigest()


def test_there_are_environments():
    assert "squared" in NAMES and find.own_names() == NAMES


@EVERY
def test_the_table_says_what_a_user_needs(name):
    table = Module(FOLDER / f"{name}.so").table
    assert table.name == name
    summary, _, rules = table.text.partition("\n")
    assert 5 < len(summary) < 100 and summary.endswith(".") and "eward" in rules
    assert "score" in [log for log, _ in table.logs]
    assert all(param.text for param in table.params) and all(text for _, text in table.logs)


@EVERY
@pytest.mark.parametrize("steps", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_trajectories_depend_on_nothing_but_the_seed(name, steps):
    """Not on the number of threads, nor on what was before a state was restored."""
    found = set()
    for workers in (1, 2, 3, 8):
        vector = shoal.vectorize(name, 8, num_workers=workers)
        vector.reset(seed=1)
        first = digest(vector, steps // 16, 0)
        states, masks = vector.get_state(), vector.action_masks.copy()
        second = digest(vector, steps // 16, 1)
        digest(vector, 5, 2)
        vector.set_state(states)
        vector.action_masks[...] = masks  # a state says nothing of what has been given out
        assert digest(vector, steps // 16, 1) == second
        found.add((first, second))
        vector.close()
    assert len(found) == 1


@EVERY
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_every_step_is_in_order(name, mode):
    """Under the engine's guards: nothing is written elsewhere, and all within its bounds."""
    count = max(2, 16 // agents(name))
    vector = shoal.vectorize(name, count, autoreset=mode, debug=True)
    random = np.random.default_rng(0)
    vector.reset(seed=0)
    ended = 0
    for _ in range(300):
        *_, infos = vector.step(random_actions(vector, random))
        scores = infos.get("final_info", infos)
        if "score" in scores:
            values = scores["score"][scores["_score"]]
            assert ((values >= 0) & (values <= 1)).all()
            ended += len(values)
    vector.close()


@EVERY
def test_parameters_at_their_bounds(name):
    """One after the other at its lowest and highest, all else as it is."""
    module = find.load(FOLDER / f"{name}.so")
    for param in module.table.params:
        for value in (param.low, param.high) if param.kind != "boolean" else (0, 1):
            if not np.isfinite(value) or abs(value) > 1e6:
                continue
            try:
                spec = module.spec({param.name: value})
            except shoal.ParameterError:  # what `resolve` refuses
                continue
            if spec.agents > 4096 or spec.state_size > 2**24:
                continue
            vector = shoal.vectorize(name, 1, env_kwargs={param.name: value}, debug=True)
            random = np.random.default_rng(0)
            vector.reset(seed=0)
            for _ in range(max(2, min(40, 4000 // spec.agents))):
                vector.step(random_actions(vector, random))
            vector.close()


@EVERY
def test_it_passes_the_check(name):
    if agents(name) > 1:
        pytest.importorskip("pettingzoo")
    env = make_native(name)
    report = shoal.check_env(env, steps=300 if agents(name) < 16 else 30)
    assert report.ok, report
    env.close()


@EVERY
def test_gymnasiums_and_pettingzoos_own_checks(name):
    env = make_native(name)
    if agents(name) == 1:
        from gymnasium.utils.env_checker import check_env

        check_env(env)
    else:
        api = pytest.importorskip("pettingzoo.test")
        api.parallel_api_test(env, num_cycles=50)
    env.close()


@EVERY
def test_it_draws(name):
    draw = pytest.importorskip("shoal.ocean_c.draw")
    env = make_native(name)
    env.reset(seed=0)
    drawing = env.env.engine.draw(0)
    assert len(drawing[0])
    picture = draw.picture(drawing)
    assert picture.dtype == np.uint8 and max(picture.shape[:2]) == 512
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
    env.close()


# -- other targets --------------------------------------------------------------------------------


def compiles(command: list[str], name: str, folder: Path) -> None:
    done = subprocess.run(
        [*command, f"-I{OCEAN}", "-c", str(FOLDER / f"{name}.c"), "-o", str(folder / "object")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@EVERY
def test_it_compiles_as_c_without_a_warning(name, tmp_path):
    flags = "-std=c11 -O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion"
    compiles(["cc", *flags.split(), "-Werror"], name, tmp_path)


@EVERY
def test_it_compiles_as_cpp(name, tmp_path):
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    compiles(["g++", "-std=c++20", "-x", "c++", "-Wall", "-Werror"], name, tmp_path)


@EVERY
def test_it_compiles_for_webassembly(name, tmp_path):
    if (
        shutil.which("clang")
        and "wasm32"
        in subprocess.run(["clang", "-print-targets"], capture_output=True, text=True).stdout
    ):
        command = ["clang", "--target=wasm32"]
    else:
        pytest.importorskip("ziglang", reason="neither clang for wasm32 nor ziglang")
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding"]
    compiles([*command, "-std=c11", "-O2"], name, tmp_path)


@pytest.mark.slow
@EVERY
def test_it_compiles_for_cuda(name, tmp_path):
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc")
    compiles(["nvcc", "-std=c++20", "-x", "cu"], name, tmp_path)


# -- under sanitizers -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
@EVERY
def test_random_actions_and_parameters_under_sanitizers(name, tmp_path):
    """Ten million agent steps: every array of its exact size, parameters at and between bounds."""
    program = tmp_path / "drive"
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    environment = f'-DENVIRONMENT="{FOLDER / name}.c"'
    command = ["cc", "-std=c11", "-O1", "-g", *sanitize, environment, f"-I{OCEAN}"]
    drive = str(OCEAN / "c" / "drive.c")
    subprocess.run([*command, drive, "-lm", "-o", str(program)], check=True)
    done = subprocess.run([str(program), "10000000", "1", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_env_says_that_the_engine_was_not_asked_to_check():
    """As a note; `shoal check` makes the environment with debug=True."""
    for debug, codes in ((False, ["native-unchecked"]), (True, [])):
        report = shoal.check_env(NativeEnv("squared", debug=debug), steps=200)
        assert [finding.code for finding in report.findings] == codes
