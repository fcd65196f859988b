"""What is written down about an item: its record, its search tree with texts, and the item itself in a readable form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from maxent_ts.engines.base import Engine
from maxent_ts.fingerprint import plain
from maxent_ts.records import ExampleRecord, Record
from maxent_ts.rewards.base import Reward
from maxent_ts.scoring import graded_fields
from maxent_ts.search.run import SearchResult
from maxent_ts.tasks.base import Example, Task, measure_function
from maxent_ts.types import Embeddings, Outcome, Prompt, TimeSeriesPrompt

__all__ = ["example_record", "filled_record", "readable_prompt", "task_measures", "tree_with_texts", "with_evidence"]


def filled_record(
    record: Record, task: Task, reward: Reward, example: Example, outcome: Outcome, result: SearchResult, scorer: str = "clean"
) -> Record:
    """Return the record with everything there is to say about an outcome."""
    best = outcome.best
    (evidence,) = _evidence(reward, example, outcome, result, outcome.chosen[:1])
    texts = [completion.text for completion in outcome.completions]
    return record.model_copy(
        update={
            "text": best.text,
            "tokens": list(best.tokens),
            "logprob": best.logprob,
            "finish_reason": best.finish_reason,
            "reward": best.reward,
            "evidence": evidence,
            **graded_fields(task, example, texts, outcome.chosen[0], scorer),
            "measures": task_measures(task, example, best.text, texts, outcome.weights),
            "num_completions": len(outcome.completions),
            "chosen": list(outcome.chosen),
            "texts": texts,
            "completion_ids": [list(completion.tokens) for completion in outcome.completions],
            "finish_reasons": [completion.finish_reason for completion in outcome.completions],
            "rewards": [completion.reward for completion in outcome.completions],
            "logprobs": [completion.logprob for completion in outcome.completions],
            "other_logprobs": {name: list(values) for name, values in result.other_logprobs.items()},
            "weights": list(outcome.weights),
            "usage": asdict(result.usage),
            "trajectory": list(result.trajectory),
            "tree": None if outcome.tree is None else outcome.tree.statistics(),
            "info": {name: float(value) for name, value in outcome.info.items()},
            "marginals": {answer: [one.probability, one.low, one.high] for answer, one in outcome.marginals.items()},
        }
    )


def task_measures(
    task: Task, example: Example, text: str, texts: Sequence[str], weights: Sequence[float]
) -> dict[str, float | None]:
    """Return what a task's own metrics say about an item; nothing if it has none.

    Args:
        task: The task.
        example: The item.
        text: The returned completion.
        texts: All completions that were evaluated.
        weights: The method's weights of them.
    """
    function = measure_function(task)
    return {} if function is None else dict(function(example, text, texts, weights))


def tree_with_texts(tree: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """Add to every node the text that its tokens add to the text above it, and to every completion its text.

    Tokens are decoded with all that comes before them: a lone token may be half a character, or lack its space.
    """
    prefixes: list[list[int]] = []
    for node in tree["nodes"]:
        above = [] if node["parent"] < 0 else prefixes[node["parent"]]
        prefixes.append([*above, *node["tokens"]])
        before, after = engine.decode(above), engine.decode(prefixes[-1])
        node["text"] = after[len(before) :] if after.startswith(before) else engine.decode(node["tokens"])
    for completion in tree["completions"]:
        completion["text"] = engine.decode(completion["tokens"])
    return tree


def with_evidence(tree: dict[str, Any], outcome: Outcome, reward: Reward, example: Example, result: SearchResult) -> dict[str, Any]:
    """Add to every completion of a stored tree what the reward says about it.

    Args:
        tree: The dictionary of the outcome's tree.
        outcome: Holds the same completions in the same order, with the texts that the reward saw.
        reward: The reward of the search.
        example: The item of the search.
        result: What became of the search.
    """
    found = _evidence(reward, example, outcome, result, range(len(outcome.completions)))
    for completion, evidence in zip(tree["completions"], found, strict=True):
        completion["evidence"] = evidence
    return tree


def _evidence(reward: Reward, example: Example, outcome: Outcome, result: SearchResult, indices: Sequence[int]) -> list[Any]:
    completions = [outcome.completions[index] for index in indices]
    return plain(
        reward.explain(
            prompts=[example.prompt] * len(completions),
            completions=[one.text for one in completions],
            completion_ids=[list(one.tokens) for one in completions],
            logprobs=[one.logprob for one in completions],
            finish_reasons=[one.finish_reason for one in completions],
            **{name: [value] * len(completions) for name, value in example.inputs.items()},
            **{name: [values[index] for index in indices] for name, values in result.other_logprobs.items()},
        )
    )


def example_record(task: Task, example: Example) -> ExampleRecord:
    """Return an item as it is stored."""
    series = plain(example.inputs.get("series", []))
    names = plain(example.inputs.get("series_names", []))
    return ExampleRecord(
        task=task.name,
        id=example.id,
        prompt=readable_prompt(example.prompt),
        target=example.target,
        stratum=example.stratum,
        series=series,
        series_names=names,
    )


def readable_prompt(prompt: Prompt) -> str:
    """Return a prompt as text, a placeholder standing for what is not text."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, TimeSeriesPrompt):
        series = [f"{one.text} [{len(one.values)} values]" for one in prompt.series]
        return "\n".join([prompt.pre_prompt, *series, prompt.post_prompt])
    if isinstance(prompt, Embeddings):
        return f"[{len(prompt.values)} input embeddings]"
    parts = [f"{one.get('role')}: {one.get('content')}" if isinstance(one, Mapping) else str(one) for one in prompt]
    return ("\n" if any(isinstance(one, Mapping) for one in prompt) else " ").join(parts)
