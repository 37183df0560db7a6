"""A run's page in a real browser, against the policy in torch."""

import numpy as np
import pytest
import torch

from shoal.cli import main
from shoal.errors import ExportError
from shoal.trainers.export.step import load
from shoal.trainers.export.web import export_web
from shoal.trainers.policies import initial_state, typed
from shoal.trainers.ppo import forward_step
from tests.ocean_c.pages import opened

STEPS = 1000
TOLERANCE = 1e-5  # of a number's size if that is above 1: the sums have another order

# For each step: whether an episode begins, the first agent's observation, logits and value.
RUN = """(steps) => {
  const rows = [];
  wasm.page_reset(3, 0);
  while (rows.length < steps) {
    const begins = number("steps") === 0;
    const bytes = [...array(Uint8Array, "observations", at.observation_size)];
    wasm.page_act(1);
    const logits = [...array(Float32Array, "logits", at.num_logits)];
    rows.push([begins, bytes, logits, array(Float32Array, "values", 1)[0]]);
    wasm.page_step();
    if (number("pending")) wasm.page_step();
  }
  return rows;
}"""


def trained(env, folder, *options):
    """Return the folder of a run of a few updates."""
    place = ["--runs-dir", str(folder), "--name", env, "--display", "none", "--no-tensorboard"]
    assert main(["train", env, "--total-steps", "2000", "--num-envs", "8", *place, *options]) == 0
    return folder / env


def same_logits(browser, run, folder):
    """Compare the logits and values of `STEPS` greedy steps with the policy's in torch."""
    export_web(run, folder)
    policy = load(run).policy
    layout = policy.observation_layout
    page = opened(browser, folder, "paused")
    rows = page.evaluate(RUN, STEPS)
    page.close()
    state = zero = initial_state(policy, 1)
    worst = 0.0
    with torch.no_grad():
        for begins, row, logits, value in rows:
            seen = typed(torch.tensor(np.uint8([row])).view(torch.uint8), layout)
            found = forward_step(policy, seen, zero if begins else state)
            state = found[2]
            wanted = np.float32([*logits, value])
            away = np.abs(np.append(found[0].numpy()[0], found[1].numpy()) - wanted)
            worst = max(worst, (away / np.maximum(1, np.abs(wanted))).max())
    print(f"{run.name}: largest difference of logits and values {worst:.1e}")
    assert worst < TOLERANCE


def test_a_page_has_the_logits_of_the_policy(browser, tmp_path):
    run = trained("cartpole", tmp_path)
    same_logits(browser, run, tmp_path / "page")
    assert main(["web", "cartpole", "--run", str(run), "--half", "--out", str(tmp_path / "h")]) == 0
    half, whole = (tmp_path / name / "weights.js" for name in ("h", "page"))
    assert half.stat().st_size < 0.51 * whole.stat().st_size
    place = ["--runs-dir", str(tmp_path), "--out", str(tmp_path / "exported")]
    assert main(["export", "cartpole", "--format", "web", *place]) == 0
    assert (tmp_path / "exported" / "weights.js").read_bytes() == whole.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "options"),
    [("memory", ["--memory", "lstm"]), ("swarm", []), ("tripletriad", []), ("target", [])],
)
def test_pages_have_the_logits_of_every_kind_of_policy(browser, tmp_path, env, options):
    same_logits(browser, trained(env, tmp_path, *options), tmp_path / "page")


def test_an_environment_in_python_is_an_error(tmp_path):
    run = trained("CartPole-v1", tmp_path)
    with pytest.raises(ExportError, match="the environment must be in C, and CartPole-v1 is not"):
        export_web(run, tmp_path / "page")
