"""Pages in a real browser: the system's Chromium, without a screen."""

import contextlib
import zlib

import numpy as np
import pytest

import shoal
from shoal.cli import main
from shoal.errors import EnvModuleError, ParameterError
from shoal.ocean_c import web
from shoal.ocean_c.find import own_names
from tests.ocean_c.pages import opened

STEPS = 1000
MOST_BYTES = 120_000  # of a page, without weights

# A policy of one linear layer: always "right" in squared, whose observation has 121 bytes.
POLICY = """
#include <stdint.h>
enum { POLICY_WEIGHTS = 5, POLICY_SCRATCH = 1, POLICY_STATE = 1, POLICY_OBSERVATION = %d,
       POLICY_LOGITS = 5, POLICY_ACTION = 8, POLICY_COMPONENTS = 1 };
static const int POLICY_CATEGORIES[] = {5};
static void policy_forward(const float *weights, const void *observation, float *state,
                           float *scratch, float *logits, float *value) {
    (void)observation, (void)scratch;
    for (int i = 0; i < 5; i++)
        logits[i] = weights[i];
    value[0] = state[0]++; /* steps of the episode */
}
static void policy_act(const float *logits, const unsigned char *mask, uint64_t *random,
                       int greedy, void *action) {
    int best = 0;
    (void)mask, (void)random, (void)greedy;
    for (int i = 1; i < 5; i++)
        best = logits[i] > logits[best] ? i : best;
    *(int64_t *)action = best;
}
"""

# What a page's module gives after each step: a checksum of the bytes of each array.
RUN = """([seed, actions, float]) => {
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
    return n;
  });
  const check = (name, size) => {
    let c = -1;
    for (const byte of array(Uint8Array, name, size)) c = table[(c ^ byte) & 255] ^ (c >>> 8);
    return (c ^ -1) >>> 0;
  };
  const sizes = [["state", at.state_size], ["observations", at.agents * at.observation_size],
                 ["rewards", at.agents * 4], ["terminated", at.agents], ["truncated", at.agents]];
  const found = [];
  wasm.page_reset(seed, 0);
  for (let step = 0; step <= actions.length; step++) {
    found.push(sizes.map(([name, size]) => check(name, size)));
    if (step === actions.length) break;
    const given = actions[step];
    if (float) array(Float32Array, "actions", given.length).set(given);
    else array(BigInt64Array, "actions", given.length).set(given.map(BigInt));
    wasm.page_step();
  }
  return found;
}"""


@pytest.fixture(scope="module")
def squared(browser, tmp_path_factory):
    """A page on which an agent goes right."""
    folder = tmp_path_factory.mktemp("web")
    source, module = web.source_and_module("squared")
    size = web.observation_offsets(web.load(module).spec({}))[1]
    (folder / "policy.h").write_text(POLICY % size)
    weights = np.float32([0, 0, 0, 0, 3])
    files = web.write_page(source, module, folder, policy=folder, weights=weights, half=True)
    assert sum(files.values()) - files["weights.js"] <= MOST_BYTES
    page = opened(browser, folder)
    yield page
    page.close()


def same_as_the_engine(browser, folder, name, steps=STEPS):
    """Compare states, observations, rewards and ends of `steps` steps with the engine's."""
    source, module = web.source_and_module(name)
    web.write_page(source, module, folder)
    random = np.random.default_rng(0)
    vector = shoal.vectorize(name, 1, backend="native", autoreset="next_step")
    with contextlib.closing(vector):
        engine = vector._backend.engine
        space = vector.action_space
        fractional = space.dtype.kind == "f"
        if fractional:
            actions = random.uniform(space.low, space.high, (steps, *space.shape))
            actions = actions.astype(np.float32)
        else:
            sizes = space.nvec if hasattr(space, "nvec") else space.high + 1
            actions = random.integers(0, sizes, (steps, *space.shape))
        ends = np.zeros(vector.num_rows, bool)
        observations, _ = vector.reset(seed=5)
        rewards, wanted = np.zeros(vector.num_rows), []
        terminated = truncated = ends
        for step in range(steps + 1):
            rows = (rewards.astype("f4"), terminated.astype("u1"), truncated.astype("u1"))
            state = engine.get_state(0)[5 + 13 * vector.num_rows :]  # before: the engine's own
            parts = (state, observations.tobytes(), *(r.tobytes() for r in rows))
            wanted.append([zlib.crc32(part) for part in parts])
            if step < steps:
                observations, rewards, terminated, truncated, _ = vector.step(actions[step])
    page = opened(browser, folder, "paused")
    rows = actions.reshape(steps, -1).tolist()
    assert page.evaluate(RUN, [5, rows, fractional]) == wanted
    page.close()


@pytest.mark.parametrize("name", ["cartpole", "target", "connect4"])
def test_a_page_has_the_engines_bytes(browser, tmp_path, name):
    same_as_the_engine(browser, tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", own_names())
def test_every_page_has_the_engines_bytes(browser, tmp_path, name):
    same_as_the_engine(browser, tmp_path, name)


def action(page):
    return page.evaluate("Number(array(BigInt64Array, 'actions', 1)[0])")


def note(page, text):
    page.wait_for_function(f"$('note').textContent.startsWith('{text}')")


def test_the_agent_plays_and_a_person_takes_over(squared):
    page = squared
    note(page, "the agent plays")
    page.get_by_role("button", name="Restart").click()  # into the middle, from where it goes right
    first = page.evaluate("$('picture').toDataURL()")
    page.wait_for_function("before => $('picture').toDataURL() !== before", arg=first)
    assert action(page) == 4
    page.keyboard.down("Shift")
    note(page, "you play")
    page.keyboard.down("ArrowUp")
    page.wait_for_function("Number(array(BigInt64Array, 'actions', 1)[0]) === 1")
    page.keyboard.up("ArrowUp")
    page.wait_for_function("Number(array(BigInt64Array, 'actions', 1)[0]) === 0")
    page.keyboard.up("Shift")
    note(page, "the agent plays")
    page.wait_for_function("Number(array(BigInt64Array, 'actions', 1)[0]) === 4")


def test_the_buttons_pause_step_restart_and_choose_who_plays(squared):
    page = squared
    page.get_by_role("button", name="Pause").click()
    steps = page.evaluate("count.steps")
    page.get_by_role("button", name="Step").click()
    page.get_by_role("button", name="Step").click()
    assert page.evaluate("count.steps") == steps + 2
    page.get_by_role("button", name="Restart").click()
    page.wait_for_function("$('numbers').textContent.startsWith('Return0Length0')")
    page.get_by_role("button", name="You", exact=True).click()
    page.keyboard.down("ArrowLeft")
    page.keyboard.press(".")
    page.keyboard.up("ArrowLeft")
    assert action(page) == 3
    page.get_by_role("button", name="Agent", exact=True).click()
    page.get_by_role("button", name="Faster").click()
    assert page.evaluate("fps") == 30
    page.keyboard.press("-")
    assert page.evaluate("fps") == 15
    page.get_by_role("button", name="Play", exact=True).click()
    page.evaluate("set_speed(480)")
    page.wait_for_function(
        "count.episodes > 0 && /Mean score[0-9.]+Last/.test($('numbers').textContent)"
    )
    page.evaluate("set_speed(15)")


def test_the_page_shows_what_the_agent_sees(squared):
    page = squared
    page.get_by_role("button", name="What the agent sees").click()
    page.wait_for_function("$('range').textContent.startsWith('now')")
    bars = page.locator("#bars li").all_inner_texts()
    likely = np.exp([0, 0, 0, 0, 3.0])
    shown = [float(text.split()[-1]) for text in bars]
    assert np.allclose(shown, likely / likely.sum(), atol=0.006)
    assert page.locator("#bars li.chosen").inner_text().split()[0] == "right"
    page.get_by_role("button", name="What the agent sees").click()
    assert not page.locator("#sees").is_visible()


def test_a_click_takes_one_of_several_agents(browser, tmp_path):
    source, module = web.source_and_module("target")
    web.write_page(source, module, tmp_path)
    page = opened(browser, tmp_path, "seed=1&paused&player=you")
    x, y = page.evaluate(
        """() => {
          const all = drawing.integers;
          const i = all.findIndex((v, k) => k % 12 === 0 && v === 6 && all[k + 3] === 5);
          const box = $("picture").getBoundingClientRect(), [left, top, w, h] = drawing.view;
          return [box.left + (drawing.floats[i + 5] - left) / w * box.width,
                  box.top + (drawing.floats[i + 6] - top) / h * box.height];
        }"""
    )
    page.mouse.click(x, y)
    assert page.evaluate("agent") == 5
    page.get_by_role("button", name="Next agent").click()
    page.wait_for_function("$('agent').textContent === '7 of 8'")
    page.close()


def test_a_page_is_usable_by_touch(browser, tmp_path):
    source, module = web.source_and_module("g2048")
    web.write_page(source, module, tmp_path)
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(f"{(tmp_path / 'index.html').as_uri()}#seed=1&player=you")
    note(page, "you play · press a key")
    assert page.evaluate("count.steps") == 0
    page.get_by_role("button", name="left, key left").tap()
    page.wait_for_function("count.steps === 1")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_the_command_makes_a_page_of_ones_own_environment(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert main(["web", "mine.c", "--out", "page", "--kwargs", "size=5"]) == 0
    assert "page/index.html" in capfd.readouterr().out
    assert '"params": [5.0, 5.0]' in (tmp_path / "page" / "env.js").read_text()
    assert main(["web", "no_such", "--out", "page"]) == 2
    assert "ENV must be one of Shoal's environments in C" in capfd.readouterr().err


def test_a_policy_of_other_rows_is_an_error(tmp_path):
    source, module = web.source_and_module("squared")
    (tmp_path / "policy.h").write_text(POLICY % 7)
    with pytest.raises(ParameterError, match=r"an observation of .* bytes, .* got 7"):
        web.write_page(source, module, tmp_path, policy=tmp_path)


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(web.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    with pytest.raises(EnvModuleError, match=r"ziglang .*\[web\]"):
        web.wasm_compiler()
