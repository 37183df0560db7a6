"""Suggestions of names that are near an unknown one."""

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
