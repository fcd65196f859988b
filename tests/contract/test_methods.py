"""Every registered method keeps the same promises. A new registry line adds its tests."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.registry import METHODS, METHODS_THAT_VOTE, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy
from tests.conftest import additive_reward

LENGTH = 4


def search(name: str, *, seeds=(0,), budget=None, engine_seed=1):
    engine = TableEngine.random(num_tokens=4, seed=engine_seed)
    budget = budget or Budget(generated_tokens=2000)
    method = load(METHODS, name, "method")
    jobs = [SearchJob(str(seed), (0, seed % 4), Policy(LENGTH), method, 1.5, budget, (seed, 7)) for seed in seeds]
    found = run_searches(jobs, engine, additive_reward(4, LENGTH, 5), answer_fn=lambda text: text[:1] or None)
    return {result.job.id: result for result in found}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_rng_and_target_and_keyword_settings_with_defaults(name):
    """The command line and `generate` rely on this shape."""
    first, second, *rest = inspect.signature(load(METHODS, name, "method")).parameters.values()
    assert (first.name, second.name) == ("rng", "target")
    assert all(one.kind is one.KEYWORD_ONLY and one.default is not one.empty for one in rest)


@pytest.mark.parametrize("name", METHODS)
def test_an_outcome_is_well_formed(name):
    """Weights are a distribution, choices exist, every completion is scored, finished and within length."""
    (result,) = search(name).values()
    assert result.error is None
    outcome = result.outcome
    assert outcome.completions
    assert len(outcome.weights) == len(outcome.completions)
    assert sum(outcome.weights) == pytest.approx(1)
    assert min(outcome.weights) >= 0
    assert len({one.tokens for one in outcome.completions}) == len(outcome.completions)
    for completion in outcome.completions:
        assert completion.reward is not None
        assert 1 <= len(completion.tokens) <= LENGTH
        assert (completion.finish_reason == "eos") == (completion.tokens[-1] == 3)
        assert completion.logprob <= 0
        assert completion.text == "".join("abc"[token] for token in completion.tokens if token != 3)
    assert all(0 <= one < len(outcome.completions) for one in outcome.chosen)
    assert result.usage.generated_tokens > 0
    assert result.usage.reward_calls > 0


@pytest.mark.parametrize("name", METHODS)
def test_log_probabilities_are_the_models(name):
    """Recomputed token by token from the table."""
    (result,) = search(name).values()
    engine = TableEngine.random(num_tokens=4, seed=1)
    context = engine.open((0, 0), Policy(LENGTH))
    for completion in result.outcome.completions[:20]:
        rows = [engine._row(context, completion.tokens[:i]) for i in range(len(completion.tokens))]
        expected = sum(np.log(row[token]) for row, token in zip(rows, completion.tokens, strict=True))
        assert completion.logprob == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_result_alone_or_among_others(name):
    """Batch-mates must not matter."""
    together = search(name, seeds=range(12))
    for seed in (0, 5, 11):
        (alone,) = search(name, seeds=(seed,)).values()
        mate = together[str(seed)]
        assert alone.outcome.completions == mate.outcome.completions
        assert alone.outcome.weights == mate.outcome.weights
        assert alone.outcome.chosen == mate.outcome.chosen


@pytest.mark.parametrize("name", [name for name in METHODS if name != "exact"])
def test_the_smallest_budget_still_gives_an_answer(name):
    """One completion's worth of tokens: anytime from the first."""
    (result,) = search(name, budget=Budget(generated_tokens=LENGTH)).values()
    assert result.error is None
    assert result.outcome.best.tokens
    assert result.usage.generated_tokens <= LENGTH


@pytest.mark.parametrize("name", [name for name in METHODS if name != "exact"])
def test_only_the_methods_that_are_said_to_vote_need_answers(name):
    """A task without labels leaves out those that are said to; another that asked for answers would fail on every item."""
    method = load(METHODS, name, "method")
    job = SearchJob("one", (0,), Policy(LENGTH), method, 1.5, Budget(generated_tokens=100))
    (result,) = run_searches([job], TableEngine.random(num_tokens=4, seed=1), additive_reward(4, LENGTH, 5))
    assert (result.error is not None) == (name in METHODS_THAT_VOTE)
    assert result.error is None or "votes on final answers" in str(result.error)


def test_enumeration_refuses_a_budget_that_would_leave_something_out():
    """A partial enumeration would look like a distribution."""
    (result,) = search("exact", budget=Budget(generated_tokens=10)).values()
    assert "before every completion was enumerated" in str(result.error)
