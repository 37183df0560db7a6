"""Every page of the gallery plays in a real browser, with its trained agent."""

import pytest

from shoal.ocean_c.find import own_names
from tests.docs_scripts import DOCS, load_script
from tests.ocean_c.pages import opened

TRAINED = sorted(path.stem for path in (DOCS / "trained").glob("*.f16"))


@pytest.fixture(scope="module")
def gallery():
    return load_script("gallery")


def test_every_environment_has_an_agent_of_at_most_300_kb():
    assert own_names() == TRAINED
    sizes = {path.name: path.stat().st_size for path in (DOCS / "trained").glob("*.f16")}
    assert max(sizes.values()) <= 300_000, sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", own_names())
def test_every_demo_plays(gallery, browser, tmp_path, name):
    gallery.write_demo(name, tmp_path)
    page = opened(browser, tmp_path, "seed=1&fps=60&embed")
    page.wait_for_function("$('note').textContent.startsWith('the agent plays')")
    first = page.evaluate("$('picture').toDataURL()")
    page.wait_for_function("before => $('picture').toDataURL() !== before", arg=first)
    page.wait_for_function("count.steps > 30")
    page.evaluate("$('look').click()")
    page.wait_for_function("$('range').textContent.startsWith('now')")
    page.keyboard.down("Shift")
    page.wait_for_function("$('note').textContent.startsWith('you play')")
    page.keyboard.up("Shift")
    assert page.evaluate("drawing.integers.length") > 0
    page.close()
