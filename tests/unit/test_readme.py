"""What the README promises."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(capsys):
    """An example that has drifted from the code is worse than none."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Answer:" in printed or "rhythm" in printed
    assert re.search(r"\d", printed)


def test_every_method_and_link_of_the_readme_exists():
    """Names in the table of methods, and files that are linked or shown."""
    from maxent_ts.registry import METHODS

    for name in METHODS:
        assert f"`{name}`" in README
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_two_commands_are_make_targets_and_ci_runs_the_second():
    """`.ci/run` calls exactly the README's test command."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("make test")
