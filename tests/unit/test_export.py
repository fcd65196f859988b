"""Records are read by others' tools, with the figures that ours have."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from maxent_ts.cli import main
from maxent_ts.export import SCHEMA, export_parquet
from maxent_ts.record import record_schema
from maxent_ts.records import Record, read_run
from maxent_ts.run_directory import RunDirectory

from .test_records import make_info, make_record
from .toy_runs import FAKES, make, run_toys

duckdb = pytest.importorskip("duckdb")
jsonschema = pytest.importorskip("jsonschema")
pandas = pytest.importorskip("pandas")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rewards = (f"{FAKES}:fails_on_ee",)
    methods = ("greedy", "best_of_n", {"name": "maxent", "settings": {"num_fresh_draws": 3}})
    return run_toys(make(tmp_path_factory.mktemp("run"), methods=methods, rewards=rewards))


@pytest.fixture(scope="module")
def parquet(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "run.parquet"
    assert export_parquet(run.path, file) == len(run.records)
    return file


def expected(run):
    good = [one for one in run.records if one.error is None]
    return (
        len(run.records),
        math.fsum(one.reward for one in good) / len(good),
        sum(one.usage["generated_tokens"] for one in run.records),
    )


def test_pandas_reads_both_with_the_same_figures(run, parquet):
    """Catches a line that pandas cannot parse, rows that are lost, and a failed item that becomes a number."""
    for table in (pandas.read_json(run.path / "samples.jsonl", lines=True), pandas.read_parquet(parquet)):
        found = (len(table), table["reward"].mean(), sum(one["generated_tokens"] for one in table["usage"]))
        assert found == pytest.approx(expected(run))
        assert table["error"].notna().sum() == sum(one.error is not None for one in run.records) > 0
        assert set(table["variant"]) == {"greedy", "best_of_n", "maxent"}


def test_duckdb_reads_both_with_the_same_figures(run, parquet):
    """Catches types that DuckDB cannot infer, such as an integer beyond 64 bits."""
    for source in (f"read_json('{run.path / 'samples.jsonl'}')", f"read_parquet('{parquet}')"):
        query = f"select count(*), avg(reward), sum(usage.generated_tokens) from {source}"
        assert duckdb.sql(query).fetchall()[0] == pytest.approx(expected(run))
        query = f"select count(*), avg(reward) from (select unnest(rewards) as reward from {source})"
        rewards = [reward for one in run.records for reward in one.rewards]
        assert duckdb.sql(query).fetchall()[0] == pytest.approx((len(rewards), math.fsum(rewards) / len(rewards)))


def test_every_field_is_in_the_table_with_its_value(run, parquet):
    """Catches a field that was added to the record and not to the table, and values that change on the way."""
    assert any(record.marginals for record in run.records)
    assert SCHEMA.names == list(Record.model_fields)
    import pyarrow.parquet as pq

    for row, record in zip(pq.read_table(parquet).to_pylist(), run.records, strict=True):
        assert json.loads(row.pop("settings")) == record.settings
        assert json.loads(row.pop("evidence")) == record.evidence
        assert json.loads(row.pop("scores")) == {name: one.model_dump() for name, one in record.scores.items()}
        assert [tuple(one.values()) for one in row.pop("trajectory")] == record.trajectory
        for name in ("measures", "tree", "info", "marginals", "other_logprobs"):
            value = row.pop(name)
            # As texts: NaN is not equal to itself.
            assert repr(value if value is None else dict(value)) == repr(getattr(record, name)), name
        assert row == {name: getattr(record, name) for name in row}


def test_numbers_that_json_lacks_are_numbers_in_the_table(tmp_path):
    """Catches an infinite bracket that becomes a text or a null, and an export of an item that failed twice."""
    with RunDirectory(tmp_path / "run", make_info()) as directory:
        directory.append(make_record(error="first"))
        directory.append(make_record(info={"log_z_upper": math.inf}, usage={"generated_tokens": 3}))
    assert export_parquet(tmp_path / "run", tmp_path / "out.parquet") == 1
    query = f"select info['log_z_upper'], usage.generated_tokens, usage.seconds from read_parquet('{tmp_path / 'out.parquet'}')"
    assert duckdb.sql(query).fetchall()[0] == (math.inf, 3.0, None)


def test_the_published_schema_is_the_record_s():
    """Catches a field that was changed without the documentation: maxent-ts list schema > docs/record-schema.json"""
    assert json.loads((ROOT / "docs" / "record-schema.json").read_text()) == record_schema()


def test_every_line_keeps_the_schema_and_others_do_not(run, tmp_path):
    """Catches a schema that forbids what is written, or allows anything."""
    schema = record_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record(info={"a": math.inf, "b": math.nan, "c": -math.inf}))
    lines = [*(run.path / "samples.jsonl").read_text().splitlines(), (tmp_path / "samples.jsonl").read_text()]
    for line in lines:
        validator.validate(json.loads(line))
    for wrong in ({"unknown": 1}, {"reward": "high"}, {"tilt": None}, {"rewards": [True, "Inf"]}):
        assert not validator.is_valid({**json.loads(lines[0]), **wrong})


def test_the_command_exports_and_explains_what_is_wrong(run, tmp_path, capsys):
    """Catches a traceback where a directory does not exist."""
    with pytest.raises(SystemExit) as left:
        main(["export", str(run.path), str(tmp_path / "x.parquet")])
    assert left.value.code == 0
    assert f"{len(run.records)} records" in capsys.readouterr().err
    assert len(pandas.read_parquet(tmp_path / "x.parquet")) == len(read_run(run.path).records)
    with pytest.raises(SystemExit) as left:
        main(["export", str(run.path), str(tmp_path / "no" / "x.parquet")])
    assert left.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["list", "schema"])
    assert json.loads(capsys.readouterr().out) == record_schema()
