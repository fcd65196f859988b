"""Which request goes to a server next: few at a time, in an order that its prefix cache likes."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from maxent_ts.types import Tokens

__all__ = ["Gate"]


@dataclass(eq=False, frozen=True, slots=True)
class _Waiting:
    group: int
    prefix: Tokens
    number: int
    turn: asyncio.Future[None]


class Gate:
    """Lets at most `limit` requests through at once: of the group with the fewest under way, the nearest to what was computed last.

    A group is the requests of one prompt. One at a time they go group by group, and each finds in the server's cache what the
    last one left. Several at a time are of several groups as far as there are any: a server that keeps a cache for each of its
    slots, as llama.cpp does, then needs every prompt in one slot only; `one_of_each` keeps a second request of a group waiting.

    A slot holds one sequence, and a request computes what its prefix does not share with it. So of a group goes first whose
    prefix shares the most with the sequence that was `left` last, and of several the shortest. That computes every edge of the
    tree that the waiting prefixes span once at most, and none that the slot holds: no order of the same requests needs less.

    A choice waits until the event loop has been round twice, so that requests which begin together are chosen from together,
    and an answer's next request is there when its place is given away.

    The limit is halved when the server says that it has too much to do, and grows back with every answer.
    """

    def __init__(self, most: int) -> None:
        self.limit: float = most
        self.one_of_each = False
        """Whether at most one request of a group goes at once."""
        self._most = most
        self._num_open: Counter[int] = Counter()
        self._left: dict[int, Tokens] = {}
        self._numbers = itertools.count()
        self._waiting: list[_Waiting] = []
        self._is_waking = False

    @asynccontextmanager
    async def turn(self, group: int, prefix: Tokens = ()) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        one = _Waiting(group, prefix, next(self._numbers), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._wake_soon()
        try:
            await one.turn
        except asyncio.CancelledError:
            if one.turn.done() and not one.turn.cancelled():
                self._leave(group)
            raise
        try:
            yield
        finally:
            self._leave(group)

    def leave(self, group: int, tokens: Tokens) -> None:
        """Note the sequence behind a group's prompt that the server computed last."""
        self._left[group] = tokens

    def forget(self, group: int) -> None:
        """A group has ended."""
        self._left.pop(group, None)

    def narrow(self) -> None:
        """Let half as many through."""
        self.limit = max(1.0, self.limit / 2)

    def bound(self, most: int) -> None:
        """Never let more than so many through."""
        self._most = min(self._most, most)
        self.limit = min(self.limit, float(self._most))

    def widen(self) -> None:
        """Let one more through for every `limit` answers."""
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def _leave(self, group: int) -> None:
        self._num_open[group] -= 1
        if not self._num_open[group]:
            del self._num_open[group]
        self._wake_soon()

    def _wake_soon(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        self._waiting = [one for one in self._waiting if not one.turn.done()]
        while self._waiting and self._num_open.total() < int(self.limit):
            group = min({one.group for one in self._waiting}, key=lambda group: (self._num_open[group], group))
            if self.one_of_each and self._num_open[group]:
                return
            chosen = self._nearest(group)
            self._waiting.remove(chosen)
            self._num_open[group] += 1
            chosen.turn.set_result(None)

    def _nearest(self, group: int) -> _Waiting:
        left = self._left.get(group, ())

        def distance(one: _Waiting) -> tuple[int, int, Tokens, int]:
            return -_num_common(one.prefix, left), len(one.prefix), one.prefix, one.number

        return min((one for one in self._waiting if one.group == group), key=distance)


def _num_common(one: Tokens, two: Tokens) -> int:
    """Length of what two sequences begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
