"""Twenty agents of PettingZoo's simple_spread with one policy, which learns to keep out of the way.

    python examples/pettingzoo_20_agents.py [--iterations 12]

Each agent is a row of every array, so one network acts for all of them at once. The reward is
-1 for each other agent that an agent bumps into (`local_ratio=1` leaves out what all get together).
"""

# works with: PettingZoo (pettingzoo)
# needs: pettingzoo, mpe2, torch
# test: --iterations 2 --num-steps 30

import argparse
import time

import torch
from torch import nn

import shoal

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--iterations", type=int, default=12)
parser.add_argument("--num-envs", type=int, default=8)
parser.add_argument("--num-steps", type=int, default=100, help="between updates, 26 or more")

if __name__ == "__main__":
    args = parser.parse_args()
    torch.manual_seed(0)
    vector = shoal.vectorize(
        "mpe2.simple_spread_v3",
        args.num_envs,
        backend="multiprocess",
        seed=0,
        env_kwargs={"N": 20, "local_ratio": 1.0, "max_cycles": 25},
    )
    print(
        f"{vector.num_envs} environments of {vector.agents_per_env} agents: "
        f"observations {vector.observation_space.shape}"
    )
    (size,) = vector.single_observation_space.shape
    policy = nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 5))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)

    observations, _ = vector.reset()
    means, start = [], time.perf_counter()
    for _ in range(args.iterations):
        seen, taken, rewards, masks, ends = [], [], [], [], []
        for _ in range(args.num_steps):
            seen.append(torch.tensor(observations))
            with torch.no_grad():
                actions = torch.distributions.Categorical(logits=policy(seen[-1])).sample()
            taken.append(actions)
            vector.send(actions.numpy())
            batch = vector.recv()
            observations = batch.observations
            rewards.append(torch.from_numpy(batch.rewards).float())
            masks.append(torch.from_numpy(batch.masks))  # False: dead, or a step that only reset
            ends.append(torch.from_numpy(batch.terminations | batch.truncations))

        returns, following = [], torch.zeros(vector.num_rows)
        for reward, end in zip(reversed(rewards), reversed(ends)):
            following = reward + 0.8 * following * ~end
            returns.insert(0, following)
        valid = torch.stack(masks)
        gain = torch.stack(returns)
        gain = (gain - gain.mean(1, keepdim=True))[valid]  # better than others at the same time
        chosen, inputs = torch.stack(taken)[valid], torch.stack(seen)[valid]
        for part in torch.randperm(len(gain)).split(2048):
            log_probs = torch.distributions.Categorical(logits=policy(inputs[part])).log_prob(
                chosen[part]
            )
            loss = -(gain[part] / (gain.std() + 1e-8) * log_probs).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        means.append(vector.statistics()["return"])

    seconds = time.perf_counter() - start
    agent_steps = args.iterations * args.num_steps * vector.num_rows
    print(f"{agent_steps / seconds:,.0f} agent steps per second, learning included")
    print(f"mean return of an agent: {means[0]:.1f} at first, {means[-1]:.1f} at last")
    vector.close()
