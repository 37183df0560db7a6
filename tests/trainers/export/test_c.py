"""Policies in C against the same policies in torch."""

import subprocess

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import shoal
from shoal.errors import ExportError
from shoal.ocean_c.find import own_names
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.trainers.config import Config
from shoal.trainers.distributions import Distribution
from shoal.trainers.export.c import export_c
from shoal.trainers.policies import ActionHead, initial_state, typed
from shoal.trainers.ppo import checked_policy, forward_step, make_policy
from tests.trainers.export.c_policy import CPolicy

NEAR = 1e-5


def ready(policy, observation, action, squash=False):
    """Return a policy as `load_policy` does, with weights that nothing is symmetric in."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    policy.observation_layout = observation
    policy.distribution = Distribution(action, squash)
    return policy.eval()


def play(env, memory, folder, steps):
    """Play greedily by torch, and ask C at each step; return steps, different and near ones."""
    vector = shoal.vectorize(env, 1, backend="native", autoreset="same_step")
    layout, actions = vector.observation_layout, vector.action_layout
    config = Config(env=env, memory=memory, hidden_size=32)
    policy = ready(make_policy(config, layout, actions), layout, actions)
    in_c, n = CPolicy(policy, folder), vector.num_rows
    observations, _ = vector.reset(seed=1)
    state, state_in_c = initial_state(policy, n), in_c.new_state(n)
    taken = different = near = 0
    while taken < steps:
        rows = np.ascontiguousarray(observations).reshape(n, -1)
        seen = typed(torch.from_numpy(rows.view(np.uint8)), layout)
        with torch.no_grad():
            logits, values, state = forward_step(policy, seen, state)
        found, values_in_c = in_c.forward(rows, state_in_c)
        np.testing.assert_allclose(found, logits, atol=NEAR, rtol=NEAR)
        np.testing.assert_allclose(values_in_c, values, atol=NEAR, rtol=NEAR)
        masks = vector.action_masks if actions.num_masked else None
        legal = None if masks is None else torch.from_numpy(masks)
        chosen, _ = policy.distribution.sample(logits, legal, greedy=True)
        chosen = policy.distribution.to_env(chosen)
        acted = in_c.act(found, masks, True, chosen.dtype, chosen.shape[1:])
        for row in np.flatnonzero((np.abs(acted - chosen) > NEAR).reshape(n, -1).any(1)):
            different += 1
            near += is_near(policy.distribution, logits[row : row + 1], legal, row)
        vector.send(chosen)
        observations = vector.recv().observations
        taken += n
    vector.close()
    return taken, different, near


def is_near(distribution, logits, legal, row):
    """Return whether two legal logits of one component are nearly the same."""
    legal = None if legal is None else legal[row : row + 1]
    for logs in distribution.log_probabilities(logits, legal):
        best = logs.topk(2, -1).values if logs.shape[-1] > 1 else None
        if best is not None and ((best[..., 0] - best[..., 1]) < NEAR).any():
            return True
    return False


@pytest.mark.parametrize(
    ("env", "memory"),
    [("breakout", "none"), ("tetris", "lstm"), ("target", "mingru"), ("drone", "none")],
)
def test_actions_are_those_of_torch(env, memory, tmp_path):
    _, different, near = play(env, memory, tmp_path, 200)
    assert different == near


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["none", "lstm", "mingru"])
@pytest.mark.parametrize("env", own_names())
def test_ten_thousand_actions_are_those_of_torch(env, memory, tmp_path):
    steps, different, near = play(env, memory, tmp_path, 10_000)
    print(f"{env}, {memory}: {different} of {steps:,} actions differ, {near} between near logits")
    assert different == near


class Own(nn.Module):
    """A user's policy, of every layer that has a counterpart."""

    def __init__(self, layout, actions):
        super().__init__()
        self.layout = layout
        self.picture = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, (3, 2), groups=2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.kind = nn.Embedding(7, 5)
        self.entity = nn.Sequential(nn.Linear(4, 24), nn.SiLU(), nn.Linear(24, 9), nn.LeakyReLU())
        with torch.no_grad():
            size = self.picture(torch.zeros(1, 3, 12, 10)).shape[1] + 5 + 9 + 9 + 3
        self.trunk = nn.Sequential(
            nn.Linear(size, 40), nn.LayerNorm(40), nn.ELU(), nn.Dropout(0.5), nn.Linear(40, 32),
            nn.Softplus(), nn.Linear(32, 16), nn.Sigmoid(),
        )  # fmt: skip
        self.num_features = 16
        self.head, self.value = ActionHead(16, actions), nn.Linear(16, 1)

    def encode(self, observations):
        seen = self.layout.view(observations)
        picture = self.picture(seen["picture"].permute(0, 3, 1, 2).float() / 255)
        entities = self.entity(seen["entities"])
        parts = [
            picture, self.kind(seen["kind"]), entities.amax(1), entities.mean(1),
            nn.functional.one_hot(seen["kind"] % 3, 3).float(),
        ]  # fmt: skip
        return self.trunk(torch.cat(parts, 1))

    def decode(self, features):
        return self.head(features), self.value(features).squeeze(1)


SEEN = spaces.Dict(
    entities=spaces.Box(-2, 2, (5, 4), np.float32),
    kind=spaces.Discrete(7),
    picture=spaces.Box(0, 255, (12, 10, 3), np.uint8),
)


@pytest.mark.parametrize("memory", ["none", "mingru"])
def test_a_users_own_layers(memory, tmp_path):
    layout = Layout.from_space(SEEN)
    actions = ActionLayout.from_space(
        spaces.Dict(turn=spaces.Box(-3, 5, (2,), np.float32), jump=spaces.MultiDiscrete([2, 5]))
    )
    config = Config(env="own", memory=memory)
    policy = checked_policy(Own(layout, actions), config)
    policy = ready(policy, layout, actions, squash=True)
    in_c = CPolicy(policy, tmp_path)
    SEEN.seed(0)
    rows = np.stack([layout.pack(SEEN.sample()) for _ in range(20)])
    state, state_in_c = initial_state(policy, 20), in_c.new_state(20)
    for _ in range(3):
        with torch.no_grad():
            logits, values, state = forward_step(policy, torch.from_numpy(rows), state)
        found, values_in_c = in_c.forward(rows, state_in_c)
        np.testing.assert_allclose(found, logits, atol=NEAR)
        np.testing.assert_allclose(values_in_c, values, atol=NEAR)


def test_normalised_observations(tmp_path):
    vector = shoal.vectorize("pong", 4, backend="native")
    layout, actions = vector.observation_layout, vector.action_layout
    config = Config(env="pong", normalize_observations=True)
    policy = ready(make_policy(config, layout, actions), layout, actions)
    rows = np.random.default_rng(0).normal(3, 4, (50, 8)).astype(np.float32)
    policy.normalizer.update(torch.from_numpy(rows))
    in_c = CPolicy(policy, tmp_path)
    with torch.no_grad():
        logits, _, _ = forward_step(policy, torch.from_numpy(rows), initial_state(policy, 50))
    np.testing.assert_allclose(in_c.forward(rows, in_c.new_state(50))[0], logits, atol=NEAR)
    vector.close()


class Odd(Own):
    """A policy with a layer that has no counterpart."""

    def __init__(self, layout, actions, layer):
        super().__init__(layout, actions)
        self.trunk[6] = layer


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).real[:, :16]


class Guess(nn.Module):
    def forward(self, x):
        return x[:, : 16 if float(x.sum()) > 0 else 15]


@pytest.mark.parametrize("layer", [Spectrum(), Guess()])
def test_an_error_names_the_module(layer, tmp_path):
    layout = Layout.from_space(SEEN)
    actions = ActionLayout.from_space(spaces.Discrete(3))
    policy = ready(Odd(layout, actions, layer), layout, actions)
    with pytest.raises(ExportError, match=rf"trunk\.6 \({type(layer).__name__}\)"):
        export_c(policy, tmp_path)


SANITIZE = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def trained(folder, env, **options):
    """Return a checkpoint of a run that has learned nothing yet."""
    from shoal.trainers import runs
    from shoal.trainers.ppo import train

    config = Config(
        env=env, total_steps=256, num_envs=2, horizon=32, hidden_size=32, tensorboard=False,
        runs_dir=str(folder), name=env, display="none", device="cpu", num_workers=0, **options,
    )  # fmt: skip
    run = runs.create(config)
    train(config, report=run.report, save=run.save)
    run.close()
    return run.folder


@pytest.mark.parametrize(("env", "memory"), [("tetris", "lstm"), ("target", "none")])
def test_the_program_is_clean_and_plays(env, memory, tmp_path):
    out = tmp_path / "c"
    export_c(trained(tmp_path, env, memory=memory, env_kwargs={"max_steps": 50}), out)
    objects = ["gcc", "-std=c11", "-ffp-contract=off", f"{env}.c", "-c"]
    subprocess.run(objects, cwd=out, check=True)
    said = []
    for compiler in (["gcc", "-std=c11"], ["g++", "-std=c++20", "-x", "c++"]):
        command = [*compiler, "-Wall", "-Wextra", "-Werror", *SANITIZE, "main.c"]
        command += ["-x", "none", f"{env}.o", "-lm", "-o", "play"]
        subprocess.run(command, cwd=out, check=True)
        done = subprocess.run(["./play", "3", "7"], cwd=out, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 4 and said[0].splitlines()[-1].endswith("3 episodes")
