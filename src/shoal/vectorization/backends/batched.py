"""The batched backend: an object that steps all environments itself, served without workers.

Such objects run many environments as one program over arrays: simulators on a GPU (Isaac,
ManiSkill), JAX environments under ``vmap``, other vector environments. One is any object with

- ``num_envs``, ``single_observation_space``, ``single_action_space``: the spaces are those of one
  environment, Gymnasium's or alike;
- ``reset(seed=..., options=...)``, which returns (observations, infos), and ``step(actions)``,
  which returns (observations, rewards, terminations, truncations, infos): arrays with one entry for
  each environment, nested as the space is; infos a dict of such arrays, with or without ``_key``
  masks;
- ``metadata["autoreset_mode"]``: when it resets environments by itself, as Gymnasium defines it. If
  that is ``DISABLED``, ``reset(options={"reset_mask": mask})`` resets some environments, and `step`
  bears environments whose episodes are over. ManiSkill's ``auto_reset`` is understood.

The arrays may be of NumPy, or of any library that hands them over by DLPack (torch, JAX): in main
memory without a copy, from a GPU with one to main memory. They are then written into the rows of
the arena, once, because an environment may use its own arrays again. Actions are given in the
library, and on the device, of the observations.

Invariant: before a step, `_over` has the environments whose last step ended an episode. In
NEXT_STEP mode the next step resets them and is not a transition.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from shoal.errors import (
    ClosedError,
    ConfigError,
    EmulationError,
    EnvCheckError,
    LayoutError,
    StepTimeoutError,
)
from shoal.rows.actions import ActionLayout
from shoal.rows.fields import RESET, STEP
from shoal.rows.layout import Layout
from shoal.rows.spec import where
from shoal.vectorization.arena import Arena
from shoal.vectorization.backend import Options
from shoal.vectorization.backends.serial import CLOSE_SECONDS, NUM_BLOCKS
from shoal.vectorization.description import Description
from shoal.vectorization.infos import split_infos
from shoal.vectorization.stepper import Deferral
from shoal.vectorization.workers.group import seed_globals

__all__ = ["BatchedBackend"]

NESTED = frozenset(["Dict", "Tuple", "Box", "Discrete", "MultiDiscrete", "MultiBinary"])
# What a step that resets calls the observations that came before: Gymnasium, and before it was 1.0.
FINAL = ("final_obs", "final_observation")
DLPACK_CPU = 1
RESULTS = ("rewards", "terminations", "truncations", "episode_returns", "episode_lengths")


def reset_mode(env: Any) -> AutoresetMode:
    """Return when a batched environment resets its environments.

    Raises:
        EmulationError: it doesn't say.
    """
    if hasattr(env, "auto_reset"):  # ManiSkill, whose metadata say the same in both cases
        return AutoresetMode.SAME_STEP if env.auto_reset else AutoresetMode.DISABLED
    said = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
    if said is not None:
        return AutoresetMode(said)
    raise EmulationError(
        f"{type(env).__name__} doesn't say when it resets environments by itself; set its "
        'metadata["autoreset_mode"] to gymnasium.vector.AutoresetMode.SAME_STEP (in the step that '
        "ends an episode), NEXT_STEP (in the one after) or DISABLED (only when told to)"
    )


class BatchedBackend:
    """Serves a batched environment.

    Args:
        env: see the head of this module.
        options: of the vector. An environment that resets its environments only when told to serves
            all three autoreset modes; another one just its own. Default: NEXT_STEP, or its own.

    Attributes:
        autoreset: Gymnasium's mode.
        description: what the environment is.
        arena: the rows of its environments.

    Raises:
        ConfigError: the autoreset mode is not one that the environment can serve.
        EmulationError: it doesn't say which mode is its own.
        LayoutError: its spaces can't be laid out, or hold more than arrays.
    """

    name = "batched"
    num_workers = 0
    lends_actions = False
    takes_objects = False

    def __init__(self, env: Any, options: Options):
        self.env, self.profile, self.debug = env, options.profile, options.emulation.debug
        mode, seed = options.autoreset, options.first_seed
        own = reset_mode(env)
        self.resets_itself = own is not AutoresetMode.DISABLED
        if mode is None:
            mode = own if self.resets_itself else AutoresetMode.NEXT_STEP
        if self.resets_itself and mode is not own:
            raise ConfigError(
                f'autoreset must be "{own.name.lower()}", because {type(env).__name__} resets '
                f'environments itself, got "{mode.name.lower()}"'
            )
        self.autoreset = mode
        self.num_envs = self.batch_size = int(env.num_envs)
        if options.batch_size not in (None, self.num_envs):
            raise ConfigError(
                f"batch_size: not for a batched environment; a batch is all {self.num_envs} of its "
                f"environments, got {options.batch_size}"
            )
        self.layout = Layout.from_space(env.single_observation_space, name="obs")
        self.actions = ActionLayout.from_space(env.single_action_space)
        for layout in (self.layout, self.actions.native):
            require_arrays(layout.spec, layout.name)
        self.description = Description(
            self.layout,
            self.actions,
            metadata=dict(getattr(env, "metadata", None) or {}),
            render_mode=getattr(env, "render_mode", None),
        )
        self.arena = Arena(
            self.description,
            num_envs=self.num_envs,
            batch_size=self.num_envs,
            num_blocks=NUM_BLOCKS,
            num_workers=1,
            control_nbytes=0,
        )
        self.arena.allocate()
        self._all = np.ones(self.num_envs, bool)
        self._over = np.zeros(self.num_envs, bool)
        self._work: tuple[int, Any, Any] = (0, None, None)  # posts so far, the last one's arguments
        self._turn = -1  # the last batch that was run
        self._broken = False  # it was interrupted in the middle
        self._deferral = Deferral()
        self._inside = threading.RLock()  # held while the environment runs
        self._closed = False
        self._options: dict[str, Any] | None = None  # of automatic resets
        self._infos: dict[str, Any] = {}
        self._to_env: Callable[[np.ndarray], Any] = np.asarray
        if seed is not None:
            seed_globals(seed)

    def post(
        self, ops: Any, env_ids: Any, requests: dict[int, Any] | None, actions: Any = None
    ) -> None:
        """Give every environment its next operation: one for all, or reset some and keep others."""
        if not isinstance(ops, int):
            if (ops == STEP).any():
                raise ValueError("send: a batched environment steps all environments, not some")
            if self.resets_itself:
                raise ValueError(
                    f"reset_mask: {type(self.env).__name__} resets environments by itself, and "
                    "only all of them when told to"
                )
        self._work = self._work[0] + 1, ops, requests

    @property
    def num_posted(self) -> int:
        return self._work[0] * self.num_envs

    def wait(self, turn: int, timeout: float | None) -> None:
        """Run what was posted. Nothing here can time out."""
        with self._inside:
            if self._closed:
                raise ClosedError("this vector is closed")
            if self._broken:
                raise EmulationError(
                    f"{type(self.env).__name__} was interrupted in the middle of a step, so what "
                    "it holds is unknown; make the vector again"
                )
            if turn == self._turn:
                return
            with self._deferral:  # type: ignore[attr-defined]
                self._broken = True
                self._run(turn % NUM_BLOCKS, *self._work[1:])
                self._turn, self._broken = turn, False

    def _run(self, block: int, ops: Any, requests: Any) -> None:
        begin = time.perf_counter_ns()
        counters = self.arena.arrays["counters"][0]
        in_env = counters[0].item()
        held, rows = self.arena.blocks[block - 1], self.arena.blocks[block]
        rows["finals"][:] = False
        if self.debug:  # the block was poisoned, and nobody writes the padding between leaves
            rows["observations"][...] = rows["final_observations"][...] = 0
        if isinstance(ops, int) and ops == STEP:
            self._step(rows, held)
        else:
            self._begin(rows, held, self._all if isinstance(ops, int) else ops == RESET, requests)
        rows["acting"][:] = ~self._over | rows["finals"]
        if self.debug:
            check_values(self.layout, rows)
        if self.profile:
            counters[1] += time.perf_counter_ns() - begin - (counters[0] - in_env)

    def _begin(self, rows: dict, held: dict, mask: np.ndarray, requests: Any) -> None:
        """Reset the environments that were asked to; the others keep what their rows held."""
        seeds, options = zip(*(requests[i] for i in range(self.num_envs)), strict=True)
        if any(each is not options[0] for each in options):
            raise ValueError("options: a batched environment takes one dict, for all environments")
        seed: Any = list(seeds)
        if all(each is None for each in seeds):
            seed = None
        elif seed == list(range(seed[0], seed[0] + self.num_envs)):
            seed = seed[0]
        for name in ("observations", "action_masks"):
            rows[name][...] = held[name]
        for name in RESULTS:
            rows[name][:] = np.where(mask, 0, held[name])
        rows["masks"][:] = mask
        self._over &= ~mask
        self._infos = self._reset(rows, mask, seed, options[0])

    def _step(self, rows: dict, held: dict) -> None:
        """Step all environments, and reset those whose episodes are over."""
        actions = self.arena.arrays["actions"]
        if not self.actions.identity:
            actions = self.actions.to_native(actions)
        nested = mapped(lambda array: self._to_env(array.copy()), self.actions.native.view(actions))
        result = self._timed(self.env.step, nested)
        if not isinstance(result, tuple) or len(result) != 5:
            raise EmulationError(
                "step: expected (observations, rewards, terminations, truncations, infos), got "
                + (f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__)
            )
        observations, rewards, terminations, truncations, infos = result
        begun = self._over  # the last step ended their episodes
        valid = ~begun if self.autoreset is AutoresetMode.NEXT_STEP else self._all
        for name in RESULTS:
            rows[name][:] = 0
        put(rewards, rows["rewards"], valid, "rewards")
        put(terminations, rows["terminations"], valid, "terminations")
        put(truncations, rows["truncations"], valid, "truncations")
        rows["masks"][:] = valid
        for name, gained in (("episode_returns", rows["rewards"]), ("episode_lengths", valid)):
            rows[name][:] = np.where(begun, 0, held[name]) + gained
        self._over = over = rows["terminations"] | rows["truncations"]
        self._observe(rows, observations, infos, self._all if self.resets_itself else valid)
        ends = over.any() and self.autoreset is AutoresetMode.SAME_STEP
        if ends:
            rows["finals"][:] = over
        if self.resets_itself:
            self._infos = columns(infos, self._all)
            if ends:
                self._put_finals(rows["final_observations"], held["observations"], over, infos)
        elif ends:
            rows["final_observations"][...] = rows["observations"]
            final = columns(infos, over)
            self._infos = columns(infos, ~over)
            merge(self._infos, self._reset(rows, over, None, self._options))
            self._infos.update(final_info=final, _final_info=over.copy())
        else:
            self._infos = columns(infos, valid)
            if not valid.all():
                merge(self._infos, self._reset(rows, begun, None, self._options))

    def _reset(self, rows: dict, mask: np.ndarray, seed: Any, options: Any) -> dict[str, Any]:
        """Let environments begin an episode, and write their first observations; their infos."""
        if not mask.all():
            by_mask = not hasattr(self.env, "auto_reset")  # ManiSkill takes indices
            which = mask.copy() if by_mask else self._to_env(np.flatnonzero(mask))
            options = {**(options or {}), "reset_mask" if by_mask else "env_idx": which}
        observations, infos = self._timed(self.env.reset, seed=seed, options=options)
        array = first_array(observations)
        if array is not None:
            self._to_env = functools.partial(library_of(array).asarray, device=array.device)
        self._observe(rows, observations, infos, mask)
        return columns(infos, mask)

    def _timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter_ns()
        result = function(*args, **kwargs)
        if self.profile:
            self.arena.arrays["counters"][0, 0] += time.perf_counter_ns() - begin
        return result

    def _observe(self, rows: dict, observations: Any, infos: Any, chosen: np.ndarray) -> None:
        """Write observations and action masks of environments into their rows."""
        put_nested(observations, self.layout.view(rows["observations"]), chosen, "observations")
        masks = rows["action_masks"]
        if not masks.shape[1]:
            return
        masks[chosen] = True
        for mapping in (infos, observations):  # what the observations say, counts
            if isinstance(mapping, Mapping) and "action_mask" in mapping:
                legal = to_numpy(mapping["action_mask"]).reshape(self.num_envs, -1)
                told = to_numpy(mapping.get("_action_mask", chosen)).astype(bool)
                put(legal, masks, chosen & told, "action_mask")

    def _put_finals(
        self, rows: np.ndarray, before: np.ndarray, over: np.ndarray, infos: Any
    ) -> None:
        """Write the last observations of episodes, as far as the environment reports them."""
        told = next((infos[key] for key in FINAL if key in infos), None)
        if told is None:  # the one before is all that is known
            rows[...] = before
        elif isinstance(told, np.ndarray) and told.dtype == object:  # one observation for each
            for i in np.flatnonzero(over):
                self.layout.pack(told[i], rows[i : i + 1].reshape(self.layout.shape))
        else:
            put_nested(told, self.layout.view(rows), over, "final observations")

    def env_ids(self, block: int) -> np.ndarray:
        """Return the environment in each slot of a block."""
        return np.arange(self.num_envs)

    def infos(self, block: int) -> dict[str, Any]:
        """Return the infos of the block last waited for."""
        return dict(self._infos)

    def each_info(self, block: int) -> list[dict[str, Any]]:
        """Return the infos as a list, one dict for each environment."""
        return split_infos(self._infos, self.num_envs)

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call the batched environment once and return its answer for every environment.

        Of what ``render`` returns for many, each gets its own.
        """
        asked = [each for each in arguments if each is not None]
        if not asked:
            return [None] * self.num_envs
        if any(one is not other for each in asked for one, other in zip(each, asked[0])):
            raise ValueError(f"{method}: a batched environment takes the same for all environments")
        with self._inside:
            value = getattr(self, f"_{method}")(*asked[0])
        shared = method == "call" and asked[0][0] == "render" and has_entries(value, self.num_envs)
        each = list(value) if shared else [value] * self.num_envs
        return [None if arguments[i] is None else each[i] for i in range(self.num_envs)]

    def _call(self, name: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        value = functools.partial(name, self.env) if callable(name) else getattr(self.env, name)
        result = value(*args, **kwargs) if callable(value) else value
        # A copy, because the environment may write into the array again: a frame, for example.
        return result.copy() if isinstance(result, np.ndarray) else result

    def _set_attribute(self, name: str, value: Any) -> None:
        setattr(self.env, name, value)

    def _set_options(self, options: dict[str, Any] | None) -> None:
        if options and self.resets_itself:
            raise ValueError(f"options: {type(self.env).__name__} resets environments by itself")
        self._options = options

    def _get_state(self) -> None:
        raise EmulationError("the state of a batched environment can't be taken apart and saved")

    def _set_state(self, state: Any) -> None:
        self._get_state()

    def close(self) -> None:
        """Close the environment, as soon as no other thread is in it."""
        if not self._inside.acquire(timeout=CLOSE_SECONDS):
            raise StepTimeoutError(
                f"{type(self.env).__name__} has not returned for {CLOSE_SECONDS} s, and is not "
                "closed"
            )
        try:
            if not self._closed:
                self._closed = True
                env, self.env = self.env, None  # with the memory that it holds on its device
                if hasattr(env, "close"):
                    env.close()
        finally:
            self._inside.release()
            self.release()

    def release(self) -> None:
        """Let go of the memory."""
        self.arena.detach()


def require_arrays(spec: Mapping[str, Any], name: str) -> None:
    """Raise LayoutError if many values of a space are not one array."""
    kind = spec["kind"]
    if kind not in NESTED:
        raise LayoutError(f"{name}: a batched environment needs arrays, and a {kind} is not one")
    for item in spec.get("items", []):
        require_arrays(item[1] if kind == "Dict" else item, name)


def to_numpy(values: Any) -> np.ndarray:
    """Return an array of whatever library as NumPy's: the same memory, if that is main memory."""
    if hasattr(values, "detach"):  # torch hands over nothing that is on a GPU or has a gradient
        values = values.detach().cpu()
    speaks = hasattr(values, "__dlpack_device__") and not isinstance(values, np.ndarray)
    if speaks and values.__dlpack_device__()[0] == DLPACK_CPU:
        return np.from_dlpack(values)
    return np.asarray(values)


def library_of(array: Any) -> Any:
    """Return the module whose arrays these are."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    return sys.modules[type(array).__module__.partition(".")[0]]  # torch


def first_array(nested: Any) -> Any:
    """Return any array that speaks DLPack in nested observations, or None."""
    found: list[Any] = []
    mapped(found.append, nested)
    return next((array for array in found if hasattr(array, "__dlpack__")), None)


def mapped(function: Callable[[Any], Any], nested: Any) -> Any:
    """Return nested dicts and tuples with `function` of each leaf in its place."""
    if isinstance(nested, Mapping):
        return {key: mapped(function, part) for key, part in nested.items()}
    if isinstance(nested, tuple):
        return tuple([mapped(function, part) for part in nested])
    return function(nested)


def put_nested(values: Any, into: Any, chosen: np.ndarray, name: str) -> None:
    """Call `put` for every leaf of nested arrays."""
    if not isinstance(into, (dict, tuple)):
        put(values, into, chosen, name)
        return
    keys = into if isinstance(into, dict) else range(len(into))
    for key in keys:
        try:
            part = values[key]
        except (KeyError, IndexError, TypeError):
            raise EmulationError(f"{name}: there is no {key!r} in it, but in its space") from None
        put_nested(part, into[key], chosen, f"{name}[{key!r}]")


def put(values: Any, into: np.ndarray, chosen: np.ndarray, name: str) -> None:
    """Copy the entries of environments (bool) from an array of whatever library.

    Raises:
        EmulationError: its shape or dtype is not what it should be.
    """
    array = to_numpy(values)
    if array.shape != into.shape:
        raise EmulationError(f"{name}: expected shape {into.shape}, got {array.shape}")
    if into.dtype == bool:
        array = array != 0
    try:
        np.copyto(into, array, "same_kind", chosen.reshape(-1, *[1] * (into.ndim - 1)))
    except TypeError:
        raise EmulationError(f"{name}: expected {into.dtype}, got {array.dtype}") from None


def is_mask(key: Any, infos: Mapping[str, Any]) -> bool:
    """Return whether this key of batched infos says which environments have another key."""
    return isinstance(key, str) and key[:1] == "_" and key[1:] in infos


def has_entries(values: Any, count: int) -> bool:
    """Return whether this is an array, list or tuple of so many entries."""
    if isinstance(values, (list, tuple)):
        return len(values) == count
    return bool(getattr(values, "ndim", 0)) and values.shape[0] == count


def columns(infos: Any, chosen: np.ndarray) -> dict[str, Any]:
    """Return the infos of environments (bool) as Gymnasium's: arrays with masks, zero elsewhere.

    Args:
        infos: of the whole batch. A value that is not an array of `num_envs` entries is passed on.
    """
    found: dict[str, Any] = {}
    for key, value in (infos or {}).items():
        if key in FINAL or is_mask(key, infos):
            continue
        mask = chosen.copy()
        if f"_{key}" in infos:
            mask &= to_numpy(infos[f"_{key}"]).astype(bool)
        if isinstance(value, Mapping):
            found[key] = columns(value, mask)
        elif has_entries(value, len(chosen)):
            array = np.array(to_numpy(value))
            array[~mask] = None if array.dtype == object else 0
            found[key] = array
        else:
            found[key] = value.copy() if isinstance(value, np.ndarray) else value
            continue
        if mask.any():
            found[f"_{key}"] = mask
        else:
            del found[key]
    return found


def merge(infos: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the infos of other environments, both as `columns` gives them."""
    for key, value in more.items():
        if key not in infos:
            infos[key] = value
        elif is_mask(key, more):
            infos[key] |= value
        elif isinstance(value, dict):
            merge(infos[key], value)
        elif f"_{key}" in more:
            infos[key][more[f"_{key}"]] = value[more[f"_{key}"]]
        else:
            infos[key] = value


def check_values(layout: Layout, rows: Mapping[str, np.ndarray]) -> None:
    """Raise EnvCheckError if a reward is not finite, or an observation not in its space."""
    bad = ~np.isfinite(rows["rewards"])
    if bad.any():
        i = int(bad.argmax())
        raise EnvCheckError(f"environment {i}: the reward is {rows['rewards'][i]}")
    for leaf in layout.leaves:
        values = layout.view_leaves(rows["observations"])[leaf.path]
        wrong = np.argwhere(~((values >= leaf.low) & (values <= leaf.high)))  # NaN too
        if len(wrong):
            i, *index = wrong[0].tolist()
            at = f"{where(layout.name, leaf.path)}{index or ''}"
            raise EnvCheckError(
                f"environment {i}: {at}: {values[tuple(wrong[0])]} is not in the space"
            )
