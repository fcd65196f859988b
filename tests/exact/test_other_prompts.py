"""A reward that asks what the model thinks of a completion under another prompt: π by enumeration, costs, and company."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from maxent_ts.engines.base import Capabilities, ScoreJob
from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import SettingError
from maxent_ts.rewards.combine import WeightedSum, from_function
from maxent_ts.search.best_of_n import best_of_n
from maxent_ts.search.exact import exact
from maxent_ts.search.maxent import maxent, maxent_sample
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy

PROMPT, OTHER = (0, 2), (1,)
TILT = 2.0
POLICY = Policy(max_new_tokens=3)


class Likelier:
    """log p(x | prompt) − log p(x | the prompt reversed and shortened), in nats."""

    name = "likelier"
    range = (-math.inf, math.inf)
    other_prompts: Mapping[str, Any] = {"other": lambda prompt: tuple(prompt)[:0:-1] or OTHER}

    def __call__(self, *, logprobs, other, **_):
        return [own - one for own, one in zip(logprobs, other, strict=True)]

    def explain(self, **columns):
        return [{"value": value, "parts": {}} for value in self(**columns)]


def job(method, prompt=PROMPT, budget=None, seed=0):
    return SearchJob(str(prompt), prompt, POLICY, method, TILT, budget or Budget(), (seed, 1))


def logprob(engine, prompt, tokens) -> float:
    """The slow obvious way: one row of the table after another."""
    rows = [engine._probabilities(prompt + tokens[:place]) for place in range(len(tokens))]
    return math.fsum(math.log(row[token]) for row, token in zip(rows, tokens, strict=True))


@pytest.mark.parametrize("method", [exact, maxent_sample])
def test_the_law_is_that_of_both_prompts(method):
    """π ∝ p(x | s)^(1 + λ) / p(x | s')^λ. Catches log-probabilities of another completion, prompt or sign."""
    engine = TableEngine.random(num_tokens=4, seed=3)
    budget = Budget() if method is exact else Budget(rollouts=400)
    (result,) = run_searches([job(method, budget=budget)], engine, Likelier())
    assert result.error is None, result.error
    found = {one.tokens: weight for one, weight in zip(result.outcome.completions, result.outcome.weights, strict=True)}
    own = np.array([logprob(engine, PROMPT, tokens) for tokens in found])
    other = np.array([logprob(engine, (2,), tokens) for tokens in found])
    logits = (1 + TILT) * own - TILT * other
    law = np.exp(logits - np.logaddexp.reduce(logits))
    assert len(found) == 3**3 + 3**2 + 3 + 1
    np.testing.assert_allclose(list(found.values()), law, atol=1e-9)
    np.testing.assert_allclose(result.other_logprobs["other"], other, atol=1e-12)


def test_many_searches_together_give_what_each_gives_alone():
    """Catches scores handed to the wrong search, or to the wrong completion of it."""
    engine = TableEngine.random(num_tokens=4, seed=3)
    prompts = [(first, second, third) for first in range(3) for second in range(3) for third in range(2)]
    jobs = [job(maxent, prompt, Budget(rollouts=12)) for prompt in prompts]
    together = {result.job.id: result for result in run_searches(jobs, engine, Likelier(), max_concurrent=7)}
    for one in jobs:
        (alone,) = run_searches([one], TableEngine.random(num_tokens=4, seed=3), Likelier())
        assert alone.error is None
        assert together[one.id].outcome.completions == alone.outcome.completions
        assert together[one.id].outcome.weights == alone.outcome.weights
        assert together[one.id].other_logprobs == alone.other_logprobs


def test_scoring_costs_forwarded_and_no_generated_tokens():
    """Catches scores that are free, and scores that eat the budget of the search."""
    plain = from_function(lambda completions, **_: [0.0] * len(completions), "nothing")
    usages = []
    for reward in (plain, WeightedSum([plain, Likelier()], [1.0, 0.0])):
        engine = TableEngine.random(num_tokens=4, seed=3)
        (result,) = run_searches([job(best_of_n, budget=Budget(generated_tokens=30))], engine, reward)
        usages.append(result.usage)
    assert usages[0].generated_tokens == usages[1].generated_tokens
    assert usages[0].forwarded_tokens < usages[1].forwarded_tokens


def test_an_engine_that_cannot_score_is_named_at_once():
    """Catches a search that spends its budget before it says so."""
    engine = TableEngine.random(num_tokens=4, seed=3)
    engine.capabilities = Capabilities(deterministic=True, time_series=False)
    (result,) = run_searches([job(best_of_n, budget=Budget(rollouts=2))], engine, Likelier())
    assert isinstance(result.error, SettingError)
    assert "cannot score given tokens" in str(result.error)
    assert result.usage.generated_tokens == 0


def test_a_prompt_that_cannot_be_made_fails_its_search_alone():
    """Catches an exception of a reward's function that ends all searches."""

    class Broken(Likelier):
        other_prompts: Mapping[str, Any] = {"other": lambda prompt: OTHER if prompt[0] else 1 / 0}

    engine = TableEngine.random(num_tokens=4, seed=3)
    jobs = [job(best_of_n, prompt, Budget(rollouts=2)) for prompt in ((0, 1), (1, 1))]
    results = {result.job.id: result for result in run_searches(jobs, engine, Broken())}
    assert isinstance(results["(0, 1)"].error, ZeroDivisionError)
    assert results["(1, 1)"].error is None


def test_the_table_scores_tokens_as_it_draws_them():
    """Catches a policy that is left out, and an impossible token that raises."""
    engine = TableEngine.random(num_tokens=4, seed=3)
    context = engine.open(PROMPT, Policy(max_new_tokens=3, temperature=0.5, top_k=2))
    ticket = engine.submit(ScoreJob(context, (0, 1, 2)))
    (done,) = engine.step()
    assert done.ticket == ticket
    for place, value in enumerate(done.answer):
        row = engine._probabilities(PROMPT + (0, 1, 2)[:place]) ** 2
        row[np.argsort(row)[:2]] = 0.0
        with np.errstate(divide="ignore"):
            assert value == pytest.approx(np.log(row[place] / row.sum()))
