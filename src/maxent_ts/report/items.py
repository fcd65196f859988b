"""The items of one task: the series, what each method made of it, and why the reward judged as it did."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from maxent_ts.records import ExampleRecord, Record, Run
from maxent_ts.report.drawing import COLOURS

__all__ = ["MAX_ITEMS", "items", "series_svg"]

MAX_ITEMS = 100
"""Shown for one task, the first of the run; all are in samples.jsonl."""

WIDTH, HEIGHT = 640, 130


def items(run: Run, task: str, groups: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """Return the items that some method tried, in the order of the run, with what each method made of them.

    Args:
        run: The run.
        task: The task's name.
        groups: For each variant its records, failed ones included.
    """
    by_item: dict[str, list[dict[str, Any]]] = {}
    for label, records in groups.items():
        for record in records:
            by_item.setdefault(record.example_id, []).append(_shown(label, record))
    found = []
    for (example_task, example_id), example in run.examples.items():
        if example_task == task and example_id in by_item and len(found) < MAX_ITEMS:
            shown = by_item[example_id]
            verdicts = {one["record"].correct for one in shown if one["record"].correct is not None}
            found.append(
                {
                    "example": example,
                    "series": series_svg(example),
                    "records": shown,
                    "disagree": len(verdicts) > 1,
                    "wrong": False in verdicts,
                    "failed": any(one["record"].error is not None for one in shown),
                }
            )
    return found


def series_svg(example: ExampleRecord) -> Markup:
    """Draw an item's series as plain lines: small enough for a page with hundreds of items.

    All series of an item share one axis, in the data's own unit; its ends are written beside it.
    """
    finite = [value for values in example.series for value in values if math.isfinite(value)]
    if not finite:
        return Markup("")
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    lines = []
    for index, values in enumerate(example.series):
        step = WIDTH / max(len(values) - 1, 1)
        points = " ".join(
            f"{step * i:.1f},{HEIGHT - (value - low) / span * HEIGHT:.1f}" for i, value in enumerate(values) if math.isfinite(value)
        )
        lines.append(f'<polyline points="{points}" stroke="{COLOURS[index % len(COLOURS)]}"/>')
    names = example.series_names if len(example.series) > 1 else []
    legend = "".join(f'<span style="color:{COLOURS[i % len(COLOURS)]}">{escape(name)}</span>' for i, name in enumerate(names))
    steps = max(map(len, example.series))
    return Markup(
        f'<figure class="series"><div class="scale"><span>{high:.4g}</span><span>{low:.4g}</span></div>'
        f'<svg role="img" aria-label="time series" viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" preserveAspectRatio="none">'
        f"{''.join(lines)}</svg>"
        f'<figcaption>{legend}<span class="muted">{steps} steps</span></figcaption></figure>'
    )


def _shown(label: str, record: Record) -> dict[str, Any]:
    parts = record.evidence.get("parts", {})
    statements = list(_statements(record.evidence))
    return {
        "label": label,
        "record": record,
        "parts": {name: part.get("value") if isinstance(part, Mapping) else part for name, part in parts.items()},
        "statements": statements,
        "marginals": sorted(record.marginals.items(), key=lambda one: -one[1][0]),
        "evidence": "" if statements or not record.evidence else json.dumps(record.evidence, indent=2, ensure_ascii=False),
    }


def _statements(evidence: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every judged statement in a reward's evidence, wherever the reward put it."""
    if isinstance(evidence, Mapping):
        for name, value in evidence.items():
            if name == "statements" and isinstance(value, list):
                yield from (one for one in value if isinstance(one, Mapping) and "text" in one)
            else:
                yield from _statements(value)
