"""The page stands alone, says what the records say, and never lets a model's text become markup."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from maxent_ts.config import make_config
from maxent_ts.errors import RunDirectoryError
from maxent_ts.evaluate import Silent, evaluate
from maxent_ts.fingerprint import plain
from maxent_ts.records import Record, read_run, read_tree
from maxent_ts.report.figures import curves
from maxent_ts.report.html import render_report, write_report
from maxent_ts.report.tree_view import tree_svg

from .evaluation_fakes import FreeTask, LetterTask, make_engine

METHODS = ("greedy", "best_of_n", "majority_vote", "maxent")
VOID = {"meta", "br", "link", "img", "hr", "input"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = make_config(
        tasks=("letters", "free"),
        methods=tuple({"name": one} for one in METHODS),
        num_rollouts=5,
        max_new_tokens=6,
        tilt=3.0,
        model="toy",
        output_dir=tmp_path_factory.mktemp("run"),
    )
    return evaluate(config, engine=make_engine("toy", dtype="float32", device="cpu"), tasks=[LetterTask(), FreeTask()])


@pytest.fixture(scope="module")
def page(finished):
    return render_report(finished)


class Balanced(HTMLParser):
    """Collects text, attributes and ids, and checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.ids, self.tags, self.links = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_needs_no_network_and_no_script(page):
    """Catches a font, script or image from elsewhere: the page must open from a disk in a train."""
    parsed = parse(page)
    assert "script" not in parsed.tags
    assert all(link.startswith("#") for link in parsed.links)
    assert not re.search(r"@import|url\((?!#)", page)


def test_every_method_task_and_number_of_the_summary_is_on_the_page(finished, page):
    """Catches a table that is cut, and figures that are not the summary's."""
    text = "\n".join(parse(page).text)
    for task, methods in finished.summary["tasks"].items():
        assert task in text
        for method, row in methods.items():
            assert method in text
            assert f"{row['reward']['mean']:.3f}" in text
    for row in finished.summary["comparisons"]:
        assert f"{row['difference']:+.3f}" in text
    assert "majority_vote was left out: it needs labels" in " ".join(text.split())


def test_text_of_a_model_never_becomes_markup(finished, tmp_path):
    """Catches a completion, a prompt or an error that closes a tag or runs a script."""
    path = tmp_path / "run"
    shutil.copytree(finished.path, path)
    evil = "</table></svg><script>alert(1)</script><img src=x onerror=y>&amp;"
    lines = (path / "samples.jsonl").read_text().splitlines()
    records = [Record.model_validate_json(line) for line in lines]
    for record in records:
        record.text = evil
        statement = {"text": evil, "verdict": evil, "degree": 1.0}
        record.evidence = {"value": 1.0, "parts": {evil: {"value": 1.0}}, "statements": [statement]}
    records[-1].error = evil
    (path / "samples.jsonl").write_text("".join(json.dumps(plain(one.model_dump())) + "\n" for one in records))
    page = parse(render_report(read_run(path)))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "".join(page.text).count(evil) >= len(METHODS)


def test_the_tree_shows_every_completion_once_and_shared_text_once(finished):
    """Catches leaves that are lost in the layout, and rows that overlap."""
    tree = read_tree(finished.trees()[0][2])
    root = ElementTree.fromstring(tree_svg(tree))
    space = "{http://www.w3.org/2000/svg}"
    labels = [one for one in root.iter(f"{space}text") if one.get("class") == "tree-label"]
    assert len(labels) == len(tree["completions"])
    assert len({one.get("y") for one in labels}) == len(labels)
    drawn = sorted(one.text for one in root.iter(f"{space}text") if one.get("class") == "tree-text")
    assert drawn == sorted(node["text"] for node in tree["nodes"] if node["text"])
    best = [one for one in root.iter(f"{space}g") if one.get("class") == "tree-best"]
    highest = max(one["reward"] for one in tree["completions"])
    assert [f"r = {highest:.3f}" in "".join(one.itertext()) for one in best] == [True]
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter(f"{space}rect"):
        assert 0 <= float(box.get("x")) <= float(box.get("x")) + float(box.get("width")) <= width
        assert 0 <= float(box.get("y")) <= float(box.get("y")) + float(box.get("height")) <= height


def test_a_large_tree_keeps_its_heaviest_and_its_best_completion():
    """Catches a picture without the answer, or one of unbounded size."""
    nodes = [
        {"parent": -1, "tokens": [], "text": "", "logprob": 0.0, "log_value": 0.0, "mass": 1.0, "visits": 9, "completion": None}
    ]
    completions = []
    for index in range(9):
        node = {"parent": 0, "tokens": [index], "text": f"<{index}>\n", "logprob": -1.0, "log_value": None, "visits": 1}
        nodes.append({**node, "mass": (9 - index) / 45, "completion": index})
        completions.append({"tokens": [index], "logprob": -1.0, "reward": float(index), "finish_reason": "eos"})
    picture = tree_svg({"tilt": 1.0, "nodes": nodes, "completions": completions}, max_leaves=3)
    root = ElementTree.fromstring(picture)
    drawn = {one.text for one in root.iter("{http://www.w3.org/2000/svg}text") if one.get("class") == "tree-text"}
    assert drawn == {"<0>⏎", "<1>⏎", "<2>⏎", "<8>⏎"}


def make_record(trajectory, reward):
    values = {"task": "t", "method": "m", "settings": {}, "tilt": 1.0, "example_id": "1", "seed": [0]}
    return Record(**values, trajectory=trajectory, reward=reward)


def test_curves_average_the_best_so_far_over_all_items():
    """Catches a mean over only those items that have a reward already, which would start too high or jump."""
    items = [make_record([(2, 0.0), (6, 1.0)], 1.0), make_record([(4, 2.0), (5, 4.0)], 4.0)]
    assert curves({"m": items}) == {"m": ([4.0, 5.0, 6.0], [1.0, 2.0, 2.5])}
    assert curves({"m": [make_record([(2, 1.0), (6, 1.0)], 0.5)]}) == {}, "a method that does not return its best has no curve"


def test_a_run_that_was_stopped_has_a_page_too(tmp_path):
    """Catches a report that needs summary.json, and one that hides that the run is not over."""

    class Stop(Silent):
        num = 0

        def recorded(self, record):
            self.num += 1
            if self.num == 3:
                raise KeyboardInterrupt

    config = make_config(
        tasks=("letters",), methods=({"name": "greedy"},), num_rollouts=1, max_new_tokens=4, output_dir=tmp_path / "run"
    )
    engine = make_engine("toy", dtype="float32", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, engine=engine, tasks=[LetterTask()], watcher=Stop())
    page = write_report(tmp_path / "run").read_text()
    assert "Not finished" in page
    assert "3 of 12 searches recorded" in page


def test_a_run_without_records_is_a_clear_error(finished, tmp_path):
    """Catches a division by zero, or an empty page that looks like a result."""
    shutil.copy(finished.path / "run.json", tmp_path / "run.json")
    with pytest.raises(RunDirectoryError, match="no finished items"):
        write_report(tmp_path)
    with pytest.raises(RunDirectoryError, match="--output"):
        write_report(finished.path, tmp_path / "no" / "such" / "place.html")


def test_the_same_run_gives_the_same_page(finished, page):
    """Catches dates and random ids in the figures."""
    assert render_report(read_run(finished.path)) == page
