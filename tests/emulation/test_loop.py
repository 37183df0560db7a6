"""The compiled loop: the three autoreset modes, beside Gymnasium's own vector and a plain loop."""

import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import shoal
from shoal.emulation.loop import EnvLoop, checked_info, copy_value
from shoal.errors import EmulationError
from shoal.rows.buffers import Buffers
from shoal.rows.fields import DISABLED, NEXT_STEP, SAME_STEP, zero_rows

GYMNASIUM = {
    NEXT_STEP: AutoresetMode.NEXT_STEP,
    SAME_STEP: AutoresetMode.SAME_STEP,
    DISABLED: AutoresetMode.DISABLED,
}


class Looped:
    """Environments, their loop and their rows."""

    def __init__(self, creators, mode):
        self.envs = [shoal.emulate(create()) for create in creators]
        first = self.envs[0]
        layouts = first.observation_layout, first.action_layout
        self.layout = layouts[0]
        self.loop = EnvLoop([env.core.driver() for env in self.envs], layouts[0].nbytes, mode)
        self.rows = zero_rows(*layouts, len(creators))
        self.buffers = Buffers(*layouts, self.rows)

    def reset(self, seed=None):
        for i in range(len(self.envs)):
            self.reset_one(i, None if seed is None else seed + i)

    def reset_one(self, i, seed=None, options=None):
        self.loop.reset(i, seed, options, self.buffers, i)

    def step(self, actions):
        self.rows["actions"][:] = actions
        self.loop.step(self.buffers)

    def observation(self, i, name="observations"):
        return self.layout.unpack(self.rows[name][i])


def part(batched, i):
    """What a Gymnasium vector holds for environment i."""
    if isinstance(batched, tuple):
        return tuple(each[i] for each in batched)
    return batched[i]


@pytest.mark.parametrize("mode", GYMNASIUM, ids=["next_step", "same_step", "disabled"])
@pytest.mark.parametrize(
    "name", ["CartPole-v1", "FrozenLake-v1", "Blackjack-v1", "CliffWalking-v1"]
)
def test_modes_equal_gymnasiums(name, mode):
    def create():
        return gymnasium.make(name, max_episode_steps=25)  # truncation too

    vector = SyncVectorEnv([create] * 4, autoreset_mode=GYMNASIUM[mode])
    ours = Looped([create] * 4, mode)
    expected, _ = vector.reset(seed=7)
    ours.reset(7)
    rng = np.random.default_rng(0)
    previous = np.zeros(4, bool)  # whose episode ended in the last step
    ended = 0
    for _ in range(300):
        actions = rng.integers(vector.single_action_space.n, size=4)
        expected, rewards, terminations, truncations, infos = vector.step(actions)
        ours.step(actions)
        for i in range(4):
            assert np.array_equal(ours.observation(i), part(expected, i))
        assert np.array_equal(ours.rows["rewards"], rewards)
        assert np.array_equal(ours.rows["terminations"], terminations)
        assert np.array_equal(ours.rows["truncations"], truncations)
        done = terminations | truncations
        ended += done.sum()
        if mode == NEXT_STEP:
            assert np.array_equal(ours.rows["masks"], ~previous)
            assert np.array_equal(ours.rows["acting"], ~done)
        else:
            assert ours.rows["masks"].all()
        if mode == SAME_STEP:
            assert ours.rows["acting"].all()
            assert np.array_equal(ours.rows["finals"], done)
            for i in np.flatnonzero(done):
                final = infos["final_obs"][i]
                assert np.array_equal(ours.observation(i, "final_observations"), final)
        else:
            assert not ours.rows["finals"].any()
        if mode == DISABLED and done.any():
            vector.reset(options={"reset_mask": done})
            for i in np.flatnonzero(done):
                ours.reset_one(i)
        previous = done
    assert ended > 20
    vector.close()


class Counting(gymnasium.Env):
    """Episodes of known lengths; the observation is one array that is used again and again."""

    observation_space = spaces.Dict(
        {"at": spaces.Box(0, 99, (2,), np.int64), "episode": spaces.Box(0, 99, (), np.int64)}
    )
    action_space = spaces.Discrete(3)

    def __init__(self, length):
        self.length = length
        self.episode = -1
        self.resets = []
        self.observation = {"at": np.zeros(2, np.int64), "episode": np.zeros((), np.int64)}

    def reset(self, *, seed=None, options=None):
        self.resets.append((seed, options))
        self.episode += 1
        self.observation["at"][:] = 0
        self.observation["episode"][...] = self.episode
        return self.observation, {"reset": self.episode}

    def step(self, action):
        self.observation["at"] += 1
        at = int(self.observation["at"][0])
        done = at == self.length
        info = {"last": at} if done else {}
        return self.observation, action + 0.5, done and action == 1, done and action != 1, info


def plain_loop(lengths, mode, actions):
    """What each environment's rows must hold after each step, written as plainly as possible."""
    history = []
    state = [{"episode": 0, "at": 0, "return": 0.0, "over": False} for _ in lengths]
    for step_actions in actions:
        rows = []
        for env, length, action in zip(state, lengths, step_actions):
            if env["over"]:
                assert mode == NEXT_STEP
                env |= {"episode": env["episode"] + 1, "at": 0, "return": 0.0, "over": False}
                rows.append(
                    {**row(env), "rewards": 0.0, "terminations": False, "truncations": False}
                    | {"masks": False, "acting": True, "finals": False}
                )
                continue
            env["at"] += 1
            env["return"] += action + 0.5
            done = env["at"] == length
            result = {
                **row(env),
                "rewards": action + 0.5,
                "terminations": done and action == 1,
                "truncations": done and action != 1,
                "masks": True,
                "acting": not done or mode == SAME_STEP,
                "finals": done and mode == SAME_STEP,
            }
            if done and mode == SAME_STEP:
                result["final"] = (env["episode"], env["at"])
                env |= {"episode": env["episode"] + 1, "at": 0, "return": 0.0}
                result["observation"] = (env["episode"], 0)
            elif done:
                env["over"] = True
            rows.append(result)
        history.append(rows)
    return history


def row(env):
    return {
        "observation": (env["episode"], env["at"]),
        "episode_returns": env["return"],
        "episode_lengths": env["at"],
    }


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP], ids=["next_step", "same_step"])
def test_every_field_equals_a_plain_loop(mode):
    lengths = [1, 2, 5, 9]
    actions = np.random.default_rng(1).integers(3, size=(60, 4))
    ours = Looped([lambda n=n: Counting(n) for n in lengths], mode)
    ours.reset()
    for step_actions, expected in zip(actions, plain_loop(lengths, mode, actions)):
        ours.step(step_actions)
        for i, fields in enumerate(expected):
            fields = dict(fields)
            episode, at = fields.pop("observation")
            assert ours.observation(i)["episode"] == episode
            assert ours.observation(i)["at"].tolist() == [at, at]
            if "final" in fields:
                episode, at = fields.pop("final")
                # The true last observation, though the environment has overwritten its own.
                assert ours.observation(i, "final_observations")["episode"] == episode
                assert ours.observation(i, "final_observations")["at"].tolist() == [at, at]
            assert {name: ours.rows[name][i] for name in fields} == fields
            assert ours.rows["occupants"][i] == 0


def test_infos_of_steps_and_of_ended_episodes():
    ours = Looped([lambda: Counting(2), lambda: Counting(3)], SAME_STEP)
    ours.reset()
    assert ours.loop.take_infos() == ([{"reset": 0}, {"reset": 0}], None)
    ours.step([0, 0])
    assert ours.loop.take_infos() == (None, None)  # empty ones cost nothing
    ours.step([0, 0])
    assert ours.loop.take_infos() == ([{"reset": 1}, None], [{"last": 2}, None])
    ours.step([0, 0])
    assert ours.loop.take_infos() == ([None, {"reset": 1}], [None, {"last": 3}])
    assert ours.loop.take_infos() == (None, None)

    ours = Looped([lambda: Counting(1)], NEXT_STEP)
    ours.reset()
    ours.loop.take_infos()
    for _ in range(2):
        ours.step([0])
        assert ours.loop.take_infos() == ([{"last": 1}], None)
        ours.step([0])
        infos, _ = ours.loop.take_infos()
        assert infos[0].keys() == {"reset"}


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP], ids=["next_step", "same_step"])
def test_options_reach_automatic_resets_and_seeds_do_not(mode):
    ours = Looped([lambda: Counting(1), lambda: Counting(1)], mode)
    ours.reset_one(0, seed=3, options={"first": True})
    ours.reset_one(1, seed=4)
    ours.loop.options[0] = {"level": 2}
    for _ in range(4):
        ours.step([0, 0])
    count = 4 if mode == SAME_STEP else 2
    assert ours.envs[0].env.resets == [(3, {"first": True})] + [(None, {"level": 2})] * count
    assert ours.envs[1].env.resets == [(4, None)] + [(None, None)] * count


def test_without_autoreset_a_step_after_the_end_is_refused():
    ours = Looped([lambda: Counting(9), lambda: Counting(2)], DISABLED)
    ours.reset()
    ours.step([0, 0])
    ours.step([0, 0])
    assert ours.rows["acting"].tolist() == [True, False]
    with pytest.raises(EmulationError, match="the episode is over"):
        ours.step([0, 0])
    assert ours.loop.current == 1  # which one it was
    ours.reset_one(1)
    ours.step([0, 0])
    assert ours.rows["episode_lengths"].tolist() == [4, 1]


def test_modes_other_than_disabled_begin_with_a_reset_by_themselves():
    for mode in (NEXT_STEP, SAME_STEP):
        ours = Looped([lambda: Counting(3)], mode)
        ours.step([0])
        assert not ours.rows["masks"][0] and ours.rows["episode_lengths"][0] == 0
        ours.step([0])
        assert ours.rows["masks"][0] and ours.rows["episode_lengths"][0] == 1


def test_a_reset_on_request_forgets_a_pending_one():
    ours = Looped([lambda: Counting(1)], NEXT_STEP)
    ours.reset()
    ours.step([0])
    ours.reset_one(0)
    assert ours.rows["masks"][0] and ours.rows["acting"][0]
    ours.step([2])
    assert ours.rows["rewards"][0] == 2.5  # a step, and no second reset
    assert len(ours.envs[0].env.resets) == 2


def test_an_exception_passes_through_and_the_loop_goes_on():
    class Fragile(Counting):
        def step(self, action):
            if action == 2:
                raise ZeroDivisionError("fragile")
            return super().step(action)

    ours = Looped([lambda: Fragile(9)] * 3, NEXT_STEP)
    ours.reset()
    with pytest.raises(ZeroDivisionError, match="fragile"):
        ours.step([0, 2, 0])
    assert ours.loop.current == 1
    ours.step([0, 0, 0])
    assert ours.rows["episode_lengths"].tolist() == [2, 1, 1]


def test_replaced_environments_begin_with_a_reset():
    for mode in (NEXT_STEP, SAME_STEP, DISABLED):
        ours = Looped([lambda: Counting(9)] * 2, mode)
        ours.reset()
        ours.step([0, 0])
        fresh = shoal.emulate(Counting(9))
        ours.loop.replace(0, fresh.core.driver())
        ours.step([0, 0])
        assert ours.rows["masks"].tolist() == [False, True]
        assert ours.rows["episode_lengths"].tolist() == [0, 2]
        ours.step([0, 0])
        assert ours.rows["masks"].all()
        assert ours.rows["episode_lengths"].tolist() == [1, 3]


def test_state_restores_statistics_and_pending_resets():
    ours = Looped([lambda: Counting(2)], NEXT_STEP)
    ours.reset()
    ours.step([1])
    middle = ours.loop.get_state(0)
    ours.step([1])
    over = ours.loop.get_state(0)
    ours.loop.set_state(0, middle)
    assert ours.loop.get_state(0) == middle
    ours.loop.set_state(0, over)
    ours.step([0])
    assert not ours.rows["masks"][0]


def test_memory_is_neither_leaked_nor_freed_too_early():
    """References to what environments return: held until the next step, and no longer."""
    import gc
    import weakref

    class Fresh(Counting):
        def step(self, action):
            *_, done, truncated, _ = super().step(action)
            observation = {k: v.copy() for k, v in self.observation.items()}
            self.returned.append(weakref.ref(observation["at"]))
            return observation, 0.0, done, truncated, {}

    ours = Looped([lambda: Fresh(7)], SAME_STEP)
    ours.envs[0].env.returned = []
    ours.reset()
    for _ in range(50):
        ours.step([0])
    gc.collect()
    alive = [ref for ref in ours.envs[0].env.returned if ref() is not None]
    assert len(alive) <= 1


def test_a_final_info_survives_an_environment_that_fills_the_same_dict_again():
    class Reuses(gymnasium.Env):
        observation_space = spaces.Discrete(2)
        action_space = spaces.Discrete(2)
        info: dict

        def reset(self, *, seed=None, options=None):
            self.info = getattr(self, "info", {"of": {"array": np.zeros(2), "list": [[0]]}})
            return 0, self.fill("reset", 1)

        def fill(self, what, number):
            of = self.info["of"]
            of["what"], of["array"][:], of["list"][0][0] = what, number, number
            return self.info

        def step(self, action):
            return 1, 0.0, True, False, self.fill("step", 2)

    env = shoal.emulate(Reuses())
    loop = EnvLoop([env.core.driver()], env.observation_layout.nbytes, SAME_STEP)
    loop.reset(0, None, None, env._buffers, 0)
    env.rows["actions"][:] = 0
    loop.step(env._buffers)
    infos, final_infos = loop.take_infos()
    assert infos[0]["of"]["what"] == "reset"
    final = final_infos[0]["of"]
    assert final["what"] == "step" and final["array"].tolist() == [2, 2] and final["list"] == [[2]]


def test_a_copied_value_shares_nothing_that_can_change():
    lock = threading.Lock()
    inner = [1, {"b": np.arange(3)}]
    value = {"a": inner, "c": np.ones(2), "d": (inner, "text"), "e": None, "lock": lock}
    with pytest.warns(RuntimeWarning, match=r"_thread\.lock cannot be copied"):
        copied = copy_value(value)
    assert copied["lock"] == repr(lock) and copied["a"] is not inner
    inner[1]["b"][:], value["c"][:] = 7, 7
    inner.append(2)
    assert len(copied["a"]) == 2 and len(copied["d"][0]) == 2
    assert copied["a"][1]["b"].tolist() == [0, 1, 2] and copied["c"].tolist() == [1, 1]


def test_an_info_that_holds_itself_is_refused_before_it_is_copied():
    loop = {}
    loop["itself"] = loop
    with pytest.raises(EmulationError, match="nested"):
        checked_info(loop)
    held = []
    held.append(held)
    copied = copy_value(checked_info({"held": held}))["held"]
    assert copied is not held and copied[0] is copied
