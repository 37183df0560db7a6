"""The tree of errors, and suggestions of names that are near an unknown one."""

import re

import shoal
import shoal.errors
from shoal.errors import did_you_mean, near

NAMES = ["nmmo", "NetHack", "minihack", "crafter"]


def test_near_names_are_suggested_whatever_their_case():
    assert near("nethak", NAMES) == ["NetHack"]
    assert did_you_mean("nmo", NAMES) == "; did you mean nmmo?"
    assert did_you_mean("CRAFTR", NAMES, "--") == "; did you mean --crafter?"


def test_the_nearest_come_first_and_are_three_at_most():
    names = [f"learning-rat{'e' * i}" for i in range(6)]
    assert near("learning-rate", names) == ["learning-rate", "learning-ratee", "learning-rat"]


def test_nothing_is_said_where_nothing_is_near():
    assert did_you_mean("zzz", NAMES) == did_you_mean("nmo", []) == ""


def test_the_tree_at_the_head_of_the_file_is_that_of_the_classes():
    """Each class is drawn, below its base, and with the built-in error that it refines."""
    classes = {
        name: each
        for name, each in vars(shoal.errors).items()
        if isinstance(each, type) and issubclass(each, shoal.ShoalError)
    }
    above = ["ShoalError"]
    drawn = set()
    for indent, line in re.findall(r"^    ([│ ]*)[├└]─ (.*)", shoal.errors.__doc__, re.MULTILINE):
        depth = 1 + len(indent) // 3
        for name, builtin in re.findall(r"(\w+Error|WorkerDied)(?: \((\w+)\))?", line):
            bases = [base.__name__ for base in classes[name].__bases__]
            assert bases == [above[depth - 1], *([builtin] if builtin else [])], name
            above[depth:] = [name]
            drawn.add(name)
    assert drawn | {"ShoalError"} == set(classes) <= set(shoal.__all__)
