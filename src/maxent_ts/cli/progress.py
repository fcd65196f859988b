"""Progress on standard error: a bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from maxent_ts.cli.shared import note
from maxent_ts.evaluate import Estimate, Silent, Watcher
from maxent_ts.records import Record, RunInfo
from maxent_ts.search.run import Event

__all__ = ["make_watcher"]

SECONDS_BETWEEN_LINES = 10.0


class _Counting(Silent):
    """Counts what both kinds of progress show."""

    def __init__(self) -> None:
        self.num_items = self.num_done = self.num_failed = 0
        self.num_done_before = 0
        self._started = time.perf_counter()
        self._tokens_of_earlier_tasks = self._tokens = 0

    def started(self, info: RunInfo, num_items: int, num_finished: int) -> None:
        names = ("model", "server", "level", "device", "dtype")
        shown = [str(info.engine[name]) for name in names if info.engine.get(name)]
        if info.engine.get("embedder"):
            shown.append(f"input embeddings of {info.engine['embedder']}")
        note(f"{info.engine.get('engine', 'engine')}: {', '.join(shown)}" if shown else str(info.engine.get("engine", "")))
        self.num_items, self.num_done, self.num_done_before = num_items, num_finished, num_finished
        self._started = time.perf_counter()

    def event(self, event: Event) -> None:
        if event.kind != "step":  # between two steps some searches are neither live nor counted
            return
        if event.generated_tokens < self._tokens:  # the driver counts anew for each task
            self._tokens_of_earlier_tasks += self._tokens
        self._tokens = event.generated_tokens

    def recorded(self, record: Record) -> None:
        self.num_done += 1
        self.num_failed += record.error is not None

    def estimated(self, estimate: Estimate) -> None:
        self.say(
            f"Estimate from {estimate.num_searches} searches: the other {estimate.num_left} generate about "
            f"{estimate.generated_tokens:,.0f} tokens (at most {estimate.generated_tokens_at_most:,}) in about "
            f"{estimate.seconds:.0f} s."
        )

    def say(self, text: str) -> None:
        note(text)

    @property
    def tokens_per_second(self) -> float:
        return (self._tokens_of_earlier_tasks + self._tokens) / max(1e-9, time.perf_counter() - self._started)

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the pace since this start; None before the first record."""
        num_done_now = self.num_done - self.num_done_before
        if num_done_now == 0:
            return None
        return (time.perf_counter() - self._started) / num_done_now * (self.num_items - self.num_done)


class _Lines(_Counting):
    """A line every so often."""

    def __init__(self) -> None:
        super().__init__()
        self._said = time.perf_counter()

    def started(self, info: RunInfo, num_items: int, num_finished: int) -> None:
        super().started(info, num_items, num_finished)
        earlier = f", {num_finished} of them finished earlier" if num_finished else ""
        note(f"{num_items} searches{earlier}")

    def event(self, event: Event) -> None:
        super().event(event)
        self._say()

    def recorded(self, record: Record) -> None:
        super().recorded(record)
        self._say(at_once=self.num_done == self.num_items)

    def _say(self, *, at_once: bool = False) -> None:
        now = time.perf_counter()
        if at_once or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            left = self.seconds_left
            eta = "" if left is None else f", about {left:.0f} s left"
            note(f"{self.num_done}/{self.num_items} searches, {self.tokens_per_second:.0f} tokens/s, {self.num_failed} failed{eta}")


class _Bar(_Counting):
    """A bar with tokens per second, failures and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("searches"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def started(self, info: RunInfo, num_items: int, num_finished: int) -> None:
        super().started(info, num_items, num_finished)
        self._bar = self._progress.add_task("searches", total=num_items, completed=num_finished, pace="")
        self._progress.start()

    def event(self, event: Event) -> None:
        super().event(event)
        self._show()

    def recorded(self, record: Record) -> None:
        super().recorded(record)
        self._show()

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def ended(self, summary: Mapping[str, Any] | None) -> None:
        super().ended(summary)
        self._progress.stop()

    def _show(self) -> None:
        pace = f"{self.tokens_per_second:.0f} tokens/s, {self.num_failed} failed"
        self._progress.update(self._bar, completed=self.num_done, pace=pace)


def make_watcher(*, quiet: bool) -> Watcher:
    """Return what fits standard error: a bar in a terminal, lines in a file or pipe, nothing if `quiet`."""
    if quiet:
        return Silent()
    return _Bar() if sys.stderr.isatty() else _Lines()
