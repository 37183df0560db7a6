"""Tianshou: PPO on CartPole, its collector stepping one of Shoal's vectors."""

# works with: Tianshou (tianshou)
# needs: tianshou
# test: --epochs 1 --steps 2048

import argparse

import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

import shoal
from shoal.wrappers.tianshou import ShoalVectorEnv

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--steps", type=int, default=8192)


def make_vector(num_envs: int) -> ShoalVectorEnv:
    """Tianshou resets environments itself, where they are done."""
    vector = shoal.vectorize("CartPole-v1", num_envs, backend="serial", autoreset="disabled")
    return ShoalVectorEnv(vector)


if __name__ == "__main__":
    args = parser.parse_args()
    torch.manual_seed(0)
    np.random.seed(0)
    torch.set_num_threads(1)
    train, test = make_vector(8), make_vector(4)
    train.seed(0)
    test.seed(100)
    net = Net(state_shape=(4,), hidden_sizes=(64, 64))
    actor = DiscreteActor(preprocess_net=net, action_shape=2, softmax_output=False)
    critic = DiscreteCritic(preprocess_net=Net(state_shape=(4,), hidden_sizes=(64, 64)))
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=train.action_space[0],
        action_scaling=False,
    )
    algorithm = PPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3))
    result = algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector(algorithm, train, VectorReplayBuffer(8192, 8)),
            test_collector=Collector(algorithm, test),
            max_epochs=args.epochs,
            epoch_num_steps=args.steps,
            collection_step_num_env_steps=1024,
            update_step_num_repetitions=6,
            batch_size=256,
            test_step_num_episodes=8,
        )
    )
    print(f"mean return of 8 test episodes: {result.best_reward:.0f}")
    train.close()
    test.close()
