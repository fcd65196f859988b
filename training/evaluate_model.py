"""Measure a soft-prompt model: greedy accuracy on subject-disjoint windows, sampled texts, and the controls.

    python training/evaluate_model.py --shared ../shared/data --model src/maxent_ts/assets/model --split test

`--split validation` uses the three training subjects held out by `data.har_training`; choose settings on that one only.
`--split embedded` uses the windows and series in the package, which are a subset of the test part. Captions are written for the
package's series with it, for the validation series otherwise. `statements_true` is the share of checkable statements that the
reward `claims` finds true of the series.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, f1_score

from controls import feature_accuracy, prompt_number_accuracy
from data import HarItem, har_frame, har_training, m4_training
from maxent_ts.models.softprompt import SoftPromptModel
from maxent_ts.rewards.claims import Claims
from maxent_ts.tasks.opentslm import HAR_AXES, HAR_LABELS, HarCot, M4Caption, har_prompt, m4_prompt
from maxent_ts.types import TimeSeriesPrompt

ANSWER = "Answer: "


@torch.inference_mode()
def write(
    model: SoftPromptModel, prompts: Sequence[TimeSeriesPrompt], *, do_sample: bool, max_new_tokens: int
) -> list[tuple[str, bool]]:
    """Return for each prompt what the model writes, and whether it ended by itself. Batched with padding on the left."""
    results = []
    for first in range(0, len(prompts), 64):
        rows = [model.embed(prompt) for prompt in prompts[first : first + 64]]
        length = max(len(row) for row in rows)
        embeddings = torch.zeros(len(rows), length, rows[0].shape[1])
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for index, row in enumerate(rows):
            embeddings[index, length - len(row) :] = row
            mask[index, length - len(row) :] = 1
        tokens = model.language_model.generate(
            inputs_embeds=embeddings, attention_mask=mask, do_sample=do_sample, max_new_tokens=max_new_tokens, top_k=0
        )
        for ids in tokens.tolist():
            ended = model.tokenizer.eos_token_id in ids
            results.append((model.tokenizer.decode(ids, skip_special_tokens=True), ended))
    return results


def answer(text: str, ended: bool) -> str | None:
    """Return the label after the last "Answer: ", None unless it is one of the eight and the text ended there."""
    _, found, label = text.rpartition(ANSWER)
    return label if found and ended and label in HAR_LABELS else None


def accuracy_report(model: SoftPromptModel, items: Sequence[HarItem], *, do_sample: bool) -> dict[str, object]:
    """Write a rationale for each window and score the answers."""
    written = write(model, [har_prompt(*item[:3]) for item in items], do_sample=do_sample, max_new_tokens=50)
    answers = [answer(text, ended) for text, ended in written]
    gold = [item[3] for item in items]
    labels = sorted(set(gold))
    return {
        "windows": len(items),
        "accuracy": round(float(np.mean([one == other for one, other in zip(answers, gold, strict=True)])), 4),
        "macro_f1": round(
            float(f1_score(gold, [one or "none" for one in answers], labels=labels, average="macro", zero_division=0)), 4
        ),
        "valid": round(float(np.mean([one is not None for one in answers])), 4),
        "distinct_texts": len({text for text, _ in written}),
        "statements_true": statements_true([text for text, _ in written], [item[:3] for item in items], HAR_AXES),
        "labels": labels,
        "confusion": confusion_matrix(gold, [one or "none" for one in answers], labels=[*labels, "none"])[: len(labels)].tolist(),
        "examples": [text for text, _ in written[:: max(1, len(written) // 6)]],
    }


def caption_report(model: SoftPromptModel, series: Sequence[Sequence[float]], *, do_sample: bool) -> dict[str, object]:
    """Write a caption for each series."""
    written = write(model, [m4_prompt(one) for one in series], do_sample=do_sample, max_new_tokens=50)
    return {
        "series": len(series),
        "ended": round(float(np.mean([ended for _, ended in written])), 4),
        "distinct_texts": len({text for text, _ in written}),
        "statements_true": statements_true([text for text, _ in written], [[one] for one in series], ("series",)),
        "examples": [text for text, _ in written[:: max(1, len(written) // 8)]],
    }


def statements_true(texts: list[str], series: Sequence[Sequence[Sequence[float]]], names: Sequence[str]) -> float:
    """Return the share of statements, over all texts, that are true of the series."""
    evidence = Claims().explain(
        prompts=list(texts),
        completions=texts,
        completion_ids=[[]] * len(texts),
        series=list(series),
        series_names=[list(names)] * len(texts),
    )
    verdicts = [statement["verdict"] == "true" for one in evidence for statement in one["statements"]]
    return round(float(np.mean(verdicts)), 4)


def as_items(frame) -> list[HarItem]:
    """Turn the table of windows into (x, y, z, label)."""
    return list(zip(frame["x_axis"], frame["y_axis"], frame["z_axis"], frame["label"], strict=True))


def main() -> None:
    """Parse the command line and print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder with the parquet files")
    parser.add_argument("--model", type=Path, default=Path("src/maxent_ts/assets/model"))
    parser.add_argument("--split", choices=["validation", "test", "embedded"], default="validation")
    parser.add_argument("--limit", type=int, help="a seeded random subset of so many windows")
    parser.add_argument("--controls", action="store_true", help="fit the two control classifiers too")
    parser.add_argument("--sampled", action="store_true", help="score one sample at temperature 1 per window too")
    parser.add_argument("--captions", type=int, default=100, help="write captions for at most so many series")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = SoftPromptModel.from_directory(args.model, dtype=torch.float32, device="cpu")
    train = har_training(args.shared) + ([] if args.split == "validation" else har_training(args.shared, validation=True))
    series = [values for _, values in m4_training(args.shared, validation=True)]
    if args.split == "embedded":
        items = [(*(np.array(axis) for axis in one.inputs["series"]), str(one.target)) for one in HarCot().examples()]
        series = [one.inputs["series"][0] for one in M4Caption().examples()]
    elif args.split == "test":
        items = as_items(har_frame(args.shared, "test"))
    else:
        items = har_training(args.shared, validation=True)
    if args.limit is not None and args.limit < len(items):
        items = [items[index] for index in np.random.default_rng(0).choice(len(items), args.limit, replace=False)]
    started = time.monotonic()
    report: dict[str, object] = {"split": args.split, "greedy": accuracy_report(model, items, do_sample=False)}
    if args.sampled:
        report["sampled"] = accuracy_report(model, items, do_sample=True)
    if args.captions:
        report["captions, greedy"] = caption_report(model, series[: args.captions], do_sample=False)
        report["captions, sampled"] = caption_report(model, series[: args.captions], do_sample=True)
    report["seconds"] = round(time.monotonic() - started, 1)
    if args.controls:
        report["control: six numbers in the prompt"] = round(prompt_number_accuracy(train, items), 4)
        report["control: features"] = round(feature_accuracy(train, items), 4)
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
