"""The page stands alone, says what the records say, and never lets a model's text become markup."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from maxent_ts.errors import RunDirectoryError
from maxent_ts.evaluate import Silent
from maxent_ts.fingerprint import plain
from maxent_ts.records import Record, read_run, read_tree
from maxent_ts.report.drawing import svg
from maxent_ts.report.figures import curves
from maxent_ts.report.grids import find_grids, grid_drawing, grid_table
from maxent_ts.report.html import render_report, write_report
from maxent_ts.report.measures import distinct_bigrams, distinct_share, length, perplexity
from maxent_ts.report.results import class_table, confusion_drawing, diagnostics_table, marginals_table
from maxent_ts.report.tables import Column, Table
from maxent_ts.report.tree_view import tree_svg

from .evaluation_fakes import FreeTask, LetterTask
from .toy_runs import make, run_toys

METHODS = ("greedy", "best_of_n", "majority_vote", "maxent")
VOID = {"meta", "br", "link", "img", "hr", "input"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = make(tmp_path_factory.mktemp("report"), methods=METHODS, tasks=("letters", "free"))
    return run_toys(config, LetterTask(), FreeTask())


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


def test_the_page_needs_no_network(page):
    """Catches a font, script or image from elsewhere: the page must open from a disk in a train."""
    parsed = parse(page)
    assert all(link.startswith(("#", "data:text/", "data:application/x-tex")) for link in parsed.links)
    assert not re.search(r"@import|url\((?!#)", page)


def test_one_script_runs_and_its_fingerprint_is_the_one_allowed(page):
    """Catches a page whose own script the browser refuses, and one that would run any other."""
    assert parse(page).tags.count("script") == 1
    script = re.search(r"<script>(.*)</script>", page, flags=re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page


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
        assert f"{row['p_holm']:.4f}" in text
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
    assert page.tags.count("script") == 1, "the page's own"
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


def make_record(reward, trajectory=(), method="m", tilt=1.0, **settings):
    values = {"task": "t", "method": method, "settings": settings, "tilt": tilt, "example_id": "1", "seed": [0]}
    return Record(**values, trajectory=list(trajectory), reward=reward)


def test_curves_average_the_best_so_far_over_all_items():
    """Catches a mean over only those items that have a reward already, which would start too high or jump."""
    items = [make_record(1.0, [(2, 0.0), (6, 1.0)]), make_record(4.0, [(4, 2.0), (5, 4.0)])]
    tokens, means, halves = curves({"m": items})["m"]
    assert (tokens, means) == ([4.0, 5.0, 6.0], [1.0, 2.0, 2.5])
    assert halves == pytest.approx([12.706, 25.412, 19.059], rel=1e-3), "Student's t for two items"
    assert curves({"greedy": [make_record(1.0, [(2, 1.0)])]}) == {}, "one completion is no curve"


def test_measures_of_a_record():
    """Catches a perplexity per word or in bits, and a diversity of one completion."""
    record = make_record(1.0)
    assert (perplexity(record), length(record), distinct_share(record), distinct_bigrams(record)) == (None, None, None, None)
    record.tokens, record.logprob, record.num_completions, record.usage = [5, 6, 7, 1], -4 * math.log(3), 3, {"rollouts": 4}
    assert perplexity(record) == pytest.approx(3.0)
    assert (length(record), distinct_share(record)) == (4.0, 0.75)


def test_a_grid_of_settings_becomes_a_heat_map_with_its_means():
    """Catches rows and columns swapped, other settings averaged away, and a grid made of a single line of settings."""
    records = {
        (tilt, width, kind): [
            make_record(tilt + 10 * width + (100 if kind == "bound" else 0), tilt=tilt, num_parallel=width, selection=kind)
        ]
        for tilt in (0.5, 1.0, 2.0)
        for width in (1, 4)
        for kind in ("bound", "improvement")
    }
    grids = find_grids({str(key): value for key, value in records.items()}, {}, ["reward"])
    (grid,) = [one for one in grids if (one.rows, one.columns) == ("num_parallel", "tilt") and one.fixed == {"selection": "bound"}]
    assert (grid.method, list(grid.row_values), list(grid.column_values)) == ("m", [1, 4], [0.5, 1.0, 2.0])
    assert [list(row) for row in grid.means] == [[110.5, 111.0, 112.0], [140.5, 141.0, 142.0]]
    assert "142.000" in svg(grid_drawing(grid, "ablation-1"))
    assert len(grid_table([grid], "ablations").rows) == 6
    line = {str(tilt): [make_record(1.0, tilt=tilt)] for tilt in (1.0, 2.0)}
    assert find_grids(line, {}, ["reward"]) == []


def test_a_class_table_counts_hits_and_false_alarms():
    """Catches precision and recall swapped, and no answer counted as an answer."""
    records = []
    for target, answer in (("a", "a"), ("a", "b"), ("b", "b"), ("a", None)):
        record = make_record(0.0)
        record.target, record.answer = target, answer
        records.append(record)
    table = class_table({"m": records}, ["a", "b", "c"])
    assert [list(row) for row in table.rows] == [
        ["a", "m", 3, 1, 1, 1.0, pytest.approx(1 / 3), 0.5],
        ["b", "m", 1, 2, 1, 0.5, 1.0, pytest.approx(2 / 3)],
    ]
    assert confusion_drawing({"m": records}, ["a", "b", "c"]).title


def test_every_diagnostic_of_any_name_is_in_the_table():
    """Catches a list of known names, which hides what a method says for the first time."""
    one, other = make_record(0.0), make_record(0.0)
    one.info, other.info = {"ess": 2.0, "log_z_upper": math.inf}, {"ess": 4.0, "never_seen_before": 1.0}
    table = diagnostics_table({"a": [one, other], "b": [make_record(0.0)]})
    assert [column.name for column in table.columns] == ["diagnostic", "a"]
    assert [list(row) for row in table.rows] == [["ess", 3.0], ["log_z_upper", None], ["never_seen_before", 1.0]]


def test_probabilities_of_answers_are_shown_for_each_item_and_in_sum(finished, tmp_path):
    """Catches marginals that stay in the file, a target without an entry left out of the mean, and ungraded items counted."""
    one, other, ungraded, without = (make_record(0.0) for _ in range(4))
    one.marginals, one.answer, one.target = {"a": [0.75, 0.5, 0.875], "b": [0.25, 0.125, 0.5]}, "a", "a"
    other.marginals, other.answer, other.target = {"a": [0.5, 0.25, 0.75]}, "a", "c"
    ungraded.marginals = {"a": [0.5, 0.25, 0.75]}
    table = marginals_table({"m": [one, other, ungraded, without], "n": [without]})
    assert [list(row) for row in table.rows] == [["m", 3, 0.625, 0.4375, 0.5, 0.375]]
    shutil.copytree(finished.path, tmp_path / "run")
    run = read_run(tmp_path / "run")
    run.records[0].marginals = {"a": [0.28125, 0.15625, 0.59375], "<b>": [0.71875, 0.40625, 0.84375]}
    page = render_report(run)
    text = " ".join(" ".join(parse(page).text).split())
    assert "π(answer) <b> 0.719 [0.406, 0.844] a 0.281 [0.156, 0.594]" in text
    assert "Probabilities of answers" in text
    assert "Probabilities of answers" not in render_report(finished)


def test_tables_survive_every_format():
    """Catches a cell that breaks a row: separators, markup and new lines in texts of a model."""
    evil = 'a|b & 50% "x",\ny_z'
    table = Table("t", "T", [Column("name"), Column("value", 2, sign=True)], [[evil, 1.234567], ["none", None]])
    assert list(csv.reader(io.StringIO(table.csv()))) == [["name", "value"], [evil, "1.234567"], ["none", ""]]
    lines = table.markdown().splitlines()
    assert lines[1] == "| --- | ---: |"
    assert lines[2] == '| a\\|b & 50% "x", y_z | +1.23 |'
    assert r'a|b \& 50\% "x", y\_z & +1.23 \\' in table.latex()
    assert table.latex().count(r"\\") == 3


def test_each_figure_and_table_can_be_exported(finished, tmp_path):
    """Catches a table or figure of the page without its files, and files that are empty or not what they are named."""
    page = write_report(finished.path, tmp_path / "page.html", export=tmp_path / "files").read_text()
    files = {file.name: file for file in (tmp_path / "files").iterdir()}
    endings = {"svg": set(), "pdf": set(), "csv": set(), "md": set(), "tex": set()}
    for name in files:
        stem, _, ending = name.removeprefix("letters-").removeprefix("free-").rpartition(".")
        endings[ending].add(stem)
    assert endings["svg"] == endings["pdf"] == set(re.findall(r'class="drawing" data-name="([^"]+)"', page))
    offered = re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', page)
    assert {name for name, _ in offered} == {f"{stem}.{ending}" for ending in ("csv", "md", "tex") for stem in endings[ending]}
    for name, file in files.items():
        if name.endswith(".svg"):
            ElementTree.parse(file)
        if name.endswith(".pdf"):
            assert file.read_bytes().startswith(b"%PDF")
    results = base64.b64decode(dict(offered)["results.csv"]).decode()
    assert results == files["free-results.csv"].read_text()
    with pytest.raises(RunDirectoryError, match="--export"):
        write_report(finished.path, tmp_path / "page.html", export=tmp_path / "page.html")


def test_a_run_that_was_stopped_has_a_page_too(tmp_path):
    """Catches a report that needs summary.json, and one that hides that the run is not over."""

    class Stop(Silent):
        num = 0

        def recorded(self, record):
            self.num += 1
            if self.num == 3:
                raise KeyboardInterrupt

    config = make(tmp_path, methods=("greedy",))
    with pytest.raises(KeyboardInterrupt):
        run_toys(config, watcher=Stop())
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
