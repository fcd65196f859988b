"""Full disks, read-only places, other processes, other versions: nothing finished is lost, and the message says what to do."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maxent_ts import lock as lock_module
from maxent_ts.errors import RunDirectoryError
from maxent_ts.evaluate import evaluate
from maxent_ts.fingerprint import fingerprint_sources
from maxent_ts.lock import Lock, check_writable
from maxent_ts.records import read_run
from maxent_ts.rescore import rescore
from maxent_ts.run_directory import RunDirectory
from maxent_ts.summary import summarize

from .evaluation_fakes import LetterTask
from .test_records import make_info, make_record
from .toy_runs import count_lines, essence, make, run_toys

FORMAT_1 = Path(__file__).parents[1] / "data" / "run_format_1"
METHODS = ("greedy", "best_of_n", "maxent")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run_toys(make(tmp_path_factory.mktemp("reference"), methods=METHODS, save_trees=3))


@pytest.fixture
def file_size_limit():
    """Let no file grow beyond a size, as a full disk does: the kernel takes a part of the last write, then nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_run_keeps_what_was_finished_and_lets_it_go_on(reference, tmp_path, file_size_limit):
    """Catches half-written lines, a failed item in place of a full disk, and a run that cannot be continued."""
    size = (reference.path / "samples.jsonl").stat().st_size
    known = essence(reference)
    num_before = 0
    # The last limit is inside the last line of every run: the digits of their seconds make one a few bytes shorter than another.
    for limit in (size // 5, size // 3, size // 2 + 17, size - 100):
        file_size_limit(limit)
        with pytest.raises(RunDirectoryError, match=r"cannot be written.*run the same command to continue"):
            run_toys(make(tmp_path, methods=METHODS, save_trees=3))
        file_size_limit(None)
        content = (tmp_path / "run" / "samples.jsonl").read_bytes()
        assert content.endswith(b"\n")
        assert len(content) <= limit
        run = read_run(tmp_path / "run")
        assert run.info.status == "interrupted"
        assert num_before < len(run.records)
        num_before = len(run.records)
        assert essence(run) == {record.key: known[record.key] for record in run.records}
    run = run_toys(make(tmp_path, methods=METHODS, save_trees=3))
    assert essence(run) == known
    assert count_lines(run.path / "samples.jsonl") == len(known)


class FullDisk:
    """A file on a disk that fills up after some bytes of the last write, and that cannot even be cut again."""

    def __init__(self, handle, num_bytes):
        self._handle, self._num_bytes = handle, num_bytes

    def write(self, content):
        taken = self._handle.write(bytes(content[: self._num_bytes]))
        self._num_bytes -= taken
        if taken == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return taken

    def truncate(self, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def __getattr__(self, name):
        return getattr(self._handle, name)


@pytest.mark.parametrize("num_bytes", [0, 1, 100, 300])
def test_a_line_that_could_not_be_taken_back_is_cut_by_the_next_start(tmp_path, num_bytes):
    """Catches a torn line that the next record is written behind."""
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record("1"))
        directory._samples = FullDisk(directory._samples, num_bytes)
        with pytest.raises(RunDirectoryError, match="No space left on device"):
            directory.append(make_record("2"))
        assert directory.finished == {("t", "greedy", "1")}
    assert [one.example_id for one in read_run(tmp_path).records] == ["1"]
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record("2"))
    assert [one.example_id for one in read_run(tmp_path).records] == ["1", "2"]


def test_a_disk_that_is_full_at_the_very_end_does_not_hide_the_first_error(tmp_path, monkeypatch):
    """Catches an error of closing in place of the one that ended the run, and a lock that stays."""

    def full(file, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def run_until_it_breaks():
        with RunDirectory(tmp_path, make_info()):
            monkeypatch.setattr("maxent_ts.run_directory.replace_file", full)
            raise KeyError

    with pytest.raises(KeyError):
        run_until_it_breaks()
    monkeypatch.undo()
    assert read_run(tmp_path).info.status == "running"
    with RunDirectory(tmp_path, make_info()) as directory:
        assert directory.info.continued == 1


def test_a_start_that_was_killed_before_anything_was_whole_is_no_obstacle(tmp_path):
    """Catches a run.json that was never renamed and is taken for somebody's file."""
    (tmp_path / "run.json.part").write_text('{"format": 2, "sta')
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record())
    assert sorted(one.name for one in tmp_path.iterdir()) == [".lock", "run.json", "samples.jsonl"]


def engine_that_must_not_be_made(config):
    raise AssertionError("the model was loaded for nothing")


@pytest.mark.parametrize("path", ["/proc/run", "/proc/deep/er/run"])
def test_a_read_only_place_is_refused_before_the_model_is_loaded(path, monkeypatch):
    """Catches minutes of loading before a message that needs none of it."""
    monkeypatch.setattr("maxent_ts.evaluate.load_engine", engine_that_must_not_be_made)
    monkeypatch.setattr(lock_module.os, "access", lambda place, mode: str(place) != "/proc")
    config = make(Path("/unused"), output_dir=Path(path))
    with pytest.raises(RunDirectoryError, match=r"'/proc' is read-only.*--output-dir"):
        evaluate(config, tasks=[LetterTask()])


def test_a_place_that_says_it_can_be_written_and_cannot_is_refused_too():
    """Catches an OSError for root, whom no permission stops but the kernel does."""
    with pytest.raises(RunDirectoryError, match=r"cannot be written.*--output-dir"):
        Lock(Path("/proc/run"))


def test_the_check_leaves_nothing_behind(tmp_path):
    """Catches a directory that a refused command leaves."""
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file"):
        check_writable(tmp_path / "file" / "run")


HOLD = """
import sys, pathlib
from maxent_ts.lock import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
input()
"""


def test_the_second_process_is_told_who_the_first_is(tmp_path):
    """Catches interleaved records of two processes, and a message that leaves the user searching."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        for refused in (lambda: RunDirectory(tmp_path, make_info()), lambda: check_writable(tmp_path)):
            with pytest.raises(RunDirectoryError, match=f"process {first.pid} on "):
                refused()
        first.kill()
        first.wait()
    with RunDirectory(tmp_path, make_info()) as directory:
        directory.append(make_record())


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    """Catches two writers on a network file system that grants every lock, or an OSError without advice."""

    def no_locks(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(RunDirectoryError, match="without locks"):
        RunDirectory(tmp_path, make_info())


def differences(rows):
    """What a paired comparison is about; its interval is of another kind today."""
    names = ("method", "baseline", "metric", "difference", "p_value", "n", "wins", "ties", "losses")
    return sorted(tuple(row[name] for name in names) for row in rows)


def test_a_run_of_the_first_format_is_read_and_never_written(tmp_path):
    """Catches a migration that loses figures, and records of two formats in one file."""
    path = tmp_path / "old"
    shutil.copytree(FORMAT_1, path)
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    run = read_run(path)
    stored = json.loads((path / "summary.json").read_text())
    assert [one.key for one in run.records] == [("letters", method, f"item/{i}") for i in (0, 1) for method in METHODS]
    assert all(one.texts == [] and one.text is not None and one.max_generated_tokens == 20 for one in run.records)
    found = summarize(run)
    assert differences(found.pop("comparisons")) == differences(stored.pop("comparisons"))
    for task, rows in stored["tasks"].items():
        found["tasks"][task] = {name: {key: found["tasks"][task][name][key] for key in row} for name, row in rows.items()}
    assert {key: value for key, value in found.items() if key in stored} == stored
    config = make(tmp_path, methods=METHODS, limit=2, num_rollouts=4, max_new_tokens=5, tilt=2.0, output_dir=path)
    with pytest.raises(RunDirectoryError, match=r"format 1.*--output-dir"):
        run_toys(config)
    with pytest.raises(RunDirectoryError, match="does not hold the texts"):
        rescore(path, tmp_path / "rescored", tasks=[LetterTask()])
    assert before == {file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != ".lock"}
    again = run_toys(config, overwrite=True)
    found, old = (
        # maxent goes by another rule since.
        {one.key: (one.text, one.reward, one.logprob, one.rewards) for one in some.records if one.method != "maxent"}
        for some in (again, run)
    )
    assert found == old


def test_a_run_of_a_later_version_is_refused_by_its_name(tmp_path):
    """Catches a validation error where an upgrade is needed."""
    with RunDirectory(tmp_path, make_info()):
        pass
    info = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**info, "format": 3, "unheard_of": 1, "versions": {"maxent-ts": "9.9"}}))
    for refused in (lambda: read_run(tmp_path), lambda: RunDirectory(tmp_path, make_info())):
        with pytest.raises(RunDirectoryError, match=r"format 3.*maxent-ts 9\.9"):
            refused()


def test_a_user_s_reward_that_was_edited_is_another_run(tmp_path):
    """Catches records scored by two versions of a function under one name."""
    file = tmp_path / "mine.py"
    file.write_text("def reward(completions, **columns):\n    return [1.0 for _ in completions]\n")
    changes = {"methods": ("greedy",), "rewards": (f"{file}:reward",)}
    run_toys(make(tmp_path, **changes))
    file.write_text(file.read_text().replace("1.0", "2.0"))
    with pytest.raises(RunDirectoryError, match=r"sources\..*mine\.py:reward was"):
        run_toys(make(tmp_path, **changes))


def test_other_weights_of_the_same_rewards_are_another_run(tmp_path):
    """Catches a fingerprint by names alone."""
    with RunDirectory(tmp_path, make_info(rewards={"t": {"name": "r", "parts": {"a": 0.5}}})):
        pass
    with pytest.raises(RunDirectoryError, match=r"rewards\.t\.parts\.a was 0\.5, now it is 0\.25"):
        RunDirectory(tmp_path, make_info(rewards={"t": {"name": "r", "parts": {"a": 0.25}}}))


def test_the_sources_of_modules_and_files_are_found(tmp_path):
    """Catches a user's module that is not fingerprinted, and registry names that are taken for files."""
    file = tmp_path / "own.py"
    file.write_text("x = 1\n")
    found = fingerprint_sources([f"{file}:x", "json.decoder:JSONDecoder", "claims", "har_cot", f"{tmp_path}/none.py:x"])
    assert set(found) == {f"{file}:x", "json.decoder:JSONDecoder"}
