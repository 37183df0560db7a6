"""The Ray backend: environments in Ray actors, on one machine or on many.

Each actor steps its environments as the serial backend does and sends back the rows; the batch is
all environments. Actors start on whatever cluster `ray.init` has joined, or on a local one.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from shoal.errors import ClosedError, StepTimeoutError, WorkerDied
from shoal.rows.fields import row_fields
from shoal.vectorization.arena import Arena
from shoal.vectorization.backend import Options
from shoal.vectorization.backends.processes import CLOSE_SECONDS
from shoal.vectorization.backends.serial import NUM_BLOCKS
from shoal.vectorization.description import Description
from shoal.vectorization.infos import add_info
from shoal.vectorization.stepper import Stepper
from shoal.vectorization.workers import pickle_messages
from shoal.vectorization.workers.channel import error_message, read_error
from shoal.vectorization.workers.group import EnvGroup
from shoal.vectorization.workers.worker import answer_call

__all__ = ["RayBackend"]


class Actor:
    """Some of the environments, in a process of Ray's. Every answer is 0 or 1 and a message."""

    def __init__(self, setup: dict[str, Any]):
        self.setup = setup
        self.turn = -1
        self.answer: Any = None

    def describe(self) -> bytes:
        """Make the environments and say what they are."""
        setup = self.setup
        try:
            creators = cloudpickle.loads(setup["creators"])
            self.group = EnvGroup(
                creators, setup["first"], setup["emulation"], setup["mode"], setup["seed"]
            )
        except Exception as error:
            return error_message(pickle_messages, error, f"while actor {setup['worker']} started")
        self.arena = Arena(
            self.group.description(),
            num_envs=setup["num_envs"],
            batch_size=len(creators),
            num_blocks=1,
            num_workers=1,
            control_nbytes=0,
        )
        self.arena.allocate()
        self.stepper = Stepper(self.group, self.arena, 0, setup["restart"], False)
        return b"\0" + self.group.description().to_json().encode()

    def run(self, turn: int, ops: Any, actions: np.ndarray, requests: dict[int, Any] | None) -> Any:
        """Run every environment once for each `turn`, even if asked for it again.

        Returns:
            (rows by name, [(row, info)]), or a message with an error.
        """
        if turn == self.turn:
            return self.answer
        first = self.setup["first"] * self.arena.agents_per_env
        self.arena.arrays["actions"][first : first + len(actions)] = actions
        self.stepper.run_all(ops, requests, 0, turn)
        if self.stepper.failure is not None:
            return error_message(
                pickle_messages, self.stepper.failure, f"in actor {self.setup['worker']}"
            )
        blocks = self.arena.blocks[0]
        names = row_fields(*self.arena.layouts).keys() & blocks.keys()
        self.answer = {name: blocks[name] for name in names}, list(self.stepper.infos)
        self.turn = turn
        return self.answer

    def call(self, message: bytes) -> bytes:
        """Call a method of the group for each environment."""
        return answer_call(pickle_messages, self.group, pickle.loads(message))

    def close(self) -> None:
        """Close the environments."""
        self.group.close()


class RayBackend:
    """Environments in Ray actors; see `shoal.vectorize` for the arguments."""

    name = "ray"
    lends_actions = False
    takes_objects = True

    def __init__(self, creators: Sequence[Callable[[], Any]], options: Options):
        self.num_envs = self.batch_size = len(creators)
        self.num_workers = num_workers = int(options.num_workers or 1)
        self.timeout = options.timeout
        self._first = [w * self.num_envs // num_workers for w in range(num_workers + 1)]
        self._all = np.arange(self.num_envs)
        self._pid = os.getpid()
        self._work: tuple[int, Any, Any] = (0, None, None)  # posts so far, the last one's arguments
        self._asked: list[Any] = []  # what the actors have been told of the last one
        self._infos: dict[int, Any] = {}  # of the rows of the last block that have one
        self._turn = -1  # the last batch that is in its block
        seed = options.first_seed
        base = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        actor = ray.remote(Actor)
        self._actors = [
            actor.remote(
                {
                    "worker": w,
                    "first": self._first[w],
                    "num_envs": self.num_envs,
                    "creators": cloudpickle.dumps(creators[self._first[w] : self._first[w + 1]]),
                    "emulation": options.emulation,
                    "mode": options.mode,
                    "seed": (base + self._first[w]) % 2**32,
                    "restart": options.on_error == "restart",
                }
            )
            for w in range(num_workers)
        ]
        try:
            answers = self._get([actor.describe.remote() for actor in self._actors], None)
            described = [Description.from_json(unpack(answer).decode()) for answer in answers]
            for w, description in enumerate(described):
                described[0].require_same(description, 0, self._first[w])
        except BaseException:
            self.close()
            raise
        self.description = described[0]
        self._agents = self.description.agents_per_env
        self.arena = Arena(
            self.description,
            num_envs=self.num_envs,
            batch_size=self.num_envs,
            num_blocks=NUM_BLOCKS,
            num_workers=num_workers,
            control_nbytes=0,
        )
        self.arena.allocate()

    @property
    def num_posted(self) -> int:
        return self._work[0] * self.num_envs

    def post(
        self, ops: Any, env_ids: Any, requests: dict[int, Any] | None, actions: Any = None
    ) -> None:
        """Send every actor its environments' next operations and actions."""
        self._check_process()
        self._asked = []
        self._work = self._work[0] + 1, ops, requests
        self._ask()

    def _ask(self) -> None:
        """Send actors what was posted; after an interrupt, only actors that lack it."""
        turn, ops, requests = self._work
        actions = self.arena.arrays["actions"]
        for w in range(len(self._asked), self.num_workers):
            first, last = self._first[w], self._first[w + 1]
            mine = requests and {env: requests[env] for env in range(first, last)}
            rows = actions[first * self._agents : last * self._agents]
            # Interrupted before `append`, it is asked again, and answers only.
            self._asked.append(self._actors[w].run.remote(turn, ops, rows, mine))

    def wait(self, turn: int, timeout: float | None) -> None:
        """Wait for all actors.

        Raises:
            StepTimeoutError, WorkerDied, or what an environment raised.
        """
        self._check_process()
        if turn == self._turn:
            return
        self._ask()
        answers = self._get(self._asked, self.timeout if timeout is None else timeout)
        block = self.arena.blocks[turn % NUM_BLOCKS]
        found: dict[int, Any] = {}
        for w, answer in enumerate(answers):
            if isinstance(answer, bytes):
                raise read_error(pickle_messages, answer)
            rows, infos = answer
            first = self._first[w] * self._agents
            for name, array in rows.items():
                block[name][first : first + len(array)] = array
            found.update((first + row, info) for row, info in infos if info)
        self._infos, self._turn = found, turn

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ClosedError(
                f"this vector is of process {self._pid}, which this one was forked from"
            )

    def env_ids(self, block: int) -> np.ndarray:
        """Return the environment in each slot of a block."""
        return self._all

    def infos(self, block: int) -> dict[str, Any]:
        """Return the infos of the block just received, as Gymnasium's vector environments."""
        infos: dict[str, Any] = {}
        for row, info in self._infos.items():
            add_info(infos, info, row, self.num_envs * self._agents)
        return infos

    def each_info(self, block: int) -> list[dict[str, Any]]:
        """Return the infos as a list, one dict for each row."""
        rows = range(self.num_envs * self._agents)
        return [dict(self._infos.get(row, {})) for row in rows]

    def call(self, method: str, arguments: Sequence[tuple | None]) -> list[Any]:
        """Call a method of the groups for each environment: ``method(i, *arguments[i])``."""
        self._check_process()
        calls = []
        for w, actor in enumerate(self._actors):
            mine = range(self._first[w], self._first[w + 1])
            each = {e: cloudpickle.dumps(arguments[e]) for e in mine if arguments[e] is not None}
            calls.append(actor.call.remote(pickle.dumps((method, each))))
        results: list[Any] = [None] * self.num_envs
        for answer in self._get(calls, None):
            for env, result in cloudpickle.loads(unpack(answer)).items():
                results[env] = result
        return results

    def _get(self, references: list[Any], timeout: float | None) -> list[Any]:
        try:
            return ray.get(references, timeout=timeout)
        except GetTimeoutError:
            late = set(ray.wait(references, num_returns=len(references), timeout=0)[1])
            names = [self._names(w) for w, each in enumerate(references) if each in late]
            raise StepTimeoutError(
                f"no batch within {timeout} s: {', '.join(names)} still at it"
            ) from None
        except RayActorError as error:
            dead = [w for w, each in enumerate(references) if has_died(each)]
            names = [f"actor {w}, which has {self._names(w)}," for w in dead]
            raise WorkerDied(f"{' and '.join(names)} has died: {error}") from None

    def _names(self, worker: int) -> str:
        return f"environments {self._first[worker]} to {self._first[worker + 1] - 1}"

    def close(self) -> None:
        """Close the environments, and end the actors."""
        if not ray.is_initialized() or os.getpid() != self._pid:
            return
        try:
            ray.get([actor.close.remote() for actor in self._actors], timeout=CLOSE_SECONDS)
        except Exception:  # dead, stuck, or failing to close: they end all the same
            pass
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    release = close


def unpack(answer: bytes) -> bytes:
    """Return the content of a message, or raise the error in it."""
    if answer[:1] == b"\1":
        raise read_error(pickle_messages, answer)
    return answer[1:]


def has_died(reference: Any) -> bool:
    """Return whether the actor that was to answer is dead."""
    try:
        ray.get(reference, timeout=0)
    except RayActorError:
        return True
    except Exception:
        return False
    return False
