"""`maxent-ts generate`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from maxent_ts.cli.evaluation import parse_weights
from maxent_ts.cli.shared import Format, hide_loading_bars, write_json
from maxent_ts.cli.tables import console
from maxent_ts.config import MethodConfig, RunConfig, make_config, parse_assignments
from maxent_ts.errors import SettingError, UnknownNameError
from maxent_ts.fingerprint import example_seed, plain
from maxent_ts.loading import load_engine, load_method, load_task, with_length_of_tasks
from maxent_ts.registry import nearest_name
from maxent_ts.rewards.base import Reward
from maxent_ts.rewards.combine import parse_rewards
from maxent_ts.search.run import SearchJob, SearchResult, run_searches
from maxent_ts.tasks.base import Example, Task
from maxent_ts.types import Budget, Outcome

__all__ = ["run_generate"]

NO_ANSWER = "none"

DEFAULT_REWARD = "logprob"
"""For a prompt without a task: power sampling, which asks nothing of the prompt."""


def run_generate(
    *,
    prompt: str | None,
    task_name: str | None,
    item: str | None,
    method: str,
    settings: Sequence[str],
    values: Mapping[str, Any],
    reward_weights: str | None,
    num_return_sequences: int,
    output_format: Format,
    quiet: bool,
) -> None:
    """Search for one prompt and print what was found."""
    assigned = dict(parse_assignments(settings, [method])[method])
    weights = parse_weights(reward_weights)
    values = with_length_of_tasks((task_name,) if task_name else (), values)
    config = make_config(
        tasks=(task_name or "prompt",), methods=(MethodConfig(name=method, settings=assigned),), reward_weights=weights, **values
    )
    hide_loading_bars(config.model, quiet=quiet)
    task, example = _example(prompt, task_name, item, config)
    specs = list(config.rewards) or (list(task.rewards) if task else [DEFAULT_REWARD])
    default_weights = list(task.rewards.values()) if task and not config.rewards else [1.0] * len(specs)
    reward = parse_rewards(specs, list(config.reward_weights) or default_weights)
    result = _search(config, task, example, reward, num_return_sequences)
    found = _described(result, task, example, reward, num_return_sequences)
    if output_format is Format.JSON:
        write_json(found)
    else:
        _print(found)


def _example(prompt: str | None, task_name: str | None, item: str | None, config: RunConfig) -> tuple[Task | None, Example]:
    if (prompt is None) == (task_name is None):
        raise SettingError("generate takes a PROMPT, --task TASK or --series FILE.csv, exactly one of them.")
    if task_name is None:
        assert prompt is not None
        return None, Example("prompt", prompt, {}, None, "")
    task = load_task(task_name, config)
    examples = {one.id: one for one in task.examples(data_dir=config.data_dir)}
    if item is None:
        return task, next(iter(examples.values()))
    if item not in examples:
        some = ", ".join(list(examples)[:5])
        hint = nearest_name(item, examples)
        raise UnknownNameError(f"The task '{task_name}' has no item '{item}'.{hint} Some of its {len(examples)} items: {some}.")
    return task, examples[item]


def _search(config: RunConfig, task: Task | None, example: Example, reward: Reward, num_return_sequences: int) -> SearchResult:
    policy = config.policy(config.max_new_tokens)
    job = SearchJob(
        id=example.id,
        prompt=example.prompt,
        policy=policy,
        method=load_method(config.methods[0], num_rollouts=config.num_rollouts, num_return_sequences=num_return_sequences),
        tilt=config.tilt,
        budget=Budget(rollouts=config.num_rollouts),
        seed=(config.seed, example_seed(example.id)),
        inputs=example.inputs,
    )
    answer = task.answer if task is not None and task.labels else None
    (result,) = run_searches([job], load_engine(config), reward, answer_fn=answer)
    if result.error is not None:
        raise result.error
    return result


def _described(
    result: SearchResult, task: Task | None, example: Example, reward: Reward, num_return_sequences: int
) -> dict[str, Any]:
    outcome = result.outcome
    assert outcome is not None
    order = _order(outcome)[:num_return_sequences]
    answers: dict[str, float] = {}
    if task is not None and task.labels:
        for completion, weight in zip(outcome.completions, outcome.weights, strict=True):
            answer = task.answer(completion.text) or NO_ANSWER
            answers[answer] = answers.get(answer, 0.0) + weight
    return {
        "item": example.id,
        "reward": reward.name,
        "tilt": result.job.tilt,
        "num_completions": len(outcome.completions),
        "completions": [
            {
                "text": outcome.completions[i].text,
                "weight": outcome.weights[i],
                "reward": outcome.completions[i].reward,
                "logprob": _known(outcome.completions[i].logprob),
                "finish_reason": outcome.completions[i].finish_reason,
                "num_tokens": len(outcome.completions[i].tokens),
            }
            for i in order
        ],
        "answers": dict(sorted(answers.items(), key=lambda one: -one[1])),
        "info": plain(dict(outcome.info)),
        "usage": asdict(result.usage),
        "tree": None if outcome.tree is None else outcome.tree.statistics(),
    }


def _order(outcome: Outcome) -> list[int]:
    """What the method returns, then what it weighs most."""
    rest = sorted(range(len(outcome.completions)), key=lambda i: -outcome.weights[i])
    return list(dict.fromkeys([*outcome.chosen, *rest]))


def _print(found: Mapping[str, Any]) -> None:
    out = console()
    table = Table(show_lines=True)
    for name in ("weight", "reward", "log p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("completion")
    for one in found["completions"]:
        reward = "–" if one["reward"] is None else f"{one['reward']:.3f}"
        cut = " [dim](cut at max_new_tokens)[/dim]" if one["finish_reason"] == "length" else ""
        logprob = "–" if one["logprob"] is None else f"{one['logprob']:.2f}"
        table.add_row(f"{one['weight']:.3f}", reward, logprob, escape(one["text"].strip()) + cut)
    out.print(table)
    if found["answers"]:
        out.print(
            "answers by weight: " + ", ".join(f"{name} {weight:.3f}" for name, weight in found["answers"].items()), markup=False
        )
    usage, info = found["usage"], found["info"]
    out.print(
        f"reward {escape(found['reward'])}, tilt {found['tilt']:g}, {found['num_completions']} distinct completions evaluated"
    )
    if "log_z_lower" in info and "log_z_upper" in info:
        estimate = f", estimate {_log(info['log_z'])}" if "log_z" in info else ""
        out.print(f"log Z between {_log(info['log_z_lower'])} and {_log(info['log_z_upper'])}{estimate}", markup=False)
    out.print(
        f"{usage['generated_tokens']} tokens generated, {usage['forwarded_tokens']} forwarded, "
        f"{usage['prompt_tokens']} in the prompt, {usage['rollouts']} rollouts, {usage['reward_calls']} rewards, "
        f"{usage['seconds']:.2f} s"
    )
    if found["tree"] is not None:
        out.print("tree: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in found["tree"].items()))


def _known(logprob: float) -> float | None:
    """None for what the engine does not know."""
    return None if math.isnan(logprob) else logprob


def _log(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"
