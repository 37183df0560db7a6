"""MaskablePPO plays no illegal move. That the examples run at all is tests/test_examples.py."""

import runpy
from pathlib import Path

import pytest

import shoal

pytest.importorskip("sb3_contrib")
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

from shoal.wrappers.sb3 import ShoalVecEnv

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("backend", ["serial", "multiprocess"])
def test_maskable_ppo_plays_no_illegal_move(backend):
    """The environment raises at the first one, which it does soon without masks."""
    create = runpy.run_path(str(EXAMPLES / "maskable_ppo_connect_four.py"))["ConnectFour"]
    how = {"autoreset": "same_step", "backend": backend, "seed": 0}
    if backend == "multiprocess":
        how |= {"num_workers": 2, "start_method": "fork"}
    env = ShoalVecEnv(shoal.vectorize(create, 4, **how))
    model = MaskablePPO("MlpPolicy", env, n_steps=128, n_epochs=1, batch_size=64, seed=0)
    model.learn(4096)
    env.close()
    env = ShoalVecEnv(shoal.vectorize(create, 4, **how))
    with pytest.raises(ValueError, match="is full"):
        PPO("MlpPolicy", env, n_steps=128, n_epochs=1, batch_size=64, seed=0).learn(4096)
    env.close()
