"""What the workers of a Ray cluster load in tests: items enough to be stopped in the middle, and rewards that end their process."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxent_ts.engines.table import TableEngine
from maxent_ts.tasks.base import Example

FIRST_LETTER_OF_A_KILLER = 4


def mark() -> Path:
    """A file of this run of the tests, made by the process that is killed; its name comes to the workers by their environment."""
    return Path(tempfile.gettempdir()) / f"maxent_ts_killed_{os.environ['MAXENT_TS_TEST_MARK']}"


class Letters:
    """Continue three letters."""

    name = "letters"
    labels = ("a", "b")
    rewards: Mapping[str, float] = {f"{__file__}:share_of_a": 1.0}

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Example]:
        prompts = [[index % 5, index // 5 % 5, index // 25 % 5] for index in range(120)]
        return [Example(f"item/{i}", prompt, {"first": prompt[0]}, "ab"[i % 2], "ab"[i % 2]) for i, prompt in enumerate(prompts)][
            :limit
        ]

    def answer(self, text: str) -> str | None:
        return text[-1] if text[-1:] in self.labels else None


class PausingTable(TableEngine):
    """Takes a while for every step."""

    pause = 0.005

    def step(self) -> list[Any]:
        time.sleep(self.pause)
        return super().step()


def make_engine(model: str, *, dtype: str, device: str) -> TableEngine:
    return PausingTable.random(num_tokens=6, concentration=0.5)


class OfThisProcess(TableEngine):
    """An engine unlike that of any other process."""

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "process": os.getpid()}


def make_engine_of_this_process(model: str, *, dtype: str, device: str) -> TableEngine:
    return OfThisProcess.random(num_tokens=6, concentration=0.5)


def share_of_a(completions: list[str], **columns: list[Any]) -> list[float]:
    return [text.count("a") / max(1, len(text)) for text in completions]


def kills_its_process_once(completions: list[str], first: list[int], **columns: list[Any]) -> list[float]:
    if FIRST_LETTER_OF_A_KILLER in first:
        try:
            os.close(os.open(mark(), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return share_of_a(completions)
        os.kill(os.getpid(), signal.SIGKILL)
    return share_of_a(completions)


def kills_its_process(completions: list[str], first: list[int], **columns: list[Any]) -> list[float]:
    if FIRST_LETTER_OF_A_KILLER in first:
        os.kill(os.getpid(), signal.SIGKILL)
    return share_of_a(completions)


def fails_on_ee(completions: list[str], **columns: list[Any]) -> list[float]:
    if any("ee" in text for text in completions):
        raise ValueError("two e in a row")
    return share_of_a(completions)
