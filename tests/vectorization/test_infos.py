"""Infos that differ from row to row, and infos that are wrong, on every backend."""

import sys

import numpy as np
import pytest

import shoal
from shoal.errors import EmulationError
from tests.other_python import old_python
from tests.vectorization import odd_infos
from tests.vectorization.odd_infos import SAID, VALUES, WRONG

BACKENDS = {
    "serial": {"backend": "serial"},
    "multiprocess": {"backend": "multiprocess", "num_workers": 2},
    "fork": {"backend": "multiprocess", "num_workers": 2, "start_method": "fork"},
    "pool": {"backend": "pool", "num_workers": 2, "batch_size": 4},
    "isolated": {"num_workers": 2, "python": lambda: sys.executable},
    "old": {"num_workers": 2, "python": old_python},
}
MEANS = {  # of the numbers among them
    "int, float": 0.5625,
    "bool, float": 1.0,
    "uint8, float": 1.125,
    "float32, float": 1.4,
    "0-d arrays": 1.125,
    "huge": (2**64 + 1.5) / 3,
    "none": 1.75,
    "text": 1.75,
    "a dict": 0.75,
    "a dict first": 3,
}


def vectorize(backend, kind, name, **kwargs):
    how = dict(BACKENDS[backend])
    if "python" in how:
        how["python"] = how["python"]()
    return shoal.vectorize(
        f"{odd_infos.__file__}:{kind}", 4, seed=0, env_kwargs={"name": name}, **how, **kwargs
    )


def same(got, expected):
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same(got[k], expected[k]) for k in got)
    if isinstance(expected, np.ndarray):
        return np.shape(got) == expected.shape and np.array_equal(got, expected)
    return got == expected and (got is None) == (expected is None)


def row_of(values, row):
    if isinstance(values, dict):
        return {
            k: row_of(v, row) for k, v in values.items() if k[0] != "_" and values[f"_{k}"][row]
        }
    return values[row]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", VALUES)
def test_every_value_arrives_as_it_was(name, backend):
    if backend not in ("serial", "multiprocess", "isolated") and name not in ("int, float", "huge"):
        return
    vector = vectorize(backend, "Scored", name)
    vector.reset(seed=0)
    for _ in range(2):  # by messages, then through slots
        infos = vector.step(np.zeros(4, np.int64))[4]
        for row, value in enumerate(VALUES[name]):
            assert same(row_of(infos["score"], row), value), (row, infos["score"])
            assert same(row_of(infos["deep"], row)["score"], value)
        vector.step(np.zeros(4, np.int64))
    if name in MEANS:
        assert vector.statistics()["score"] == pytest.approx(MEANS[name], rel=1e-12)
    vector.close()


def test_the_mean_of_scores_of_which_the_first_is_an_integer():
    vector = vectorize("multiprocess", "Scored", "int, float", autoreset="same_step")
    vector.reset(seed=0)
    vector.step(np.zeros(4, np.int64))
    assert vector.statistics()["score"] == 0.5625
    vector.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_info_is_one_clear_error_that_names_the_environment(name, backend):
    if backend not in ("serial", "multiprocess", "isolated") and name != "too deep":
        return
    vector = vectorize(backend, "Strange", name)
    vector.reset(seed=0)
    with pytest.raises(EmulationError, match=SAID[name]) as caught:
        vector.step(np.zeros(4, np.int64))
    assert "raised by environment 2 (seed 2, step 1" in "\n".join(caught.value.__notes__)
    vector.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["too deep", "cyclic", "text"])
def test_a_wrong_info_at_the_end_of_an_episode_is_the_same_error(name, backend):
    """Before it is copied, which by the stable ABI has no limit of its own."""
    if backend not in ("serial", "old") and name != "cyclic":
        return
    vector = vectorize(backend, "Ending", name, autoreset="same_step")
    vector.reset(seed=0)
    with pytest.raises(EmulationError, match=SAID[name]) as caught:
        vector.step(np.zeros(4, np.int64))
    assert "raised by environment 2 (seed 2, step 1" in "\n".join(caught.value.__notes__)
    vector.close()


@pytest.mark.parametrize("backend", ["serial", "multiprocess"])
def test_a_wrong_info_restarts_its_environment_alone(backend):
    vector = vectorize(backend, "Strange", "too deep", on_error="restart")
    vector.reset(seed=0)
    vector.step(np.zeros(4, np.int64))
    assert vector.restarts == 1
    vector.close()


@pytest.mark.parametrize("backend", ["multiprocess", "isolated"])
def test_lists_too_deep_for_any_message_arrive_as_text(backend):
    vector = vectorize(backend, "Nested", "")
    vector.reset(seed=0)
    infos = vector.step(np.zeros(4, np.int64))[4]
    assert "list" in repr(infos["list"][0])  # the text stands for the whole, or from a depth on
    assert infos["x"].tolist() == [1, 1, 1, 1]
    vector.close()
