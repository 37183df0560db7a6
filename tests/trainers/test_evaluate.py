"""Evaluation: exactly so many whole episodes, whoever plays them and however long they take."""

import contextlib

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import shoal
from shoal.errors import CheckpointError, ConfigError, ParameterError
from shoal.trainers import ppo
from shoal.trainers.config import Config
from shoal.trainers.evaluate import evaluate, play, policy_chooser, random_chooser
from shoal.trainers.seeds import EVALUATION, environment_seed

imageio = pytest.importorskip("imageio")


class Lengths(gymnasium.Env):
    """Episodes of 1 or of 99 steps, at random; each step is worth 1."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.choice([1, 99]))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_short_episodes_have_no_advantage(num_envs):
    found = evaluate(None, Lengths, 400, num_envs=num_envs, seed=5)
    assert len(found["returns"]) == len(found["lengths"]) == 400
    # With p = 1/2 the mean of 400 is 50 ± 2.45; the first 400 to end would be nearly all short.
    assert abs(found["return"] - 50) < 4 * 2.45
    assert (found["returns"] == found["lengths"]).all()
    assert found["min"] == 1 and found["max"] == 99
    assert found["error"] == pytest.approx(found["returns"].std(ddof=1) / 20)


def test_episodes_are_those_of_each_copy_in_turn():
    """Equality with an environment stepped by hand."""
    found = evaluate(None, Lengths, 7, num_envs=3, seed=11)
    expected, first = [], environment_seed(11, EVALUATION)
    for i, count in enumerate((3, 2, 2)):
        env = Lengths()
        for episode in range(count):
            env.reset(seed=first + i if episode == 0 else None)
            expected.append(env.left)
    assert found["lengths"].tolist() == expected


def test_the_same_seed_gives_the_same_episodes():
    one, other = (evaluate(None, "CartPole-v1", 12, num_envs=4, seed=3) for _ in range(2))
    assert (one["returns"] == other["returns"]).all() and one["returns"].std() > 0


class Strict(gymnasium.Env):
    """Fails on an action that its mask forbids; ends after 5 steps."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(7)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return 0, self.info()

    def info(self):
        self.legal = int(self.np_random.integers(7))
        return {"action_mask": np.arange(7) == self.legal}

    def step(self, action):
        assert action == self.legal
        self.at += 1
        return 0, 1.0, self.at == 5, False, self.info()


def test_random_actions_are_legal_ones():
    assert evaluate(None, Strict, 20, num_envs=4)["returns"].tolist() == [5.0] * 20


def test_several_agents_end_one_after_the_other():
    """The score of an episode is the mean of all agents; knights_archers has those that die."""
    pytest.importorskip("pettingzoo")
    env = "pettingzoo.butterfly.knights_archers_zombies_v11"
    vector = shoal.vectorize(
        env, 2, backend="serial", autoreset="disabled", seed=1, env_kwargs={"max_cycles": 150}
    )
    returns, lengths, lives = play(vector, random_chooser(vector, 0), np.array([2, 1]))
    vector.close()
    assert len(returns) == len(lengths) == 3 and lengths.max() <= 150
    assert (lives <= lengths).all() and (lives < lengths).any()


def test_an_episode_is_as_long_as_its_longest_life():
    pettingzoo = pytest.importorskip("pettingzoo")

    class Mortals(pettingzoo.ParallelEnv):
        """Each agent gets 1 for every step of its life."""

        metadata = {"name": "mortals"}  # noqa: RUF012
        lives = {"a": 2, "b": 4, "c": 9}  # noqa: RUF012
        possible_agents = list(lives)  # noqa: RUF012

        def observation_space(self, agent):
            return spaces.Discrete(2)

        action_space = observation_space

        def reset(self, seed=None, options=None):
            self.agents, self.at = list(self.lives), 0
            return dict.fromkeys(self.agents, 0), {agent: {} for agent in self.agents}

        def step(self, actions):
            self.at += 1
            dead = {agent: self.lives[agent] == self.at for agent in self.agents}
            of_all = [dict.fromkeys(dead, value) for value in (0, 1.0, False, {})]
            self.agents = [agent for agent in dead if not dead[agent]]
            return of_all[0], of_all[1], dead, of_all[2], of_all[3]

    found = evaluate(None, Mortals, 3, num_envs=2)
    assert found["lengths"].tolist() == [9.0] * 3
    assert found["lives"].tolist() == found["returns"].tolist() == [5.0] * 3


def test_turn_based_games():
    pytest.importorskip("rlcard")
    pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    found = evaluate(None, "pettingzoo.classic.tictactoe_v3", 30, num_envs=4)
    assert found["return"] == 0 and len(found["returns"]) == 30  # one wins what the other loses
    assert found["lengths"].max() <= 5


class Painter(Lengths):
    """Each picture is lighter than the one before; or a line of text."""

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.left = 5
        return found

    def render(self):
        at = 5 - self.left
        if self.render_mode == "ansi":
            return f"step {at}"
        return np.full((32, 32, 3), 40 * at, np.uint8)


def test_a_film_has_a_picture_of_every_observation(tmp_path):
    path = tmp_path / "film.gif"
    found = evaluate(None, Painter, 2, seed=1, video=path)
    frames = imageio.mimread(path)
    assert len(frames) == found["lengths"].sum() + 2
    assert [int(frame[0, 0].max()) for frame in frames[:3]] == [0, 40, 80]


def test_an_mp4(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "film.mp4"
    evaluate(None, "CartPole-v1", 1, seed=1, video=path)
    assert len(imageio.mimread(path, memtest=False)) > 5


def test_text_is_shown_in_the_terminal(capsys):
    evaluate(None, Painter, 1, render=True)
    screens = capsys.readouterr().out.split("\033[H\033[J")
    assert screens == ["", *(f"step {i}\n" for i in range(6))]


class Old:
    """Of old gym, which is told how to render when it renders; a second mode must be asked for."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    metadata = {"render.modes": ["human", "rgb_array"]}  # noqa: RUF012
    picture = np.zeros((8, 8, 3), np.uint8)

    def __init__(self, render_mode="rgb_array"):
        self.renders = render_mode == "rgb_array"

    def reset(self):
        self.left = 3
        return np.zeros(1, np.float32)

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, {}

    def render(self, mode="human"):
        assert mode == "rgb_array"
        return self.picture + 10 * self.left if self.renders else None


def Asked(render_mode=None):
    return Old(render_mode)


@pytest.fixture
def window(monkeypatch):
    """A window that nobody sees, which is closed after twelve pictures; what it has shown."""
    from shoal.ocean_c import window

    shown = []

    class Window:
        closed = False

        def __init__(self, title):
            pass

        def show(self, pixels, frames_per_second):
            assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
            shown.append(int(pixels[0, 0, 0]))
            self.closed = len(shown) == 12

        def close(self):
            shown.append("closed")

    monkeypatch.setattr(window, "Window", Window)
    return shown


@pytest.mark.filterwarnings("ignore:.*(old gym interface|seed)")
@pytest.mark.parametrize("env", [Old, Asked])
def test_pictures_of_old_gym_are_shown_in_a_window_until_it_is_closed(env, window):
    evaluate(None, env, 1, render=True)
    assert window == [30, 20, 10, 0, "closed"]
    window.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, env, 9, render=True)
    assert window == [*[30, 20, 10, 0] * 3, "closed"]


class Blank(Old):
    picture = np.zeros(8, np.uint8)


@pytest.mark.filterwarnings("ignore:.*(old gym interface|seed)")
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 4)], ids=str)
def test_pictures_may_be_grey_or_have_an_opacity(shape, window):
    made = Old()
    made.picture = np.zeros(shape, np.uint8)
    evaluate(None, lambda: made, 1, render=True)
    assert window == [30, 20, 10, 0, "closed"]


@pytest.mark.filterwarnings("ignore:.*(old gym interface|seed)")
def test_what_renders_no_pictures_says_what_it_renders_instead():
    said = r"its render modes are \['human', 'rgb_array'\] \(.*got shape \(8,\)\)"
    with pytest.raises(ConfigError, match=said):
        evaluate(None, Blank, 1, render=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"episodes": 0}, "episodes: expected at least 1"),
        ({"env": Lengths, "video": "a.gif"}, r"renders no pictures to film: its render modes are"),
        ({"video": "a.avi"}, r"must end in .gif or .mp4, got"),
        ({"video": "file/a.gif"}, r"file/a.gif can't be written"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_anything_is_played(options, said, tmp_path):
    options = {"env": "CartPole-v1", **options}
    if "video" in options:
        (tmp_path / "file").touch()
        options["video"] = tmp_path / options["video"]
    with pytest.raises((ConfigError, ParameterError), match=said):
        evaluate(None, options.pop("env"), options.pop("episodes", 1), **options)


def test_a_checkpoint_for_other_spaces_is_one_clear_error():
    env = shoal.emulate(gymnasium.make("CartPole-v1"))
    state = {
        "observation_layout": env.observation_layout.to_json(),
        "action_layout": env.action_layout.native.to_json(),
    }
    with pytest.raises(CheckpointError, match=r"another observation space .* instead of"):
        evaluate(state, "Acrobot-v1", 1)


def test_episodes_without_an_end_are_cut_off():
    class Endless(Lengths):
        def step(self, action):
            return super().step(action)[0], 2.0, False, False, {}

    found = evaluate(None, Endless, 5, num_envs=2, max_steps=7)
    assert found["lengths"].tolist() == [7.0] * 5
    assert found["returns"].tolist() == [14.0] * 5
    seen = []
    evaluate(None, Lengths, 4, num_envs=2, report=lambda done, steps: seen.append((done, steps)))
    assert seen[-1][0] == 4 and seen[-1][1] >= 4
    assert seen == sorted(seen)


def test_a_policy_of_other_spaces_does_not_act():
    """Neither in `eval` nor in `play`: both make it with this function."""
    states = []
    config = Config("CartPole-v1", num_envs=2, num_workers=0, horizon=8, total_steps=16)
    ppo.train(config, save=lambda state, metrics: states.append(state))
    vector = shoal.vectorize("breakout", 1)
    with (
        contextlib.closing(vector),
        pytest.raises(CheckpointError, match="another observation space"),
    ):
        policy_chooser(vector, states[-1], False, 0, "cpu")
