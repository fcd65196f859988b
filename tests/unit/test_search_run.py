"""The driver: budgets, isolation of searches, and what happens when something fails."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.errors import EngineError, MaxentError, PromptError, RewardError, SettingError
from maxent_ts.registry import METHODS, load
from maxent_ts.search.base import AS_MANY_AS_AFFORDABLE, Rollouts
from maxent_ts.search.best_of_n import best_of_n
from maxent_ts.search.maxent import maxent, maxent_sample
from maxent_ts.search.run import Event, Searches, SearchJob, run_searches
from maxent_ts.search.sampling import greedy
from maxent_ts.search.vote import majority_vote
from maxent_ts.types import Budget, Completion, Outcome, Policy
from tests.conftest import TokenReward, additive_reward, run_one


def jobs_of(prompts, method=maxent, budget=None, seed=0, **options):
    return [
        SearchJob(f"item {i}", prompt, Policy(max_new_tokens=4), method, 1.0, budget or Budget(rollouts=8), (seed, i), **options)
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("num_tokens", [4, 7, 23, 150])
@pytest.mark.parametrize("method", [maxent, maxent_sample, best_of_n])
def test_the_budget_in_generated_tokens_is_never_exceeded_and_nearly_used(table_engine, method, num_tokens):
    """Reservations that are forgotten overshoot; ones that are never returned stop early."""
    result = run_one(table_engine, additive_reward(4, 4, 0), method, budget=Budget(generated_tokens=num_tokens))
    assert result.usage.generated_tokens <= num_tokens
    everything_seen = result.outcome.info.get("unseen_mass") == 0.0
    kept = 4 if method is maxent_sample and num_tokens > 4 else 0  # for a draw that may leave the tree, and did not
    assert everything_seen or result.usage.generated_tokens > num_tokens - 4 - kept


def test_a_budget_below_one_completion_is_refused(table_engine):
    """Nothing could be returned."""
    with pytest.raises(SettingError, match="does not cover one completion"):
        run_one(table_engine, additive_reward(4, 4, 0), best_of_n, budget=Budget(generated_tokens=3))


def test_a_search_without_any_end_is_refused(table_engine):
    """best_of_n without N and without a budget would never return."""
    with pytest.raises(SettingError, match="no end"):
        run_one(table_engine, additive_reward(4, 4, 0), best_of_n, budget=Budget())


def test_wall_time_alone_ends_a_search(table_engine):
    """The clock is looked at between batches, and the first batch always runs."""
    result = run_one(table_engine, additive_reward(4, 4, 0), best_of_n, budget=Budget(seconds=0.05))
    assert result.usage.rollouts >= 1
    assert result.usage.seconds < 5


def test_usage_is_counted_by_the_driver(table_engine):
    """Tokens, rollouts and reward calls must equal what the outcome shows."""
    result = run_one(table_engine, additive_reward(4, 4, 0), partial(best_of_n), budget=Budget(rollouts=12))
    assert result.usage.rollouts == 12
    assert result.usage.reward_calls == len(result.outcome.completions)
    costs = [cost for cost, _ in result.trajectory]
    bests = [best for _, best in result.trajectory]
    assert costs == sorted(costs)
    assert bests == sorted(bests)
    assert costs[-1] <= result.usage.generated_tokens
    assert bests[-1] == result.outcome.best.reward


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_the_effective_sample_size_of_its_weights(table_engine, name):
    """Catches an outcome without it, one of counts, and one of weights that do not sum to 1."""
    options = {"answer_fn": lambda text: text[:1] or None, "budget": Budget() if name == "exact" else Budget(generated_tokens=60)}
    outcome = run_one(table_engine, additive_reward(4, 4, 0), load(METHODS, name, "method"), **options).outcome
    weights = np.array(outcome.weights)
    assert outcome.info["ess"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert 1 - 1e-9 <= outcome.info["ess"] <= len(weights) + 1e-9


def scripted(rng, target, *, plan):
    """Ask for rollouts as (prefix, num, num_tokens), and return what the first of them wrote."""
    drawn = []
    for prefix, num, num_tokens in plan:
        branch = yield Rollouts(prefix, num, do_sample=False, num_tokens=num_tokens)
        drawn += [prefix + one.tokens for one in branch.rollouts]
    return Outcome((Completion(drawn[0], -1.0, "eos", 0.0),), (1.0,), (0,), {"own": 2.0})


def test_duplicates_are_counted_among_whole_completions_by_what_was_written_in_all(table_engine):
    """Catches segments counted as completions, and equal suffixes of different prefixes taken for the same text."""

    def info(*plan):
        return run_one(table_engine, additive_reward(4, 4, 0), partial(scripted, plan=plan)).outcome.info

    likeliest = run_one(table_engine, additive_reward(4, 4, 0), greedy).outcome.best.tokens
    assert len(likeliest) > 1
    assert info(((), 4, None)) == {"own": 2.0, "ess": 1.0, "duplicate_rate": 0.75}
    assert info(((), 1, None), (likeliest[:1], 1, None))["duplicate_rate"] == 0.5, "the same completion from another prefix"
    assert "duplicate_rate" not in info(((), 4, 1)), "no rollout was whole"
    assert info(((), 4, 1), ((), 1, None))["duplicate_rate"] == 0.0
    other = next(token for token in range(3) if token != likeliest[0])
    assert info(((), 1, None), ((other,), 1, None))["duplicate_rate"] == 0.0


@pytest.mark.parametrize("method", [maxent, maxent_sample, best_of_n])
def test_sixty_four_searches_together_equal_sixty_four_alone(method):
    """Bit for bit: a stream that depends on slots, order or batch-mates breaks this."""
    reward = additive_reward(4, 4, 1)
    prompts = [(i % 3, i % 4) for i in range(64)]
    engine = TableEngine.random(num_tokens=4, seed=2)
    together = {one.job.id: one for one in run_searches(jobs_of(prompts, method), engine, reward, max_concurrent=64)}
    for job in jobs_of(prompts, method):
        (alone,) = run_searches([job], TableEngine.random(num_tokens=4, seed=2), reward)
        mate = together[job.id]
        assert alone.outcome.completions == mate.outcome.completions
        assert alone.outcome.weights == mate.outcome.weights
        assert alone.outcome.chosen == mate.outcome.chosen
        assert alone.trajectory == mate.trajectory


def test_the_seed_decides(table_engine):
    """Same seed, same result; another seed, another."""
    reward = additive_reward(4, 4, 1)
    runs = [run_one(table_engine, reward, maxent_sample, seed=seed).outcome.completions for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def failing(kind):
    def function(tokens):
        if kind == "raises":
            raise ZeroDivisionError("by the user")
        return {"nan": math.nan, "inf": math.inf, "none": None}[kind]

    return function


@pytest.mark.parametrize(
    ("kind", "error"), [("nan", RewardError), ("inf", RewardError), ("none", RewardError), ("raises", ZeroDivisionError)]
)
def test_a_reward_that_fails_for_one_item_fails_that_item_alone(table_engine, kind, error):
    """Rewards are called for many searches at once; the fault must find its owner."""
    good = additive_reward(4, 4, 0)

    class Picky(TokenReward):
        def __call__(self, *, completion_ids, item, **columns):
            bad = failing(kind)
            return [
                bad(ids) if name == "bad" else good.function(tuple(ids)) for ids, name in zip(completion_ids, item, strict=True)
            ]

    jobs = [
        SearchJob(name, (0,), Policy(4), maxent, 1.0, Budget(rollouts=5), (0, i), {"item": name})
        for i, name in enumerate(["good", "bad", "fine"])
    ]
    results = {one.job.id: one for one in run_searches(jobs, table_engine, Picky(good.function))}
    assert isinstance(results["bad"].error, error)
    assert results["bad"].outcome is None
    assert results["good"].outcome is not None
    assert results["fine"].outcome is not None


def test_a_reward_of_the_wrong_length_is_an_error_that_counts(table_engine):
    """Values that do not line up with completions would score the wrong ones."""

    class Short(TokenReward):
        def __call__(self, *, completion_ids, **columns):
            return [1.0]

    with pytest.raises(RewardError, match="one value per completion"):
        run_one(table_engine, Short(lambda tokens: 1.0), best_of_n)


def test_a_bad_prompt_fails_its_item_alone(table_engine):
    """An empty prompt among good ones."""
    results = {one.job.id: one for one in run_searches(jobs_of([(0,), (), (1,)]), table_engine, additive_reward(4, 4, 0))}
    assert isinstance(results["item 1"].error, PromptError)
    assert results["item 0"].error is None
    assert results["item 2"].error is None


def test_numbers_that_are_not_finite_in_the_model_fail_the_item_alone():
    """A model may break on one prompt only."""

    def probabilities(tokens):
        return np.array([np.nan, 1.0]) if tokens[0] == 1 else np.array([0.5, 0.5])

    engine = TableEngine(probabilities, "ab")
    results = {one.job.id: one for one in run_searches(jobs_of([(0,), (1,)]), engine, TokenReward(lambda tokens: 0.0))}
    assert isinstance(results["item 1"].error, EngineError)
    assert results["item 0"].error is None


def test_a_method_with_a_bug_fails_its_item_and_keeps_the_traceback(table_engine):
    """The driver must not lose the other searches, nor the place of the bug."""

    def broken(rng, target):
        yield Rollouts(num=1)
        raise KeyError("bug")

    def nothing(rng, target):
        yield Rollouts(num=1)

    def fine(rng, target):
        branch = yield Rollouts(num=1)
        assert branch.rollouts
        return Outcome((), (), ())

    jobs = [
        SearchJob("broken", (0,), Policy(4), broken, 1.0, Budget(rollouts=1)),
        SearchJob("nothing", (0,), Policy(4), nothing, 1.0, Budget(rollouts=1)),
        SearchJob("fine", (0,), Policy(4), fine, 1.0, Budget(rollouts=1)),
    ]
    results = {one.job.id: one for one in run_searches(jobs, table_engine, TokenReward(lambda tokens: 0.0))}
    assert isinstance(results["broken"].error, KeyError)
    assert results["broken"].error.__traceback__ is not None
    assert isinstance(results["nothing"].error, AttributeError)
    assert results["fine"].error is None


def test_a_vote_without_answers_to_read_is_refused(table_engine):
    """Free text has no vote."""
    with pytest.raises(MaxentError, match="votes on final answers"):
        run_one(table_engine, TokenReward(lambda tokens: 0.0), majority_vote)


def test_a_parser_that_raises_fails_its_item_alone(table_engine):
    """A task's answer function is user code too."""

    def picky(text):
        raise ValueError("cannot read this")

    jobs = [*jobs_of([(0,)], majority_vote), *jobs_of([(1,)], best_of_n)]
    jobs[1] = SearchJob("fine", (1,), Policy(4), best_of_n, 1.0, Budget(rollouts=3))
    reward = TokenReward(lambda tokens: 0.0)
    results = {one.job.id: one for one in run_searches(jobs, table_engine, reward, answer_fn=picky)}
    assert isinstance(results["item 0"].error, ValueError)
    assert results["fine"].error is None


def test_events_report_progress_and_the_generator_can_be_left(table_engine):
    """A caller that stops reading must not leave generators or contexts behind."""
    events: list[Event] = []
    results = run_searches(jobs_of([(0,)] * 10), table_engine, additive_reward(4, 4, 0), max_concurrent=3, on_event=events.append)
    next(results)
    results.close()
    assert any(event.kind == "finished" for event in events)
    assert max(event.live for event in events) <= 3
    assert not table_engine.step()


def test_as_many_as_affordable_means_the_budget(table_engine):
    """The sentinel must never reach an engine."""
    result = run_one(table_engine, TokenReward(lambda tokens: 0.0), best_of_n, budget=Budget(rollouts=37))
    assert result.usage.rollouts == 37 < AS_MANY_AS_AFFORDABLE


def test_searches_that_join_and_leave_on_the_way_with_rewards_of_their_own_equal_those_alone(table_engine):
    """Catches a step that loses a search, a reward that scores another one's completions, and a trace of what was cancelled."""
    rewards = [additive_reward(4, 4, seed) for seed in range(3)]
    jobs = jobs_of([(i % 3, i % 4) for i in range(9)], maxent_sample)
    searches, results, coming = Searches(table_engine), {}, list(enumerate(jobs))
    while coming or searches:
        for index, job in [coming.pop(0) for _ in coming[:2]]:
            searches.add(job, rewards[index % 3])
        results.update({one.job.id: one for one in searches.advance()})
        if len(coming) == 1:  # two steps after item 4 joined
            results["item 4"] = searches.cancel("item 4")
        if searches.is_waiting:
            searches.step()
    assert results["item 4"].outcome is None
    assert results["item 4"].error is None
    assert searches.generated_tokens == sum(one.usage.generated_tokens for one in results.values())
    for index, job in enumerate(jobs):
        if index != 4:
            (alone,) = run_searches([job], TableEngine.random(num_tokens=4, concentration=0.7, seed=3), rewards[index % 3])
            assert alone.outcome.completions == results[job.id].outcome.completions
            assert alone.outcome.chosen == results[job.id].outcome.chosen
            assert alone.usage.generated_tokens == results[job.id].usage.generated_tokens
    assert not table_engine.step()


def test_the_best_so_far_is_what_has_the_highest_reward_of_all_that_was_scored(table_engine):
    """Catches the last completion taken for the best, and one without its text."""
    reward, searches, seen = additive_reward(4, 4, 1), Searches(table_engine), []
    (job,) = jobs_of([(0,)], budget=Budget(rollouts=40))
    searches.add(job, reward)
    assert searches.best(job.id) is None
    while not (done := searches.advance()):
        seen += [searches.best(job.id)]
        searches.step()
    found = [one for one in seen if one is not None]
    assert [one.reward for one in found] == sorted(one.reward for one in found)
    assert all(one.reward == reward.function(one.tokens) and one.text == table_engine.decode(one.tokens) for one in found)
    assert found[-1].reward <= done[0].outcome.best.reward == max(one.reward for one in done[0].outcome.completions)


def test_a_reward_sees_the_columns_of_its_own_search_whatever_others_have(table_engine):
    """Catches a column of a batch-mate that turns a missing one into None."""
    seen = []

    class Looking(TokenReward):
        def __call__(self, *, completion_ids, **columns):
            seen.append(sorted(columns.keys() - {"prompts", "completions", "logprobs", "finish_reasons"}))
            return [0.0 for _ in completion_ids]

    jobs = [
        SearchJob(str(i), (0,), Policy(4), best_of_n, 1.0, Budget(rollouts=2), (0, i), inputs)
        for i, inputs in enumerate([{}, {"a": 1}, {"a": 2}, {"a": 1, "b": 2}])
    ]
    list(run_searches(jobs, table_engine, Looking(lambda tokens: 0.0)))
    assert sorted(seen) == [[], ["a"], ["a", "b"]]
