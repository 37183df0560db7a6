"""What a vector knows of its environments: layouts, agents, metadata; as JSON between processes.

Workers under another interpreter import this (Python 3.8 or newer).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.errors import EmulationError
from shoal.rows.actions import ActionLayout
from shoal.rows.layout import Layout
from shoal.vectorization.workers import json_messages

__all__ = ["Description"]

MOST_AGENTS = 2**20  # in one environment


@dataclass(frozen=True)
class Description:
    """What a vector knows of its environments, which are all alike.

    Attributes:
        observation_layout, action_layout: of one agent.
        agents_per_env: rows of each environment.
        agents: names of the agents in one environment, as text.
        metadata: as Gymnasium's environments have it.
        render_mode: the same.
        spec: Gymnasium's `EnvSpec`, or None.
    """

    observation_layout: Layout
    action_layout: ActionLayout
    agents_per_env: int = 1
    agents: Sequence[str] = ("agent",)
    metadata: Mapping[str, Any] | None = None
    render_mode: str | None = None
    spec: Any = None

    @classmethod
    def of(cls, env: Any) -> Description:
        """Return the description of an emulated environment."""
        return cls(
            env.observation_layout,
            env.action_layout,
            env.agents_per_env,
            [str(agent) for agent in getattr(env, "possible_agents", ["agent"])],
            dict(env.metadata),
            getattr(env, "render_mode", None),
            getattr(env, "spec", None),
        )

    def to_json(self) -> str:
        """Return JSON from which `from_json` makes an equal description, for other processes.

        Metadata that `json_messages` can't send becomes text.
        """
        fields = {**vars(self), "observation_layout": self.observation_layout.to_json()}
        fields["action_layout"] = self.action_layout.native.to_json()
        try:
            fields["spec"] = self.spec and self.spec.to_json()
        except Exception:  # a spec may hold anything, and nothing depends on it
            fields["spec"] = None
        fields["metadata"] = json_messages.encode(dict(self.metadata or {}), any_kind=True)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | bytes | bytearray) -> Description:
        """Return the description that `to_json` wrote.

        Raises:
            EmulationError: it can't have written this. Whoever wrote it may be another package.
        """
        try:
            fields = json.loads(text)
            found = cls(
                Layout.from_json(fields.pop("observation_layout"), "obs"),
                ActionLayout(Layout.from_json(fields.pop("action_layout"), "action")),
                metadata=json_messages.decode(fields.pop("metadata")),
                spec=spec_from_json(fields.pop("spec")),
                **fields,
            )
            if type(found.agents_per_env) is not int or not 0 < found.agents_per_env <= MOST_AGENTS:
                raise ValueError(f"agents_per_env is {found.agents_per_env!r:.80}")
            if type(found.agents) is not list or not all(type(a) is str for a in found.agents):
                raise ValueError(f"agents is {found.agents!r:.80}")
            if not isinstance(found.metadata, dict):
                raise ValueError(f"metadata is {found.metadata!r:.80}")
            if not isinstance(found.render_mode, (str, type(None))):
                raise ValueError(f"render_mode is {found.render_mode!r:.80}")
            return found
        except json_messages.UNREADABLE as error:
            raise EmulationError(
                f"a worker described its environments in a way that can't be read "
                f"({type(error).__name__}: {error!s:.200})"
            ) from None

    def require_same(self, other: Description, first: int, index: int) -> None:
        """Raise EmulationError unless `other` has rows like these.

        Args:
            other: the description of environment `index`; this is that of environment `first`.
        """
        layouts = {
            "observation space": (self.observation_layout, other.observation_layout),
            "action space": (self.action_layout.native, other.action_layout.native),
        }
        for what, (expected, got) in layouts.items():
            if expected != got:
                raise EmulationError(
                    f"all environments must have the same {what}, but that of environment {index} "
                    f"differs from that of environment {first}: {difference(expected, got)}"
                )
        if self.agents_per_env != other.agents_per_env:
            raise EmulationError(
                "all environments must have the same number of agents, but environment "
                f"{index} has {other.agents_per_env} and environment {first} has "
                f"{self.agents_per_env}"
            )


def spec_from_json(text: Any) -> Any:
    """Return the `EnvSpec` that JSON holds; None if there is none that this Gymnasium can read."""
    if not isinstance(text, str):
        return None
    from gymnasium.envs.registration import EnvSpec

    try:
        return EnvSpec.from_json(text)
    except Exception:
        return None


def difference(expected: Layout, got: Layout) -> str:
    """Return in words the first leaf in which two layouts differ."""
    for one, other in itertools.zip_longest(expected.leaves, got.leaves):
        texts = []
        for leaf, layout in ((other, got), (one, expected)):
            path = f"{layout.name}.{leaf.path}".rstrip(".") if leaf else "nothing"
            text = f"{path} {leaf.dtype}{list(leaf.shape)}" if leaf else path
            if leaf and like(one, other):
                text += f" from {leaf.low} to {leaf.high}"
            texts.append(text)
        if texts[0] != texts[1]:
            return " instead of ".join(texts)
    return f"{got} instead of {expected}"


def like(one: Any, other: Any) -> bool:
    """Return whether two leaves (or None) have the same path, dtype and shape."""
    if one is None or other is None:
        return False
    return bool((one.path, one.dtype, one.shape) == (other.path, other.dtype, other.shape))
