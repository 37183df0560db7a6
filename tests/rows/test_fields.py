"""The table of a row's arrays, operations and modes in Python, and the same in C."""

import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from shoal.errors import LayoutError
from shoal.rows import fields
from shoal.rows.actions import ActionLayout
from shoal.rows.buffers import Buffers
from shoal.rows.layout import Layout

ROWS = Path(__file__).parents[2] / "src" / "shoal" / "rows"
HEADER = (ROWS / "rows.h").read_text()
C_TYPES = {"double": "float64", "int64_t": "int64", "uint8_t": "bool"}


def layouts():
    action = ActionLayout.from_space(spaces.MultiDiscrete([3, 4]))
    return Layout.from_space(spaces.Box(-1, 1, (5,), np.float32)), action


def test_the_struct_in_c_has_the_fields_of_the_table_in_order_with_their_types():
    struct = re.search(r"typedef struct \{(.*?)\} shoal_rows;", HEADER, re.DOTALL)[1]
    members = re.findall(r"(\w+) (\*?)(\w+);", struct)
    pointers = [(name, kind) for kind, star, name in members if star]
    assert members[: len(pointers)] == [(kind, "*", name) for name, kind in pointers]
    table = fields.row_fields(*layouts())
    assert [name for name, _ in pointers] == list(table)
    for name, kind in pointers:
        if kind == "char":  # of the layouts
            assert name in ("observations", "final_observations", "actions")
        else:
            assert C_TYPES[kind] == table[name][0].name


def test_cython_declares_the_members_of_the_struct_in_c():
    struct = re.search(r"typedef struct \{(.*?)\} shoal_rows;", HEADER, re.DOTALL)[1]
    declared = (ROWS / "rows.pxd").read_text().split('"shoal_rows":')[1]
    found = re.findall(r"(\w+) (\*?)(\w+);", struct)
    members = [(kind, bool(star), name) for kind, star, name in found]
    assert members == [
        ("ptrdiff_t" if kind == "Py_ssize_t" else kind, bool(star), name)
        for kind, star, name in re.findall(r"^ +(\w+)(\*?) (\w+)$", declared, re.MULTILINE)
    ]


def test_operations_and_modes_have_the_numbers_of_the_header():
    found = re.findall(r"enum \{(.*?)\};", HEADER)
    operations, modes = ([name.strip() for name in names.split(",")] for names in found)
    assert operations == ["SHOAL_STEP", "SHOAL_RESET", "SHOAL_KEEP", "SHOAL_GIVEN"]
    assert modes == ["SHOAL_NEXT_STEP", "SHOAL_SAME_STEP", "SHOAL_DISABLED", "SHOAL_OWN"]
    for names in (operations, modes):
        for number, name in enumerate(names):
            assert getattr(fields, name[len("SHOAL_") :]) == number
    assert [f"SHOAL_{name.upper()}" for name in fields.MODES] == modes
    assert {mode.name for mode in AutoresetMode} | {"OWN"} == {n[len("SHOAL_") :] for n in modes}


@pytest.mark.parametrize("name", fields.row_fields(*layouts()))
@pytest.mark.parametrize("fault", ["missing", "dtype", "shape", "strided", "read-only"])
def test_buffers_refuse_an_array_that_does_not_fit_and_name_it(name, fault):
    arrays = fields.zero_rows(*layouts(), 4)
    array = arrays[name]
    if fault == "missing":
        del arrays[name]
    elif fault == "dtype":
        arrays[name] = np.zeros(array.shape, np.int16)
    elif fault == "shape":
        arrays[name] = np.zeros((*array.shape, 2), array.dtype)
    elif fault == "strided":
        arrays[name] = np.zeros((8, *array.shape[1:]), array.dtype)[::2]
    else:
        array.flags.writeable = False
    with pytest.raises(LayoutError, match=name):
        Buffers(*layouts(), arrays)


def test_buffers_keep_the_arrays_alive_and_copy_nothing():
    arrays = fields.zero_rows(*layouts(), 4)
    buffers = Buffers(*layouts(), arrays)
    assert buffers.num_rows == 4
    assert buffers.arrays is arrays
