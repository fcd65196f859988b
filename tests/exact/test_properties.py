"""What every registered method promises, on random small models with every awkwardness at once.

The tables have zeros in their rows, ends or none, and up to five tokens; rewards range from constant to ±50 with ties, with or
without a guess for prefixes; λ goes to 8. One engine lives through a sequence of searches. HYPOTHESIS_PROFILE=long tries more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from maxent_ts.engines.table import TableEngine
from maxent_ts.registry import METHODS, METHODS_THAT_VOTE, load
from maxent_ts.search.run import SearchJob, SearchResult, run_searches
from maxent_ts.types import Budget, Policy, Tokens
from tests.conftest import TokenReward
from tests.exact.laws import enumerate_all

INFINITE = {"log_z_lower", "log_z_upper"}
"""What may be infinite: a bracket where the reward has no known bounds."""

METHODS_THAT_NEED_A_BOUND = METHODS_THAT_MAY_FIND_NOTHING = {"exact_sample"}
"""It returns draws from π itself or says that it has none."""


def table(seed: int, num_tokens: int, concentration: float, share_of_zeros: float, eos: bool) -> TableEngine:
    """A random model; each row keeps at least one token, and no probability but 0 is below 10⁻⁶."""
    rows: dict[Tokens, np.ndarray] = {}

    def row(tokens: Tokens) -> np.ndarray:
        if tokens not in rows:
            rng = np.random.default_rng((seed, len(tokens), *tokens))
            p = np.maximum(rng.dirichlet(np.full(num_tokens, concentration)), 1e-6)
            kept = rng.random(num_tokens) >= share_of_zeros
            kept[rng.integers(num_tokens)] = True
            rows[tokens] = p * kept / (p * kept).sum()
        return rows[tokens]

    return TableEngine(row, "abcd"[:num_tokens], eos_token_id=num_tokens - 1 if eos else None)


class AwkwardReward(TokenReward):
    """A number for every completion that is a function of its tokens and a seed."""

    def __init__(self, kind: str, seed: int, *, is_bounded: bool) -> None:
        def value(tokens: Tokens) -> float:
            rng = np.random.default_rng((seed, *tokens))
            if kind == "constant":
                return float(seed % 101 - 50)
            return float(rng.uniform(-50, 50)) if kind == "wild" else float(rng.integers(-1, 2))

        super().__init__(value, (-50.0, 50.0) if is_bounded else (-math.inf, math.inf))


class GuessingReward(AwkwardReward):
    """The same, with a guess for prefixes that is as bad as can be: unrelated numbers."""

    def prefix(self, **columns: Any) -> list[float | None]:
        return self(**columns)


class SearchMachine(RuleBasedStateMachine):
    """Searches by one method, one after the other, on one engine."""

    name: str
    last: tuple[float, Budget, int, SearchResult] | None = None

    @initialize(
        model=st.tuples(
            st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.1, 1.0, 5.0]), st.sampled_from([0.0, 0.4]), st.booleans()
        ),
        length=st.integers(1, 5),
        reward=st.tuples(st.sampled_from([AwkwardReward, GuessingReward]), st.sampled_from(["constant", "ties", "wild"])),
        is_bounded=st.booleans(),
        has_answers=st.booleans(),
    )
    def start(self, model, length, reward, is_bounded, has_answers):
        self.engine, self.length, self.eos = table(*model), length, model[1] - 1 if model[-1] else None
        self.reward = reward[0](reward[1], model[0], is_bounded=is_bounded or self.name in METHODS_THAT_NEED_A_BOUND)
        self.has_answers = has_answers or self.name in METHODS_THAT_VOTE
        self.truth: dict[float, float] = {}

    @rule(
        tilt=st.floats(0, 8),
        num_completions=st.integers(1, 40),
        num_more=st.integers(0, 4),
        seed=st.integers(0, 10**6),
    )
    def search(self, tilt, num_completions, num_more, seed):
        tokens = num_completions * self.length + min(num_more, self.length - 1)
        budget = Budget(generated_tokens=None if self.name == "exact" else tokens)
        (result,) = self.run([self.job(tilt, budget, seed)])
        if self.name in METHODS_THAT_MAY_FIND_NOTHING and "No exact sample was accepted" in str(result.error):
            assert result.usage.generated_tokens <= tokens
            return
        self.check(result)
        self.last = tilt, budget, seed, result

    @precondition(lambda self: self.last is not None)
    @rule(seed=st.integers(0, 10**6))
    def repeat_beside_another(self, seed):
        """The same search again, while another runs: the same outcome."""
        tilt, budget, own, before = self.last
        again = {result.job.id: result for result in self.run([self.job(tilt, budget, seed, "other"), self.job(tilt, budget, own)])}
        assert again["one"].error is None
        assert [one.tokens for one in again["one"].outcome.completions] == [one.tokens for one in before.outcome.completions]
        assert again["one"].outcome.weights == before.outcome.weights
        assert again["one"].outcome.chosen == before.outcome.chosen

    def job(self, tilt: float, budget: Budget, seed: int, job_id: str = "one") -> SearchJob:
        method = load(METHODS, self.name, "method")
        return SearchJob(job_id, (0,), Policy(self.length), method, tilt, budget, (seed, 1))

    def run(self, jobs: list[SearchJob]) -> list[SearchResult]:
        answer_fn = (lambda text: text[:1] or None) if self.has_answers else None
        return list(run_searches(jobs, self.engine, self.reward, answer_fn=answer_fn))

    def check(self, result: SearchResult) -> None:
        if result.error is not None:
            raise result.error
        outcome, budget = result.outcome, result.job.budget.generated_tokens
        assert budget is None or result.usage.generated_tokens <= budget
        assert outcome.completions
        assert len({one.tokens for one in outcome.completions}) == len(outcome.completions)
        for one in outcome.completions:
            assert one.finish_reason == ("eos" if one.tokens[-1] == self.eos else "length")
            assert self.eos not in one.tokens[:-1]
            assert len(one.tokens) == self.length or (one.finish_reason == "eos" and len(one.tokens) < self.length)
            rows = [self.engine._probabilities((0, *one.tokens[:i])) for i in range(len(one.tokens))]
            logprob = sum(math.log(row[token]) for row, token in zip(rows, one.tokens, strict=True))
            assert math.isclose(one.logprob, logprob, abs_tol=1e-9)
            assert one.reward == self.reward.function(one.tokens)
        assert len(outcome.weights) == len(outcome.completions)
        assert all(math.isfinite(weight) and weight >= 0 for weight in outcome.weights)
        assert math.isclose(sum(outcome.weights), 1.0, abs_tol=1e-9)
        assert outcome.chosen
        assert all(0 <= one < len(outcome.completions) for one in outcome.chosen)
        for key, value in outcome.info.items():
            assert math.isfinite(value) or (key in INFINITE and not math.isnan(value)), key
        if "log_z_lower" in outcome.info:
            truth = self.log_z(result.job.tilt)
            assert outcome.info["log_z_lower"] - 1e-7 <= truth <= outcome.info["log_z_upper"] + 1e-7

    def log_z(self, tilt: float) -> float:
        if tilt not in self.truth:
            truth = enumerate_all(self.engine, self.reward, tilt=tilt, max_new_tokens=self.length)
            logs = [one.logprob + tilt * one.reward for one in truth.completions]
            self.truth[tilt] = float(np.logaddexp.reduce(logs))
        return self.truth[tilt]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_its_promises_on_every_small_model(name):
    """NaN, weights that are no distribution, a bracket beside log Z, a budget exceeded, a prefix returned, a wrong log p."""
    machine = type(f"SearchMachine_{name}", (SearchMachine,), {"name": name})
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=5))
