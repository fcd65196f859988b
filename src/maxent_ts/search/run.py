"""The driver: advances many searches at once over one engine, counts what they cost, and keeps them within budget.

A search that waits for rollouts leaves the others running: as soon as its own answer is there it is sent in, and its next
request joins the engine's queue. So the engine's slots stay full with the rollouts of many prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from maxent_ts.engines.base import Engine
from maxent_ts.errors import RewardError
from maxent_ts.rewards.base import Reward, prefix_function
from maxent_ts.search.base import Answers, NextTokens, Parallel, PrefixRewards, Rewards, Rollouts
from maxent_ts.search.live import Live, SearchJob, SearchResult

__all__ = ["Event", "SearchJob", "SearchResult", "run_searches"]


@dataclass(frozen=True, slots=True)
class Event:
    """Progress."""

    kind: Literal["step", "finished"]
    job_id: str | None
    generated_tokens: int
    """By all searches since the start."""
    live: int
    """Searches under way."""


def run_searches(
    jobs: Iterable[SearchJob],
    engine: Engine,
    reward: Reward,
    *,
    answer_fn: Callable[[str], str | None] | None = None,
    max_concurrent: int = 64,
    on_event: Callable[[Event], None] | None = None,
) -> Iterator[SearchResult]:
    """Run searches side by side and yield each result as it is ready.

    A search that fails, whatever the reason, becomes a result with an `error`; the others go on.

    Args:
        jobs: The searches; taken one by one, as others finish.
        engine: Answers the rollouts of all of them.
        reward: Scores their completions.
        answer_fn: Reads the final answer of a completion, for methods that vote.
        max_concurrent: Number of searches under way at once. Results do not depend on it where
            `engine.capabilities.deterministic`.
        on_event: Called after every engine step and every finished search.
    """
    live: list[Live] = []
    waiting: dict[int, Live] = {}
    source = iter(jobs)
    exhausted = False
    generated = 0

    def emit(kind: Literal["step", "finished"], job_id: str | None = None) -> None:
        if on_event is not None:
            on_event(Event(kind, job_id, generated + sum(one.usage.generated_tokens for one in live), len(live)))

    try:
        while True:
            while not exhausted and len(live) < max_concurrent:
                job = next(source, None)
                if job is None:
                    exhausted = True
                    break
                live.append(Live(job, engine, reward, answer_fn))
            if not live:
                return
            _advance(live, waiting, reward)
            done = [one for one in live if one.is_done]
            live = [one for one in live if not one.is_done]
            for one in done:
                for ticket in one.tickets:
                    waiting.pop(ticket, None)
                one.close()
                generated += one.usage.generated_tokens
                emit("finished", one.job.id)
                yield one.result()
            if waiting:
                for finished in engine.step():
                    if finished.ticket in waiting:
                        waiting.pop(finished.ticket).receive(finished.ticket, finished.answer, finished.forwarded_tokens)
                emit("step")
    finally:
        for one in live:
            one.close()


def _advance(live: list[Live], waiting: dict[int, Live], reward: Reward) -> None:
    """Send answers in until every search waits for the engine or is done. Rewards of all searches go out as one batch."""
    while ready := [one for one in live if one.is_ready]:
        for one in ready:
            one.resume()
        for one in ready:
            if isinstance(one.request, Rewards):
                _submit(one, one.submit_scores, waiting)
        for kind in (Rewards, PrefixRewards):
            scoring = [one for one in ready if isinstance(one.request, kind) and one.is_ready]
            if scoring:
                _score(scoring, reward)
        for one in ready:
            if isinstance(one.request, Answers):
                one.read_answers()
            elif isinstance(one.request, (Rollouts, NextTokens, Parallel)):
                _submit(one, one.submit, waiting)


def _submit(one: Live, submit: Callable[[], list[int]], waiting: dict[int, Live]) -> None:
    try:
        tickets = submit()
    except Exception as error:  # noqa: BLE001 - as in _score
        one.fail(error)
        return
    waiting.update(dict.fromkeys(tickets, one))


def _score(scoring: list[Live], reward: Reward) -> None:
    """Score every waiting completion in one call; if that fails, search by search, so that the fault finds its owner.

    The open requests must be of one kind: all `Rewards`, or all `PrefixRewards`.
    """
    try:
        values = _call_reward(scoring, reward)
    except Exception as error:  # noqa: BLE001 - one failing search must not end the others; the error is in its result
        if len(scoring) == 1:
            scoring[0].fail(error)
            return
        for one in scoring:
            _score([one], reward)
        return
    start = 0
    for one in scoring:
        stop = start + len(one.scored_completions)
        one.receive_rewards(values[start:stop])
        start = stop


def _call_reward(scoring: list[Live], reward: Reward) -> list[float]:
    rows = [(one, completion) for one in scoring for completion in one.scored_completions]
    others = [one.other_logprobs() for one in scoring]
    names = sorted({name for one in scoring for name in one.job.inputs})
    function = reward if isinstance(scoring[0].request, Rewards) else prefix_function(reward)
    assert function is not None, "a search asked for prefix rewards although its target has none"
    values = function(
        prompts=[one.job.prompt for one, _ in rows],
        completions=[one.text(completion.tokens) for one, completion in rows],
        completion_ids=[list(completion.tokens) for _, completion in rows],
        logprobs=[completion.logprob for _, completion in rows],
        finish_reasons=[completion.finish_reason for _, completion in rows],
        **{name: [one.job.inputs.get(name) for one, _ in rows] for name in names},
        **{name: [value for own in others for value in own[name]] for name in others[0]},
    )
    if len(values) != len(rows):
        raise RewardError(
            f"The reward '{reward.name}' must return one value per completion: {len(rows)} were given, {len(values)} came back."
        )
    checked = []
    for (one, completion), value in zip(rows, values, strict=True):
        if value is None or not math.isfinite(value):
            raise RewardError(
                f"The reward '{reward.name}' returned {value} for a completion of '{one.job.id}', but a search needs a finite "
                f"number for each. The completion was: {one.text(completion.tokens)[:200]!r}. Return a number, or combine "
                "this reward with one that applies to every completion."
            )
        checked.append(float(value))
    return checked
