"""Opens pages in the system's Chromium."""

import pytest


def opened(browser, folder, options="seed=1"):
    """Open a page from the disk; errors of its script fail the test."""
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.on("pageerror", lambda error: pytest.fail(f"the page raised {error}"))
    page.goto(f"{(folder / 'index.html').as_uri()}#{options}")
    page.wait_for_function("drawing !== undefined && drawing !== null && count.frames > 0")
    return page
