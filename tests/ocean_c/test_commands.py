"""What an author does: new, build, look, play, film, profile; and what one may get wrong."""

import os
import subprocess
import sys

import numpy as np
import pytest

import shoal
from shoal.cli import main
from shoal.errors import EnvModuleError, ParameterError, UnknownEnvError
from shoal.ocean_c import build as building
from shoal.ocean_c.find import module_named, own_names
from shoal.ocean_c.native_env import NativeEnv

from .sources import built, source

play = pytest.importorskip("shoal.ocean_c.play")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an environment made by `shoal new` and built."""
    folder = tmp_path_factory.mktemp("author")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["new", "my_env"]) == 0 and main(["build", "my_env.c"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_a_new_environment_is_a_first_class_citizen(there, capsys):
    assert main(["check", "my_env"]) == 0
    assert main(["run", "my_env", "--steps", "50", "--num-envs", "64"]) == 0
    said = capsys.readouterr().out
    assert "no faults found" in said and "1 thread, 64 environments" in said and "berry" in said
    assert main(["describe", "my_env.so", "--kwargs", "size=4"]) == 0
    vector = shoal.vectorize("my_env", 4, seed=0, env_kwargs={"berries": 1})
    assert vector.backend == "native" and vector.get_attr("berries") == (1,) * 4
    vector.close()


def test_a_new_environment_has_no_faults_and_no_warnings(there, capfd):
    assert main(["build", "my_env.c", "--debug"]) == 0
    assert "warning" not in capfd.readouterr().err
    vector = shoal.vectorize("my_env", 8, seed=0)
    assert vector._backend.debug  # the module says so itself
    vector.reset()
    for _ in range(300):
        vector.step(vector.action_space.sample())
    assert vector.statistics()["score"] < 0.5
    vector.close()
    assert main(["build", "my_env.c"]) == 0


@pytest.mark.parametrize("debug", [False, True])
def test_the_check_finds_an_observation_that_is_not_written(tmp_path, capsys, debug):
    path = built(
        tmp_path,
        "forgets",
        debug=debug,
        observe="if (s->position < 3) *(float *)io->observations = 0.5f;",
    )
    assert main(["check", path, "--steps", "200"]) == 1
    said = capsys.readouterr().out
    assert "step did not write observation position of agent 0" in said
    assert said.startswith("walk: ") and said.endswith("1 error\n")


def test_what_new_refuses(there, capsys):
    for name, said in (
        ("my_env", "exists"),
        ("squared", "none of Shoal"),
        ("my-env", "an identifier"),
    ):
        assert main(["new", name]) == 2
        assert said in capsys.readouterr().err


def test_what_build_refuses(tmp_path, monkeypatch, capfd):
    with pytest.raises(EnvModuleError, match="no file"):
        building.build(tmp_path / "nothing.c")
    wrong = tmp_path / "wrong.c"
    wrong.write_text("int main(void) { return 0 }")
    with pytest.raises(EnvModuleError, match="found errors"):
        building.build(wrong)
    assert "wrong.c:1" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.c"]  # nothing is left behind
    wrong.rename(tmp_path / "wrong.txt")
    with pytest.raises(EnvModuleError, match=r"ends in \.c"):
        building.build(tmp_path / "wrong.txt")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvModuleError, match="no C compiler"):
        building.compiler()
    monkeypatch.setenv("CC", "gcc -m64")
    assert building.compiler() == ["gcc", "-m64"]


def test_a_module_in_use_may_be_built_again(tmp_path):
    path = built(tmp_path)
    vector = shoal.vectorize(path, 2, seed=0)
    vector.reset()
    built(tmp_path, step="")  # another file takes the name
    for _ in range(5):
        vector.step([1, 1])
    vector.close()


def test_undefined_behaviour_ends_a_debug_build_with_its_line(tmp_path):
    path = built(tmp_path, debug=True, step="s->steps = s->length << (40 + s->position);")
    code = f"import shoal; v = shoal.vectorize({path!r}); v.reset(seed=0); v.step([0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0 and "walk.c:" in done.stderr and "shift exponent" in done.stderr


def test_a_source_newer_than_its_module_is_noticed(tmp_path):
    path = built(tmp_path)
    os.utime(tmp_path / "walk.c", (2**31, 2**31))
    with pytest.warns(RuntimeWarning, match="has changed since"):
        shoal.vectorize(path).close()


def test_names_that_are_none():
    with pytest.raises(UnknownEnvError, match="did you mean squared"):
        shoal.vectorize("squred")
    with pytest.raises(ParameterError, match="no native environment"):
        module_named("nothing_like_it")


# -- pictures -------------------------------------------------------------------------------------


def test_render_modes(tmp_path):
    for mode, kind in (("rgb_array", np.ndarray), ("ansi", str), (None, type(None))):
        env = NativeEnv("squared", render_mode=mode)
        env.reset(seed=0)
        if mode is not None:
            assert isinstance(env.render(), kind)
        env.close()
    with pytest.raises(ParameterError, match="render_mode"):
        NativeEnv("squared", render_mode="smellovision")
    vector = shoal.vectorize("squared", 3, seed=0)
    vector.reset()
    pictures = vector.render()
    assert len(pictures) == 3 and pictures[0].shape == (512, 512, 3)
    assert (pictures[0] != pictures[1]).any()
    vector.close()


def test_shapes_move_smoothly_by_their_keys():
    from shoal.ocean_c.draw import between
    from shoal.ocean_c.engine import SHAPE

    def drawing(*shapes):
        made = np.zeros(len(shapes), SHAPE)
        for shape, (key, x, angle) in zip(made, shapes, strict=True):
            shape["kind"], shape["key"], shape["x"], shape["angle"] = 1, key, x, angle
        return made, np.zeros((0, 2), np.float32), b"", (0, 0, 1, 1), 0

    before, after = drawing((1, 0, 3), (0, 0, 0)), drawing((0, 8, 0), (1, 4, -3), (2, 5, 0))
    shapes = between(before, after, 0.25)[0]
    assert shapes["x"].tolist() == [8, 1, 5]  # without a key, or new: where they are
    turn = 2 * np.pi - 6  # the short way, from 3 to -3
    assert shapes["angle"][1] == pytest.approx(-3 - 0.75 * turn, abs=1e-5)


def test_every_kind_of_shape_is_drawn(tmp_path):
    from shoal.ocean_c.draw import picture

    calls = {
        "rect": "shoal_rect(c, 50, 50, 20, 20, 0xFF0000FFu);",
        "turned": "shoal_rect(c, 50, 50, 20, 20, 0xFF0000FFu)->angle = 0.5f;",
        "circle": "shoal_circle(c, 50, 50, 10, 0xFF0000FFu);",
        "line": "shoal_line(c, 40, 50, 60, 50, 6, 0xFF0000FFu);",
        "polygon": "float p[] = {40, 40, 60, 40, 50, 65}; shoal_polygon(c, p, 3, 0xFF0000FFu);",
        "text": 'shoal_text(c, 50, 50, 30, "W", 0xFF0000FFu);',
        "outline": "shoal_circle(c, 50, 50, 10, 0xFF0000FFu)->width = 8;",
        "number": 'shoal_number(c, 50, 50, 20, "n", -1.25, 2, 0xFF0000FFu);',
    }
    for name, call in calls.items():
        head = f"#define DRAW shoal_view(c, 0, 0, 100, 100); c->background = 0x000000FFu; {call}"
        path = tmp_path / f"{name}.c"
        text = source(head=head).replace("shoal_circle(c, 0, 0, 1, SHOAL_INK);", "DRAW")
        path.write_text(text)
        vector = shoal.vectorize(str(building.build(path)), 1, seed=0)
        vector.reset()
        drawing = vector.call("drawing")[0]
        pixels = picture(drawing, 100).astype(int)
        vector.close()
        assert pixels[..., 1:].max() == 0  # only red
        red = pixels[..., 0]
        assert red[35:66, 25:76].max() == 255, name
        outside = red.copy()
        outside[28:72, 10:90] = 0
        assert outside.max() == 0, name
        assert ((red > 0) & (red < 255)).any() or name == "rect", name  # smooth edges
        if name == "number":
            assert drawing[2] == b"n -1.25"


def test_a_canvas_that_is_full_loses_shapes_and_nothing_else(tmp_path):
    path = tmp_path / "much.c"
    loop = 'for (int i = 0; i < 100000; i++) { shoal_text(c, 0, 0, 1, "words", 0xFFFFFFFFu); }'
    path.write_text(
        source(head=f"#define DRAW {loop}").replace("shoal_circle(c, 0, 0, 1, SHOAL_INK);", "DRAW")
    )
    vector = shoal.vectorize(str(building.build(path)), 1, seed=0)
    vector.reset()
    shapes, _, text, _, _ = vector.call("drawing")[0]
    assert len(shapes) == 16384 and len(text) == 16384
    vector.close()


def test_a_film(there, tmp_path, monkeypatch, capsys):
    imageio = pytest.importorskip("imageio.v3")
    film = tmp_path / "film.gif"
    monkeypatch.setattr("shoal.cli.SIGN_OF_LIFE", 0.0)
    assert main(["play", "my_env", "--record", str(film), "--steps", "12", "--size", "96"]) == 0
    assert "12 of 12 steps" in capsys.readouterr().err
    pictures = imageio.imread(film)
    assert pictures.shape[0] >= 12 and pictures.shape[1:] == (96, 96, 3)
    assert main(["play", "my_env", "--record", "film.txt"]) == 2


# -- playing --------------------------------------------------------------------------------------


class Player:
    """A window that nobody sees, and whose keys are pressed by a script."""

    def __init__(self, script):
        self.script, self.shown, self.closed = list(script), [], False
        self.now = (set(), [])

    def show(self, pixels, frames_per_second):
        self.shown.append(pixels)

    def take_pressed(self):
        if not self.script:
            self.closed = True
            return ["escape"]
        self.now = self.script.pop(0)
        return self.now[1]

    def held(self):
        return self.now[0]

    def close(self):
        self.closed = True


def played(name, script, **options):
    vector = shoal.vectorize(name, 1, autoreset="same_step")
    spec = module_named(name).spec({})
    player = Player(script)
    found = play.play(vector, spec, "test", window=player, fps=30, **options)
    state = vector.get_state() if vector._ended is None else None
    vector.close()
    return found, player, state


def test_keys_are_actions():
    script = [({"right"}, [])] * 3 + [({"up"}, [])]
    vector = shoal.vectorize("squared", 1, autoreset="same_step")
    spec = module_named("squared").spec({})
    player = Player(script)
    positions = []
    show = player.show

    def note(pixels, rate):
        show(pixels, rate)
        shapes = vector.call("drawing")[0][0]
        positions.append((float(shapes[-1]["x"]), float(shapes[-1]["y"])))

    player.show = note
    found = play.play(vector, spec, "test", window=player, fps=30, seed=3)
    vector.close()
    assert found["steps"] == 4
    assert positions == [(5.5, 5.5), (6.5, 5.5), (7.5, 5.5), (8.5, 5.5), (8.5, 4.5)]
    assert player.closed and player.shown[0].shape == (512, 512 + 260, 3)


def test_pausing_and_stepping():
    script = [(set(), []), (set(), ["p"]), (set(), []), (set(), ["."]), (set(), ["p"])]
    found, _, _ = played("squared", script)
    assert found["steps"] == 3  # the first, the single one, and the one after the pause


def test_without_an_idle_choice_the_game_waits_for_a_key():
    found, _, _ = played("cartpole", [(set(), []), ({"left"}, []), (set(), ["right"])])
    assert found["steps"] == 2


def test_a_held_key_takes_over_from_the_policy():
    actions = []

    def act(observations, starts):
        actions.append(starts.copy())
        return np.array([1])

    found, _, _ = played("cartpole", [(set(), []), ({"left"}, []), (set(), [])], act=act)
    assert found["steps"] == 3 and len(actions) == 3 and actions[0].all()


@pytest.mark.parametrize("name", own_names())
def test_every_environment_has_keys_and_shows_them(name):
    spec = module_named(name).spec({})
    bindings, _, _ = play.keys_of(spec.actions)
    assert all(bindings)
    vector = shoal.vectorize(name, 1, autoreset="same_step", seed=0)
    observations, _ = vector.reset()
    seen = {"reward": 0.0, "return": 0.0, "length": 0, "note": "", "last": ""}
    lines = play.panel(vector, spec, observations, seen, False, True)
    vector.close()
    texts = [text for text, _ in lines]
    last = max(i for i, text in enumerate(texts) if "esc quit" in text)
    assert texts.index("keys") < last < texts.index("observation")
    # The line that says how to quit is drawn, however low the picture is.
    without = [(text, heading) for text, heading in lines if "esc quit" not in text]
    low = np.zeros((64, 128, 3), np.uint8)
    drawn, other = play.beside(low, lines), play.beside(low, without)
    end = len(drawn) - len(other)
    assert end > 0 and drawn.shape[0] % 2 == 0
    assert (drawn[-play.LINE - 12 :, 128:] != play.DARK).any()


def test_the_window_is_pygames(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    pytest.importorskip("pygame")
    assert main(["play", "squared", "--steps", "3", "--fps", "1000"]) == 0
    env = NativeEnv("squared", render_mode="human")
    env.reset(seed=0)
    env.step(1)
    window = env.env.screen.window
    assert window is not None
    for wrong in (None, np.zeros((4, 4), np.uint8), "text"):
        with pytest.raises(shoal.ShoalError, match="window: expected a picture"):
            window.show(wrong, 10)
    env.close()


def test_a_profile_names_the_functions(there, capsys):
    from shutil import which

    if not which("perf") and not which("gprof"):
        pytest.skip("no profiler")
    assert main(["perf", "my_env.c", "--steps", "3000000"]) == 0
    assert "observe" in capsys.readouterr().out
