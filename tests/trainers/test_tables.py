"""The tables of options, metrics and environments say all that there is, as the code has it."""

import dataclasses
import re

import pytest

from shoal.trainers.config import Config, described
from shoal.trainers.diagnose import METRICS
from tests.docs_scripts import DOCS, load_script


@pytest.fixture(scope="module")
def tables():
    return load_script("tables")


def test_every_option_is_in_the_table_with_its_type_default_and_meaning():
    rows = {name: rest for _, name, *rest in described()}
    assert list(rows) == [f.name for f in dataclasses.fields(Config)]
    for name, (kind, default, meaning) in rows.items():
        assert kind and default and len(meaning) > 10, name
    assert rows["gamma"] == ["float", "0.99", "Discount of future rewards."]
    assert rows["anneal"][0] == "linear or cosine or none"


def test_the_pages_are_as_the_code_says(tables):
    """If this fails: python docs/tables.py."""
    assert (DOCS / "options.md").read_text() == tables.options_page()
    assert (DOCS / "metrics.md").read_text() == tables.metrics_page()
    assert (DOCS / "environments.md").read_text() == tables.environments_page()
    assert (DOCS / "gallery.md").read_text() == tables.gallery_page()


def test_every_metric_of_a_run_is_in_the_table():
    pytest.importorskip("torch")
    from shoal.trainers.ppo import train

    seen = []
    config = Config(
        "CartPole-v1", total_steps=256, num_envs=4, horizon=32, num_workers=0, torch_threads=1
    )
    train(config, report=seen.append)
    measured = {name for metrics in seen for name in metrics}
    patterns = [re.escape(name).replace(r"\*", ".+") for name in METRICS]
    assert [n for n in measured if not any(re.fullmatch(p, n) for p in patterns)] == []
    unused = [p for p in patterns if not any(re.fullmatch(p, n) for n in measured)]
    assert unused == []  # the pattern of an environment's own numbers meets return and length
