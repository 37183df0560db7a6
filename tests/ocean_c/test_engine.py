"""The engine: what it loads, how it steps, and what it refuses."""

import hashlib
import os
import subprocess
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import shoal
from shoal.errors import (
    ClosedError,
    EnvCheckError,
    EnvModuleError,
    ParameterError,
    PendingCallError,
    StepTimeoutError,
)
from shoal.ocean_c.engine import Engine, Module
from shoal.ocean_c.find import load
from shoal.ocean_c.spaces import layouts
from shoal.rows.actions import ActionLayout
from shoal.rows.buffers import Buffers
from shoal.rows.fields import DISABLED, zero_rows
from shoal.rows.layout import Layout

from .sources import COUNTDOWN, PARTS, built

PARTS_TABLE = PARTS["table"]

FIELDS = ("acting", "occupants", "episode_returns", "episode_lengths", "action_masks")


def assert_same(ours, theirs):
    """Infos, or anything in them, are equal."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif ours.dtype == object:
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)
    else:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return built(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def countdown(tmp_path_factory):
    return built(tmp_path_factory.mktemp("countdown"), "countdown", **COUNTDOWN)


# -- the same as through emulation ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize("workers", [1, 3])
def test_it_steps_as_the_serial_backend_does(walk, mode, workers):
    options = {"autoreset": mode, "seed": 3, "env_kwargs": {"length": 4, "max_steps": 12}}
    ours = shoal.vectorize(walk, 17, num_workers=workers, **options)
    theirs = shoal.vectorize(walk, 17, backend="serial", **options)
    assert (ours.backend, theirs.backend) == ("native", "serial")
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    for seed in (None, 5):
        first, second = ours.reset(seed=seed), theirs.reset(seed=seed)
        np.testing.assert_array_equal(first[0], second[0])
        ended = 0
        for _ in range(60):
            actions = ours.action_space.sample()
            mine, other = ours.step(actions), theirs.step(actions)
            for a, b in zip(mine[:4], other[:4], strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            assert_same(mine[4], other[4])
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
            over = mine[2] | mine[3]
            ended += over.sum()
            np.testing.assert_array_equal(
                ours.final_observations[over], theirs.final_observations[over]
            )
        assert ended > 20
    mine, other = ours.statistics(), theirs.statistics()
    assert mine.pop("time") > 0 and other.pop("time") > 0
    assert mine == other and mine["episodes"] > 40
    ours.close(), theirs.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_actions_may_be_used_again_after_a_step_and_at_once_after_send(walk, workers):
    def run(step):
        vector = shoal.vectorize(walk, 600, num_workers=workers, seed=1)
        vector.reset()
        rng, actions, seen = np.random.default_rng(0), np.zeros(600, np.int64), hashlib.sha256()
        for _ in range(30):
            actions[:] = rng.integers(vector.single_action_space.n, size=600)
            for array in step(vector, actions):
                seen.update(array.tobytes())
        vector.close()
        return seen.hexdigest()

    def send(vector, actions):
        vector.send(actions)
        actions[:] = 0
        return vector.recv()[:4]

    given = run(lambda vector, actions: vector.step(actions)[:4])
    assert given == run(send)
    assert given == run(lambda vector, actions: vector.step(actions.tolist())[:4])
    assert given != run(lambda vector, actions: vector.step(0 * actions)[:4])


def test_actions_that_do_not_fit_are_refused_before_anything_is_stepped(walk):
    vector = shoal.vectorize(walk, 4, num_workers=2)
    vector.reset()
    for actions in (np.zeros(4, np.int32)[::2], np.zeros(8, np.int64)[::2], np.zeros(5, np.int64)):
        with pytest.raises(ValueError, match="actions"):
            vector._backend.engine.post(0, None, None, actions)
    assert vector.step(np.zeros(8, np.int64)[::2])[0].shape[0] == 4
    vector.close()


def test_disabled_autoreset_and_reset_masks(walk):
    vector = shoal.vectorize(walk, 6, autoreset="disabled", seed=0)
    vector.reset()
    over = np.zeros(6, bool)
    while not over.any():
        observations, _, terminations, truncations, _ = vector.step(np.ones(6, np.int64))
        over = terminations | truncations
    with pytest.raises(shoal.ResetNeededError):
        vector.step(np.ones(6, np.int64))
    before = observations.copy()
    observations, _ = vector.reset(options={"reset_mask": over})
    np.testing.assert_array_equal(observations[~over], before[~over])
    assert (observations[over] != before[over]).all()
    vector.close()


def test_agents_that_end_come_back_or_are_absent(countdown):
    vector = shoal.vectorize(countdown, 2, autoreset="next_step", seed=0)
    assert (vector.agents_per_env, vector.num_rows) == (4, 8)
    vector.reset()
    assert vector.occupants.tolist() == [0, 1, 2, 3] * 2
    ends, lengths = [], []
    for i in range(1, 10):
        vector.send(np.zeros(8, np.int64))
        batch = vector.recv()
        ends.append((batch.terminations | batch.truncations)[:4].tolist())
        lengths.append(vector.episode_lengths[:4].tolist())
        gone = np.array([False, i > 5, i > 8, False])
        assert batch.masks[:4].tolist() == (~gone).tolist()
        assert vector.occupants[:4].tolist() == np.where(gone, -1, range(4)).tolist()
        assert not batch.observations[:4][gone].any() and not batch.rewards[:4][gone].any()
        assert batch.rewards[:4][~gone].tolist() == (np.arange(1, 5)[~gone]).tolist()
        if i == 2:  # agent 0 has come back: a new life, in the middle of the others' episode
            assert batch.terminations[0] and vector.acting[0] and batch.observations[0] == 3
            assert batch.infos["agent"][0] == 0 and batch.infos["_agent"].tolist()[:4] == [
                True,
                False,
                False,
                False,
            ]
    assert [i + 1 for i, row in enumerate(ends) if row[0]] == [2, 5, 8, 9]  # at 9 by the limit
    assert [i + 1 for i, row in enumerate(ends) if row[1]] == [5]
    assert [i + 1 for i, row in enumerate(ends) if row[2]] == [8]
    assert [i + 1 for i, row in enumerate(ends) if row[3]] == [9]
    assert [row[0] for row in lengths] == [1, 2, 1, 2, 3, 1, 2, 3, 1]
    assert not vector.acting.any()
    batch = vector.step(np.zeros(8, np.int64))  # resets; in this episode agent 3 is absent
    assert vector.occupants[:4].tolist() == [0, 1, 2, -1] and not batch[0][3].any()
    assert vector.acting[:4].tolist() == [True, True, True, False]
    assert vector.statistics()["episodes"] == 2 * 7
    vector.close()


def test_several_agents_step_as_in_pettingzoo(countdown):
    """But for the ends that are no ends there: those of agents that come back."""
    pytest.importorskip("pettingzoo")
    ours = shoal.vectorize(countdown, 3, seed=0)
    theirs = shoal.vectorize(countdown, 3, backend="serial", seed=0)
    ours.reset(), theirs.reset()
    for _ in range(60):
        actions = ours.action_space.sample()
        mine, other = ours.step(actions), theirs.step(actions)
        others = np.arange(12) % 4 != 0
        np.testing.assert_array_equal(mine[0], other[0])
        np.testing.assert_array_equal(mine[1], other[1])
        np.testing.assert_array_equal(mine[2][others], other[2][others])
        np.testing.assert_array_equal(mine[3], other[3])
        for name in ("acting", "occupants"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    ours.close(), theirs.close()


# -- threads, pools, states -----------------------------------------------------------------------


def digest(vector, steps: int, begin=None, seed: int = 0) -> str:
    """A hash of all that a vector returns; `begin` is a state to begin with."""
    sums = hashlib.sha256()
    random = np.random.default_rng(seed)
    if begin is None:
        vector.reset(seed=seed)
    else:
        vector.set_state(begin)
    for _ in range(steps):
        actions = random.integers(0, 2, vector.num_rows)
        for array in vector.step(actions)[:4]:
            sums.update(array.tobytes())
        sums.update(vector.episode_returns.tobytes())
    return sums.hexdigest()


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_trajectories_do_not_depend_on_the_threads(walk, countdown, mode):
    for path in (walk, countdown):
        found = set()
        for workers in (1, 2, 3, 8):
            vector = shoal.vectorize(path, 500, num_workers=workers, autoreset=mode)
            found.add(digest(vector, 200))
            vector.close()
        assert len(found) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_state_goes_on_exactly(walk, countdown, workers):
    for path in (walk, countdown):
        vector = shoal.vectorize(path, 20, num_workers=workers)
        digest(vector, 33)
        states = vector.get_state()
        expected = digest(vector, 100, states, seed=1)
        digest(vector, 10, seed=2)
        assert digest(vector, 100, states, seed=1) == expected
        other = shoal.vectorize(path, 20)
        assert digest(other, 100, states, seed=1) == expected
        vector.close(), other.close()


def test_a_state_of_another_environment_is_refused(walk, countdown):
    one, other = shoal.vectorize(walk, 1), shoal.vectorize(countdown, 1)
    one.reset()
    with pytest.raises(ValueError, match=r"states of .* bytes, got"):
        other.set_state(one.get_state())
    one.close(), other.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_steps_each_environment_as_a_whole_batch_does(walk, workers):
    """Whatever is sent, and to which environments, each goes its own way."""
    pool = shoal.vectorize(walk, 12, batch_size=4, num_workers=workers, autoreset="same_step")
    whole = shoal.vectorize(walk, 12, autoreset="same_step")
    actions = np.random.default_rng(0).integers(0, 2, (40, 12))
    whole.reset(seed=7)
    expected = [np.array(whole.step(row)[0]) for row in actions]
    pool.async_reset(seed=7)
    taken = np.zeros(12, int)
    order = np.random.default_rng(1)
    ready: list[int] = []
    for _ in range(3):
        pool.recv()
        ready += pool.env_ids.tolist()
    while taken.min() < 40 - 2:
        chosen = order.permutation([env for env in ready if taken[env] < 40])[:4]
        pool.send(actions[taken[chosen], chosen], env_ids=chosen)
        ready = [env for env in ready if env not in chosen]
        batch = pool.recv()
        for env, row in zip(pool.env_ids, batch.observations, strict=True):
            np.testing.assert_array_equal(row, expected[taken[env]][env])
            taken[env] += 1
            ready.append(int(env))
        if len([env for env in ready if taken[env] < 40]) < 4:
            break
    pool.close(), whole.close()


def test_half_of_the_environments_step_while_the_other_half_waits(walk):
    pool = shoal.vectorize(walk, 8, batch_size=4)
    pool.async_reset(seed=0)
    for i in range(30):
        batch = pool.recv()
        assert pool.env_ids.tolist() == ([0, 1, 2, 3] if i % 2 == 0 else [4, 5, 6, 7])
        pool.send(np.ones(4, np.int64))
        assert batch.masks.shape == (4,)
    pool.close()


def test_a_batch_that_takes_too_long_is_an_error(tmp_path):
    slow = built(
        tmp_path, step="for (volatile int64_t i = 0; i < 400000000; i++) s->steps = (int32_t)i;"
    )
    vector = shoal.vectorize(slow, 2, batch_size=1, timeout=0.05)
    vector.async_reset(seed=0)
    vector.recv(timeout=60)  # a reset is quick, but another process may have the core
    vector.recv(timeout=60)
    vector.send(np.zeros(1, np.int64))
    with pytest.raises(StepTimeoutError, match="walk"):
        vector.recv()
    assert vector.recv(timeout=60).masks.all()  # it was still on its way
    vector.close()


def test_closing(walk):
    for workers in (1, 3):
        before = threading.active_count()
        vector = shoal.vectorize(walk, 4, num_workers=workers)
        vector.reset(seed=0)
        vector.close()
        vector.close()
        for call in (vector.reset, vector.get_state, lambda v=vector: v.step([0] * 4)):
            with pytest.raises(ClosedError):
                call()
        assert threading.active_count() == before
    with pytest.raises(PendingCallError):
        shoal.vectorize(walk, 4).step([0] * 4)


def test_what_native_vectors_refuse(walk):
    vector = shoal.vectorize(walk, 2)
    vector.reset(seed=0)
    for actions in ([0, 2], [0, -1], [0], [0.5, 0.5]):
        with pytest.raises(shoal.ActionError):
            vector.step(actions)
    with pytest.raises(ValueError, match="takes none"):
        vector.reset(options={"length": 3})
    with pytest.raises(AttributeError, match="parameters \\['length'\\]"):
        vector.call("no_such_thing")
    assert vector.get_attr("length") == (10, 10)
    vector.close()
    with pytest.raises(ValueError, match="is for native environments"):
        shoal.vectorize("CartPole-v1", backend="native")
    with pytest.raises(ValueError, match="num_workers"):
        shoal.vectorize(walk, 2, num_workers=3)


# -- loading --------------------------------------------------------------------------------------


def test_parameters_are_checked(walk):
    with pytest.raises(ParameterError, match="no parameter 'lenght'; did you mean length"):
        shoal.vectorize(walk, env_kwargs={"lenght": 3})
    with pytest.raises(ParameterError, match="'length': expected 2 to 1000, got 1"):
        shoal.vectorize(walk, env_kwargs={"length": 1})
    with pytest.raises(ParameterError, match=r"expected an integer, got 2\.5"):
        shoal.vectorize(walk, env_kwargs={"length": 2.5})
    with pytest.raises(ParameterError, match="expected a number, got 'long'"):
        shoal.vectorize(walk, env_kwargs={"length": "long"})
    with pytest.raises(ParameterError, match="'max_steps': expected 0 to"):
        shoal.vectorize(walk, env_kwargs={"max_steps": -1})


def test_a_required_parameter_has_no_default(tmp_path):
    table = PARTS_TABLE.replace(".value = 10", ".value = SHOAL_REQUIRED")
    path = built(tmp_path, table=table)
    with pytest.raises(ParameterError, match="walk needs 'length'"):
        shoal.vectorize(path)
    shoal.vectorize(path, env_kwargs={"length": 5}).close()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"head": "#undef SHOAL_ABI_VERSION\n#define SHOAL_ABI_VERSION 7"},
            "version 7 .* version 1",
        ),
        ({"table": "TABLE, .resolve = NULL, .table_size = 12"}, "has 12 bytes, and that of this"),
        ({"table": "TABLE, .resolve = NULL, .field_size = 8"}, "shoal_field has 8 bytes"),
        ({"table": 'TABLE, .params = {{.name = "a b"}}'}, "'a b' is not an identifier"),
        ({"table": 'TABLE, .params = {{.name = "max_steps"}}'}, "every environment has it"),
        ({"table": 'TABLE, .logs = {{.name = "a"}, {.name = "a"}}'}, "'a' appears twice"),
        ({"table": 'TABLE, .params = {{.name = "a", .value = 5, .high = 1}}'}, "default of"),
        ({"table": 'TABLE, .params = {{.name = "a", .low = 5, .high = 1}}'}, "low is 5"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(tmp_path, parts, said):
    parts = {key: text.replace("TABLE", PARTS_TABLE) for key, text in parts.items()}
    path = built(tmp_path, **parts)
    with pytest.raises(EnvModuleError, match=said) as caught:
        Module(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (".observations = {{NULL}}", "no observation fields"),
        (".actions = {{NULL}}", "no action fields"),
        ('.actions = {{.name = "a", .type = SHOAL_INT64, .low = 1, .high = 2}}', "low must be 0"),
        ('.actions = {{.name = "a", .type = SHOAL_INT32, .high = 2}}', "all SHOAL_INT64 or"),
        ('.actions = {{.name = "a", .type = SHOAL_FLOAT32, .high = SHOAL_INF}}', "finite"),
        ('.observations = {{.name = "a", .type = 77}}', "unknown"),
        ('.observations = {{.name = "a", .type = SHOAL_UINT8, .high = 256}}', "does not hold"),
        ('.observations = {{.name = "a", .type = SHOAL_INT8, .ndim = 1}}', "shape"),
        ('.observations = {{.name = "a", .type = SHOAL_INT8, .low = 3}}', "not below"),
        (".agents = -1", "at least 1 agent"),
    ],
)
def test_fields_that_make_no_sense_are_refused(tmp_path, fields, said):
    path = built(tmp_path, table=f"{PARTS_TABLE}, {fields}")
    with pytest.raises(EnvModuleError, match=said):
        Module(path).spec({})


def test_resolve_may_refuse_parameters_and_must_not_shrink_the_state(tmp_path):
    head = """
        static const char *resolve(const double *params, shoal_spec *spec) {
            if (params[0] == 3) return "length must not be 3";
            spec->state_size -= 4;
            return NULL;
        }"""
    module = Module(built(tmp_path, head=head, table=PARTS_TABLE + ", .resolve = resolve"))
    with pytest.raises(ParameterError, match="walk: length must not be 3"):
        module.spec({"length": 3})
    with pytest.raises(EnvModuleError, match=r"the state has .* bytes, and was made"):
        module.spec({})


def test_files_that_are_no_modules(tmp_path):
    text = tmp_path / "text.so"
    text.write_text("hello")
    with pytest.raises(EnvModuleError, match="can't be loaded"):
        Module(text)
    with pytest.raises(EnvModuleError, match="no file"):
        Module(tmp_path / "nothing.so")
    import _ctypes

    with pytest.raises(EnvModuleError, match="no symbol shoal_env_table"):
        Module(_ctypes.__file__)
    (tmp_path / "mine.c").write_text("")
    with pytest.raises(EnvModuleError, match="has not been built: shoal build"):
        shoal.vectorize(str(tmp_path / "mine.c"))


# -- debugging ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"observe": "((float *)io->observations)[1] = 0; ((float *)io->observations)[0] = 0;"},
         r"step wrote 4 bytes behind its observations of 4 bytes|reset wrote"),
        ({"observe": "((char *)io->observations)[-3] = 0; ((float *)io->observations)[0] = 0;"},
         "wrote 3 bytes before its observations"),
        ({"observe": ""}, "did not write observation position of agent 0"),
        ({"observe": "*(float *)io->observations = 2;"}, "expected 0 to 1, got 2"),
        ({"observe": "*(float *)io->observations = (float)(0.0 / (s->steps - s->steps));"},
         "expected 0 to 1, got nan"),
        ({"head": "static int counter;",
          "observe": "*(float *)io->observations = (float)(counter++ % 2);"},
         "another observation position"),
        ({"step": "((char *)s)[sizeof *s] = 1;"}, "behind its state of"),
        ({"step": "io->rewards[0] = (float)SHOAL_INF;"}, "reward is inf"),
        ({"step": "io->terminated[1] = 1;"}, "wrote 1 bytes behind its flags"),
    ],
)  # fmt: skip
def test_debugging_finds_faults_and_names_them(tmp_path, parts, said):
    path = built(tmp_path, **parts)
    plain = shoal.vectorize(path, 3)
    plain.close()
    vector = shoal.vectorize(path, 3, debug=True)
    with pytest.raises(EnvCheckError, match=said):
        vector.reset(seed=0)
        for _ in range(3):
            vector.step([1, 1, 1])
    vector.close()


def test_debugging_changes_nothing(walk, countdown):
    for path in (walk, countdown):
        found = set()
        for debug in (False, True):
            vector = shoal.vectorize(path, 10, debug=debug)
            found.add(digest(vector, 60))
            vector.close()
        assert len(found) == 1


# -- threads --------------------------------------------------------------------------------------


def threads_program(folder, *flags):
    """Compile test_threads.c with the engine."""
    here = Path(__file__).parent
    include = here.parents[1] / "src" / "shoal" / "ocean_c"
    sources = [str(here / "test_threads.c"), str(include / "c" / "engine.c")]
    command = ["cc", "-std=c11", "-O1", "-g", *sources, f"-I{include}", "-lm", "-lpthread"]
    program = folder / "threads"
    done = subprocess.run([*command, *flags, "-o", str(program)], capture_output=True)
    return None if done.returncode else str(program)


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_threads_are_free_of_races(tmp_path, sanitizer):
    """test_threads.c under a sanitizer, where the compiler has it, with all invariants checked."""
    program = threads_program(tmp_path, f"-fsanitize={sanitizer}")
    program = program or threads_program(tmp_path, "-DSHOAL_CHECKS")
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the rows of the program itself
    done = subprocess.run([program], capture_output=True, text=True, timeout=300, env=env)
    if "unexpected memory mapping" in done.stderr:  # the kernel's, not ours
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "the same with every number of threads" in done.stdout


@pytest.mark.parametrize(
    "violation, said",
    [
        ("twice", "atomic_exchange"),
        ("block", "posted - e->received < num"),
        ("asleep", "sleepers) <= e->num_threads"),
    ],
)
def test_a_broken_invariant_is_noticed_by_test_builds_only(tmp_path, violation, said):
    done = subprocess.run(
        [threads_program(tmp_path, "-DSHOAL_CHECKS"), violation], capture_output=True, text=True
    )
    assert done.returncode < 0 and "broken invariant" in done.stderr and said in done.stderr
    release = Path(threads_program(tmp_path)).read_bytes()
    assert b"broken invariant" not in release


@pytest.mark.parametrize(
    ("num_envs", "num_rows", "match"),
    [(2, 3, "expected 2 rows, got 3"), (3, 2, "expected 3 rows, got 2")],
)
def test_buffers_with_another_number_of_rows_are_refused(walk, num_envs, num_rows, match):
    module = load(walk)
    spec = module.spec({})
    observations, actions = layouts(spec, module.path)
    engine = Engine(module, spec, num_envs, DISABLED)
    with pytest.raises(ValueError, match=match):
        engine.bind(Buffers(observations, actions, zero_rows(observations, actions, num_rows)))
    engine.close()


def test_buffers_with_rows_of_another_size_are_refused(walk):
    module = load(walk)
    spec = module.spec({})
    observations, actions = layouts(spec, module.path)
    other = Layout.from_space(gymnasium.spaces.Box(0, 1, (1000,), np.float64))
    wide = ActionLayout.from_space(gymnasium.spaces.Box(0, 1, (1000,), np.float64))
    engine = Engine(module, spec, 2, DISABLED)
    with pytest.raises(ValueError, match="bytes of an observation"):
        engine.bind(Buffers(other, actions, zero_rows(other, actions, 2)))
    with pytest.raises(ValueError, match="bytes of an action"):
        engine.bind(Buffers(observations, wide, zero_rows(observations, wide, 2)))
    engine.close()
