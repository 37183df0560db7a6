"""Twenty agents of PettingZoo's pistonball with one policy, learnt by policy gradient.

Each agent is a row of every array, so one network acts for all of them at once.
"""

# works with: PettingZoo (pettingzoo)
# needs: pettingzoo, pymunk, torch
# test: --iterations 2 --num-steps 16

import argparse
import time

import torch
from torch import nn

import shoal
from shoal.wrappers import NormalizeReward

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=6)
parser.add_argument("--num-envs", type=int, default=2)
parser.add_argument("--num-steps", type=int, default=64)

if __name__ == "__main__":
    args = parser.parse_args()
    torch.manual_seed(0)
    vector = shoal.vectorize(
        "pettingzoo.butterfly.pistonball_v6",
        args.num_envs,
        backend="multiprocess",
        seed=0,
        env_kwargs={"continuous": False, "n_pistons": 20},
    )
    vector = NormalizeReward(vector)
    print(
        f"{vector.num_envs} environments of {vector.agents_per_env} agents: "
        f"observations {vector.observation_space.shape}"
    )

    policy = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(64),
        nn.ReLU(),
        nn.Linear(64, vector.single_action_space.n),
    )

    def choose(observations) -> torch.distributions.Categorical:
        coarse = observations[:, ::8, ::8]  # of (457, 120, 3) pixels
        images = torch.from_numpy(coarse).permute(0, 3, 1, 2) / 255
        return torch.distributions.Categorical(logits=policy(images))

    observations, _ = vector.reset()
    choose(observations)  # gives the lazy layer its size
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    start = time.perf_counter()
    for _ in range(args.iterations):
        log_probs, rewards, masks, ends = [], [], [], []
        for _ in range(args.num_steps):
            chosen = choose(observations)
            actions = chosen.sample()
            log_probs.append(chosen.log_prob(actions))
            vector.send(actions.numpy())
            batch = vector.recv()
            observations = batch.observations
            rewards.append(torch.from_numpy(batch.rewards).float())
            masks.append(torch.from_numpy(batch.masks))  # False: dead, or a step that only reset
            ends.append(torch.from_numpy(batch.terminations | batch.truncations))

        returns, following = [], torch.zeros(vector.num_agents)
        for reward, end in zip(reversed(rewards), reversed(ends)):
            following = reward + 0.97 * following * ~end
            returns.insert(0, following)
        valid = torch.stack(masks)
        gain = torch.stack(returns)[valid]
        advantage = (gain - gain.mean()) / (gain.std() + 1e-8)
        loss = -(advantage * torch.stack(log_probs)[valid]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    seconds = time.perf_counter() - start
    agent_steps = args.iterations * args.num_steps * vector.num_agents
    statistics = vector.statistics()
    print(f"{agent_steps / seconds:,.0f} agent steps per second, learning included")
    if statistics["episodes"]:
        print(
            f"mean return of {statistics['episodes']} agents' episodes: {statistics['return']:.1f}"
        )
    vector.close()
