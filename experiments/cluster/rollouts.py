"""Rollouts as environment actors against one policy server, with the results of `handrail.agents.rollout`.

Environment actors run `rollout` as it is, each on its share of the episodes. A policy's desk lives in one server, which
reads the sessions of all of them in batches and keeps their keys and values; actors that need no policy are copied into
every environment actor. An episode's course depends on its reset and the actor alone, so it does not matter where it
runs, beside which others, or how often it was begun.

Faults. A request holds the whole history of a session, so a server that was started again reads what it needs and
answers what it was asked: Ray repeats the calls. An environment actor that dies loses the share it was at, which is
played again; only a share that was played to its end is taken, so nothing is lost and nothing counts twice.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import gymnasium

from handrail.agents.actors import PolicyActor
from handrail.agents.decoding import Suggestion
from handrail.agents.desk import Desk
from handrail.agents.rollout import Actor, Episode, Played, Reset, rollout
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action
from handrail.envs.spaces import Observation
from handrail.experiments.cluster.config import RayConfig

K = TypeVar("K", bound=Hashable)
Make = Callable[[], gymnasium.Env[Observation, Any]]

ROUNDS = 4
"""Episodes of a share, in those that an environment actor works at once: what is played again if it dies, at most."""


class Request(NamedTuple):
    """One session asks for its next action.

    Attributes:
        key: (number of the share's attempt, key of the session in it).
        observation: with the session's whole history.
        operator: whom the header names, None for the desk's.
        session_id: as in suggestions.
    """

    key: tuple[int, Hashable]
    observation: Observation
    operator: str | None
    session_id: str


class _Waiting(NamedTuple):
    request: Request
    answer: asyncio.Future[Suggestion]
    since: float


class PolicyServer:
    """Answers the requests of many environment actors from one desk. Runs as an asynchronous actor of Ray.

    A batch goes to the desk when it is full, when every running session is in it, or when its first request has waited
    long enough; while the desk works, the next one gathers. At most `max_waiting` requests are queued: who asks for
    more is held up, and with it the environments it steps.

    Args:
        desk: of the policy.
        max_batch, max_wait_s, max_waiting: see `RayConfig`.
    """

    def __init__(self, desk: Desk, max_batch: int, max_wait_s: float, max_waiting: int) -> None:
        self.desk, self.max_batch, self.max_wait_s = desk, max_batch, max_wait_s
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(max_waiting)
        self._open: set[tuple[int, Hashable]] = set()
        self._over: set[tuple[int, Hashable]] = set()
        self._held: set[tuple[int, Hashable]] = set()
        self._left: set[int] = set()
        self._thread = ThreadPoolExecutor(1)
        self._serving: asyncio.Task[None] | None = None
        self.batches: list[int] = []

    async def suggest(self, requests: Sequence[Request], finished: Sequence[tuple[int, Hashable]]) -> list[Suggestion]:
        """Return the next action of each session, after forgetting the sessions that are finished."""
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        await self.forget(finished)
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Suggestion]] = []
        for request in requests:
            self._open.add(request.key)
            answers.append(loop.create_future())
            await self._queue.put(_Waiting(request, answers[-1], time.monotonic()))
        return list(await asyncio.gather(*answers))

    async def forget(self, keys: Iterable[tuple[int, Hashable]]) -> None:
        """Forget sessions; those that are not known are none of the server's."""
        self._over.update(keys)
        self._open.difference_update(keys)

    async def forget_attempt(self, attempt: int) -> None:
        """Forget the sessions of an attempt at a share, and requests of it that nobody waits for any more."""
        self._left.add(attempt)
        await self.forget([key for key in (*self._open, *self._held) if key[0] == attempt])

    async def sizes(self) -> list[int]:
        """Return how many sessions each batch had since the server was started."""
        return self.batches

    async def running(self) -> int:
        """Return how many sessions are not finished."""
        return len(self._open)

    async def process(self) -> int:
        """Return the id of the server's process."""
        return os.getpid()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [one for one in await self._gather() if one.request.key[0] not in self._left]
            over, self._over = self._over, set()
            try:
                found = await loop.run_in_executor(self._thread, self._work, [one.request for one in batch], over)
            except Exception as error:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, suggestion in zip(batch, found, strict=True):
                if not one.answer.done():
                    one.answer.set_result(suggestion)

    async def _gather(self) -> list[_Waiting]:
        """Return the requests that are read together."""
        batch = [await self._queue.get()]
        until = batch[0].since + self.max_wait_s
        while len(batch) < min(self.max_batch, len(self._open)):
            try:
                if self._queue.empty():
                    batch.append(await asyncio.wait_for(self._queue.get(), until - time.monotonic()))
                else:
                    batch.append(self._queue.get_nowait())
            except TimeoutError:
                break
        return batch

    def _work(self, requests: Sequence[Request], over: Iterable[tuple[int, Hashable]]) -> list[Suggestion]:
        for key in self._held.intersection(over):
            self.desk.finish(key)
            self._held.discard(key)
        for request in requests:
            if request.key not in self._held:
                self.desk.begin(request.key, request.operator, request.session_id)
                self._held.add(request.key)
        if not requests:
            return []
        self.batches.append(len(requests))
        found = self.desk.suggest({request.key: request.observation for request in requests})
        return [found[request.key] for request in requests]


class RemoteDesk:
    """A desk whose policy is in a server, for `PolicyActor`.

    Args:
        server: handle of a `PolicyServer`.
        attempt: number that no other desk of this server has.
    """

    def __init__(self, server: Any, attempt: int) -> None:
        self._server, self._attempt = server, attempt
        self._begun: dict[Hashable, tuple[str | None, str]] = {}
        self._finished: list[tuple[int, Hashable]] = []

    def begin(self, key: Hashable, operator: str | None = None, session_id: str | None = None) -> None:
        """Take in a session, as `Desk.begin` does."""
        self._begun[key] = operator, str(key) if session_id is None else session_id

    def finish(self, key: Hashable) -> None:
        """Forget a session; the server is told with the next request."""
        del self._begun[key]
        self._finished.append((self._attempt, key))

    def suggest(self, observations: Mapping[K, Observation]) -> dict[K, Suggestion]:
        """Return the next action of each session, in the order given."""
        import ray

        requests = [Request((self._attempt, key), seen, *self._begun[key]) for key, seen in observations.items()]
        found = ray.get(self._server.suggest.remote(requests, self._finished))
        self._finished = []
        return dict(zip(observations, found, strict=True))


class Environments:
    """Plays shares of the episodes. Runs as an actor of Ray.

    Args:
        make: makes an environment.
        actor: who decides, or the desk's actor without a desk: see `server`.
        slots: episodes at once.
        server: handle of the policy server, where a policy decides.
    """

    def __init__(self, make: Make, actor: Actor | None, slots: int, server: Any) -> None:
        self._make, self._actor, self._slots, self._server = make, actor, slots, server

    def play(self, attempt: int, share: Sequence[tuple[int, Reset]]) -> list[Played]:
        """Return the episodes of a share, in order.

        Args:
            attempt: number that no other call has.
            share: number of each episode among all, and its reset.
        """
        numbers = [number for number, _ in share]
        chosen: Any = self._actor or PolicyActor(RemoteDesk(self._server, attempt))  # type: ignore[arg-type]
        played = rollout(self._make, _Numbered(chosen, numbers), [reset for _, reset in share], self._slots)
        return [replace(one, number=numbers[one.number]) for one in played]


class _Numbered:
    """An actor that knows episodes by their numbers among all, in a rollout of some of them."""

    def __init__(self, actor: Actor, numbers: Sequence[int]) -> None:
        self._actor, self._numbers = actor, numbers

    def begin(self, episode: Episode) -> None:
        self._actor.begin(replace(episode, number=self._numbers[episode.number]))

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        actions = self._actor.act({self._numbers[number]: seen for number, seen in observations.items()})
        return {number: actions[self._numbers[number]] for number in observations if self._numbers[number] in actions}

    def finish(self, number: int) -> None:
        self._actor.finish(self._numbers[number])


class Rollouts:
    """Environment actors and, where a policy decides, its server; for as long as the `with` block lasts.

    Ray has to be connected (`handrail.experiments.cluster.connection.connected`).

    Args:
        make: makes an environment; copied to other processes.
        actor: who decides; copied to other processes, as it is before its first episode.
        slots: episodes at once, over all environment actors.
        config: how many, and how large batches are.

    Attributes:
        server: handle of the `PolicyServer`, None without a policy.
        workers: handles of the `Environments`.
    """

    def __init__(self, make: Make, actor: Actor, slots: int, config: RayConfig) -> None:
        if slots < 1:
            raise HandrailError(f"rollout: slots={slots}, expected at least 1")
        self.config = config
        self._make, self._actor = make, actor
        self._slots = max(1, -(-slots // config.workers))
        self._attempts = itertools.count()
        self.server: Any = None
        self._desk: Any = None
        self.workers: list[Any] = []

    def __enter__(self) -> Rollouts:
        import ray

        config = self.config
        if isinstance(self._actor, PolicyActor):
            served = ray.remote(PolicyServer).options(
                num_cpus=config.server_cpus,
                num_gpus=config.server_gpus,
                max_restarts=config.max_restarts,
                max_task_retries=-1,
                max_concurrency=4 * config.workers + 8,
            )
            # A server that is started again reads the desk again, so the object has to stay.
            self._desk = ray.put(self._actor.desk)
            self.server = served.remote(self._desk, config.max_batch, config.max_wait_s, config.max_waiting)
        self.workers = [self._hired() for _ in range(config.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for actor in (*self.workers, *([self.server] if self.server is not None else [])):
            ray.kill(actor)

    def _hired(self) -> Any:
        """Return a new environment actor."""
        import ray

        # Restarted by Ray it would be refused work until it is up, which looks like dying again.
        hiring = ray.remote(Environments).options(num_cpus=self.config.worker_cpus, max_restarts=0)
        return hiring.remote(self._make, self._actor if self.server is None else None, self._slots, self.server)

    def play(self, resets: Iterable[Reset]) -> Iterator[Played]:
        """Yield one episode a reset, in order.

        Raises:
            HandrailError: a share was begun `max_restarts` times more and its actor died each time.
            Exception: what an environment or the policy raised.
        """
        import ray

        size = ROUNDS * self._slots
        if isinstance(resets, Sized):
            size = max(1, min(size, -(-len(resets) // self.config.workers)))
        numbered = enumerate(resets)
        begun: dict[Any, tuple[int, int, Any, list[tuple[int, Reset]]]] = {}
        free, again = list(self.workers), list[tuple[int, list[tuple[int, Reset]]]]()
        ended: dict[int, Played] = {}
        due = 0
        while True:
            while free:
                tries, share = again.pop() if again else (0, list(itertools.islice(numbered, size)))
                if not share:
                    break
                worker, attempt = free.pop(), next(self._attempts)
                begun[worker.play.remote(attempt, share)] = attempt, tries, worker, share
            if not begun:
                return
            (ready,), _ = ray.wait(list(begun), num_returns=1)
            attempt, tries, worker, share = begun.pop(ready)
            try:
                ended.update((one.number, one) for one in ray.get(ready))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, ray.exceptions.RayActorError):
                    raise HandrailError(
                        f"the policy server died more than ray.max_restarts={self.config.max_restarts} times: "
                        f"{str(error.cause).splitlines()[0]}; see the logs of Ray, or run with ray=off"
                    ) from error
                raise error.cause from error
            except ray.exceptions.RayActorError as error:
                if "creation task" in str(error):  # An error in a constructor comes back on every start.
                    lines = str(error).strip().splitlines()
                    raise HandrailError(f"an environment actor could not be started: {lines[-1]}") from error
                if tries == self.config.max_restarts:
                    raise HandrailError(
                        f"an environment actor died {tries + 1} times at episodes {share[0][0]} to {share[-1][0]}: "
                        f"{str(error).splitlines()[0]}; see the logs of Ray, or play them with ray=off"
                    ) from error
                again.append((tries + 1, share))
                ray.kill(worker)
                self.workers.remove(worker)
                worker = self._hired()
                self.workers.append(worker)
            if self.server is not None:
                self.server.forget_attempt.remote(attempt)
            free.append(worker)
            while due in ended:
                yield ended.pop(due)
                due += 1
