"""A task, a reward and an engine small enough to run an evaluation in a moment. Named on command lines as `file.py:name`."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.base import Rollouts
from maxent_ts.tasks.base import Example
from maxent_ts.types import Completion, Marginal, Outcome, SeriesSegment, TimeSeriesPrompt

NUM_ITEMS = 12


class LetterTask:
    """Continue three letters; the last letter of the text is the answer."""

    name = "letters"
    labels = ("a", "b")
    rewards: Mapping[str, float] = {f"{__file__}:share_of_a": 1.0}

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Example]:
        items = [
            Example(
                id=f"item/{index}",
                prompt=[index % 5, index % 3, index % 2],
                inputs={"series": [[float(index), 1.0, 2.0, 1.5]], "series_names": ["level"], "labels": self.labels},
                target="ab"[index % 2],
                stratum="ab"[index % 2],
            )
            for index in range(NUM_ITEMS)
        ]
        return items[:limit]

    def answer(self, text: str) -> str | None:
        return text[-1] if text[-1:] in self.labels else None


class FreeTask(LetterTask):
    """The same without labels."""

    name = "free"
    labels = ()

    def answer(self, text: str) -> str | None:
        return None


def share_of_a(prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]) -> list[float]:
    return [text.count("a") / max(1, len(text)) for text in completions]


def score_e(completions: list[str], **columns: list[Any]) -> list[float]:
    return [text.count("e") - 2.0 * text.count("a") for text in completions]


def fails_on_ee(prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]) -> list[float]:
    if any("ee" in text for text in completions):
        raise ValueError("two e in a row")
    return share_of_a(prompts, completions, completion_ids)


class SlowTable(TableEngine):
    """Finishes one job at a time, after a pause, so that a run can be stopped in its middle."""

    pause = float(os.environ.get("TEST_ENGINE_PAUSE", "0"))

    def step(self) -> list[Any]:
        time.sleep(self.pause)
        others = self._queue.copy()
        self._queue.clear()
        self._queue.append(others.popleft())
        finished = super().step()
        self._queue.extend(others)
        return finished


def make_engine(model: str, *, dtype: str, device: str) -> TableEngine:
    return SlowTable.random(num_tokens=6, concentration=0.5)


class TextTask(LetterTask):
    """Prompts as text, for engines with a tokenizer."""

    name = "texts"

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Example]:
        prompts = [f"{first}{second} " for first in "abcd" for second in "xyz"]
        return [Example(f"text/{prompt}", prompt, {"labels": self.labels}, "ab"[len(prompt) % 2], "x") for prompt in prompts][
            :limit
        ]


class BadPrompts(TextTask):
    """One prompt that works between three that cannot."""

    name = "bad"

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Example]:
        series = TimeSeriesPrompt("look", (SeriesSegment("series", (0.0, 1.0, 2.0, 3.0)),), "now")
        prompts = {"good": "abc", "empty": "", "long": "a" * 500, "series": series}
        return [Example(name, prompt, {"labels": self.labels}, "a", "x") for name, prompt in prompts.items()]


class ConstantSeries(LetterTask):
    """A series without variation, and one of two points, for rewards that measure."""

    name = "constant"
    rewards: Mapping[str, float] = {"claims": 0.5, "format": 0.5}

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Example]:
        items = super().examples()[:2]
        columns = {"series_names": ["level"], "labels": self.labels}
        return [replace(item, inputs={"series": [[9.81] * size], **columns}) for item, size in zip(items, (32, 4), strict=True)]


def is_nan_on_c(prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]) -> list[float]:
    return [math.nan if "c" in text else 1.0 for text in completions]


def too_few(prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]) -> list[float]:
    return []


def estimates(rng, target):
    """Return numbers of every kind, and what a method knows of answers."""
    (rollout,) = (yield Rollouts()).rollouts
    completion = Completion(rollout.tokens, sum(rollout.logprobs), rollout.finish_reason, 0.5)
    info = {"pareto_k": -math.inf, "pareto_k_limit": math.nan, "log_z_high": np.float64(math.inf), "num_fresh_draws": 3}
    marginals = {"a": Marginal(0.25, 0.125, 0.5), "b": Marginal(1.0, 0.0, 1.0)}
    return Outcome((completion,), (1.0,), (0,), info, None, marginals)


class WordTable(TableEngine):
    """Takes any prompt, and writes words with which claims are made and answers given."""

    words = ("rises ", "falls ", "flat. ", "Answer: ", "sitting", "Wake", "(b)", "no", "rising", "")

    def __init__(self) -> None:
        letters = TableEngine.random(num_tokens=len(self.words))
        super().__init__(letters._probabilities, self.words, eos_token_id=len(self.words) - 1)

    def open(self, prompt: Any, policy: Any) -> Any:
        return super().open([zlib.crc32(repr(getattr(prompt, "pre_prompt", prompt)).encode()) % (len(self.words) - 1)], policy)


def make_word_engine(model: str, *, dtype: str, device: str) -> TableEngine:
    return WordTable()
