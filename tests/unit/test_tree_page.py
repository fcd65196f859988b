"""Views of a stored tree: the data of the page, which tree is meant, the terminal, the notebook."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from maxent_ts import generate
from maxent_ts.errors import RunDirectoryError, UnknownNameError
from maxent_ts.records import read_run
from maxent_ts.report.tree_choice import choose_tree
from maxent_ts.report.tree_data import value_bounds, with_texts
from maxent_ts.report.tree_page import render_tree_page, tree_page_data, write_tree_page
from maxent_ts.report.tree_text import tree_text
from maxent_ts.search.maxent import maxent_sample
from tests.conftest import additive_reward, run_one

from .evaluation_fakes import FreeTask, LetterTask, make_engine, share_of_a
from .toy_runs import make, run_toys

EVIL = "</script><!--<script>alert(1)</script>\u2028&amp;"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    methods = ("greedy", "maxent", "maxent_sample")
    config = make(tmp_path_factory.mktemp("trees"), methods=methods, tasks=("letters", "free"), num_rollouts=6, save_trees=2)
    return run_toys(config, LetterTask(), FreeTask())


def embedded(page):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(data)


def test_the_page_holds_the_tree_the_search_made(finished):
    """Catches columns that are shifted, dropped or rounded away, and evidence of another completion."""
    stored = choose_tree(finished, item="2")
    data = embedded(render_tree_page(tree_page_data(finished, stored)))
    nodes = stored.tree["nodes"]
    for name in ("parent", "logprob", "first_logprob", "log_value", "log_known", "log_open", "mass", "visits", "completion"):
        for found, node in zip(data["nodes"][name], nodes, strict=True):
            assert found == (node[name] if node[name] is None else pytest.approx(node[name], rel=1e-9))
    assert data["nodes"]["text"] == [node["text"] for node in nodes]
    rewards = [one["reward"] for one in data["completions"]]
    assert [one["evidence"]["value"] for one in data["completions"]] == rewards
    assert rewards == [pytest.approx(one["text"].count("a") / max(1, len(one["text"]))) for one in data["completions"]]
    assert rewards[data["best"]] == max(rewards) == rewards[data["returned"]]
    example = finished.examples[("letters", "item/1")]
    assert (data["item"], data["number"], data["series"]) == (example.id, 2, example.series)


def test_siblings_compare_by_the_first_token_of_their_piece(finished):
    """Catches shares taken from whole chains: posterior mass among siblings is p(first token)·W, as in Tree.log_weights."""
    tree = choose_tree(finished).tree
    for index, node in enumerate(tree["nodes"]):
        children = [one for one in tree["nodes"] if one["parent"] == index]
        if children:
            weights = np.exp([one["first_logprob"] + one["log_value"] for one in children])
            assert [one["mass"] for one in children] == pytest.approx(node["mass"] * weights / weights.sum())


@pytest.mark.parametrize("bounded", [True, False])
def test_the_bracket_of_the_root_is_that_of_log_z(table_engine, bounded):
    """Catches a bracket in other units than the value it holds, and an unbounded reward that looks bounded."""
    reward = additive_reward(4, 4, 0)
    if not bounded:
        reward.range = (-math.inf, math.inf)
    tree = run_one(table_engine, reward, maxent_sample, tilt=2.0).outcome.tree
    lower, _, upper = tree.log_partition()
    assert value_bounds(tree.to_dict(), tree.to_dict()["nodes"][0]) == pytest.approx((lower / 2, upper / 2))
    assert math.isinf(upper) is not bounded


def test_texts_of_completions_are_divided_among_the_nodes_above_them(table_engine):
    """Catches notebooks whose pieces do not add up to what was written."""
    result = run_one(table_engine, additive_reward(4, 4, 0), maxent_sample)
    texts = ["".join("xyz."[token] for token in one.tokens) for one in result.outcome.completions]
    found = with_texts(result.outcome.tree.to_dict(), texts)
    for node in found["nodes"]:
        if node["completion"] is not None:
            text, above = node["text"], node["parent"]
            while above >= 0:
                text, above = found["nodes"][above]["text"] + text, found["nodes"][above]["parent"]
            assert text == texts[node["completion"]]


def test_text_of_a_model_stays_data(finished):
    """Catches a completion that closes the script it is stored in, and a script that the page's own policy does not allow."""
    stored = choose_tree(finished)
    data = tree_page_data(finished, stored)
    for one in data["completions"]:
        one["text"] = EVIL
    data |= {"item": EVIL, "prompt": EVIL, "target": EVIL, "labels": []}
    page = render_tree_page(data)
    assert embedded(page)["completions"][0]["text"] == EVIL
    assert "alert(1)</script>" not in page
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    (allowed,) = re.findall(r"script-src '(sha256-[^']+)'", page)
    assert [f"sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}" for one in scripts] == [allowed]
    assert not re.search(r"""(src|href)=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)""", page)


def test_an_item_is_meant_by_id_or_number_and_the_task_by_the_id(finished):
    """Catches numbers from 0, and an item of another task than the one named."""
    assert choose_tree(finished).example_id == "item/0"
    assert choose_tree(finished, item="2").example_id == choose_tree(finished, item="item/1").example_id == "item/1"
    free = choose_tree(finished, item="1", task="free", method="maxent_sample")
    assert (free.task, free.method, free.record.key) == ("free", "maxent_sample", ("free", "maxent_sample", "item/0"))


@pytest.mark.parametrize(
    ("choice", "error", "expected"),
    [
        ({"item": "13"}, UnknownNameError, r"no item '13'.*from 1 to 12, such as 1 \(item/0\)"),
        ({"item": "0"}, UnknownNameError, "no item '0'"),
        ({"item": "3"}, RunDirectoryError, r"item '3'.*letters item 1 \(item/0\), letters item 2.*first 2 items.*--save-trees"),
        ({"method": "greedy"}, RunDirectoryError, "no search tree of method 'greedy'. There are trees of maxent, maxent_sample"),
        ({"method": "wurst"}, UnknownNameError, "no method 'wurst'. It has: greedy, maxent, maxent_sample"),
        ({"task": "wurst"}, UnknownNameError, "no task 'wurst'. It has: letters, free"),
    ],
)
def test_a_tree_that_is_not_there_says_which_are(finished, choice, error, expected):
    """Catches an empty page, or a message that does not say how to get the tree."""
    with pytest.raises(error, match=expected):
        choose_tree(finished, **choice)


def test_a_tree_of_an_earlier_version_is_refused(finished):
    """Catches a KeyError where a stored tree lacks what was added since."""
    path = finished.trees()[0][2]
    before = path.read_bytes()
    tree = json.loads(gzip.decompress(before))
    for node in tree["nodes"]:
        del node["first_logprob"]
    try:
        path.write_bytes(gzip.compress(json.dumps(tree).encode()))
        with pytest.raises(RunDirectoryError, match="earlier version"):
            choose_tree(finished, task=tree["task"], method=tree["method"], item=tree["example_id"])
    finally:
        path.write_bytes(before)


def test_the_page_goes_where_it_is_told_or_into_the_run(finished, tmp_path):
    """Catches a page under a name that another tree's page overwrites, and a traceback where it cannot be written."""
    stored = choose_tree(read_run(finished.path), item="2", task="free")
    assert write_tree_page(finished, stored).name == "tree-free-maxent-2.html"
    assert write_tree_page(finished, stored, tmp_path / "page.html").read_text().startswith("<!doctype html>")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write_tree_page(finished, stored, tmp_path / "missing" / "page.html")


def printed(tree, **options):
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(tree_text(tree, **options))
    return console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def test_the_terminal_shows_every_completion_once_and_marks_the_best(finished):
    """Catches leaves that are lost, and markup in a model's text that rich would swallow."""
    tree = json.loads(json.dumps(choose_tree(finished).tree))
    tree["nodes"][-1]["text"] = "[bold]x[/bold]"
    text = printed(tree)
    rewards = sorted(float(one) for one in re.findall(r" r = (-?[\d.]+)", text))
    assert rewards == pytest.approx(sorted(one["reward"] for one in tree["completions"]), abs=6e-4)
    (best,) = [line for line in text.splitlines() if "★" in line]
    assert f"r = {max(rewards):.3f}" in best
    assert "[bold]x[/bold]" in text
    few = printed(tree, max_leaves=1)
    assert "the 1 heaviest and the best" in few
    assert few.count(" r = ") in (1, 2)


def test_a_notebook_shows_answer_and_tree_without_script(finished):
    """Catches a picture that needs a script, and a completion that becomes markup."""
    engine = make_engine("toy", dtype="float32", device="cpu")
    found = generate(engine, [1, 2, 0], reward=share_of_a, num_rollouts=5, max_new_tokens=6)
    shown = found._repr_html_()
    assert found.text.strip() in shown
    assert "<svg" in shown
    assert all(f"r = {one.reward:.3f}" in shown for one in found.completions)
    assert "<svg" in found.tree._repr_html_()
    evil = replace(found.outcome, completions=tuple(replace(one, text=EVIL) for one in found.completions))
    for outcome in (evil, replace(evil, tree=None)):
        assert "<script" not in replace(found, outcome=outcome)._repr_html_()
    plain = generate(engine, [1, 2, 0], reward=share_of_a, method="best_of_n", num_rollouts=5, max_new_tokens=6)
    assert plain.outcome._repr_html_().count("<tr>") == 1 + len(plain.completions)
