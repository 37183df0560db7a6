"""The policy for Neural MMO 2: reads tiles, entities, items and the market as what they are.

Each entity and each item is encoded by itself, and pooled; whom to attack and which item to use are
chosen by comparing the encodings with what the agent wants (Vinyals et al. 2015, "Pointer
Networks"), since their places in the lists mean nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.trainers.config import Config
from shoal.trainers.policies import initialize, linear

__all__ = ["Policy"]

MATERIALS = 16
KINDS = 5  # of entities: npc_type, from -1 to 3; 0 is a player
ROW, COLUMN, ATTACKER = 2, 3, 8  # columns of an entity; 0 is its id, 1 its npc_type
SIGHT = 7  # tiles seen on each side of oneself
ITEM_TYPES = 100
WIDTH = 64  # of the encoding of one entity or item
# Choices that point at a list; the last choice of each, nothing, is not in the list.
POINTERS = {
    "Entity": ("Attack.Target", "Give.Target", "GiveGold.Target"),
    "Inventory": (
        "Destroy.InventoryItem",
        "Give.InventoryItem",
        "Sell.InventoryItem",
        "Use.InventoryItem",
    ),
    "Market": ("Buy.MarketItem",),
}


class Policy(nn.Module):
    """For the spaces of Neural MMO 2.1 with all its systems; without memory.

    A policy's features are here the hidden layer, and behind it the logits of the choices that
    point at something seen. ``Task`` and ``Communication`` are not read: where each agent has the
    default task, to survive, the first is 0 and the second has only the agent itself.
    """

    def __init__(self, observation_layout: Layout, action_layout: ActionLayout, config: Config):
        super().__init__()
        self.layout = observation_layout
        self.hidden_size = hidden = config.hidden_size
        self.tiles = Tiles(hidden)
        self.items = nn.Embedding(ITEM_TYPES, 16)
        nn.init.normal_(self.items.weight, std=0.1)
        num_entity = 2 + 2 + KINDS + 2 * 27  # see entity_numbers
        num_item = 16 + 2 * 13  # see item_numbers
        self.encoders = nn.ModuleDict(
            {
                "Entity": encoder(num_entity),
                "Inventory": encoder(num_item),
                "Market": encoder(num_item),
            }
        )
        self.first = linear(hidden + 3 * WIDTH + num_entity + 1, hidden)
        self.second = linear(hidden, hidden)
        sizes = {leaf.path: int(leaf.num_categories.sum()) for leaf in action_layout.native.leaves}
        begins = dict(zip(sizes, [0, *torch.tensor([*sizes.values()]).cumsum(0).tolist()]))
        pointed = [
            begins[path] + torch.arange(sizes[path] - 1)
            for paths in POINTERS.values()
            for path in paths
        ]
        self.columns: Tensor
        self.register_buffer("columns", torch.cat(pointed), persistent=False)
        self.wants = nn.ModuleDict(
            {name: linear(hidden, WIDTH * len(paths)) for name, paths in POINTERS.items()}
        )
        self.num_features = hidden + len(self.columns)
        self.head = linear(hidden, sum(sizes.values()), gain=0.01)
        self.value = linear(hidden, 1, gain=1)

    def encode(self, observations: Tensor) -> Tensor:
        seen = self.layout.view(observations)
        entities, own = entity_numbers(seen["Entity"], seen["AgentId"])
        lists = {
            "Entity": entities,
            "Inventory": self.item_numbers(seen["Inventory"]),
            "Market": self.item_numbers(seen["Market"]),
        }
        encoded = {name: self.encoders[name](each) for name, each in lists.items()}
        # An empty place has id 0. Encodings are not negative, so 0 is below all of them.
        encoded = {
            name: each * (seen[name][:, : each.shape[1], :1] != 0) for name, each in encoded.items()
        }
        parts = [
            self.tiles(seen["Tile"][:, :, 2]),
            *(each.amax(1) for each in encoded.values()),
            own,
            seen["CurrentTick"].float()[:, None] / 1024,
        ]
        hidden = torch.relu(self.second(torch.relu(self.first(torch.cat(parts, 1)))))
        pointed = [
            point(self.wants[name](hidden), encoded[name], seen[name].shape[1]) for name in POINTERS
        ]
        return torch.cat([hidden, *pointed], 1)

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        hidden, pointed = features[:, : self.hidden_size], features[:, self.hidden_size :]
        logits = self.head(hidden).index_add(1, self.columns, pointed)
        return logits, self.value(hidden).squeeze(1)

    def item_numbers(self, items: Tensor) -> Tensor:
        """Return items ``(n, places, 16)`` without the empty places at the end.

        They are embeddings of their kinds, and their numbers except ids and owners.
        """
        items = filled(items)
        kinds = self.items(items[:, :, 1].long().clamp(0, ITEM_TYPES - 1))
        return torch.cat([kinds, magnitudes(items[:, :, 3:])], 2)


def encoder(num_in: int) -> nn.Module:
    return nn.Sequential(linear(num_in, WIDTH), nn.ReLU(), linear(WIDTH, WIDTH), nn.ReLU())


class Tiles(nn.Module):
    """The materials around oneself, ``(n, 225)``, as `num_out` numbers."""

    def __init__(self, num_out: int):
        super().__init__()
        self.embedding = nn.Embedding(MATERIALS, 8)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.layers = nn.Sequential(
            initialize(nn.Conv2d(8, 32, 3, 2, padding=1)),
            nn.ReLU(),
            initialize(nn.Conv2d(32, 32, 3, 2, padding=1)),
            nn.ReLU(),
            nn.Flatten(),
            linear(32 * 4 * 4, num_out),
            nn.ReLU(),
        )

    def forward(self, materials: Tensor) -> Tensor:
        side = 2 * SIGHT + 1
        grid = materials.long().clamp(0, MATERIALS - 1).reshape(-1, side, side)
        return self.layers(self.embedding(grid).permute(0, 3, 1, 2))


def filled(places: Tensor) -> Tensor:
    """Return the places of a list ``(n, places, columns)`` up to the last one filled (at least 1).

    Lists fill from the front, and are nearly empty mostly.
    """
    count = int((places[:, :, 0] != 0).sum(1).amax()) if len(places) else 0
    return places[:, : max(1, count)]


def magnitudes(values: Tensor) -> Tensor:
    """Return twice as many numbers of moderate size, with detail near 0 and far from it."""
    values = values.float()
    return torch.cat([(values / 100).clamp(-2, 2), values.sign() * values.abs().log1p() / 4], -1)


def entity_numbers(entities: Tensor, agent: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers for each entity, and those of the agent itself.

    Args:
        entities: int16 ``(n, places, 31)``.
        agent: int64 ``(n,)``: the agents' ids.

    Returns:
        float32 ``(n, filled places, numbers)`` and ``(n, numbers)``. Positions are relative.
    """
    entities = filled(entities)
    is_self = entities[:, :, 0] == agent[:, None]
    at = is_self.int().argmax(1)  # of equal values the first; a dead agent sees nothing
    each = torch.arange(len(entities), device=entities.device)
    me = entities[each, at].float()
    position = entities[:, :, [ROW, COLUMN]].float() - me[:, None, [ROW, COLUMN]]
    kinds = nn.functional.one_hot((entities[:, :, 1].long() + 1).clamp(0, KINDS - 1), KINDS)
    attacks_me = (entities[:, :, ATTACKER] == agent[:, None]) & ~is_self
    flags = torch.stack([is_self, attacks_me], 2)
    numbers = torch.cat(
        [position / SIGHT, flags.float(), kinds.float(), magnitudes(entities[:, :, 4:])], 2
    )
    return numbers, numbers[each, at]


def point(wanted: Tensor, encoded: Tensor, places: int) -> Tensor:
    """Return how well each of a list fits what is wanted.

    Args:
        wanted: ``(n, choices * width)``.
        encoded: ``(n, filled places, width)``.
        places: of the list.

    Returns:
        ``(n, choices * places)``: logits, 0 for empty places.
    """
    n, filled_places, width = encoded.shape
    fit = wanted.reshape(n, -1, width) @ encoded.transpose(1, 2) / math.sqrt(width)
    return nn.functional.pad(fit, (0, places - filled_places)).flatten(1)
