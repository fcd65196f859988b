"""The records of a run as one Parquet file, for analysis in pandas, DuckDB, Polars or R."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maxent_ts.durable import PART_SUFFIX
from maxent_ts.errors import MissingExtraError, RunDirectoryError
from maxent_ts.records import Record, read_run

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise MissingExtraError("pyarrow", "parquet") from error

__all__ = ["SCHEMA", "export_parquet"]

FREE_FORM = ("settings", "evidence", "scores")
"""Fields whose content differs from method to method and from reward to reward: JSON text in the table."""

USAGE = ("generated_tokens", "forwarded_tokens", "prompt_tokens", "rollouts", "reward_calls", "seconds")

_NUMBERS = pa.map_(pa.string(), pa.float64())

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("variant", pa.string()),
        ("method", pa.string()),
        ("settings", pa.string()),
        ("tilt", pa.float64()),
        ("num_rollouts", pa.int64()),
        ("max_new_tokens", pa.int64()),
        ("max_generated_tokens", pa.int64()),
        ("example_id", pa.string()),
        ("seed", pa.list_(pa.uint64())),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int64())),
        ("logprob", pa.float64()),
        ("finish_reason", pa.string()),
        ("reward", pa.float64()),
        ("evidence", pa.string()),
        ("answer", pa.string()),
        ("target", pa.string()),
        ("correct", pa.bool_()),
        ("scores", pa.string()),
        ("measures", _NUMBERS),
        ("num_completions", pa.int64()),
        ("chosen", pa.list_(pa.int64())),
        ("texts", pa.list_(pa.string())),
        ("completion_ids", pa.list_(pa.list_(pa.int64()))),
        ("finish_reasons", pa.list_(pa.string())),
        ("rewards", pa.list_(pa.float64())),
        ("logprobs", pa.list_(pa.float64())),
        ("other_logprobs", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("weights", pa.list_(pa.float64())),
        ("answers", pa.list_(pa.string())),
        ("usage", pa.struct([(name, pa.float64()) for name in USAGE])),
        ("trajectory", pa.list_(pa.struct([("generated_tokens", pa.int64()), ("best_reward", pa.float64())]))),
        ("tree", _NUMBERS),
        ("info", _NUMBERS),
        ("marginals", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("error", pa.string()),
    ]
)
"""One row per record; the names are the record's."""


def export_parquet(run_dir: Path, output: Path) -> int:
    """Write the latest record of every search of a run.

    Args:
        run_dir: A run directory, finished or not.
        output: The file, which is replaced if it is there.

    Returns:
        The number of rows.

    Raises:
        RunDirectoryError: if `run_dir` is no run, or the file cannot be written.
        MissingExtraError: if pyarrow is not installed.
    """
    run = read_run(run_dir)
    table = pa.Table.from_pylist([_row(record) for record in run.records], schema=SCHEMA)
    part = output.with_name(output.name + PART_SUFFIX)
    try:
        pq.write_table(table, part, compression="zstd")
        os.replace(part, output)
    except OSError as error:
        raise RunDirectoryError(f"The file '{output}' cannot be written: {error}. Name another.") from error
    return len(run.records)


def _row(record: Record) -> dict[str, Any]:
    row = record.model_dump()
    for name in FREE_FORM:
        row[name] = json.dumps(row[name], ensure_ascii=False)
    row["usage"] = {name: record.usage.get(name) for name in USAGE}
    row["trajectory"] = [{"generated_tokens": tokens, "best_reward": best} for tokens, best in record.trajectory]
    for name in ("measures", "tree", "info", "marginals", "other_logprobs"):
        row[name] = None if row[name] is None else list(row[name].items())
    return row
