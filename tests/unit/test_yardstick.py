"""The yardstick measures everything else, so all it claims to know exactly is enumerated here on small instances."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from benchmarks.yardstick import absorbing, counted, enumerable, grammar, language, verifier
from benchmarks.yardstick.automaton import Automaton, count_tokens, count_words
from benchmarks.yardstick.machine import NEVER, Machine
from benchmarks.yardstick.measure import Subject, enumerate_truth
from benchmarks.yardstick.posterior import count_law, highest_count, posterior

from maxent_ts.types import Policy


def random_machine(num_states: int, num_tokens: int, *, with_end: bool, seed: int, sparse: bool = False) -> Machine:
    """Every hidden state may go anywhere on every token; `sparse` forbids half of the edges."""
    rng = np.random.default_rng(seed)
    end = num_tokens - 1 if with_end else NEVER
    edges = np.array([edge for edge in product(range(num_states), range(num_tokens), range(num_states)) if edge[1] != end])
    weights = rng.dirichlet(np.ones(num_states * num_tokens + 1), size=num_states)
    probability = weights[edges[:, 0], edges[:, 1] * num_states + edges[:, 2]]
    if sparse:
        probability = probability * (rng.random(len(edges)) < 0.5)
    ending = weights[:, -1] if with_end else np.zeros(num_states)
    total = ending.copy()
    np.add.at(total, edges[:, 0], probability)
    source, token, target = edges.T
    start = rng.dirichlet(np.ones(num_states))
    vocabulary = tuple("abcdefgh"[:num_tokens])
    return Machine("random", vocabulary, start, source, token, target, probability / total[source], ending / total, end)


def shortened(machine: Machine, vocabulary: int) -> Machine:
    """The same machine over its first tokens only, rescaled: few enough for enumeration."""
    keep = machine.token < vocabulary
    total = machine.ending.copy()
    np.add.at(total, machine.source[keep], machine.probability[keep])
    scale = np.where(total > 0, 1 / np.where(total > 0, total, 1), 0)
    end = vocabulary if machine.end != NEVER else NEVER
    texts = (*machine.vocabulary[:vocabulary], "!") if end != NEVER else machine.vocabulary[:vocabulary]
    return Machine(
        machine.name,
        texts,
        machine.start,
        machine.source[keep],
        machine.token[keep],
        machine.target[keep],
        machine.probability[keep] * scale[machine.source[keep]],
        machine.ending * scale,
        end,
    )


def probability_of(machine: Machine, tokens: tuple[int, ...]) -> float:
    """p(tokens) by the definition: the sum over all hidden paths, edge by edge."""
    mass = {state: p for state, p in enumerate(machine.start) if p > 0}
    for token in tokens:
        if token == machine.end:
            return sum(p * machine.ending[state] for state, p in mass.items())
        following: dict[int, float] = {}
        for edge in np.flatnonzero(machine.token == token):
            p = mass.get(int(machine.source[edge]), 0.0) * machine.probability[edge]
            if p > 0:
                target = int(machine.target[edge])
                following[target] = following.get(target, 0.0) + p
        mass = following
    return sum(mass.values())


@cache
def small_languages() -> dict[str, Machine]:
    return {
        "HMM": shortened(language.hmm(num_states=3, num_iterations=3), 3),
        "HMM without end": shortened(language.hmm(num_states=3, with_end=False, num_iterations=3), 3),
        "PCFG": shortened(language.pcfg(num_symbols=2, depth=2, num_iterations=3), 3),
        "3-gram": shortened(language.character_ngram(order=3), 4),
        "random": random_machine(3, 3, with_end=True, seed=1),
        "random, sparse": random_machine(3, 4, with_end=True, seed=2, sparse=True),
        "random without end": random_machine(2, 3, with_end=False, seed=3),
    }


NAMES = ("HMM", "HMM without end", "PCFG", "3-gram", "random", "random, sparse", "random without end")
LENGTH = 4


def automata(num_tokens: int) -> list[Automaton]:
    return [
        count_tokens("class", num_tokens, [0, 2], most=LENGTH),
        count_tokens("class, cut", num_tokens, [1, num_tokens - 1], most=2, unit=0.5),
        count_words("words", num_tokens, [(0,), (0, 1), (1, 0, 1), (0, 0)], most=20),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_rows_sum_to_one_and_are_the_definition(name):
    """A forward step that forgets to normalise, or a cache that mixes prefixes up, fails here."""
    machine = small_languages()[name]
    engine = machine.engine()
    context = engine.open((0,), Policy(LENGTH))
    prefixes = [prefix for size in range(LENGTH) for prefix in product(range(len(machine.vocabulary)), repeat=size)]
    np.random.default_rng(0).shuffle(prefixes)
    checked = 0
    for prefix in map(tuple, prefixes):
        mass = 0.0 if machine.end in prefix else probability_of(machine, prefix)
        if mass <= 0:
            continue
        row = engine._row(context, prefix)
        assert row.sum() == pytest.approx(1, abs=1e-12)
        expected = [probability_of(machine, (*prefix, token)) / mass for token in range(len(machine.vocabulary))]
        np.testing.assert_allclose(row, expected, atol=1e-12)
        checked += 1
    assert checked > 5


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("tilt", [0.0, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_the_posterior_is_what_enumeration_finds(name, tilt, which):
    """Forgetting the cut at the length, the end token's own count, or an overlap of words changes Z or the law of r."""
    machine = small_languages()[name]
    automaton = automata(len(machine.vocabulary))[which]
    found = posterior(machine, automaton, LENGTH, tilt)
    truth = enumerate_truth(Subject(machine.engine(), automaton.reward(), LENGTH, tilt, 0))
    assert found.log_z == pytest.approx(truth.log_z, abs=1e-10)
    np.testing.assert_allclose(counted.law_of_reward(truth.outcome, found, automaton.unit), found.weights, atol=1e-10)
    rewards = [one.reward for one in truth.outcome.completions]
    assert found.mean == pytest.approx(float(truth.weights @ rewards), abs=1e-10)
    assert found.highest == pytest.approx(max(rewards))


def test_without_evidence_the_law_of_the_count_is_a_distribution_at_full_length():
    """Mass lost in 128 steps of the trained models would pass unseen at length 4."""
    for table in counted.TABLES:
        if "6-gram" not in table:
            assert counted.problem(table).posterior.prior.sum() == pytest.approx(1, abs=1e-9)
            assert counted.problem(table).posterior.weights.sum() == pytest.approx(1, abs=1e-9)


def test_the_highest_count_does_not_underflow():
    """The law of the count says 0 where p is below 1e-308; the longest completion is possible all the same."""
    nowhere, rare = np.zeros(2, int), np.array([1e-4, 1 - 1e-4])
    machine = Machine("rare", ("a", "b"), np.ones(1), nowhere, np.arange(2), nowhere, rare, np.zeros(1), NEVER)
    automaton = count_tokens("a", 2, [0], most=200)
    assert count_law(machine, automaton, 100)[100] == 0
    assert highest_count(machine, automaton, 100) == 100


def test_an_automaton_counts_what_the_text_holds():
    """Overlapping words, and words inside words, against a search by hand."""
    automaton = count_words("words", 3, [(0, 1, 0), (1, 0), (0,), (1, 0)], most=100)
    words = ["aba", "ba", "a", "ba"]
    for tokens in product(range(3), repeat=6):
        text = "".join("abc"[token] for token in tokens)
        expected = sum(text.startswith(word, start) for word in words for start in range(len(text)))
        assert automaton.count(tokens) == expected
        assert automaton.reward()(completion_ids=[list(tokens)]) == [expected]


def test_training_raises_the_likelihood():
    """Forty iterations against one: expectations of the wrong table would not climb."""
    _, sequences = language.words()

    def likelihood(machine: Machine) -> float:
        engine, total = machine.engine(), 0.0
        context = engine.open((0,), Policy(64))
        for sequence in sequences[:10]:
            total += sum(np.log(engine._row(context, sequence[:i])[token]) for i, token in enumerate(sequence))
        return total

    assert likelihood(language.hmm(num_iterations=40)) > likelihood(language.hmm(num_iterations=1)) + 20
    assert likelihood(language.pcfg(num_iterations=40)) > likelihood(language.pcfg(num_iterations=1)) + 20


def test_the_text_is_one_verse_a_line_and_comes_back_from_its_tokens():
    vocabulary, sequences = language.characters()
    assert len(sequences) == len(language.verses()) == 361
    assert "".join(vocabulary[token] for token in sequences[0][:-1]) == "in the beginning god created the heaven and the earth."
    assert all(sequence[-1] == len(vocabulary) - 1 for sequence in sequences)


@pytest.mark.parametrize("setting", enumerable.SETTINGS, ids=lambda one: one.name)
@pytest.mark.parametrize("family", enumerable.FAMILIES)
def test_rewards_keep_their_bounds_and_tell_completions_apart(setting, family):
    """`sparse` and `rugged` are tables by number of the completion: two completions of one number would share a reward."""
    small = replace(setting, length=3)
    reward = enumerable.reward_of_family(family, small, seed=0)
    completions = [ids for size in (1, 2, 3) for ids in product(range(setting.num_tokens), repeat=size)]
    values = reward(completion_ids=[list(ids) for ids in completions])
    assert reward.range[0] - 1e-12 <= min(values)
    assert max(values) <= reward.range[1] + 1e-12
    numbers = [enumerable._index(ids, small) for ids in completions]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < (setting.num_tokens + 1) ** small.length


@pytest.mark.parametrize("name", ["ABC", "parity", "Dyck"])
def test_the_value_of_a_prefix_is_its_expected_weight(name):
    """V(s) of the verifier tests against the mean over all continuations."""
    num_tokens, length, accepted = verifier.ACCEPTED[name]
    for size in (0, 1, 2, length - 1, length):
        for tokens in list(product(range(num_tokens), repeat=size))[:: max(1, num_tokens**size // 7)]:
            endings = product(range(num_tokens), repeat=length - size) if length - size < 7 else ()
            weights = [np.exp(verifier.TILT * accepted((*tokens, *ending), 0)) for ending in endings]
            if weights:
                assert verifier.value_of(name, tokens) == pytest.approx(np.mean(weights), rel=1e-9)


@pytest.mark.parametrize("table", verifier.TABLES)
def test_a_verifier_is_off_by_its_error_and_no_more(table):
    name = table.split(",")[0]
    subject = verifier.subject(table, seed=2)
    truth = enumerate_truth(subject)
    assert truth.log_z == pytest.approx(np.log(verifier.value_of(name, ())), abs=1e-9)
    prefixes = [one.tokens[:size] for one in truth.outcome.completions[::97] for size in (1, 3, 5)]
    found = np.array(subject.reward.prefix(completion_ids=[list(one) for one in prefixes])) * verifier.TILT
    errors = found - np.log([verifier.value_of(name, one) for one in prefixes])
    assert np.abs(errors).max() <= verifier.ERROR + 1e-9
    assert np.abs(errors).max() > 0.3


def test_dyck_words_are_counted_by_catalan():
    """14 shapes of four pairs, each pair of two kinds."""
    assert sum(verifier.is_balanced(tokens) for tokens in product(range(4), repeat=8)) == 14 * 2**4


def test_the_grammars_accept_what_they_should():
    assert all(map(grammar.is_expression, ("x", "x+x", "(x)", "(x+x)+x", "((x))")))
    assert not any(map(grammar.is_expression, ("", "x+", "(x", "x)", "()", "xx", "x+(")))
    assert all(map(grammar.is_list, ("[]", "[1]", "[1,1]", "[[],1]", "[[1]]")))
    assert not any(map(grammar.is_list, ("", "[", "[1", "[,]", "1", "[1,]", "[]1", "[11]")))


@pytest.mark.parametrize("table", grammar.TABLES)
def test_a_constraint_leaves_only_sentences(table):
    """What the grammar rejects keeps less than 1e-9 of π at λ = 30."""
    truth = enumerate_truth(grammar.subject(table, seed=1))
    sentences = np.array([one.reward == 1 for one in truth.outcome.completions])
    assert 0 < sentences.sum() < 100
    assert truth.weights[~sentences].sum() < 1e-9


def test_low_temperature_errs_where_the_power_distribution_does_not():
    """p^α by hand: the right token is the less likely one, and has nearly all of the power distribution."""
    (table,) = absorbing.TABLES
    subject = absorbing.subject(table, seed=0)
    truth = enumerate_truth(subject)
    powers = np.exp(absorbing.POWER * np.array([one.logprob for one in truth.outcome.completions]))
    np.testing.assert_allclose(truth.weights, powers / powers.sum(), atol=1e-12)
    assert absorbing.right_share(truth.weights, truth)["right"] > 0.99
    row = absorbing.low_temperature(table, subject, truth)
    expected = 0.35**absorbing.POWER / sum(p**absorbing.POWER for p in (0.35, 0.55, 0.1))
    assert row.values["right"] == pytest.approx(expected)
