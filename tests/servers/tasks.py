"""Tasks for engines on servers, loaded from this file as a user's would be."""

from __future__ import annotations

from maxent_ts.tasks.base import Example
from maxent_ts.types import SeriesSegment, TimeSeriesPrompt


class Letters:
    name, labels, rewards = "letters", (), {f"{__file__}:share_of_l": 1.0}

    def examples(self, *, data_dir=None, limit=None, seed=0):
        return [Example(f"item/{i}", "abcdef"[i : i + 2], {}, None, "") for i in range(3)]

    def answer(self, text):
        return None

    def metrics(self, example, text, completions):
        return {}


class Series(Letters):
    name = "series_of_the_test"

    def examples(self, *, data_dir=None, limit=None, seed=0):
        series = [(SeriesSegment("c", (0.5, -0.5, i)),) for i in range(2)]
        return [Example(f"item/{i}", TimeSeriesPrompt("ab", one, "d"), {}, None, "") for i, one in enumerate(series)]


def share_of_l(completions, **_):
    return [text.count("l") / max(1, len(text)) for text in completions]
