"""TorchRL: its collector, advantage and PPO loss on CartPole, in environments that are Shoal's."""

# works with: TorchRL (torchrl)
# needs: torchrl
# test: --frames 4096

import argparse

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import shoal
from shoal.wrappers.torchrl import ShoalEnv

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frames", type=int, default=32_768)


def network(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


if __name__ == "__main__":
    frames = parser.parse_args().frames
    torch.manual_seed(0)
    torch.set_num_threads(1)
    # TorchRL resets environments itself, where they are done.
    vector = shoal.vectorize("CartPole-v1", 8, backend="serial", autoreset="disabled", seed=0)
    env = ShoalEnv(vector)

    actor = ProbabilisticActor(
        TensorDictModule(network(2), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(1), in_keys=["observation"])
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss_module = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.01)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)

    collector = Collector(
        env,
        actor,
        frames_per_batch=1024,
        total_frames=frames,
        auto_register_policy_transforms=False,
    )
    returns: list[float] = []
    for data in collector:  # (8 environments, 128 steps)
        ends = int(data["next", "done"].sum())
        returns.append(data.numel() / max(ends, 1))
        for _ in range(4):
            with torch.no_grad():
                advantage(data)
            rows = data.reshape(-1)
            for part in torch.randperm(len(rows)).chunk(4):
                losses = loss_module(rows[part])
                losses = losses.select("loss_objective", "loss_critic", "loss_entropy")
                loss = sum(losses.values())
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
    collector.shutdown()
    print(f"mean return: {returns[0]:.0f} at first, {max(returns):.0f} at best")
