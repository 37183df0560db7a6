"""The recipe of Atari: one game and ale_py's own batched environment are the same."""

import numpy as np
import pytest

import shoal
from shoal.errors import UnknownEnvError
from shoal.registry import recipe as recipes
from shoal.registry.creators import find_source

pytest.importorskip("ale_py")
pytest.importorskip("cv2")
PLAIN = {"repeat_action_probability": 0.0}


@pytest.mark.parametrize("game", ["pong", "ms_pacman"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_the_games_own_batch_is_that_of_single_games(game, mode):
    """Without chance, whose streams differ: observations, rewards and ends are equal."""
    kwargs = {"game": game, **PLAIN}
    one, all_ = (
        shoal.vectorize("atari", 2, env_kwargs=kwargs, backend=backend, autoreset=mode, seed=3)
        for backend in ("serial", "batched")
    )
    assert all_.backend == "batched"
    assert np.array_equal(one.reset(seed=3)[0], all_.reset(seed=3)[0])
    actions = np.random.default_rng(0).integers(one.single_action_space.n, size=(150, 2))
    for action in actions:
        ours, theirs = one.step(action), all_.step(action)
        for name, a, b in zip(("obs", "reward", "terminated", "truncated"), ours, theirs):
            assert np.array_equal(a, b), name
    one.close()
    all_.close()


def test_what_only_single_games_can_do_is_done_by_them():
    assert find_source("atari", 2).vector is not None
    assert find_source("atari", 2, {"render_mode": "rgb_array"}).vector is None
    assert find_source("atari", 2).kind == "ordinary"
    for options, backend in (
        ({}, "batched"),
        ({"autoreset": "same_step"}, "batched"),
        ({"autoreset": "disabled", "num_workers": 1}, "multiprocess"),
        ({"form": "float32", "num_workers": 1}, "multiprocess"),
        ({"batch_size": 1}, "pool"),
    ):
        vector = shoal.vectorize("atari", 2, **options)
        assert vector.backend == backend
        vector.close()
    vector = shoal.vectorize("atari", 1, env_kwargs={"render_mode": "rgb_array"}, backend="serial")
    vector.reset(seed=0)
    assert vector.render(0).shape == (210, 160, 3)
    vector.close()


def test_an_unknown_game_is_named():
    with pytest.raises(UnknownEnvError, match=r"ale_py has no game 'pongg'; did you mean pong"):
        shoal.vectorize("atari", 1, env_kwargs={"game": "pongg"}, backend="serial")


def test_a_recipe_may_name_an_entry_point_of_gymnasium(tmp_path):
    file = tmp_path / "boxes.toml"
    file.write_text('summary = "x"\nenv = "CartPole-v1"\nvector = "CartPole-v1"\n')
    source = find_source(str(file), 3)
    assert len(source.creators) == 3
    made = source.vector(autoreset_mode="NextStep")
    assert made.num_envs == 3 and type(made.unwrapped).__name__ == "CartPoleVectorEnv"
    assert recipes.find(str(file)).vector == "CartPole-v1"
