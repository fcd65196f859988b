"""Runs of the tasks in `evaluation_fakes`, over in a moment, for tests of what reads, continues and compares runs."""

from __future__ import annotations

from maxent_ts.config import make_config
from maxent_ts.evaluate import evaluate

from . import evaluation_fakes
from .evaluation_fakes import LetterTask, make_engine

FAKES = evaluation_fakes.__file__
TOY = ["--engine", f"{FAKES}:make_engine", "--model", "toy", "--max-new-tokens", "6", "--num-rollouts", "4"]
METHODS = ("greedy", "sample", "best_of_n", "majority_vote", "maxent")


def make(tmp_path, name="run", methods=METHODS, **changes):
    values = {
        "tasks": ("letters",),
        "methods": tuple(one if isinstance(one, dict) else {"name": one} for one in methods),
        "model": "toy",
        "num_rollouts": 5,
        "max_new_tokens": 6,
        "tilt": 3.0,
        "output_dir": tmp_path / name,
    }
    return make_config(**{**values, **changes})


def run_toys(config, *tasks, engine=None, **rest):
    engine = engine or make_engine("toy", dtype="float32", device="cpu")
    return evaluate(config, engine=engine, tasks=tasks or [LetterTask()], **rest)


def essence(run, leave_out=()):
    """What must be equal between two runs. Forwarded tokens depend on what the engine still remembers of other items."""
    found = {}
    for record in run.records:
        values = record.model_dump(exclude=set(leave_out))
        values["usage"] = {key: value for key, value in record.usage.items() if key not in ("seconds", "forwarded_tokens")}
        found[record.key] = values
    return found


def count_lines(file):
    return file.read_bytes().count(b"\n") if file.exists() else 0
