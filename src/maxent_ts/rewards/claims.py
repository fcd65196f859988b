"""A reward for text about time series: are its statements true of the series, and are there enough of them?

    value = precision · coverage,   precision = T / N,   coverage = min(1, T / FULL_COVERAGE)

N adds up how informative the distinct checkable statements are (0 to 1 each, see `maxent_ts.rewards.informativeness`), and T the
same times how true they are (0 to 1 each). So a text that says nothing gets 0, a further true statement never lowers the value, a
false one always does, a repeated one changes nothing, remarks that fit any series earn little, and of two statements that
contradict each other the later one counts as false.

No gold text takes part: only the input series is looked at. The idea follows TRUCE (Jhamtani and Berg-Kirkpatrick 2021, arXiv
2110.01839), where captions are generated from programs that hold for the series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maxent_ts.errors import DataError, RewardError
from maxent_ts.rewards.base import Evidence, missing_column
from maxent_ts.rewards.informativeness import informativeness
from maxent_ts.rewards.measure import measure
from maxent_ts.rewards.reader import read
from maxent_ts.rewards.scene import Scene
from maxent_ts.rewards.statements import Statement
from maxent_ts.rewards.truth import judge

__all__ = ["FULL_COVERAGE", "Claims", "Judgement", "judge_text"]

FULL_COVERAGE = 2.5
"""Informative true statements from which on more of them earn nothing."""

_SAME = 1e-9
"""Numbers this close, beyond rounding, are one number."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A statement with how true it is."""

    statement: Statement
    degree: float
    """0 (false) to 1 (true)."""
    weight: float
    """How informative it is, 0 to 1."""
    measured: Mapping[str, Any]
    verdict: str
    """`true`, `partly true`, `false` or `contradicts an earlier statement`."""


def judge_text(text: str, scene: Scene) -> list[Judgement]:
    """Judge every distinct checkable statement of a text, in order."""
    seen: dict[tuple[object, ...], Statement] = {}
    judgements: list[Judgement] = []
    for statement in read(text, scene.names, len(scene.series[0])):
        earlier = seen.get(statement.slot)
        if earlier is not None and _repeats(statement, earlier):
            continue
        result = judge(statement, scene)
        if result is None:
            continue
        degree, measured = result
        if earlier is None:
            seen[statement.slot] = statement
            verdict = "true" if degree >= 0.75 else "false" if degree <= 0.25 else "partly true"
        else:
            degree, verdict = 0.0, "contradicts an earlier statement"
        judgements.append(Judgement(statement, degree, informativeness(statement), measured, verdict))
    return judgements


def _repeats(statement: Statement, earlier: Statement) -> bool:
    if statement.claim == earlier.claim:
        return True
    if statement.kind != "number" or statement.number is None or earlier.number is None:
        return False
    return abs(statement.number - earlier.number) <= max(statement.precision, earlier.precision) + _SAME


class Claims:
    """Precision times saturating coverage of the checkable statements about the series; see the module's docstring.

    Columns it reads: `series` (list of series in raw units), and if present `series_names` and `sampling_rate` (Hz; without
    it statements in Hz or seconds are not counted).
    """

    name = "claims"
    range = (0.0, 1.0)

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return one value per completion.

        Raises:
            RewardError: if there is no column `series`, or a series cannot be measured.
        """
        del prompts, completion_ids
        return [
            _value(judge_text(text, scene))
            for text, scene in zip(completions, self._scenes(columns, len(completions)), strict=True)
        ]

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return value, precision and coverage, and every statement with its words, what was measured, and the verdict."""
        del prompts, completion_ids
        scenes = self._scenes(columns, len(completions))
        return [_evidence(text, judge_text(text, scene)) for text, scene in zip(completions, scenes, strict=True)]

    def _scenes(self, columns: Mapping[str, list[Any]], count: int) -> list[Scene]:
        if "series" not in columns:
            raise missing_column(
                "The reward 'claims' checks statements against the column 'series', which this task does not have.", columns
            )
        nothing: list[Any] = [None] * count
        names = columns.get("series_names") or nothing
        rates = columns.get("sampling_rate") or nothing
        scenes = []
        for index, (series, own_names, rate) in enumerate(zip(columns["series"], names, rates, strict=True)):
            try:
                measured = tuple(measure(one, None if rate is None else float(rate)) for one in series)
            except (DataError, TypeError) as error:
                raise RewardError(f"The reward 'claims' cannot measure the series of example {index}: {error}") from error
            if not measured:
                raise RewardError(
                    f"The reward 'claims' got no series for example {index}. The column 'series' holds a list of series."
                )
            labels = tuple(str(name) for name in own_names) if own_names is not None else ()
            if len(labels) != len(measured):
                labels = tuple(f"series {number}" for number in range(1, len(measured) + 1))
            scenes.append(Scene(measured, labels))
        return scenes


def _sums(judgements: Sequence[Judgement]) -> tuple[float, float]:
    """Return T and N."""
    return sum(each.degree * each.weight for each in judgements), sum(each.weight for each in judgements)


def _value(judgements: Sequence[Judgement]) -> float:
    true, stated = _sums(judgements)
    return true / stated * min(1.0, true / FULL_COVERAGE) if stated > 0.0 else 0.0


def _evidence(text: str, judgements: Sequence[Judgement]) -> Evidence:
    true, stated = _sums(judgements)
    statements = []
    for judgement in judgements:
        statement = judgement.statement
        claimed: dict[str, Any] = {"kind": statement.kind, "value": statement.value, "negated": statement.negated}
        if statement.number is not None:
            claimed["number"] = statement.number
        if statement.place.explicit:
            claimed["place"] = [statement.place.low, statement.place.high]
        statements.append(
            {
                "text": text[statement.start : statement.end],
                "span": [statement.start, statement.end],
                "claimed": claimed,
                "measured": dict(judgement.measured),
                "degree": judgement.degree,
                "weight": judgement.weight,
                "verdict": judgement.verdict,
            }
        )
    return {
        "value": _value(judgements),
        "parts": {
            "precision": {"value": true / stated if stated > 0.0 else 0.0, "num_statements": len(judgements)},
            "coverage": {"value": min(1.0, true / FULL_COVERAGE), "informative_and_true": true},
        },
        "statements": statements,
    }
