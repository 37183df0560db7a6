"""Set before any environment is imported: tests run on machines with neither screen nor sound.

Several processes run the tests, so each computes with one thread.
"""

import multiprocessing
import os
import shutil
import signal

import pytest

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background has them and what they start ignore Ctrl-C, which
# some of them are about.
signal.signal(signal.SIGINT, signal.default_int_handler)

# TorchRL makes "spawn" the start method of its importer unless one is set, as this call does with
# the platform's own. Otherwise every worker would import everything again: ten times the time, and
# not what most users have.
multiprocessing.get_start_method()


@pytest.fixture(scope="module")
def browser():
    """Start one headless browser for a module's tests: the system's Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()
