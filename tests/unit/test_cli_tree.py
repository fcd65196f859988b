"""`maxent-ts tree`: a page or a text, and one clear message when there is no such tree."""

from __future__ import annotations

import pytest

from maxent_ts.records import read_run
from maxent_ts.report.tree_choice import choose_tree

from .toy_runs import FAKES, TOY


@pytest.fixture
def run_dir(run, tmp_path):
    path = tmp_path / "run"
    task = ("eval", f"{FAKES}:LetterTask", *TOY, "--limit", "3", "--save-trees", "2", "--output-dir", path, "--quiet")
    code, _, _ = run(*task, "--method", "greedy", "--method", "maxent")
    assert code == 0
    return path


def test_the_page_s_path_is_all_that_is_printed(run, run_dir, tmp_path):
    """Catches a command whose output scripts cannot use, and an --output that is not heeded."""
    code, out, err = run("tree", run_dir, "--item", "2")
    assert (code, err) == (0, "")
    assert out == f"{run_dir / 'tree-letters-maxent-2.html'}\n"
    assert "item/1" in (run_dir / "tree-letters-maxent-2.html").read_text()
    code, out, _ = run("tree", run_dir, "--item", "item/0", "--output", tmp_path / "here.html")
    assert (code, out) == (0, f"{tmp_path / 'here.html'}\n")
    assert "item/0" in (tmp_path / "here.html").read_text()


def test_the_text_says_what_it_is_of_and_writes_nothing(run, run_dir):
    """Catches --text that writes a page as well."""
    code, out, _ = run("tree", run_dir, "--item", "2", "--text")
    assert code == 0
    num = len(choose_tree(read_run(run_dir), item="2").tree["completions"])
    assert out.startswith(f"letters item 2 (item/1), maxent\n{num} completions  λ = 1")
    assert out.count("r\N{NO-BREAK SPACE}=") == num
    assert not list(run_dir.glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--item", "3"], "no search tree of item '3'"),
        (["--item", "4"], "from 1 to 3"),
        (["--method", "greedy"], "There are trees of maxent for letters item 1"),
        (["--text", "--output", "x.html"], "Leave one of them out"),
    ],
)
def test_a_wrong_choice_gives_one_clear_message(run, run_dir, arguments, expected):
    """Catches tracebacks, and exit codes that scripts take for success."""
    code, out, err = run("tree", run_dir, *arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err
