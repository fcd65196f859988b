"""The one thread that owns the engine: all requests' searches run side by side in it and share the engine's batch."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from maxent_ts.engines.base import Engine
from maxent_ts.errors import EngineError
from maxent_ts.rewards.base import Reward
from maxent_ts.search.run import Searches, SearchJob, SearchResult
from maxent_ts.server.errors import QueueFullError, StoppedError
from maxent_ts.types import Completion, Tokens, Usage

__all__ = ["News", "Service"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class News:
    """What a search has to say. It begins, unless it ends at once with an error; it improves; it ends."""

    kind: Literal["began", "improved", "ended"]
    job_id: str
    best: Completion | None = None
    """Of `improved`: the completion of the highest reward so far."""
    result: SearchResult | None = None
    """Of `ended`."""


@dataclass(eq=False, slots=True)
class _Entry:
    job: SearchJob
    reward: Reward
    tell: Callable[[News], None]
    is_followed: bool
    has_begun: bool = False
    last_best: Tokens | None = None


@dataclass(slots=True)
class _Orders:
    """What other threads want, guarded by the service's condition."""

    waiting: deque[_Entry] = field(default_factory=deque)
    cancelled: set[str] = field(default_factory=set)
    num_outstanding: int = 0
    is_stopping: bool = False


class Service:
    """Takes searches from any thread and runs them in its own.

    Args:
        engine: Used by this thread alone from `start` to `stop`.
        max_concurrent: Searches under way at once.
        max_queue: Searches that may wait besides.
        on_end: Told of every search that ends, and whether it was cancelled; called in the service's thread.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_concurrent: int,
        max_queue: int,
        on_end: Callable[[SearchResult, bool], None],
    ) -> None:
        self._engine = engine
        self._max_concurrent, self._max_queue = max_concurrent, max_queue
        self._on_end = on_end
        self._condition = threading.Condition()
        self._orders = _Orders()
        self._live: dict[str, _Entry] = {}
        self._thread = threading.Thread(target=self._run, name="maxent-ts-searches", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End all searches with an error and wait for the thread; what it holds of the engine is given back."""
        with self._condition:
            self._orders.is_stopping = True
            self._condition.notify()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether searches can be run."""
        return self._thread.is_alive() and not self._orders.is_stopping

    @property
    def num_live(self) -> int:
        """Searches under way."""
        return len(self._live)

    @property
    def num_waiting(self) -> int:
        """Searches that have not begun."""
        return len(self._orders.waiting)

    def submit(self, jobs: Sequence[SearchJob], reward: Reward, tell: Callable[[News], None], *, is_followed: bool = False) -> None:
        """Take all of a request's searches, or none.

        Args:
            jobs: The searches; no two that are outstanding may have one id.
            reward: Scores their completions.
            tell: Told what becomes of each; called in the service's thread, so it must be quick.
            is_followed: Whether to tell of improvements.

        Raises:
            QueueFullError: if more would wait than may.
            StoppedError: if the service has stopped.
        """
        with self._condition:
            if not self.is_alive:
                raise StoppedError("The server is shutting down and takes no more requests. Try again later.")
            room = self._max_concurrent + self._max_queue
            if self._orders.num_outstanding + len(jobs) > room:
                raise QueueFullError(
                    f"The server has room for {room} searches, {self._orders.num_outstanding} are outstanding, and this request "
                    f"needs {len(jobs)}. Try again later."
                )
            self._orders.num_outstanding += len(jobs)
            self._orders.waiting.extend(_Entry(job, reward, tell, is_followed) for job in jobs)
            self._condition.notify()

    def cancel(self, job_ids: Iterable[str]) -> None:
        """End searches of which nobody waits for the result; those that have ended are left alone. Nothing more is told of them."""
        with self._condition:
            self._orders.cancelled.update(job_ids)
            self._condition.notify()

    def _run(self) -> None:
        searches = Searches(self._engine)
        try:
            while self._obey(searches):
                try:
                    self._turn(searches)
                except Exception as error:
                    logger.exception("The engine failed; the searches under way end with an error.")
                    searches.close()
                    failure = EngineError("The engine failed while it worked on several requests, this one among them. Try again.")
                    failure.__cause__ = error
                    self._end_all(failure)
        finally:
            with self._condition:
                self._orders.is_stopping = True
            self._end_all(StoppedError("The server is shutting down; the search was ended. Try again later."))
            searches.close()

    def _obey(self, searches: Searches) -> bool:
        """Wait for something to do, let searches go and come; returns False at the end."""
        with self._condition:
            orders = self._orders
            self._condition.wait_for(lambda: orders.is_stopping or orders.cancelled or orders.waiting or searches)
            if orders.is_stopping:
                return False
            cancelled, orders.cancelled = orders.cancelled, set()
            dropped = [entry for entry in orders.waiting if entry.job.id in cancelled]
            orders.waiting = deque(entry for entry in orders.waiting if entry.job.id not in cancelled)
            orders.num_outstanding -= len(dropped)
            leaving = [self._live[one] for one in cancelled if one in self._live]
            num_free = self._max_concurrent - len(self._live) + len(leaving)
            coming = [orders.waiting.popleft() for _ in range(min(num_free, len(orders.waiting)))]
        for entry in dropped:
            self._on_end(SearchResult(entry.job, None, Usage()), True)
        for entry in leaving:
            self._end(searches.cancel(entry.job.id), is_cancelled=True)
        for entry in coming:
            self._live[entry.job.id] = entry
            searches.add(entry.job, entry.reward)
        return True

    def _turn(self, searches: Searches) -> None:
        for result in searches.advance():
            self._end(result)
        for entry in self._live.values():
            if not entry.has_begun:
                entry.has_begun = True
                entry.tell(News("began", entry.job.id))
            if entry.is_followed:
                best = searches.best(entry.job.id)
                if best is not None and best.tokens != entry.last_best:
                    entry.last_best = best.tokens
                    entry.tell(News("improved", entry.job.id, best=best))
        if searches.is_waiting:
            searches.step()

    def _end(self, result: SearchResult, *, is_cancelled: bool = False) -> None:
        entry = self._live.pop(result.job.id)
        with self._condition:
            self._orders.num_outstanding -= 1
        self._on_end(result, is_cancelled)
        if not is_cancelled:
            entry.tell(News("ended", result.job.id, result=result))

    def _end_all(self, error: Exception) -> None:
        """End what is under way; once the service stops also what waits."""
        with self._condition:
            waiting: list[_Entry] = []
            if self._orders.is_stopping:
                waiting = list(self._orders.waiting)
                self._orders.waiting.clear()
            self._live.update({entry.job.id: entry for entry in waiting})
        for entry in list(self._live.values()):
            self._end(SearchResult(entry.job, None, Usage(), error))
