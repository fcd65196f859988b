"""No reward of the registry sees a target: with all of them permuted, every search for it writes the same to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxent_ts.cli.tables import provenance_lines
from maxent_ts.config import make_config
from maxent_ts.engines.base import Capabilities
from maxent_ts.engines.table import TableEngine
from maxent_ts.evaluate import evaluate
from maxent_ts.records import read_run
from maxent_ts.registry import REWARDS
from maxent_ts.report.html import render_report
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.opentslm import HAR_AXES, HAR_LABELS, HarCot, har_prompt
from maxent_ts.types import TimeSeriesPrompt

WORDS = (
    " The x axis varies strongly.",
    " Movement is small, mean 0.5.",
    " 1, 2, 3",
    "\n",
    " Answer: walking",
    " Answer: sitting",
    " Answer: lying",
    "",
)


class Words(TableEngine):
    """Writes phrases; what it writes depends on the series."""

    capabilities = Capabilities(deterministic=True, time_series=True, scores=True)

    def open(self, prompt, policy):
        assert isinstance(prompt, TimeSeriesPrompt)
        digits = [int(abs(1000 * one.values[5])) % len(WORDS) for one in prompt.series]
        return super().open(digits, policy)


class Windows:
    """Windows of three axes, half of them moving."""

    name = "windows"
    labels = HAR_LABELS
    rewards: Mapping[str, float] = {"format": 1.0}
    targets = ("walking", "sitting")

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Example]:
        rng = np.random.default_rng(7)
        items = []
        for index in range(8):
            series = (rng.normal(size=(3, 128)) * (0.1, 2.0)[index % 2] + [[9.8], [0.0], [0.0]]).tolist()
            inputs = {"series": series, "series_names": list(HAR_AXES), "sampling_rate": 50.0, "labels": self.labels}
            target = self.targets[index % 2]
            items.append(Example(f"window/{index}", har_prompt(*series), inputs, target, "all"))
        return items[:limit]

    def answer(self, text: str) -> str | None:
        return HarCot().answer(text)


class PermutedWindows(Windows):
    targets = ("sitting", "lying")


def outputs(task: Windows, reward: str, path: Path) -> tuple[list[dict[str, Any]], list[bool | None]]:
    config = make_config(
        tasks=("windows",),
        methods=tuple({"name": one} for one in ("best_of_n", "weighted_vote", "maxent", "maxent_sample", "smc")),
        rewards=(reward,),
        num_rollouts=6,
        max_new_tokens=4,
        tilt=4.0,
        model="words",
        output_dir=path,
    )
    probabilities = TableEngine.random(num_tokens=len(WORDS), seed=5)._probabilities
    run = evaluate(config, engine=Words(probabilities, WORDS, eos_token_id=len(WORDS) - 1), tasks=[task])
    kept = []
    for record in run.records:
        assert record.error is None, record.error
        values = record.model_dump(exclude={"target", "correct", "scores"})
        values["usage"].pop("seconds")
        kept.append(values)
    return kept, [record.correct for record in run.records]


@pytest.mark.parametrize("reward", REWARDS)
def test_permuting_all_targets_changes_nothing_that_a_search_for_the_reward_writes(reward, tmp_path):
    """Catches the gold answer inside a reward, however it came there; the rewards differ, or the test would be about nothing."""
    kept, correct = outputs(Windows(), reward, tmp_path / "true")
    permuted, other_correct = outputs(PermutedWindows(), reward, tmp_path / "permuted")
    assert kept == permuted
    assert correct != other_correct
    assert len({value for one in kept for value in one["rewards"]}) > 2


def test_a_run_says_of_a_fitted_reward_what_it_is_and_where_it_comes_from(tmp_path):
    """Catches an auxiliary classifier that passes for a reward without gold: in run.json, records, tables and the report."""
    outputs(Windows(), "classifier", tmp_path)
    run = read_run(tmp_path)
    facts = run.info.rewards["windows"]["provenance"]["classifier"]
    assert facts["kind"] == "auxiliary-supervised"
    assert run.records[0].evidence["parts"]["classifier"]["parts"]["classifier"]["sha256"] == facts["sha256"]
    for shown in (*provenance_lines(run.info.rewards["windows"]), render_report(run)):
        assert "auxiliary-supervised" in shown
        assert facts["sha256"][:12] in shown
    outputs(Windows(), "format", tmp_path / "other")
    assert "provenance" not in read_run(tmp_path / "other").info.rewards["windows"]
