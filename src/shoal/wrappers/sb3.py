"""Shoal's vectors as the `VecEnv` that Stable-Baselines3 and sb3-contrib train on.

`ShoalVecEnv` adapts a vector. `ShoalDummyVecEnv` and `ShoalSubprocVecEnv` take what
Stable-Baselines3's own two classes take and behave as they do, with a vector inside.
"""

from __future__ import annotations

import functools
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from shoal.errors import ActionError, LayoutError
from shoal.rows.layout import Layout
from shoal.rows.spec import Leaf
from shoal.vectorization import vectorize
from shoal.vectorization.infos import split_infos
from shoal.vectorization.vector import Vector
from shoal.vectorization.workers.group import (
    call_method,
    find_attribute,
    has_attribute,
    wrapper_names,
)
from shoal.wrappers.base import Receipt, settle
from shoal.wrappers.raw_env import PLAIN, inside, make_raw, parts_of, skip_reset

__all__ = ["ShoalDummyVecEnv", "ShoalSubprocVecEnv", "ShoalVecEnv"]

MASKS = "action_masks"  # the method that sb3-contrib calls on environments


class ShoalVecEnv(VecEnv):
    """A vector of `shoal.vectorize` as a Stable-Baselines3 `VecEnv`.

    Observations are as in the environment: an array for a Box, Discrete, MultiDiscrete or
    MultiBinary, a dict of arrays for a Dict of these. Any other space (nested, or with a Tuple,
    Text, Sequence, Graph or OneOf in it) becomes a Dict with an entry for each leaf of the layout,
    named by its path with ``/`` for ``.``: ``inventory[3]/glyph``. With ``vectorize(...,
    form="float32")`` the observation is one vector, whatever the space.

    Actions that are not one array become one MultiDiscrete or Box. Continuous ones are clipped to
    their bounds. Discrete actions and observations count from 0, also if the environment's do not.

    A multi-agent vector has an "environment" for each agent row. An agent that has left gets zero
    observations and rewards until its environment begins anew, which ends its episode once more.

    Rewards are float32, as Stable-Baselines3 has them.

    Args:
        vector: with ``autoreset="same_step"``, whose batches are all environments: a vector of
            `shoal.vectorize`, or a wrapper of `shoal.wrappers` around one. From now on its infos
            are lists (`Vector.list_infos`).
        copy: return copies of the observations. Without, they are views of shared memory, which
            stay as they are until the second step after. The algorithms of Stable-Baselines3 need
            no more than that.

    Attributes:
        vector: the vector.

    Raises:
        ValueError: the vector resets in another way, its batches are only a part of it, or its
            actions are both discrete and continuous, which no algorithm can take.
    """

    _reward_dtype: Any = np.float32

    def __init__(self, vector: Any, copy: bool = True):
        if vector.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            raise ValueError(
                "ShoalVecEnv: a VecEnv resets in the step that ends an episode, so it needs "
                f'vectorize(..., autoreset="same_step"); got {vector.metadata["autoreset_mode"]}'
            )
        if vector.batch_size != vector.num_envs:
            raise ValueError(
                "ShoalVecEnv: a VecEnv steps all environments at once, but a batch of this vector "
                f"has {vector.batch_size} of {vector.num_envs}"
            )
        self._action_layout = vector.action_layout
        self._flat_actions = vector.action_layout.flat_space
        if isinstance(self._flat_actions, spaces.Dict):
            raise ValueError(
                "ShoalVecEnv: Stable-Baselines3 takes discrete or continuous actions, not both, "
                f"got {self._flat_actions}; Shoal's own trainer takes both: shoal train"
            )
        self.vector = vector
        self._agents = vector.unwrapped.agents_per_env
        is_vector = isinstance(vector, Vector)
        if is_vector:
            vector.list_infos = True
        space, self._names = sb3_space(vector.observation_layout)
        self._shapes: list[Any] = [part.shape for part in parts_of(space)]
        starts: Any = [getattr(part, "start", 0) for part in parts_of(space)]
        self._observation_starts = None
        if any(np.any(start) for start in starts):
            self._observation_starts, space = starts, from_zero(space)
        self._copies = copy and not (is_vector and vector.copy)
        # Entries of the blocks of shared memory by the id of their array, because making views
        # takes longer than copying them. Arrays made afresh have none: their ids come again.
        self._views: dict[int, tuple[np.ndarray, list[np.ndarray]]] = {}
        self._keeps_views = is_vector and not vector.copy
        start: Any = getattr(self._flat_actions, "start", 0)
        self._start = start if np.any(start) else None
        self._pending = False
        self._receipt = Receipt()
        own = vector.unwrapped.observation_layout.space
        self._masks_in_observations = isinstance(own, spaces.Dict) and "action_mask" in own.spaces
        self._masks_in_infos = True  # for all that is known before there are any
        self._asks_for_masks: bool | None = None
        super().__init__(vector.num_rows, space, from_zero(self._flat_actions))
        self.metadata = self.get_attr("metadata", 0)[0]

    # -- episodes -----------------------------------------------------------------------------

    def reset(self) -> Any:
        """Begin an episode everywhere, with what `seed` and `set_options` have set; observations.

        A step that is on its way is waited for, and its results are thrown away.
        """
        if self._pending:
            self.step_wait()
        settle(self.vector)
        self._receipt = Receipt()
        seeds = self._seeds[: self.num_envs // self._agents]
        options = [one or None for one in self._options[:: self._agents]]
        observations, infos = self.vector.reset(
            seed=seeds if any(seed is not None for seed in seeds) else None,
            options=options if any(options) else None,
        )
        self.reset_infos = self._list(infos)
        self._masks_in_infos = any("action_mask" in info for info in self.reset_infos)
        self._reset_seeds()
        self._reset_options()
        return self._observation(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Give every environment its action and return at once.

        Raises:
            ActionError: wrong count, shape, type or value; nothing was sent.
        """
        self._receipt.check()
        space = self._flat_actions
        if self._start is not None:
            actions = np.asarray(actions) + self._start
        try:
            self.vector.send(actions)
        except ActionError:
            if not isinstance(actions, np.ndarray) or actions.dtype.kind != "f":
                raise
            if actions.shape != (self.num_envs, *space.shape):
                raise
            if isinstance(space, spaces.Box):
                fitting = np.clip(actions, space.low, space.high)
            else:  # algorithms give the actions of a MultiBinary as floats
                fitting = actions.astype(space.dtype)
                if (fitting != actions).any():
                    raise
            self.vector.send(fitting)
        self._pending = True

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Return (observations, rewards, dones, infos) of the pending step.

        Every info has ``TimeLimit.truncated``. Where an episode has ended, ``terminal_observation``
        is its last observation, and `reset_infos` has the info of the reset that followed.
        """
        return self._receipt(self.vector.recv, self._finish)

    def _finish(self, batch: Any) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        self._pending = False
        infos = self._list(batch.infos)
        dones = batch.terminations | batch.truncations
        if self._agents > 1:
            dones |= self.vector.finals
        for info in infos:
            info["TimeLimit.truncated"] = False
        rows = dones.nonzero()[0].tolist()
        if rows:
            self._end_episodes(batch, infos, rows)
        rewards = batch.rewards.astype(self._reward_dtype)
        return self._observation(batch.observations), rewards, dones, infos

    def close(self) -> None:
        """Close the vector; see `Vector.close`."""
        self._views.clear()  # they hold the memory
        self.vector.close()

    def _end_episodes(self, batch: Any, infos: list[dict[str, Any]], rows: list[int]) -> None:
        """Give each of these rows the info and the observation that its episode ended with."""
        finals = self.vector.finals
        at_end = self._entries(self.vector.final_observations)
        now = self._entries(batch.observations)
        for i in rows:
            entries = now  # of an agent that leaves before the others, or of a lost environment
            if finals[i]:
                entries = at_end
                self.reset_infos[i] = infos[i]
                del infos[i]["TimeLimit.truncated"]
                infos[i] = infos[i].pop("final_info", {})
            cut = batch.truncations[i] and not batch.terminations[i]
            infos[i]["TimeLimit.truncated"] = bool(cut)
            infos[i]["terminal_observation"] = self._nest([entry[i].copy() for entry in entries])

    def _list(self, infos: Any) -> list[dict[str, Any]]:
        return infos if isinstance(infos, list) else split_infos(infos, self.num_envs)

    # -- observations -------------------------------------------------------------------------

    def _observation(self, rows: np.ndarray) -> Any:
        """Return a batch as Stable-Baselines3 takes it."""
        entries = self._entries(rows)
        return self._nest([entry.copy() for entry in entries] if self._copies else entries)

    def _entries(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return views of each array in a batch."""
        if self._names is None:
            return [rows]
        if id(rows) in self._views:
            return self._views[id(rows)][1]
        parts = flatten(self.vector.observation_layout.view(rows))
        entries = [part.reshape(len(rows), *shape) for part, shape in zip(parts, self._shapes)]
        if self._keeps_views:
            self._views[id(rows)] = rows, entries
        return entries

    def _nest(self, entries: list[Any]) -> Any:
        if self._observation_starts is not None:
            entries = [entry - start for entry, start in zip(entries, self._observation_starts)]
        return entries[0] if self._names is None else dict(zip(self._names, entries))

    # -- single environments ------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of environments, or of what they wrap; methods are not called."""
        return self._on(indices, find_attribute, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute on environments: on the outermost wrapper, as `DummyVecEnv` does."""
        self._on(indices, setattr, attr_name, value)

    def has_attr(self, attr_name: str) -> bool:
        """Return whether all environments have the attribute, or any masks for ``action_masks``.

        Until the first reset, infos count as having masks.
        """
        if all(self._on(None, has_attribute, attr_name)):
            return True
        return attr_name == MASKS and self._has_masks()

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of environments: a list of results.

        ``action_masks`` is answered from the batch if the environments have no such method.
        """
        if method_name == MASKS:
            if self._asks_for_masks is None:
                self._asks_for_masks = all(self._on(None, has_attribute, MASKS))
            if not self._asks_for_masks and self._has_masks():
                masks = self.vector.action_masks
                return [masks[i].copy() for i in self._get_indices(indices)]
        return self._on(indices, call_method, method_name, *method_args, **method_kwargs)

    def action_masks(self) -> np.ndarray:
        """Return which actions are legal now: bool, ``(num_envs, choices)``.

        From the environments' method of this name, or else from the ``action_mask`` in their
        observations or infos. What `MaskablePPO` asks for.
        """
        return np.stack(self.env_method(MASKS))

    def _has_masks(self) -> bool:
        found = self._masks_in_observations or self._masks_in_infos
        return found and self._action_layout.num_masked > 0

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None
    ) -> list[bool]:
        """Return whether environments have a wrapper of this class around them."""
        name = wrapper_class.__module__, wrapper_class.__qualname__
        return [name in names for names in self._on(indices, wrapper_names)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return what each environment renders, if its ``render_mode`` is ``"rgb_array"``."""
        firsts = range(0, self.num_envs, self._agents)
        if self.render_mode != "rgb_array":
            warnings.warn(
                f'get_images: expected render_mode="rgb_array", got {self.render_mode!r}',
                stacklevel=2,
            )
            return [None for _ in firsts]
        return self._on(firsts, call_method, "render")

    def _on(self, indices: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list:
        """Call a function on environments, where they are."""
        rows = range(self.num_envs)
        env_ids = [rows[i] // self._agents for i in self._get_indices(indices)]
        return self.vector.call_on(env_ids, function, *args, **kwargs)


class StandIn(ShoalVecEnv):
    """Base of both stand-ins, which hand everything to the environments just as it was given.

    Args:
        vector: of `RawEnv`s.
    """

    def __init__(self, vector: Vector):
        super().__init__(vector)
        (space,) = self.get_attr("observation_space", 0)
        if all(isinstance(part, PLAIN) for part in parts_of(space)):
            self.observation_space = space
        self._observation_starts = None
        (self.action_space,) = self.get_attr("action_space", 0)
        self._masks_in_observations = self._masks_in_infos = False  # the method alone counts
        self._begun = False

    def reset(self) -> Any:
        self._begun = True
        observations = super().reset()
        self._masks_in_infos = False
        return observations

    def step_async(self, actions: Any) -> None:
        """Give every environment its action, whatever it is, and return at once."""
        if not self._begun:
            self.vector.call(skip_reset)
            self.vector.reset()
            self._begun = True
        if not self._send(actions):
            self.vector.send_objects(self._each(actions))
        self._pending = True

    def _send(self, actions: Any) -> bool:
        """Send actions the usual way, if they are a batch of the action space to the bit."""
        if not isinstance(self.action_space, PLAIN):
            return False
        try:
            array = np.asarray(actions)
            if array.dtype != self._flat_actions.dtype:
                return False
            self.vector.send(array)
        except ValueError:  # ragged; or an ActionError, with which nothing was sent
            return False
        return True

    def _each(self, actions: Any) -> list[Any]:
        """Return one action for each environment."""
        return [actions[i] for i in range(self.num_envs)]

    def _nest(self, entries: list[Any]) -> Any:
        nested = super()._nest(entries)
        is_tuple = isinstance(self.observation_space, spaces.Tuple)
        return tuple(nested.values()) if is_tuple else nested

    def _on(self, indices: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list:
        return super()._on(indices, inside, function, *args, **kwargs)


class ShoalDummyVecEnv(StandIn):
    """Stands in for `DummyVecEnv`: environments in this process, which can be reached.

    Args:
        env_fns: functions that create environments, each its own.

    Attributes:
        envs: the environments, as the functions returned them.

    Raises:
        ValueError: two functions returned the same environment.
    """

    def __init__(self, env_fns: list[Callable[[], gymnasium.Env]]):
        made = [make_raw(env_fn) for env_fn in env_fns]
        self.envs = [raw.env for raw in made]
        if len({id(env.unwrapped) for env in self.envs}) < len(self.envs):
            raise ValueError(
                "env_fns: expected functions that create an environment at each call, but two of "
                "them returned the same one"
            )
        for raw in made:
            raw.stays_open = True  # the caller may hold them, and `close` says when they end
            raw.observation_space = self.envs[0].observation_space
        creators = [functools.partial(itself, raw) for raw in made]
        super().__init__(vectorize(creators, backend="serial", autoreset="same_step"))

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


class ShoalSubprocVecEnv(StandIn):
    """Stands in for `SubprocVecEnv`: each environment in a process of its own.

    Args:
        env_fns: functions that create environments.
        start_method: one of those of `multiprocessing`; by default ``"forkserver"``, or ``"spawn"``
            where there is none.
        num_workers: processes, if they shall be fewer than environments.

    Raises:
        ValueError: there is no such start method.
    """

    _reward_dtype = np.float64  # as in the original, which stacks what the environments return

    def __init__(
        self,
        env_fns: list[Callable[[], gymnasium.Env]],
        start_method: str | None = None,
        num_workers: int | None = None,
    ):
        multiprocessing.get_context(start_method)  # raises ValueError
        creators = [functools.partial(make_raw, env_fn) for env_fn in env_fns]
        super().__init__(
            vectorize(
                creators,
                backend="multiprocess",
                autoreset="same_step",
                num_workers=num_workers or len(creators),
                start_method=start_method,
            )
        )

    def _each(self, actions: Any) -> list[Any]:
        if len(actions) != self.num_envs:
            raise ValueError(f"actions: expected {self.num_envs}, got {len(actions)}")
        return list(actions)


def itself(value: Any) -> Any:
    """Return its argument."""
    return value


def sb3_space(layout: Layout) -> tuple[spaces.Space, list[str] | None]:
    """Return the space of observations, and the names of its entries if it is a Dict.

    Raises:
        LayoutError: two entries have the same name.
    """
    space = layout.space
    if layout.form == "float32" or isinstance(space, PLAIN):
        return layout.flat_space, None
    if isinstance(space, spaces.Dict) and all(isinstance(s, PLAIN) for s in parts_of(space)):
        return space, list(space.spaces)
    names = [leaf.path.replace(".", "/") for leaf in layout.leaves]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LayoutError(f"two parts of the observation would be called {twice!r}")
    return spaces.Dict(list(zip(names, map(leaf_space, layout.leaves)))), names


def leaf_space(leaf: Leaf) -> spaces.Space:
    """Return the space of one leaf, of the kinds that Stable-Baselines3 works with."""
    low, high = (np.broadcast_to(bound, leaf.shape) for bound in (leaf.low, leaf.high))
    if leaf.optional:  # zero where it is absent
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if leaf.kind == "binary" and len(leaf.shape) == 1:
        return spaces.MultiBinary(leaf.shape[0])
    if leaf.kind in ("discrete", "tag") and len(leaf.shape) < 2 and not low.any():
        return spaces.MultiDiscrete(high + 1) if leaf.shape else spaces.Discrete(int(high) + 1)
    dtype, shape = np.dtype(leaf.dtype), leaf.shape or (1,)  # networks take no scalars
    low, high = (bound.reshape(shape).astype(dtype) for bound in (low, high))
    return spaces.Box(low, high, shape, dtype.type)


def flatten(view: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of what `Layout.view` returned, in the order of the leaves."""
    if isinstance(view, dict):
        view = tuple(view.values())
    if isinstance(view, tuple):
        for part in view:
            yield from flatten(part)
    elif view is not None:
        yield view


def from_zero(space: spaces.Space) -> spaces.Space:
    """Return a space as Stable-Baselines3 takes it: discrete values count from 0."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, from_zero(part)) for name, part in space.spaces.items()])
    if not np.any(getattr(space, "start", 0)):
        return space
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n)
    return spaces.MultiDiscrete(space.nvec)  # type: ignore[attr-defined]
