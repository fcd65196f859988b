"""Votes against the enumerated marginals of the answers."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.search.vote import majority_vote, weighted_vote
from maxent_ts.types import Budget
from tests.conftest import TokenReward, additive_reward, run_one
from tests.exact.laws import enumerate_all, outcomes

ENGINE = TableEngine.random(num_tokens=4, concentration=2.0, seed=8)
REWARD = additive_reward(4, 3, 2)


def last_letter(text: str) -> str | None:
    """The answer of these tests; "c" is none."""
    return text[-1] if text and text[-1] != "c" else None


@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_votes_tend_to_the_marginals_of_the_answers(tilt):
    """Votes by count, by reward without exp, or over distinct completions tend to other numbers than π(a)."""
    truth = enumerate_all(ENGINE, REWARD, tilt=tilt, max_new_tokens=3)
    marginals: dict[str, float] = defaultdict(float)
    for one, weight in zip(truth.completions, truth.weights, strict=True):
        answer = last_letter(one.text)
        if answer is not None:
            marginals[answer] += weight
    found = run_one(
        ENGINE,
        REWARD,
        weighted_vote,
        tilt=tilt,
        max_new_tokens=3,
        budget=Budget(rollouts=12_000),
        answer_fn=last_letter,
    ).outcome
    winner = max(marginals, key=lambda answer: marginals[answer])
    assert last_letter(found.best.text) == winner
    assert found.info["vote_share"] == pytest.approx(marginals[winner], abs=0.02)
    # 12 000 draws have seen every completion: the answer's mode under π is known exactly.
    mode = max((i for i, one in enumerate(truth.completions) if last_letter(one.text) == winner), key=lambda i: truth.weights[i])
    assert found.best.tokens == truth.completions[mode].tokens


def test_a_rare_answer_of_high_reward_wins_when_its_marginal_does():
    """Two answers of p 0.8 and 0.2 with rewards 0 and 1: the second wins beyond λ = log 4, and never by plain majority."""
    engine = TableEngine(lambda tokens: [0.8, 0.2], "ab")
    reward = TokenReward(lambda tokens: float(tokens[-1]))
    for tilt, winner in ((0.0, "a"), (1.0, "a"), (1.8, "b"), (3.0, "b")):
        for method in (majority_vote, weighted_vote):
            best = run_one(
                engine,
                reward,
                method,
                tilt=tilt,
                max_new_tokens=1,
                budget=Budget(rollouts=4000),
                answer_fn=lambda text: text,
            ).outcome.best
            assert best.text == (winner if method is weighted_vote else "a")
    assert 1.0 < math.log(4) < 1.8


def test_without_tilt_the_weighted_vote_is_the_majority_vote():
    """Rewards that leak into the votes at λ = 0, or another rule for ties, show on some seed of 60 with three draws each."""
    settings = {"num": 60, "tilt": 0.0, "max_new_tokens": 3, "budget": Budget(rollouts=3), "answer_fn": last_letter}
    for plain, weighted in zip(
        outcomes(ENGINE, REWARD, majority_vote, **settings), outcomes(ENGINE, REWARD, weighted_vote, **settings), strict=True
    ):
        assert plain.best == weighted.best
        assert plain.weights == pytest.approx(weighted.weights, abs=1e-12)
        assert plain.info["vote_share"] == pytest.approx(weighted.info["vote_share"], abs=1e-12)


@pytest.mark.parametrize("method", [majority_vote, weighted_vote])
def test_without_any_answer_there_is_a_completion_and_no_vote(method):
    """None as an answer like any other would claim all votes."""
    found = run_one(ENGINE, REWARD, method, max_new_tokens=3, answer_fn=lambda text: None).outcome
    assert found.info["vote_share"] == 0.0
    assert found.best.tokens
