"""What one request gets depends on nothing but itself, and obeys the law it asks for."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.table import TableEngine
from maxent_ts.registry import METHODS, METHODS_WITHOUT_REWARD
from maxent_ts.search.exact import exact
from maxent_ts.server.requests import METHODS_NOT_SERVED
from maxent_ts.types import Budget
from tests.conftest import additive_reward, run_one
from tests.server.conftest import application, asked, client_of, completed
from tests.unit.hf_helpers import tiny_model, tiny_tokenizer

METHODS_SERVED = sorted(METHODS.keys() - METHODS_NOT_SERVED.keys())


def facts(reply):
    """A reply without what differs from call to call: its id, its times."""
    searches = [{name: value for name, value in one.items() if name != "seconds"} for one in reply["maxent"]["searches"]]
    return {"choices": reply["choices"], "usage": reply["usage"], "maxent": {**reply["maxent"], "searches": searches}}


def test_a_request_alone_equals_the_same_among_thirty_others():
    """Catches streams that depend on the batch, rewards that see other requests' columns, and replies that are swapped."""
    methods = ["maxent", "maxent_sample", "best_of_n", "smc", "beam"]
    bodies = [
        {
            "prompt": "abcdefghij"[: 1 + i % 7],
            "max_tokens": 4 + i % 5,
            "seed": i % 3,
            "method": methods[i % len(methods)],
            "reward": ["logprob", "format", {"logprob": 0.25, "format": 2.0}][i % 3],
            "inputs": {} if i % 2 else {"labels": ["ab", "c"]},
            "num_rollouts": 5,
            "n": 1 + i % 2,
        }
        for i in range(31)
    ]

    def engine():
        return HFEngine(tiny_model(), tiny_tokenizer())

    together = completed(application(engine()), *bodies)
    for index in range(0, 31, 3):
        (alone,) = completed(application(engine()), bodies[index])
        assert facts(alone) == facts(together[index])


def test_a_reward_that_fails_one_request_leaves_the_others_alone_and_tells_them_nothing():
    """Rewards of several requests go out together; an error must reach its owner alone, with no word of the others' texts."""
    good = {"prompt": "ab", "max_tokens": 3, "reward": "logprob", "seed": 0, "method": "best_of_n"}
    bad = [{**good, "reward": "claims"}, {**good, "reward": "spectral", "inputs": {"series": "secret"}}]
    app = application(TableEngine.random(num_tokens=4, seed=1), ["logprob", "claims", "spectral"])
    replies = asked(app, good, *bad, good, *[good] * 5)
    assert [one.status_code for one in replies] == [200, 400, 400, *[200] * 6]
    assert "'series'" in replies[1].json()["error"]["message"]
    assert "secret" not in "".join(one.text for one in replies[3:])
    assert len({str(facts(one.json())) for one in replies if one.status_code == 200}) == 1


def test_only_a_reward_that_lacks_a_column_is_answered_with_where_columns_come_from():
    """Catches advice that has nothing to do with what failed."""
    body = {"prompt": "ab", "max_tokens": 3, "reward": "claims"}
    app = application(TableEngine.random(num_tokens=4, seed=1), ["claims"])
    lacking, unreadable = asked(app, body, {**body, "inputs": {"series": [["high", "low"]]}})
    assert (lacking.status_code, unreadable.status_code) == (400, 400)
    assert "are its 'inputs'" in lacking.json()["error"]["message"]
    assert "cannot measure" in unreadable.json()["error"]["message"]
    assert "'inputs'" not in unreadable.json()["error"]["message"]


def test_all_contexts_are_closed_at_the_end(table_engine):
    """Catches a request whose prompt stays in the engine."""
    open_contexts = []

    class Counting(TableEngine):
        def open(self, prompt, policy):
            context = super().open(prompt, policy)
            open_contexts.append(id(context))
            self.kept = [*getattr(self, "kept", []), context]  # so that no id comes twice
            return context

        def close(self, context):
            open_contexts.remove(id(context))
            super().close(context)

    engine = Counting(table_engine._probabilities, "abcd", eos_token_id=3)
    bodies = [
        {"prompt": "ab", "max_tokens": 3, "method": "maxent", "reward": "logprob"},
        {"prompt": ["a", "b"], "n": 3, "max_tokens": 2},
    ]
    completed(application(engine), *bodies)
    asked(application(engine, ["claims"]), {"prompt": "ab", "reward": "claims"}, {"prompt": "xyz"})
    assert len(engine.kept) == 8
    assert open_contexts == []


def test_draws_of_sample_have_the_models_law():
    """n draws are independent: copies, or draws that share a stream, have another law."""
    engine = TableEngine.random(num_tokens=3, seed=5)
    app = application(engine, max_tokens_per_request=10**6)

    async def draw():
        async with client_of(app) as client:
            return [
                (await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "n": 128, "seed": seed})).json()
                for seed in range(16)
            ]

    replies = asyncio.run(draw())
    drawn = Counter(choice["text"] for one in replies for choice in one["choices"])
    truth = run_one(
        TableEngine.random(num_tokens=3, seed=5), additive_reward(3, 2, 0), exact, max_new_tokens=2, tilt=0.0, budget=Budget()
    )
    law: Counter[str] = Counter()
    for completion, weight in zip(truth.outcome.completions, truth.outcome.weights, strict=True):
        law[completion.text] += weight
    expected = np.array([law[text] for text in law]) * drawn.total()
    assert set(drawn) <= set(law)
    assert drawn.total() == 2048
    keep = expected > 5
    observed = np.array([drawn[text] for text in law])
    observed, expected = np.append(observed[keep], observed[~keep].sum()), np.append(expected[keep], expected[~keep].sum())
    used = expected > 0
    assert chisquare(observed[used], expected[used]).pvalue > 1e-3


@pytest.mark.parametrize("method", METHODS_SERVED)
def test_every_method_can_be_asked_for(method):
    """Catches a method that the server offers and cannot run."""
    body = {"prompt": "a", "max_tokens": 3, "method": method, "reward": "logprob", "seed": 1, "num_rollouts": 40}
    if method == "exact_sample":
        body["tilt"] = 0.0
    if method == "vgb":
        body["settings"] = {"num_candidates": 3}
    (reply,) = completed(application(TableEngine.random(num_tokens=3, seed=5)), body)
    assert reply["maxent"]["method"] == method
    assert reply["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("method", sorted(METHODS_WITHOUT_REWARD))
def test_methods_without_reward_return_the_same_whatever_the_reward(method):
    """What the registry says of them is what lets a request name none."""
    body = {"prompt": "a", "max_tokens": 3, "method": method, "seed": 1}
    replies = completed(
        application(TableEngine.random(num_tokens=3, seed=5)), body, {**body, "reward": "logprob"}, {**body, "reward": "format"}
    )
    assert len({one["choices"][0]["text"] for one in replies}) == 1
    assert replies[0]["choices"][0]["maxent"]["reward"] is None
