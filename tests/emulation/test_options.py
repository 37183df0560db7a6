"""The options of emulation: checked once, the same after JSON and pickle."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from shoal.emulation.options import EmulationOptions
from shoal.errors import EmulationError, LayoutError
from shoal.rows.layout import Layout

SPACES = (spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(4))
LENGTHS = st.integers(0, 2**40)


@given(
    form_and_hot=st.sampled_from([("bytes", False), ("float32", False), ("float32", True)]),
    max_len=st.none() | LENGTHS | st.dictionaries(st.text(), LENGTHS),
    max_agents=st.none() | st.integers(1, 1000),
    pad=st.sampled_from([False, True, SPACES]),
    debug=st.booleans(),
)
def test_json_and_pickle_give_equal_options(form_and_hot, max_len, max_agents, pad, debug):
    options = EmulationOptions(*form_and_hot, max_len, max_agents, pad, debug)
    assert EmulationOptions.from_json(options.to_json()) == options
    assert pickle.loads(pickle.dumps(options)) == options


def test_values_become_plain():
    options = EmulationOptions(
        max_len={"a": np.int64(3)}, max_agents=np.int32(2), pad=list(SPACES), debug=True
    )
    assert type(options.max_agents) is int and type(options.max_len["a"]) is int
    assert options.pad == tuple(Layout.from_space(space) for space in SPACES)
    assert options.given().keys() == {"max_len", "max_agents", "pad", "debug"}


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"form": "text"}, LayoutError, r'form must be "bytes" or "float32", got \'text\''),
        ({"one_hot": True}, LayoutError, "one_hot=True needs form=\"float32\", got form='bytes'"),
        ({"form": "float32", "one_hot": 1}, LayoutError, "one_hot must be True or False, got 1"),
        ({"max_len": -1}, LayoutError, "max_len must be an integer >= 0, .* got -1"),
        ({"max_len": True}, LayoutError, "max_len must be an integer >= 0, .* got True"),
        ({"max_len": {"a": 2.5}}, LayoutError, r"max_len must be .* got \{'a': 2.5\}"),
        ({"max_agents": 0}, EmulationError, "max_agents must be an integer of at least 1, got 0"),
        ({"max_agents": "4"}, EmulationError, "max_agents must be an integer .* got '4'"),
        ({"pad": SPACES[:1]}, EmulationError, r"pad must be True, False or a pair of spaces"),
        ({"pad": None}, EmulationError, r"pad must be True, False or a pair .* got None"),
        ({"pad": (SPACES[0], 3)}, LayoutError, r"^pad\[1\]: "),
        ({"debug": "yes"}, EmulationError, "debug must be True or False, got 'yes'"),
    ],
)
def test_a_wrong_value_is_named(wrong, error, message):
    with pytest.raises(error, match=message):
        EmulationOptions(**wrong)


def test_defaults_fill_only_what_was_not_given():
    options = EmulationOptions(max_len=3)
    filled = options.filled({"max_len": 9, "max_agents": 5, "pad": True})
    assert filled == EmulationOptions(max_len=3, max_agents=5, pad=True)
    with pytest.raises(EmulationError, match=r"unknown option 'maxlen'; the options are \['form'"):
        options.filled({"maxlen": 9})
