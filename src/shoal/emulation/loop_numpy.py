"""The step loop without compiled code: the twin of `loop.pyx`, where that can't load.

It has the same classes with the same meaning, of which `loop.pyx` tells; the tests play the same
episodes through both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.errors import EmulationError
from shoal.rows.actions import ActionLayout, flat_mask
from shoal.rows.layout import Layout
from shoal.rows.values import RowPacker

__all__ = [
    "Buffers",
    "Decoder",
    "Driver",
    "EnvLoop",
    "SingleDriver",
    "find_mask",
    "NEXT_STEP",
    "SAME_STEP",
    "DISABLED",
    "OWN",
]

NEXT_STEP, SAME_STEP, DISABLED, OWN = 0, 1, 2, 3
REPLACED = 2  # pending, and not by the end of an episode
NOTHING = object()


class Buffers:
    """Rows of agents for the loop to read and write: `arrays` by name, as `row_fields` has them.

    The layouts are what the compiled twin asks for.
    """

    def __init__(self, observation_layout: Any, action_layout: Any, arrays: dict[str, Any]):
        self.arrays = arrays
        for name, array in arrays.items():
            setattr(self, name, array)
        # Whoever packs into the observations keeps here what it needs to: by layout.
        self.packers: dict[Layout, RowPacker] = {}

    def packer(self, layout: Layout) -> RowPacker:
        """What packs values of this layout into rows of `observations`."""
        if layout not in self.packers:
            self.packers[layout] = RowPacker(layout, self.arrays["observations"])
        return self.packers[layout]


class Decoder:
    """Makes the environment's own actions from flat rows; see `ActionLayout.decode`."""

    def __init__(self, layout: ActionLayout):
        self.layout = layout
        self.scalar = layout.identity and layout.native.spec["kind"] == "Discrete"
        self.array = layout.identity and layout.native.spec["kind"] in (
            "Box",
            "MultiDiscrete",
            "MultiBinary",
        )

    def decode(self, row: Any) -> Any:
        """The action in a row: an array, or a scalar where the layout's shape is ``()``."""
        if self.scalar:
            return row
        if self.array:
            return np.array(row)
        return self.layout.decode(np.array(row))


class Driver:
    """One environment as the loop sees it; `loop.pyx` says what its methods mean.

    Attributes:
        agents_per_env: rows of the environment.
        done: the episode is over.
        info: of the last step or reset.
    """

    agents_per_env = 1
    done = False
    info: Any = None

    def step(self, source: Any, row: int) -> None:
        raise NotImplementedError

    def give(self, action: Any) -> None:
        """Let the next step use this action as it stands, instead of that in the row."""
        raise EmulationError("only single-agent environments take actions as objects")

    def reset(self, seed: Any, options: Any, explicit: bool) -> None:
        raise NotImplementedError

    def clear(self, valid: bool) -> None:
        raise NotImplementedError

    def write(self, to: Any, row: int) -> None:
        raise NotImplementedError

    def write_observations(self, to: Buffers, row: int) -> None:
        raise NotImplementedError

    def get_state(self) -> Any:
        raise NotImplementedError

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


class SingleDriver(Driver):
    """Drives an environment with Gymnasium's interface."""

    def __init__(self, env: Any, observation_layout: Layout, action_layout: ActionLayout):
        self.env = env
        self.layout, self.action_layout = observation_layout, action_layout
        self.decode = Decoder(action_layout).decode
        self.given = NOTHING
        self.observation: Any = None
        self.reward, self.terminated, self.truncated = 0.0, False, False
        self.episode_return, self.episode_length, self.valid = 0.0, 0, False

    def step(self, source: Any, row: int) -> None:
        if self.given is NOTHING:
            action = self.decode(source.actions[row])
        else:
            action, self.given = self.given, NOTHING
        result = self.env.step(action)
        if type(result) is not tuple or len(result) != 5:
            raise EmulationError(
                "step: expected (observation, reward, terminated, truncated, info), got "
                + (f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__)
            )
        self.observation, reward, terminated, truncated, self.info = result
        self.reward = reward if type(reward) is float else as_number(reward)
        self.terminated, self.truncated = bool(terminated), bool(truncated)
        self.done = self.terminated or self.truncated
        self.valid = True
        self.episode_return += self.reward
        self.episode_length += 1

    def give(self, action: Any) -> None:
        self.given = action

    def reset(self, seed: Any, options: Any, explicit: bool) -> None:
        result = call_reset(self.env, seed, options, explicit)
        if not isinstance(result, tuple) or len(result) != 2:
            raise EmulationError(
                f"reset: expected (observation, info), got {type(result).__name__}"
            )
        self.observation, self.info = result
        self.given = NOTHING  # was for a step, which has become this reset
        self.done = False

    def clear(self, valid: bool) -> None:
        self.reward, self.terminated, self.truncated = 0.0, False, False
        self.episode_return, self.episode_length, self.valid = 0.0, 0, valid

    def write(self, to: Any, row: int) -> None:
        self.write_observations(to, row)
        to.rewards[row] = self.reward
        to.terminations[row] = self.terminated
        to.truncations[row] = self.truncated
        to.masks[row] = self.valid
        to.acting[row] = not self.done
        to.occupants[row] = 0
        to.episode_returns[row] = self.episode_return
        to.episode_lengths[row] = self.episode_length
        if self.action_layout.num_masked:
            mask = find_mask(self.observation)
            mask = find_mask(self.info) if mask is None else mask
            to.action_masks[row] = True if mask is None else flat_mask(self.action_layout, mask)

    def write_observations(self, to: Buffers, row: int) -> None:
        to.packer(self.layout).pack(self.observation, row)

    def get_state(self) -> Any:
        return [
            self.observation,
            self.reward,
            self.terminated,
            self.truncated,
            self.info,
            self.episode_return,
            self.episode_length,
        ]

    def set_state(self, state: Any) -> None:
        (
            self.observation,
            self.reward,
            self.terminated,
            self.truncated,
            self.info,
            self.episode_return,
            self.episode_length,
        ) = state
        self.done = self.terminated or self.truncated


def call_reset(env: Any, seed: Any, options: Any, explicit: bool) -> Any:
    """``env.reset``; without `explicit`, seed and options only where they are given."""
    if explicit:
        return env.reset(seed=seed, options=options)
    return env.reset() if options is None else env.reset(options=options)


def find_mask(mapping: Any) -> Any:
    """``mapping["action_mask"]`` of a dict that has one, else None."""
    return mapping.get("action_mask") if isinstance(mapping, dict) else None


def as_number(value: Any) -> float:
    """A reward as a float, arrays of one element included."""
    try:
        return float(value)
    except TypeError:
        raise EmulationError(
            f"reward: expected a number, got {value!r} ({type(value).__name__})"
        ) from None


def copy_info(info: Any) -> Any:
    """An info that outlives the reset: some environments fill the same dict again."""
    if not isinstance(info, dict):
        return info
    return {key: dict(value) if isinstance(value, dict) else value for key, value in info.items()}


class EnvLoop:
    """Steps environments one after the other, with one autoreset mode."""

    def __init__(self, drivers: list[Any], observation_nbytes: int, mode: int):
        self.drivers, self.mode = drivers, mode
        count = len(drivers)
        self.agents_per_env = drivers[0].agents_per_env
        self.infos: list[Any] = [None] * count
        self.final_infos: list[Any] = [None] * count
        self.options: list[Any] = [None] * count
        self.any_info = self.any_final = False
        self.pending = [int(mode != OWN)] * count
        self.finished = [False] * count
        finals = np.zeros((self.agents_per_env, observation_nbytes), np.uint8)
        self.finals = Buffers(None, None, {"observations": finals})

    def replace(self, i: int, driver: Any) -> None:
        """Put another environment in the place of number `i`; its next step resets it."""
        self.drivers[i] = driver
        self.pending[i] = REPLACED
        self.finished[i] = False

    def get_state(self, i: int) -> dict[str, Any]:
        """What the loop remembers of environment `i`."""
        return {
            "pending": self.pending[i],
            "options": self.options[i],
            "driver": self.drivers[i].get_state(),
        }

    def set_state(self, i: int, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self.pending[i] = state["pending"]
        self.options[i] = state["options"]
        self.drivers[i].set_state(state["driver"])

    def take_infos(self) -> tuple[Any, Any]:
        """(infos, final infos) of the steps since the last call; None where there are none."""
        infos = final_infos = None
        if self.any_info:
            infos, self.infos, self.any_info = self.infos, [None] * len(self.infos), False
        if self.any_final:
            final_infos, self.final_infos = self.final_infos, [None] * len(self.infos)
            self.any_final = False
        return infos, final_infos

    def begin(self, i: int, seed: Any, options: Any) -> None:
        """Reset environment `i` on request; `deliver` writes its first observations."""
        driver = self.drivers[i]
        driver.reset(seed, options, True)
        driver.clear(True)
        self.pending[i] = 0
        self.finished[i] = False
        self._keep_info(i, driver.info)

    def advance(self, i: int, source: Any, row: int) -> None:
        """Step environment `i` with the actions in its rows of `source` (or reset it, if due)."""
        driver = self.drivers[i]
        if self.pending[i]:
            if self.mode == DISABLED and self.pending[i] != REPLACED:
                raise EmulationError(
                    "step: the episode is over (or never began); reset the environment first"
                )
            driver.reset(None, self.options[i], False)
            driver.clear(False)
            self.pending[i] = 0
        else:
            if self.mode == OWN and driver.done:
                driver.clear(True)  # statistics are those of the next episode
            driver.step(source, row)
            if driver.done:
                if self.mode == SAME_STEP:
                    driver.write_observations(self.finals, 0)
                    self.finished[i] = True
                    self.final_infos[i] = copy_info(driver.info)
                    self.any_final = True
                    driver.reset(None, self.options[i], False)
                elif self.mode != OWN:
                    self.pending[i] = 1
        self._keep_info(i, driver.info)

    def give(self, i: int, action: Any) -> None:
        """Let environment `i` use this action in its next step."""
        self.drivers[i].give(action)

    def deliver(self, i: int, to: Any, row: int) -> None:
        """Write what environment `i` holds into its rows of `to`, from `row` on."""
        driver = self.drivers[i]
        driver.write(to, row)
        rows = slice(row, row + self.agents_per_env)
        to.finals[rows] = self.finished[i]
        if self.finished[i]:
            finals = self.finals.arrays["observations"]
            target = to.final_observations[rows]
            target.reshape(len(finals), -1).view(np.uint8)[...] = finals
            self.finished[i] = False
            driver.clear(True)  # a new episode: its statistics start at zero

    def _keep_info(self, i: int, info: Any) -> None:
        if info is not None and (not isinstance(info, dict) or info):
            self.infos[i] = info
            self.any_info = True
