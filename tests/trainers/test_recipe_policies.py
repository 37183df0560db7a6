"""The policies of NetHack's and Neural MMO's recipes see what they should, and nothing else."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import shoal
from shoal.registry.names import load_named
from shoal.registry.recipes import make_nethack
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.trainers.command import parse_train
from shoal.trainers.config import Config
from shoal.trainers.distributions import Distribution
from shoal.trainers.policies import nethack, nmmo

CONFIG = Config("x", hidden_size=32)


# -- NetHack -------------------------------------------------------------------------------------


def nethack_rows(env, steps):
    """The rows of a game of random actions."""
    row, _ = env.reset(seed=1)
    rows = [row.copy()]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        row, _, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
        rows.append(row.copy())
        if terminated or truncated:
            row, _ = env.reset()
    return torch.from_numpy(np.stack(rows))


@pytest.fixture(scope="module")
def game():
    pytest.importorskip("nle")
    keys = ("blstats", "glyphs", "chars", "message", "misc")
    env = shoal.emulate(gymnasium.make("NetHackScore-v0", observation_keys=keys))
    return env.observation_layout, env.action_layout, nethack_rows(env, 1500)


def test_the_hero_is_in_the_middle_of_what_is_near(game):
    layout, _, rows = game
    seen = layout.view(rows[:1])
    near = nethack.crop(seen["chars"], seen["blstats"][:, 0], seen["blstats"][:, 1])
    assert chr(near[0, nethack.REACH, nethack.REACH]) == "@"
    assert (near[0] == ord("@")).sum() == 1


def test_goals_are_the_same_in_glyphs_as_on_the_screen(game):
    layout, _, rows = game
    seen = layout.view(rows)
    for glyphs, chars in zip(nethack.MAPS["glyphs"][2], nethack.MAPS["chars"][2]):
        found = nethack.is_any(seen["glyphs"], glyphs)
        assert found.any()
        assert torch.equal(found, nethack.is_any(seen["chars"], chars))
    assert int(seen["glyphs"].max()) < nethack.MAPS["glyphs"][0]


def test_the_way_to_the_nearest():
    there = torch.zeros(2, 9, dtype=torch.bool)
    there[0, [1, 5, 8]] = True
    side, near, any_ = nethack.nearest(there, torch.tensor([6, 0])).T
    assert side.tolist() == [-1, 0] and near.tolist() == [0.5, 0] and any_.tolist() == [1, 0]


def test_a_message_is_the_mean_of_its_trigrams():
    reads = nethack.Message()
    texts = [b"You kill the newt!", b"", b"It", b"Really attack?" * 10]
    rows = torch.zeros(len(texts), 256, dtype=torch.uint8)
    for row, text in zip(rows, texts):
        row[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    for row, text in zip(reads(rows), texts):
        codes = [
            (text[i + 2] + 61 * text[i + 1] + 3721 * text[i]) % nethack.TRIGRAMS
            for i in range(len(text) - 2)
        ]
        weights = reads.trigrams.weight[codes]
        expected = weights.mean(0) if codes else torch.zeros(nethack.MESSAGE)
        torch.testing.assert_close(row, expected)


def test_it_plays_with_glyphs_and_with_letters(game):
    layout, actions, rows = game
    policy = nethack.Policy(layout, actions, CONFIG)
    assert policy.map == "glyphs"
    parameters, values = policy.decode(policy.encode(rows[:8]))
    assert parameters.shape == (8, 23) and values.shape == (8,)
    keys = ("blstats", "chars", "misc")
    env = shoal.emulate(gymnasium.make("NetHackScore-v0", observation_keys=keys))
    policy = nethack.Policy(env.observation_layout, env.action_layout, CONFIG)
    assert policy.map == "chars" and policy.message is None
    policy.decode(policy.encode(nethack_rows(env, 3)))


def test_ways_reach_the_actions_whatever_else_is_seen():
    pytest.importorskip("nle")
    env = shoal.emulate(
        make_nethack.create(ways=True, observation_keys=("blstats", "glyphs", "misc"))
    )
    policy = nethack.Policy(env.observation_layout, env.action_layout, CONFIG)
    rows = nethack_rows(env, 3)
    features = policy.encode(rows)
    assert features.shape == (4, policy.num_features)
    assert torch.equal(features[:, -27:], env.observation_layout.view(rows)["ways"].flatten(1))
    parameters, values = policy.decode(features)
    assert parameters.shape == (4, 23) and values.shape == (4,)


# -- Neural MMO ----------------------------------------------------------------------------------

PLACES = {"Entity": (100, 31), "Inventory": (12, 16), "Market": (384, 16), "Tile": (225, 3)}
CHOICES = {
    "Attack": {"Style": 3, "Target": 101},
    "Buy": {"MarketItem": 385},
    "Comm": {"Token": 127},
    "Destroy": {"InventoryItem": 13},
    "Give": {"InventoryItem": 13, "Target": 101},
    "GiveGold": {"Price": 99, "Target": 101},
    "Move": {"Direction": 5},
    "Sell": {"InventoryItem": 13, "Price": 99},
    "Use": {"InventoryItem": 13},
}


@pytest.fixture(scope="module")
def world():
    """Neural MMO's spaces (no more of them than the policy reads), a policy, and rows: the agents
    1 to 6 see that many entities, fewer items, and the first sees nothing (it is dead)."""
    observations = spaces.Dict(
        {
            "AgentId": spaces.Discrete(129),
            "CurrentTick": spaces.Discrete(32767),
            **{
                name: spaces.Box(-(2**15), 2**15 - 1, shape, np.int16)
                for name, shape in PLACES.items()
            },
        }
    )
    actions = spaces.Dict(
        {
            name: spaces.Dict({part: spaces.Discrete(n) for part, n in parts.items()})
            for name, parts in CHOICES.items()
        }
    )
    layout, action_layout = Layout.from_space(observations), ActionLayout.from_space(actions)
    rng = np.random.default_rng(0)
    rows = layout.zeros(6)
    seen = layout.view(rows)
    seen["AgentId"][:] = np.arange(1, 7)
    seen["CurrentTick"][:] = 30
    seen["Tile"][:, :, 2] = rng.integers(0, 16, (6, 225))
    for i in range(1, 6):
        entities = seen["Entity"][i, : i + 1]
        entities[:] = rng.integers(0, 100, entities.shape)
        entities[:, 0] = 40 + rng.permutation(i + 1)
        entities[i // 2, 0] = i + 1  # oneself
        entities[:, 1] = rng.integers(-1, 4, i + 1)
        for name, count in (("Inventory", i), ("Market", 3 * i)):
            seen[name][i, :count] = rng.integers(1, 90, (count, 16))
    torch.manual_seed(0)
    policy = nmmo.Policy(layout, action_layout, CONFIG)
    torch.nn.init.normal_(policy.head.weight, std=0.1)
    return layout, action_layout, policy, torch.from_numpy(rows)


def answers(policy, rows):
    with torch.no_grad():
        return policy.decode(policy.encode(rows))


def columns(path):
    """Where the logits of a choice stand."""
    at = 0
    for name, parts in CHOICES.items():
        for part, n in parts.items():
            if f"{name}.{part}" == path:
                return slice(at, at + n)
            at += n
    raise KeyError(path)


def test_the_logits_are_those_of_the_distribution(world):
    _, actions, policy, rows = world
    kind = Distribution(actions)
    logits, values = answers(policy, rows)
    assert logits.shape == (6, kind.num_parameters) and values.shape == (6,)
    assert torch.isfinite(logits).all() and torch.isfinite(values).all()


def test_each_row_is_seen_by_itself(world):
    """Lists are cut at the longest of a batch, which must not change what a row says."""
    _, _, policy, rows = world
    together = answers(policy, rows)
    for i in range(len(rows)):
        alone = answers(policy, rows[i : i + 1])
        for one, all_ in zip(alone, together):
            torch.testing.assert_close(one[0], all_[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", nmmo.POINTERS)
def test_what_stands_elsewhere_in_a_list_is_pointed_at_there(world, name):
    layout, _, policy, rows = world
    count = {"Entity": 6, "Inventory": 5, "Market": 15}[name]
    order = np.random.default_rng(1).permutation(count)
    moved = rows[5:].clone()
    places = layout.view(moved)[name]
    places[0, :count] = places[0, torch.from_numpy(order)]
    (before, value), (after, value_after) = answers(policy, rows[5:]), answers(policy, moved)
    torch.testing.assert_close(value, value_after)
    rest = torch.ones(before.shape[1], dtype=torch.bool)
    for path in nmmo.POINTERS[name]:
        at = columns(path)
        rest[at] = False
        # What the list's places have of their own, whatever stands there.
        hidden = policy.encode(rows[5:])[:, : policy.hidden_size]
        own = (policy.head.bias[at] + hidden @ policy.head.weight[at].T).detach()
        fits, fits_after = (before[:, at] - own)[0], (after[:, at] - own)[0]
        assert fits[:count].std() > 1e-3  # they are told apart
        torch.testing.assert_close(fits_after[:count], fits[order], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fits[count:], torch.zeros_like(fits[count:]), atol=1e-5, rtol=0)
    torch.testing.assert_close(before[:, rest], after[:, rest], rtol=1e-4, atol=1e-5)


def test_only_relative_positions_count(world):
    layout, _, policy, rows = world
    moved = rows[1:].clone()
    layout.view(moved)["Entity"][:, :, [nmmo.ROW, nmmo.COLUMN]] += 17
    for before, after in zip(answers(policy, rows[1:]), answers(policy, moved)):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


# -- what the recipes say of training ------------------------------------------------------------


def test_a_recipe_says_how_to_train_and_the_command_line_goes_before_it(tmp_path):
    config = parse_train(["nmmo"])
    assert config.policy == "shoal.trainers.policies.nmmo:Policy" and config.total_steps > 1_000_000
    file = tmp_path / "own.toml"
    file.write_text('env = "nmmo"\nnum_envs = 3\ngamma = 0.5\nbatch_size = 1\n')
    config = parse_train(["--config", str(file), "--gamma", "0.75"])
    assert (config.env, config.num_envs, config.gamma) == ("nmmo", 3, 0.75)
    assert config.policy == "shoal.trainers.policies.nmmo:Policy"
    assert parse_train(["nethack"]).env_kwargs["observation_keys"]
    assert parse_train(["CartPole-v1"]).policy == "default"


def test_the_demo_trains_the_policy_on_letters():
    config = parse_train(["--config", str(Path(__file__).parents[2] / "examples" / "nethack.toml")])
    assert load_named(config.policy) is nethack.Policy
    assert set(config.env_kwargs["observation_keys"]) == {"blstats", "chars", "misc"}


def test_a_wrong_option_in_a_recipe_names_its_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('summary = "mine"\nenv = "CartPole-v1"\n[train]\nlearning_rat = 1\n')
    with pytest.raises(shoal.errors.ConfigError, match=r"mine.toml: .*did you mean learning_rate"):
        parse_train([str(file)])
