"""skrl: PPO on CartPole, with one of Shoal's vectors in its own Gymnasium wrapper, as it is."""

# works with: skrl (skrl)
# needs: skrl
# test: --timesteps 256

import argparse

import gymnasium as gym
import numpy as np
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

import shoal

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=4096)


def network(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


class Policy(CategoricalMixin, Model):
    def __init__(self, **spaces):
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.net = network(2)

    def compute(self, inputs, role):
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, **spaces):
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = network(1)

    def compute(self, inputs, role):
        return self.net(inputs["observations"]), {}


if __name__ == "__main__":
    timesteps = parser.parse_args().timesteps
    set_seed(0)
    torch.set_num_threads(1)
    vector = shoal.vectorize("CartPole-v1", 8, backend="serial", autoreset="same_step")
    counted = gym.wrappers.vector.RecordEpisodeStatistics(vector)
    env = wrap_env(counted, wrapper="gymnasium")

    spaces = {
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "device": "cpu",
    }
    agent = PPO(
        models={"policy": Policy(**spaces), "value": Value(**spaces)},
        memory=RandomMemory(memory_size=128, num_envs=env.num_envs, device="cpu"),
        cfg=PPO_CFG(
            rollouts=128,
            learning_epochs=6,
            mini_batches=4,
            learning_rate=1e-3,
            entropy_loss_scale=0.01,
            experiment={"write_interval": 0, "checkpoint_interval": 0},
        ),
        **spaces,
    )
    trainer = SequentialTrainer(
        env=env,
        agents=agent,
        cfg={"timesteps": timesteps, "headless": True, "disable_progressbar": True},
    )
    trainer.train()
    env.close()
    recent = list(counted.return_queue)[-20:]
    print(f"mean return of the last {len(recent)} episodes: {np.mean(recent):.0f}")
