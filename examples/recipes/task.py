"""A task: which way does a noisy series go?"""

import numpy as np

from maxent_ts.tasks.base import Example
from maxent_ts.tasks.subset import stratified_subset
from maxent_ts.types import SeriesSegment, TimeSeriesPrompt

NUM_ITEMS = 60
LENGTH = 64
QUESTION = "Describe the series, then end with 'Answer: ' and one of: rising, falling, level."


class Trend:
    """Sixty series made from a seed: a slope of +1, −1 or 0 and noise of a third of that."""

    name = "trend"
    labels = ("rising", "falling", "level")
    rewards = {"claims": 0.5, "format": 0.5}  # noqa: RUF012 - read, never written

    def examples(self, *, data_dir=None, limit=None, seed=0):
        """Return the items, or a seeded subset with as much of each label. There are no files, so `data_dir` is not used."""
        items = [self._example(index) for index in range(NUM_ITEMS)]
        return [items[index] for index in stratified_subset([item.stratum for item in items], limit, seed)]

    def answer(self, text):
        """Return the label behind the last 'Answer:', None if there is none."""
        last = text.rpartition("Answer:")[2].strip().rstrip(".") if "Answer:" in text else None
        return last if last in self.labels else None

    def _example(self, index):
        target = self.labels[index % len(self.labels)]
        slope = {"rising": 1.0, "falling": -1.0, "level": 0.0}[target]
        noise = np.random.default_rng((7, index)).normal(scale=1 / 3, size=LENGTH)
        values = (slope * np.linspace(-1, 1, LENGTH) + noise).tolist()
        return Example(
            id=f"{index:03d}",  # names the item's records and random streams: stable, whatever the subset
            prompt=TimeSeriesPrompt(QUESTION, (SeriesSegment("The series:", tuple(values)),), "Answer:"),
            inputs={"series": [values], "series_names": ["value"], "labels": self.labels, "task": "trend"},  # what rewards see
            target=target,  # what metrics alone see
            stratum=target,
        )
