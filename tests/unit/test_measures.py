"""A task's own measures on their way: records, summary, comparison, report, table, export, rescore."""

from __future__ import annotations

import json

import pytest

from maxent_ts.cli import main
from maxent_ts.compare import compare_runs
from maxent_ts.config import MethodConfig, RunConfig
from maxent_ts.errors import SettingError
from maxent_ts.evaluate import evaluate
from maxent_ts.report.contents import task_contents
from maxent_ts.rescore import rescore
from tests.unit import evaluation_fakes as fakes


class Measured(fakes.FreeTask):
    """Letters with two measures: how long the text is, and one that applies to every other item."""

    factor = 1.0

    def measures(self, example, text, texts, weights):
        assert len(texts) == len(weights)
        assert text in texts
        odd = int(example.id.rpartition("/")[2]) % 2
        return {"length": self.factor * len(text), "odd_only": 1.0 if odd else None}


@pytest.fixture
def run(tmp_path):
    config = RunConfig(
        tasks=("free",),
        methods=(MethodConfig(name="sample"), MethodConfig(name="best_of_n")),
        output_dir=tmp_path / "run",
        num_rollouts=3,
        max_new_tokens=4,
    )
    return evaluate(config, engine=fakes.make_engine("table", dtype="float32", device="cpu"), tasks=[Measured()])


def test_records_and_summary_hold_the_measures(run):
    """Catches measures of another completion than the returned one, and a None that counts as 0."""
    assert all(record.measures["length"] == len(record.text or "") for record in run.records)
    row = run.summary["tasks"]["free"]["sample"]
    lengths = [len(record.text) for record in run.records if record.method == "sample"]
    assert row["measures"]["length"]["mean"] == pytest.approx(sum(lengths) / len(lengths))
    assert row["measures"]["length"]["n"] == len(lengths)
    assert row["measures"]["odd_only"] == {"mean": 1.0, "ci95": [1.0, 1.0], "n": len(lengths) // 2}


def test_a_comparison_may_be_by_a_measure_and_names_no_winner(run):
    path = run.path
    found = compare_runs([(path, "sample"), (path, "best_of_n")], metrics=["length"], allow_unequal=True)
    (row,) = found.rows
    assert row["metric"] == "length"
    assert "better" not in row["verdict"]
    with pytest.raises(SettingError, match="length"):
        compare_runs([(path, "sample"), (path, "best_of_n")], metrics=["width"], allow_unequal=True)


def test_the_report_has_a_table_of_them(run):
    pytest.importorskip("matplotlib")
    (section,) = [one for one in task_contents(run, "free").sections if one.name == "measures"]
    (table,) = section.tables
    assert [column.name for column in table.columns][:4] == ["method", "length", "± 95 %", "n"]
    assert len(table.rows) == 2


def test_a_rescored_run_has_measures_computed_anew(run, tmp_path):
    class Doubled(Measured):
        factor = 2.0

    again = rescore(run.path, tmp_path / "again", tasks=[Doubled()])
    for before, after in zip(run.records, again.records, strict=True):
        assert after.measures["length"] == 2 * before.measures["length"]


def test_a_measure_that_raises_is_an_error_of_its_item(tmp_path):
    class Broken(Measured):
        def measures(self, example, text, texts, weights):
            raise ValueError("no measure today")

    config = RunConfig(tasks=("free",), methods=(MethodConfig(name="sample"),), output_dir=tmp_path / "broken", max_new_tokens=3)
    run = evaluate(config, engine=fakes.make_engine("table", dtype="float32", device="cpu"), tasks=[Broken()])
    assert all("no measure today" in (record.error or "") for record in run.records)


def test_the_command_line_prints_and_exports_them(capsys, tmp_path):
    """The embedded captions, whose measures come with the task."""
    pytest.importorskip("torch")
    command = ["eval", "m4_caption", "--method", "greedy", "--limit", "2", "--output-dir", str(tmp_path / "run"), "--quiet"]
    with pytest.raises(SystemExit, match="0"):
        main(command)
    printed = capsys.readouterr().out
    assert "what its own metrics say" in printed
    assert "precision" in printed
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(SystemExit, match="0"):
        main(["export", str(tmp_path / "run"), str(tmp_path / "run.parquet")])
    (line,) = {json.dumps(sorted(dict(row))) for row in parquet.read_table(tmp_path / "run.parquet")["measures"].to_pylist()}
    assert "claim_precision" in line
