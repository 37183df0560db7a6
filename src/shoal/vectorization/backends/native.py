"""The native backend: native environments, stepped in this process without the interpreter.

`shoal.ocean_c.engine` steps them, straight into the rows of the arena. With one worker all happens
in the caller's thread, in `wait`; with more, in a pool, and with a `timeout`, on threads.

A batch is `batch_size` environments that have been given an operation, in the order in which they
were given it. A batch begins when it is complete, so its environments never depend on how long a
step takes.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shoal.errors import EnvCheckError, StepTimeoutError
from shoal.ocean_c.engine import Engine
from shoal.ocean_c.find import load
from shoal.ocean_c.screen import METADATA, Screen
from shoal.ocean_c.spaces import layouts
from shoal.rows.fields import RESET
from shoal.vectorization.arena import Arena
from shoal.vectorization.backend import Options
from shoal.vectorization.description import Description
from shoal.vectorization.infos import split_infos
from shoal.vectorization.sync import num_blocks, usable_cores

__all__ = ["NativeBackend"]


class NativeBackend:
    """Many environments of one native module.

    Args:
        path: the module.
        params: of the environment.
        num_envs: of the vector.
        options: of the vector. With one worker, whole batches and no `timeout`, the caller's thread
            does it all, and an environment that does not return can't be interrupted.

    Attributes:
        description: of the environments.
        arena: the rows.
    """

    name = "native"
    lends_actions = True  # each thread copies the actions of its environments
    takes_objects = False

    def __init__(self, path: Any, params: Mapping[str, Any], num_envs: int, options: Options):
        module = load(path)
        params = dict(params)
        self.render_mode = params.pop("render_mode", None) or "rgb_array"
        spec = module.spec(params)
        self.module, self.spec = module, spec
        self.num_envs = num_envs
        self.batch_size = batch_size = options.batch_size or num_envs
        self.num_workers = num_workers = options.num_workers or 1
        self.timeout, self.profile = options.timeout, options.profile
        self.debug = options.emulation.debug or module.debug
        self.layout, actions = layouts(spec, module.path)
        names = [f"agent_{i}" for i in range(spec.agents)] if spec.agents > 1 else ["agent"]
        metadata = {**METADATA, "name": module.table.name}
        self.description = Description(
            self.layout, actions, spec.agents, names, metadata, self.render_mode
        )
        blocks = num_blocks(num_envs, batch_size)
        self.arena = Arena(
            self.description,
            num_envs=num_envs,
            batch_size=batch_size,
            num_blocks=blocks,
            num_workers=1,
            control_nbytes=0,
        )
        self.arena.allocate()
        # The caller's thread steps, too, unless it must be able to leave at a time limit.
        caller_steps = batch_size == num_envs and options.timeout is None
        threads = num_workers - caller_steps
        self.engine = Engine(
            module,
            spec,
            num_envs,
            options.mode,
            batch_size=batch_size,
            num_blocks=blocks,
            num_threads=threads,
            # Longer than another thread's last chunk takes; waking one costs 50 us or more.
            spin=300e-6 if usable_cores() > threads else 0,
            debug=options.emulation.debug,
            timeout=options.timeout,
        )
        assert self.arena.buffers is not None
        self.engine.bind(self.arena.buffers)
        seed = options.first_seed
        self.engine.seed_all(int.from_bytes(os.urandom(8), "little") if seed is None else seed)
        self._all = np.arange(num_envs)
        # Pools: the operations posted since job `first` was begun; the environments of each block.
        self._posted = 0, np.empty(0, np.int64), np.empty(0, np.int32)
        self._block_envs: list[np.ndarray] = [self._all] * blocks
        self._screen = Screen(self.render_mode, module.table.name)

    def post(
        self,
        ops: Any,
        env_ids: np.ndarray | None,
        requests: dict[int, Any] | None,
        actions: np.ndarray | None = None,
    ) -> None:
        """Give environments their next operation: one for all, or one each.

        With `actions` all of them step with these, which stay as they are until `wait`; they need
        not be in the arena.
        """
        if requests is not None:
            self._prepare(ops, requests)
        if self.batch_size == self.num_envs:
            if isinstance(ops, int):
                self.engine.post(ops, None, None, actions)
            else:
                self.engine.post(RESET, None, np.ascontiguousarray(ops, np.int32))
            return
        envs = self._all if env_ids is None else env_ids
        each = np.full(len(envs), ops, np.int32) if isinstance(ops, int) else ops.astype(np.int32)
        first, waiting, their_ops = self._posted
        self._posted = first, np.concatenate([waiting, envs]), np.concatenate([their_ops, each])
        self._begin_jobs()

    @property
    def num_posted(self) -> int:
        if self.batch_size == self.num_envs:
            return self.engine.num_posted * self.num_envs
        first, envs, _ = self._posted
        return first * self.batch_size + len(envs)

    def _begin_jobs(self) -> None:
        """Begin the jobs that are complete; after an interrupt, those that were not begun yet."""
        size, (first, envs, ops) = self.batch_size, self._posted
        while (job := self.engine.num_posted) < first + len(envs) // size:
            at = slice((job - first) * size, (job - first + 1) * size)
            self._block_envs[job % len(self._block_envs)] = envs[at]
            self.engine.post(RESET, envs[at], ops[at])
        begun = (job - first) * size
        self._posted = job, envs[begun:], ops[begun:]

    def _prepare(self, ops: Any, requests: dict[int, Any]) -> None:
        """Seed the environments that are to be reset; raise ValueError if they get options."""
        seeds = {}
        for env, (seed, options) in requests.items():
            if isinstance(ops, int) or ops[env] == RESET:
                if options:
                    raise ValueError(
                        f"options: {self.module.table.name} takes none, got {options!r}; "
                        "parameters are given as env_kwargs"
                    )
                if seed is not None:
                    seeds[env] = seed
        for env, seed in seeds.items():
            self.engine.seed(env, seed)

    def wait(self, turn: int, timeout: float | None) -> None:
        """Wait for a batch.

        Raises:
            StepTimeoutError: the batch has not arrived in time; it is still on its way.
            ClosedError: another thread has closed the backend meanwhile.
            EnvCheckError: debugging found a fault.
        """
        if self.batch_size != self.num_envs:
            self._begin_jobs()
        begin = time.perf_counter_ns() if self.profile else 0
        arrays, blocks = self.arena.arrays, self.arena.blocks  # which another thread may detach
        limit = self.timeout if timeout is None else timeout
        block = self.engine.wait(limit, turn)
        if self.profile:
            arrays["counters"][0, 0] += time.perf_counter_ns() - begin
        if block < 0:
            raise StepTimeoutError(f"no batch of {self.module.table.name} within {limit:g} s")
        if self.debug:
            self._check_values(block, blocks[block])

    def _check_values(self, block: int, rows: Mapping[str, np.ndarray]) -> None:
        """Raise EnvCheckError if a value in a block is not in its space."""
        if not np.isfinite(rows["rewards"]).all():
            row = int(np.flatnonzero(~np.isfinite(rows["rewards"]))[0])
            raise EnvCheckError(f"{self._at(block, row)}: reward is {rows['rewards'][row]}")
        live = rows["occupants"] >= 0
        views = self.layout.view(rows["observations"])
        for field in self.spec.observations:
            values = views[field.name] if len(self.spec.observations) > 1 else views
            values = values.reshape(len(live), *field.shape)
            low, high = field.low.astype(field.dtype), field.high.astype(field.dtype)
            bad = ~((values >= low) & (values <= high))
            bad &= live.reshape(-1, *[1] * len(field.shape))
            if bad.any():
                row, *index = (int(i) for i in np.argwhere(bad)[0])
                at = tuple(index)
                raise EnvCheckError(
                    f"{self._at(block, row)}: observation {field.name}{index or ''}: expected "
                    f"{low[at]:g} to {high[at]:g}, got {values[(row, *at)]}"
                )

    def _at(self, block: int, row: int) -> str:
        slot, agent = divmod(row, self.spec.agents)
        env = int(self._block_envs[block][slot])
        return f"{self.module.table.name}, environment {env}, agent {agent}"

    def env_ids(self, block: int) -> np.ndarray:
        """Return the environments in the slots of a block (int64, ``(batch_size,)``)."""
        return self._block_envs[block]

    def infos(self, block: int) -> dict[str, Any]:
        """Return the log fields of the episodes that have ended in a block."""
        return self.engine.infos(block)

    def each_info(self, block: int) -> list[dict[str, Any]]:
        """Return those log fields as one dict for each row."""
        return split_infos(self.infos(block), self.arena.batch_rows)

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call one of the methods below: ``method(i, *arguments[i])`` for those that have any."""
        function = getattr(self, f"_{method}")
        return [None if each is None else function(i, *each) for i, each in enumerate(arguments)]

    def _call(self, env: int, name: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        one = NativeEnvView(self, env)
        value = functools.partial(name, one) if callable(name) else getattr(one, name)
        return value(*args, **kwargs) if callable(value) else value

    def _set_attribute(self, env: int, name: str, value: Any) -> None:
        setattr(NativeEnvView(self, env), name, value)  # which raises

    def _set_options(self, env: int, options: dict[str, Any] | None) -> None:
        if options:
            raise ValueError(f"options: {self.module.table.name} takes none, got {options!r}")

    def _get_state(self, env: int) -> dict[str, Any]:
        return {"loop": {"pending": self.engine.pending(env)}, "env": self.engine.get_state(env)}

    def _set_state(self, env: int, state: dict[str, Any]) -> None:
        self.engine.set_state(env, state["env"])

    def render(self, env: int) -> Any:
        """Return one environment's drawing, as `render_mode` says."""
        return self._screen.show(self.engine.draw(env))

    def close(self) -> None:
        """End the threads and release everything."""
        self._screen.close()
        self.engine.close()
        self.arena.detach()

    release = close


class NativeEnvView:
    """One environment, for calls: its parameters are attributes that can't be set."""

    def __init__(self, backend: NativeBackend, env: int):
        table = backend.module.table
        names = [param.name for param in table.params]
        vars(self).update(zip(names, backend.spec.values))
        vars(self)["_lacks"] = (
            f"{table.name} has no attribute {{!r}}: a native environment has render and its "
            f"parameters {names}"
        )
        vars(self)["render_mode"] = backend.render_mode
        vars(self)["metadata"] = dict(backend.description.metadata or {})
        vars(self)["render"] = functools.partial(backend.render, env)
        vars(self)["drawing"] = functools.partial(backend.engine.draw, env)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(self._lacks.format(name))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name}: the attributes of a native environment can't be set")
