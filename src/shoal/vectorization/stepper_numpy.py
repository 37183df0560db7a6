"""The inner loop of a worker without compiled code: the twin of `stepper.pyx`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from shoal.vectorization.engine_ctypes import COMMAND, INTERRUPTED, OK, Worker
from shoal.vectorization.workers.group import add_note

__all__ = ["Stepper", "serve"]

# As in stepper.pyx.
STEP, RESET, KEEP, GIVEN = 0, 1, 2, 3
MOST_FAILURES, GOOD_STEPS = 5, 10
TOO_MANY = (
    f"on_error='restart' gave up: {MOST_FAILURES} failures in a row, with fewer than "
    f"{GOOD_STEPS} steps between"
)


class Stepper:
    """Runs the environments of one group, and writes to one arena; see `stepper.Stepper`."""

    def __init__(self, group: Any, arena: Any, worker: int, restart: bool, profile: bool):
        self.group, self.arena, self.loop = group, arena, group.loop
        self.restart, self.profile = restart, profile
        self.rows = arena.buffers
        self.agents, self.first = arena.agents_per_env, group.first
        self.counters = arena.arrays["counters"][worker]
        self.failure: Exception | None = None
        self.infos: list[tuple[int, Any]] = []
        n = len(group.envs)
        self.seeds: list[Any] = [None] * n
        self.steps, self.failures = [0] * n, [0] * n
        self.good = [0] * n  # steps since the last failure
        self.lost, self.owing = [False] * n, [False] * n

    def owe(self, envs: Any) -> None:
        """Let the next step of these environments only say that an episode has been lost."""
        for env in envs:
            self.owing[env - self.first] = True

    def advance(self, op: int, env: int, requests: dict) -> None:
        """Let the environment act; `deliver` writes what came of it."""
        i = env - self.first
        start = time.monotonic_ns() if self.profile else 0
        if self.owing[i]:
            self.owing[i] = False
            if op != RESET:
                self.lost[i] = True
                return
        try:
            if op in (STEP, GIVEN):
                if op == GIVEN:
                    self.loop.give(i, requests[env])
                self.loop.advance(i, self.rows, env * self.agents)
                self.steps[i] += 1
                self.good[i] += 1
            elif op == RESET:
                seed, options = requests[env]
                self.seeds[i] = seed
                self.steps[i] = -1
                self.loop.begin(i, seed, options)
                self.steps[i] = 0
        except Exception as error:
            self.steps[i] += 1
            self._failed(i, error)
        if self.profile:
            self.counters[0] += time.monotonic_ns() - start

    def deliver(self, op: int, env: int, place: int) -> None:
        """Write what the environment holds into its rows of `place`."""
        i, first = env - self.first, place * self.agents
        start = time.monotonic_ns() if self.profile else 0
        if not self.lost[i]:
            try:
                self.loop.deliver(i, self.rows, first)
                if op == KEEP:  # its transition has been delivered before
                    self.rows.masks[first : first + self.agents] = False
                if self.loop.any_info or self.loop.any_final:
                    self._keep_infos(i, place)
            except Exception as error:
                self._failed(i, error)
        if self.lost[i]:
            lose_rows(self.rows, slice(first, first + self.agents))
            self.lost[i] = False
        if self.profile:
            self.counters[1] += time.monotonic_ns() - start

    def _keep_infos(self, i: int, place: int) -> None:
        infos, final_infos = self.loop.take_infos()
        info = infos[i] if infos is not None else None
        final = final_infos[i] if final_infos is not None else None
        if self.agents == 1:
            if final is not None:
                info = {"final_info": final, **(info or {})}
            self.infos.append((place, info))
            return
        # Multi-agent environments have an info for each slot that has one.
        each = dict(info or {})
        for slot, one in (final or {}).items():
            each[slot] = {"final_info": one, **each.get(slot, {})}
        self.infos += [(place * self.agents + slot, one) for slot, one in each.items()]

    def _failed(self, i: int, error: Exception) -> None:
        """The environment raised `error`: its rows are lost, and it is recreated or reported."""
        self.lost[i] = True
        row = (self.first + i) * self.agents
        action = self.arena.arrays["actions"][row : row + self.agents]
        add_note(
            error,
            f"raised by environment {self.first + i} (seed {self.seeds[i]}, step "
            f"{self.steps[i]} since it was told to reset, last action {action.tolist()})",
        )
        self.failures[i] = self.failures[i] + 1 if self.good[i] < GOOD_STEPS else 1
        self.good[i] = 0
        while self.restart:
            if self.failures[i] >= MOST_FAILURES:
                add_note(error, TOO_MANY)
                break
            try:
                self.group.recreate(i)
                self.counters[3] += 1
                self.steps[i] = 0
                return
            except Exception as another:
                add_note(another, f"raised while environment {self.first + i} was created again")
                error = another
                self.failures[i] += 1
        if self.failure is None:
            self.failure = error


def lose_rows(to: Any, rows: slice) -> None:
    """Write rows that carry nothing: invalid, and the episode cut off."""
    to.observations[rows] = 0
    to.action_masks[rows] = to.truncations[rows] = True
    to.rewards[rows] = to.episode_returns[rows] = to.episode_lengths[rows] = 0
    to.terminations[rows] = to.masks[rows] = to.acting[rows] = to.finals[rows] = False
    to.occupants[rows] = -1


def serve(
    stepper: Stepper,
    memory: Any,
    worker: int,
    writer: Any,
    command: Callable[[int], None],
    requests: Callable[[], dict],
    spill: Callable[[int, bytes], None],
    failed: Callable[[Exception], None],
) -> None:
    """Do what the parent posts, until it closes the vector or is gone; see `stepper.serve`."""
    me = Worker(memory, worker)
    agents, counters = stepper.agents, stepper.counters
    known: dict[int, Any] = {}
    reported = False
    while True:
        start = time.monotonic_ns()
        code = me.wait_work()
        if stepper.profile:
            counters[2] += time.monotonic_ns() - start
        if code == INTERRUPTED:  # Python looks at signals by itself
            continue
        if code != OK:
            return
        while True:
            code = me.next_entry()
            if code == INTERRUPTED:
                break
            if code != OK:
                return
            op, env = me.op, me.env
            if op >= COMMAND:
                command(env)
                me.finish_command()
                continue
            if op in (RESET, GIVEN) and env not in known:
                known.update(requests())
            stepper.advance(op, env, known)
            if op in (RESET, GIVEN):
                del known[env]
            place = me.claim_place()
            stepper.deliver(op, env, place)
            by_row = dict(stepper.infos)
            for row in range(place * agents, place * agents + agents):
                message = writer.write(by_row.get(row), row)
                if message is not None:
                    spill(row, message)
            stepper.infos.clear()
            if stepper.failure is not None and not reported:
                # The parent reads the first one while more may follow, and closes the vector.
                reported = True
                failed(stepper.failure)
                me.report_failure(1)
            me.complete_place(place)
