"""What is written down reads as the model wrote it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from maxent_ts.fingerprint import example_seed, fingerprint_examples, plain
from maxent_ts.recording import readable_prompt, tree_with_texts
from maxent_ts.records import read_run
from maxent_ts.tasks.base import Example
from maxent_ts.types import Embeddings, SeriesSegment, TimeSeriesPrompt

from .evaluation_fakes import NUM_ITEMS, FreeTask, LetterTask
from .toy_runs import FAKES, make, run_toys


class WordPieces:
    """Decodes as sentence-piece tokenizers do: no space before the first word, and half a character until its second byte."""

    pieces = ("▁the", "▁level", "▁rises", "s", "<E2>", "<82><AC>")

    def decode(self, tokens):
        text = "".join(self.pieces[token] for token in tokens).replace("▁", " ").lstrip(" ")
        return text.replace("<E2><82><AC>", "€").replace("<E2>", "\ufffd").replace("<82><AC>", "\ufffd")


def test_node_texts_add_up_to_the_completion_s_text():
    """Catches words that run together at branches, because a piece was decoded without what stands before it."""
    tokens = [[], [0], [1, 3], [2]]
    nodes = [{"parent": parent, "tokens": one} for parent, one in zip([-1, 0, 1, 1], tokens, strict=True)]
    tree = tree_with_texts({"nodes": nodes, "completions": [{"tokens": [0, 1, 3]}, {"tokens": [0, 2]}]}, WordPieces())
    assert [node["text"] for node in tree["nodes"]] == ["", "the", " levels", " rises"]
    assert [one["text"] for one in tree["completions"]] == ["the levels", "the rises"]


def test_a_branch_inside_a_character_shows_something_and_does_not_fail():
    """Catches a negative slice, or a node that repeats all text above it, where a byte completes a character."""
    nodes = [{"parent": -1, "tokens": []}, {"parent": 0, "tokens": [0, 4]}, {"parent": 1, "tokens": [5]}]
    tree = tree_with_texts({"nodes": nodes, "completions": []}, WordPieces())
    assert [node["text"] for node in tree["nodes"]] == ["", "the\ufffd", "\ufffd"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("plain", "plain"),
        ([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}], "user: hello\nassistant: yes"),
        ([3, 1, 4], "3 1 4"),
        (TimeSeriesPrompt("look", (SeriesSegment("mean 0", (0.0, 1.0)),), "say"), "look\nmean 0 [2 values]\nsay"),
        (Embeddings(np.zeros((5, 2))), "[5 input embeddings]"),
    ],
)
def test_every_kind_of_prompt_is_readable(prompt, expected):
    """Catches a kind of prompt that breaks the list of items."""
    assert readable_prompt(prompt) == expected


def test_the_seed_of_an_item_is_the_same_on_every_machine():
    """Catches Python's own hash, which differs from process to process."""
    assert example_seed("har_cot/0") == 8890878036861993582  # printf har_cot/0 | sha256sum | cut -c 1-16
    assert example_seed("har_cot/1") != example_seed("har_cot/0")


def example(**changes):
    values = {"id": "1", "prompt": "p", "inputs": {"series": [[1.0, 2.0]]}, "target": "a", "stratum": "s"}
    return Example(**{**values, **changes})


def test_the_fingerprint_sees_what_searches_see_and_nothing_else():
    """Catches data that changed under a run, and a fingerprint that changes with the targets."""
    base = fingerprint_examples([example()])
    assert fingerprint_examples([example(target="b", stratum="t")]) == base
    changed = [example(id="2"), example(prompt="q"), example(inputs={"series": [[1.0, 2.5]]})]
    assert len({base, *(fingerprint_examples([one]) for one in changed), fingerprint_examples([example(), example(id="2")])}) == 5


def test_plain_values_are_json_whatever_they_were():
    """Catches numpy numbers in a reward's evidence that end a run when they are written."""
    value = {"a": np.float32(0.5), "b": np.arange(2), 3: (np.bool_(True), float("nan"), -float("inf")), "c": {1}, "d": object}
    assert plain(value) == {"a": 0.5, "b": [0, 1], "3": [True, "NaN", "-Infinity"], "c": [1], "d": "<class 'object'>"}


def evaluated(tmp_path, task, method):
    return run_toys(make(tmp_path, methods=(method,), tasks=(task.name,), num_rollouts=8), task)


def test_what_a_method_estimates_comes_back_from_the_disk_as_it_was(tmp_path):
    """Catches NaN and infinities that become null, zero or an error, and marginals that are dropped or out of order."""
    run = evaluated(tmp_path, LetterTask(), {"name": f"{FAKES}:estimates"})
    assert [record.error for record in run.records] == [None] * NUM_ITEMS
    for line in (run.path / "samples.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    for record in read_run(run.path).records:
        assert record.marginals == {"a": [0.25, 0.125, 0.5], "b": [1.0, 0.0, 1.0]}
        assert math.isnan(record.info.pop("pareto_k_limit"))
        assert record.info == {
            "pareto_k": -math.inf, "log_z_high": math.inf, "num_fresh_draws": 3.0, "ess": 1.0, "duplicate_rate": 0.0
        }  # fmt: skip


def test_maxent_records_probabilities_of_answers_where_there_are_answers(tmp_path):
    """Catches marginals of a task without labels, and a certificate that never reaches the records."""
    method = {"name": "maxent", "settings": {"num_fresh_draws": 4}}
    records = evaluated(tmp_path / "labels", LetterTask(), method).records
    found = [record for record in records if record.marginals]
    assert found
    for record in found:
        assert set(record.marginals) <= {"a", "b"}
        assert all(0 <= low <= probability <= high <= 1 for probability, low, high in record.marginals.values())
        assert {one for one in record.answers if one is not None} <= set(record.marginals)
        assert math.isnan(record.info["pareto_k"]), "too few draws to fit a tail"
        assert record.info["log_z_upper"] == math.inf, "the reward has no known bound"
    assert not any(record.marginals for record in evaluated(tmp_path / "free", FreeTask(), method).records)
