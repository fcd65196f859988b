"""A reward for the form of a completion: does it end, in the way it was asked to, without looping?

The value is the weighted mean of the parts below, each in [0, 1]. A part that cannot be judged (no `finish_reasons`) is left
out. An empty completion gets 0.

With labels (`labels` is not empty):
    answer 0.5      "Answer: <label>" stands once, at the very end; 0.3 of it if the end is right but "Answer:" comes more often.
    ended 0.2       The model ended the text itself; 0 where it was cut at the length limit.
    rationale 0.1   Words stand before the sentence of the answer, none of them a label.
    paragraph 0.1   No line break inside.
    no_loop 0.1     1 while at most 10 % of the runs of four words are repetitions, 0 from 40 %.

Without labels:
    ended 0.4       As above.
    punctuation 0.2 The last character ends a sentence.
    length 0.2      1 from 6 to 160 words, falling to 0 at no words and at 320.
    no_loop 0.2     As above.

An unfinished text is worth the most that it can still become: a label named too early, a line break, what stands behind "Answer:"
and is no label, and words beyond the limit are not made good again. A loop can be, by going on without it.

The rules are those of OpenTSLM's prompts (arXiv 2510.02410): one paragraph, no label before the final sentence, "Answer: " at
the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from maxent_ts.rewards.base import Evidence

__all__ = ["Format", "rationale_and_label"]

_WITH_LABELS = {"answer": 0.5, "ended": 0.2, "rationale": 0.1, "paragraph": 0.1, "no_loop": 0.1}
_WITHOUT_LABELS = {"ended": 0.4, "punctuation": 0.2, "length": 0.2, "no_loop": 0.2}

_REPEATED_ANSWER = 0.3
_RUN = 4
_LOOP_FREE, _LOOP = 0.1, 0.4
_MIN_WORDS, _MAX_WORDS = 6, 160

_ANSWER = "Answer:"
_AROUND_A_LABEL = " \t.,!?;:\"'`*"
_PIECE = re.compile(r"[^\W_]+|\S")
_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
_CLOSING = "\"')]”’»*`"


class Format:
    """Weighted mean of the parts in the module's docstring.

    Columns it reads, both optional: `labels` (possible answers of each example) and `finish_reasons` ("eos", "stop", "length").
    """

    name = "format"
    range = (0.0, 1.0)

    def __call__(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return one value per completion."""
        return [
            evidence["value"]
            for evidence in self.explain(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        ]

    def prefix(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float | None]:
        """Return for each unfinished text the least upper bound known of its value, however it goes on."""
        del prompts, completion_ids
        labels = columns.get("labels") or [None] * len(completions)
        return [_bound(*row) for row in zip(completions, labels, strict=True)]

    def explain(
        self, *, prompts: list[Any], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Evidence]:
        """Return the value with its parts, their weights and what was found."""
        del prompts, completion_ids
        nothing: list[Any] = [None] * len(completions)
        labels = columns.get("labels") or nothing
        reasons = columns.get("finish_reasons") or nothing
        return [_judge(*row) for row in zip(completions, labels, reasons, strict=True)]


def rationale_and_label(text: str, labels: Sequence[str]) -> tuple[str, str | None]:
    """Return what stands before the last "Answer:", and the label behind it as `labels` has it; None if that is no label."""
    before, marker, tail = text.rpartition(_ANSWER)
    stated = tail.strip().strip(_AROUND_A_LABEL).lower() if marker else ""
    return before, next((label for label in labels if label.lower() == stated), None)


def _judge(text: str, labels: Sequence[str] | None, reason: str | None) -> Evidence:
    body = text.strip()
    weights = _WITH_LABELS if labels else _WITHOUT_LABELS
    parts: dict[str, dict[str, Any]] = _with_labels(body, labels) if labels else _without_labels(body)
    if reason is not None:
        parts["ended"] = {"value": float(reason != "length"), "finish_reason": reason}
    loop = _repetition(body)
    parts["no_loop"] = {"value": _fall(loop, _LOOP_FREE, _LOOP), "repeated_runs": loop}
    if not body:
        for part in parts.values():
            part["value"] = 0.0
    for name, part in parts.items():
        part["weight"] = weights[name]
    total = sum(part["weight"] for part in parts.values())
    value = sum(part["weight"] * part["value"] for part in parts.values()) / total
    return {"value": min(value, 1.0), "parts": {name: parts[name] for name in weights if name in parts}}


def _bound(text: str, labels: Sequence[str] | None) -> float:
    """Return the most that a text which begins so can get."""
    body = text.strip()
    if not labels:
        lost = 1.0 - _fall(len(_words(body)), _MAX_WORDS, 2 * _MAX_WORDS)
        return 1.0 - _WITHOUT_LABELS["length"] * lost
    bound = 1.0 - _WITH_LABELS["paragraph"] * ("\n" in body)
    before, marker, tail = text.rpartition(_ANSWER)
    if not marker:
        before = text
    stated = tail.strip().strip(_AROUND_A_LABEL).lower()
    can_end = any(label.lower().startswith(stated) for label in labels)
    if marker and (_ANSWER in before or not can_end):
        bound -= _WITH_LABELS["answer"] * (1.0 - _REPEATED_ANSWER)
    if marker and not can_end:  # another "Answer:" must come, and all of this stands before it
        before = text
    ends = [match.end() for match in _SENTENCE_END.finditer(before)]
    if ends and _label_pattern(tuple(labels)).search(before[: ends[-1]]):
        bound -= _WITH_LABELS["rationale"]
    return bound


def _with_labels(body: str, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    before, marker, tail = body.rpartition(_ANSWER)
    stated = tail.strip(_AROUND_A_LABEL) if marker else ""
    valid = stated.lower() in {label.lower() for label in labels}
    count = body.count(_ANSWER)
    answer = 0.0 if not valid else 1.0 if count == 1 else _REPEATED_ANSWER
    rationale = before.strip()
    # What precedes "Answer:" within its own sentence belongs to the last sentence, where labels may be named.
    ends = [match.end() for match in _SENTENCE_END.finditer(rationale + " ")] if marker else []
    early = rationale[: ends[-1]] if ends else ("" if marker else body)
    named = sorted({match.group().lower() for match in _label_pattern(tuple(labels)).finditer(early)})
    has_words = bool(_PIECE.search(rationale if marker else body))
    return {
        "answer": {"value": answer, "stated": stated, "num_answers": count},
        "rationale": {"value": float(has_words and not named), "labels_named_early": named},
        "paragraph": {"value": float("\n" not in body)},
    }


def _without_labels(body: str) -> dict[str, dict[str, Any]]:
    num_words = len(_words(body))
    length = min(num_words / _MIN_WORDS, _fall(num_words, _MAX_WORDS, 2 * _MAX_WORDS), 1.0)
    return {
        "punctuation": {"value": float(body.rstrip(_CLOSING).endswith((".", "!", "?", "…", "。", "！", "？")))},
        "length": {"value": length, "num_words": num_words},
    }


@lru_cache(maxsize=64)
def _label_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(labels, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(label) for label in longest_first)})(?!\w)", re.IGNORECASE)


def _words(text: str) -> list[str]:
    return [piece for piece in _PIECE.findall(text.lower()) if piece[0].isalnum()]


def _repetition(text: str) -> float:
    """Return the share of runs of four words that occurred before; 0 for texts shorter than that."""
    words = _words(text)
    runs = [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def _fall(value: float, full_until: float, zero_from: float) -> float:
    return min(max((zero_from - value) / (zero_from - full_until), 0.0), 1.0)
