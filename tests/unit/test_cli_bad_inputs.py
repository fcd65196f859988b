"""Bad inputs, end to end: one clear message and exit code 2, or a failed record with the rest finished and exit code 1."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("torch")

from maxent_ts.records import read_run

from .hf_helpers import save_model
from .toy_runs import FAKES

SHORT = ("--max-new-tokens", "6", "--num-rollouts", "3")
AXIS = '"[0.1, 0.2, 0.3, 0.4, 0.5]"'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    """Run a command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return run


def is_one_paragraph(err):
    lines = [line for line in err.splitlines() if line and "Loading weights" not in line]
    return len(lines) == 1 and lines[0].startswith("Error: ")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("", "empty"), ("a" * 500, "128")],
)
def test_a_prompt_that_cannot_be_run_ends_generate_with_one_message(run, model, prompt, expected):
    """Catches an index error deep in the model for an empty prompt, or one longer than the context."""
    code, out, err = run("generate", prompt, "--model", model, *SHORT)
    assert (code, out) == (2, "")
    assert is_one_paragraph(err)
    assert expected in err


def test_prompts_that_cannot_be_run_fail_alone_in_an_evaluation(run, model, tmp_path):
    """Catches one bad item that ends a run: empty, longer than the context, or a series for a model of text."""
    methods = ("--method", "greedy", "--method", "maxent")
    arguments = ("eval", f"{FAKES}:BadPrompts", "--reward", f"{FAKES}:share_of_a", *methods, "--model", model, *SHORT)
    code, out, err = run(*arguments, "--output-dir", "run")
    assert code == 1
    records = {(one.method, one.example_id): one for one in read_run(tmp_path / "run").records}
    assert len(records) == 8
    for method in ("greedy", "maxent"):
        assert records[method, "good"].error is None
        assert "empty" in records[method, "empty"].error
        assert "128" in records[method, "long"].error
        assert "series" in records[method, "series"].error
    assert "6 of 8 items failed" in err
    assert "Traceback (most recent" not in err
    assert "greedy" in out


@pytest.mark.parametrize(
    ("reward", "expected"),
    [("is_nan_on_c", "finite"), ("too_few", "one value per completion"), ("fails_on_ee", "two e in a row")],
)
def test_a_reward_that_misbehaves_fails_the_items_it_misbehaves_on(run, tmp_path, reward, expected):
    """Catches NaN that spreads through a tree, and rewards that shift against their completions."""
    arguments = ("eval", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--method", "best_of_n")
    code, _, err = run(*arguments, "--max-new-tokens", "12", "--reward", f"{FAKES}:{reward}", "--output-dir", "run")
    assert code == 1
    assert expected in err
    records = read_run(tmp_path / "run").records
    assert len(records) == 12
    failed = [one for one in records if one.error is not None]
    assert failed
    assert all(reward in one.error and expected in one.error for one in failed)


def test_a_constant_series_is_no_error(run, tmp_path):
    """Catches a division by a standard deviation of zero in the rewards that measure."""
    arguments = ("eval", f"{FAKES}:ConstantSeries", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--method", "maxent")
    code, _, _ = run(*arguments, *SHORT, "--output-dir", "run")
    assert code == 0
    assert [one.error for one in read_run(tmp_path / "run").records] == [None, None]


def test_a_model_that_is_not_there_is_one_message(run, tmp_path):
    """Catches a hub traceback for a mistyped path."""
    code, out, err = run("eval", f"{FAKES}:TextTask", "--reward", "format", "--model", tmp_path / "no" / "model", *SHORT)
    assert (code, out) == (2, "")
    assert is_one_paragraph(err)
    assert str(tmp_path / "no" / "model") in err
    assert not (tmp_path / "runs").exists()


def test_weights_that_are_damaged_are_one_message(run, model, tmp_path):
    """Catches a safetensors traceback, or a model that runs on half-read weights."""
    shutil.copytree(model, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, out, err = run("generate", "abc", "--model", tmp_path / "damaged", *SHORT)
    assert (code, out) == (2, "")
    assert is_one_paragraph(err)
    assert "damaged" in err


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (f"x_axis,y_axis,z_axis\n{AXIS},{AXIS},{AXIS}\n", "column 'label'"),
        (f'x_axis,y_axis,z_axis,label\n"[0.1, x, 0.3, 0.4]",{AXIS},{AXIS},sitting\n', "entry 2 is 'x'"),
        (f'x_axis,y_axis,z_axis,label\n"[0.1, nan, 0.3, 0.4]",{AXIS},{AXIS},sitting\n', "entry 2 is nan"),
        (f"x_axis,y_axis,z_axis,label\n{AXIS},{AXIS},{AXIS},flying\n", "flying"),
        ("", "empty"),
    ],
)
def test_data_that_cannot_be_used_is_one_message_before_any_model_is_loaded(run, tmp_path, table, expected):
    """Catches a run that dies on its last item for a fault that was in the file from the start."""
    (tmp_path / "har_cot_test_cot.csv").write_text(table)
    code, out, err = run("eval", "har_cot", "--data-dir", tmp_path, "--model", "/no/such/model")
    assert (code, out) == (2, "")
    assert is_one_paragraph(err)
    assert expected in err
    assert "har_cot_test_cot.csv" in err
    assert not (tmp_path / "runs").exists()
