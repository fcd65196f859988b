"""Rewards, evidence, answers and metrics of a run, computed again from the completions it stored. No model is loaded.

What a search did stays as it was: its completions, which of them it chose, its weights, diagnostics, marginals and usage are those
of the rewards and the parser it was run with. So a run scored with another reward tells what that reward says about these
completions, not what a search for it would have found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from maxent_ts.config import make_config
from maxent_ts.errors import DataError, MaxentError, RunDirectoryError
from maxent_ts.fingerprint import plain
from maxent_ts.planning import TaskPlan, describe, now, plan
from maxent_ts.recording import example_record, task_measures
from maxent_ts.records import FORMAT, Record, Run, RunInfo, read_run
from maxent_ts.run_directory import RunDirectory
from maxent_ts.scoring import graded_fields
from maxent_ts.summary import summarize
from maxent_ts.tasks.base import Example, Task

__all__ = ["rescore", "rescored_record"]


def rescore(
    path: Path,
    output_dir: Path,
    *,
    rewards: Sequence[str] = (),
    reward_weights: Sequence[float] = (),
    scorer: str | None = None,
    tasks: Sequence[Task] | None = None,
    overwrite: bool = False,
) -> Run:
    """Write a run directory with the completions of another and with scores computed anew.

    Args:
        path: The run whose completions are scored; it is not changed.
        output_dir: Where the scored records go. Its run.json names `path` and the rewards of the searches under `rescored`.
        rewards: Names, or `file.py:function`; empty for those of the run.
        reward_weights: One for each of `rewards`; empty for 1 each.
        scorer: "clean" or "upstream"; None for the run's.
        tasks: Task objects in place of the run's `tasks`.
        overwrite: Start over in a directory that holds another run.

    Raises:
        RunDirectoryError: if `path` is no run, has no texts (format 1), or `output_dir` cannot be written or holds another run.
        DataError: if the items of a task are no longer those of the run.
        SettingError: if there is not one weight for each reward.
        MaxentError: if a reward or task cannot be loaded.
    """
    run = read_run(path)
    if run.info.format != FORMAT:
        raise RunDirectoryError(
            f"The run '{path}' has format {run.info.format}, which does not hold the texts of all completions, so it cannot be "
            "scored again. Run the evaluation again with this version."
        )
    if output_dir.resolve() == path.resolve():
        raise RunDirectoryError(f"A rescored run goes to a directory of its own, not into '{path}'. Name it with --output-dir.")
    values = {**run.info.config, "output_dir": output_dir}
    if rewards or reward_weights:
        values |= {"rewards": tuple(rewards) or values["rewards"], "reward_weights": tuple(reward_weights)}
    if scorer is not None:
        values["scorer"] = scorer
    config = make_config(**values)
    plans = plan(config, tasks=tasks)
    info = describe(config, plans, run.info.engine)
    info.rescored = {
        "run": str(path),
        "samples_sha256": hashlib.sha256((path / "samples.jsonl").read_bytes()).hexdigest(),
        "rewards": run.info.rewards,
    }
    _check_data(path, run.info, info)
    by_task = {one.task.name: one for one in plans}
    examples = {(one.task.name, example.id): example for one in plans for example in one.examples}
    with RunDirectory(output_dir, info, overwrite=overwrite) as directory:
        directory.write_examples(example_record(one.task, example) for one in plans for example in one.examples)
        for record in run.records:
            if record.key not in directory.finished:
                directory.append(
                    _scored_or_failed(record, by_task[record.task], examples[record.task, record.example_id], config.scorer)
                )
        directory.write_summary(summarize(read_run(output_dir)))
        directory.finish(now(), "interrupted" if run.info.status == "running" else run.info.status)
    return read_run(output_dir)


def rescored_record(record: Record, one: TaskPlan, example: Example, scorer: str = "clean") -> Record:
    """Return a record with its rewards, evidence, answers and what follows from them computed from its completions.

    Args:
        record: One without an error.
        one: The task and its reward.
        example: The item.
        scorer: "clean" or "upstream".
    """
    rewards = one.reward(**_columns(record, example, range(len(record.texts))))
    first = record.chosen[0]
    (evidence,) = one.reward.explain(**_columns(record, example, [first]))
    return record.model_copy(
        update={
            "rewards": list(rewards),
            "reward": rewards[first],
            "evidence": plain(evidence),
            "target": example.target,
            **graded_fields(one.task, example, record.texts, first, scorer),
            "measures": task_measures(one.task, example, record.texts[first], record.texts, record.weights),
            "trajectory": _trajectory(record, rewards),
        }
    )


def _scored_or_failed(record: Record, one: TaskPlan, example: Example, scorer: str) -> Record:
    if record.error is not None:
        return record
    try:
        return rescored_record(record, one, example, scorer)
    except Exception as error:  # noqa: BLE001 - one item must not end the others; the record says what failed
        message = str(error) if isinstance(error, MaxentError) else f"{type(error).__name__}: {error}"
        nothing: dict[str, Any] = {
            "rewards": [],
            "reward": None,
            "evidence": {},
            "answers": [],
            "answer": None,
            "correct": None,
            "scores": {},
            "measures": {},
        }
        return record.model_copy(update={**nothing, "trajectory": [], "error": message})


def _columns(record: Record, example: Example, indices: Sequence[int]) -> dict[str, Any]:
    return {
        "prompts": [example.prompt for _ in indices],
        "completions": [record.texts[i] for i in indices],
        "completion_ids": [record.completion_ids[i] for i in indices],
        "logprobs": [record.logprobs[i] for i in indices],
        "finish_reasons": [record.finish_reasons[i] for i in indices],
        **{name: [values[i] for i in indices] for name, values in record.other_logprobs.items()},
        **{name: [value for _ in indices] for name, value in example.inputs.items()},
    }


def _trajectory(record: Record, rewards: Sequence[float | None]) -> list[tuple[int, float]]:
    """The best reward so far at the same numbers of tokens; empty where that cannot be told.

    It can be told where completions were scored once each and in the order of the record, and the rewards apply to all.
    """
    before = [reward for reward in record.rewards if reward is not None]
    after = [reward for reward in rewards if reward is not None]
    in_order = [best for _, best in record.trajectory] == list(accumulate(before, max))
    if not in_order or len(after) != len(record.trajectory):
        return []
    return [(tokens, best) for (tokens, _), best in zip(record.trajectory, accumulate(after, max), strict=True)]


def _check_data(path: Path, before: RunInfo, info: RunInfo) -> None:
    for task, facts in info.data.items():
        if before.data.get(task, {}).get("sha256") != facts["sha256"]:
            raise DataError(
                f"The items of the task '{task}' are not those of the run '{path}': their prompts or inputs have changed. "
                f"Give back the data it was run with (data_dir was {before.config.get('data_dir')}), or run the evaluation again."
            )
