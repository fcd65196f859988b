"""The shards of a run joined into the run directory that one process would have written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from maxent_ts.durable import replace_file
from maxent_ts.errors import RunDirectoryError
from maxent_ts.identity import first_difference, run_identity, shown
from maxent_ts.records import ExampleRecord, Run, RunInfo, read_run
from maxent_ts.run_directory import RunDirectory
from maxent_ts.summary import summarize

__all__ = ["merge"]


def merge(paths: Sequence[Path], output_dir: Path, *, overwrite: bool = False) -> Run:
    """Write the whole run of which all shards are given.

    The result has the identity of the run without shards: it is reported and compared like any, and the command without
    `--shard` continues it, which tries failed items again. The shards are not changed.

    Args:
        paths: Run directories of shards 1 to n, in any order.
        output_dir: Where the whole run goes.
        overwrite: Start over in a directory that holds another run.

    Returns:
        The whole run, with its summary. Its `started`, `finished`, `continued` and `unrecorded_tokens` are those of all shards
        together, its machine is that of shard 1; `shards` names the others'.

    Raises:
        RunDirectoryError: if a directory is no finished shard, the shards are not those of one run, one is missing or there
            twice, or `output_dir` cannot be written or holds another run.
    """
    shards = _in_order([read_run(path) for path in paths])
    info = _whole(shards)
    with RunDirectory(output_dir, info, overwrite=overwrite) as directory:
        directory.write_examples(_examples(shards))
        for shard in shards:
            directory.append(*(record for record in shard.records if record.key not in directory.finished))
        _copy_files(shards, output_dir)
        directory.write_summary(summarize(read_run(output_dir)))
        directory.finish(max(shard.info.finished or "" for shard in shards))
    return read_run(output_dir)


def _in_order(shards: Sequence[Run]) -> list[Run]:
    """Check that the shards are those of one run, all there, and finished; return them from the first to the last."""
    found: dict[int, Run] = {}
    first = shards[0]
    for one in shards:
        number, count = _shard(one)
        total = _shard(first)[1]
        if count != total:
            raise RunDirectoryError(
                f"'{first.path}' is a shard of {total} and '{one.path}' of {count}. Give the shards of one run."
            )
        if number in found:
            raise RunDirectoryError(
                f"Shard {number}/{count} is given twice, as '{found[number].path}' and '{one.path}'. Give each shard once."
            )
        difference = first_difference(_identity_of_whole(first.info), _identity_of_whole(one.info))
        if difference is not None:
            where, old, new = difference
            raise RunDirectoryError(
                f"The shards are not of one run: {where} is {shown(old)} in '{first.path}' and {shown(new)} in '{one.path}'. Run "
                "them with the same command but for --shard, the same data and the same versions."
            )
        if one.info.status != "finished" or len(one.records) < one.info.num_searches:
            raise RunDirectoryError(
                f"Shard {number}/{count} in '{one.path}' is not finished ({one.info.status}, {len(one.records)} of "
                f"{one.info.num_searches} searches). Run its command again to continue it, then merge."
            )
        found[number] = one
    total = _shard(first)[1]
    missing = [str(number) for number in range(1, total + 1) if number not in found]
    if missing:
        raise RunDirectoryError(
            f"Of {total} shards {len(missing)} {'is' if len(missing) == 1 else 'are'} missing: {', '.join(missing)}. "
            "Run them with --shard k/n and name all run directories."
        )
    return [found[number] for number in sorted(found)]


def _shard(run: Run) -> tuple[int, int]:
    shard = run.info.config.get("shard")
    if shard is None:
        raise RunDirectoryError(f"'{run.path}' is not a shard but a whole run. Give run directories of maxent-ts eval --shard k/n.")
    number, count = shard
    return number, count


def _identity_of_whole(info: RunInfo) -> dict[str, Any]:
    """What the run.json of the whole run would be identified by."""
    found = run_identity(info)
    config = {name: value for name, value in found["config"].items() if name != "shard"}
    return {**found, "config": config, "data": {task: _data_of_whole(facts) for task, facts in found["data"].items()}}


def _data_of_whole(facts: dict[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in facts.items() if name != "whole"}, **facts["whole"]}


def _whole(shards: Sequence[Run]) -> RunInfo:
    first, infos = shards[0].info, [one.info for one in shards]
    identity = _identity_of_whole(first)
    sources = [
        {
            "run": str(one.path),
            "samples_sha256": hashlib.sha256((one.path / "samples.jsonl").read_bytes()).hexdigest(),
            "hardware": one.info.hardware,
        }
        for one in shards
    ]
    changes = {
        "status": "running",
        "started": min(one.started for one in infos),
        "finished": None,
        "continued": sum(one.continued for one in infos),
        "unrecorded_tokens": sum(one.unrecorded_tokens for one in infos),
        "config": identity["config"],
        "data": identity["data"],
        "shards": sources,
    }
    return first.model_copy(update=changes, deep=True)


def _examples(shards: Sequence[Run]) -> Iterator[ExampleRecord]:
    """The items in the order of the whole run: item i of shard k is item k + i·n, counted from 0."""
    for task in shards[0].info.data:
        columns = [[one for (name, _), one in shard.examples.items() if name == task] for shard in shards]
        yield from (one for row in zip_longest(*columns) for one in row if one is not None)


def _copy_files(shards: Sequence[Run], output_dir: Path) -> None:
    """Copy search trees and tracebacks."""
    logs = [shard.path / "failures.log" for shard in shards]
    try:
        for shard in shards:
            for _, _, file in shard.trees():
                place = output_dir / file.relative_to(shard.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                replace_file(place, file.read_bytes())
        if any(log.exists() for log in logs):
            replace_file(output_dir / "failures.log", b"".join(log.read_bytes() for log in logs if log.exists()))
    except OSError as error:
        raise RunDirectoryError(f"The shards cannot be copied to '{output_dir}': {error}. Make room and merge again.") from error
