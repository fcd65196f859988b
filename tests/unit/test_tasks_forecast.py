"""Numbers as text, M4's files, and the task that forecasts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxent_ts.cli import main
from maxent_ts.config import RunConfig
from maxent_ts.errors import DataError, SettingError
from maxent_ts.loading import load_engine
from maxent_ts.rewards.combine import load_reward
from maxent_ts.tasks.digits import Digits
from maxent_ts.tasks.forecast import Forecast, forecast_prompt
from maxent_ts.tasks.frequencies import FREQUENCIES
from maxent_ts.tasks.m4_files import read_split_series

finite = st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False)


def test_digits_by_hand():
    """A context from 100 to 200 fills 250 to 749 of 0 to 999: one unit is 0.2002."""
    digits = Digits.of([100.0, 200.0])
    assert digits.encode([100, 200, 120]) == "250,749,350"
    assert digits.encode([49, 251, -1e9, 1e9]) == "000,999,000,999"
    assert digits.decode("250,749")[0] == pytest.approx(100, abs=0.11)
    assert len(digits.decode("250,749,74")) == 2  # cut in two


@given(st.lists(finite, min_size=2, max_size=20))
def test_what_is_written_is_read_back_to_half_a_unit(values):
    """Catches lost zeros, and a scale that is no inverse."""
    digits = Digits.of(values)
    text = digits.encode(values)
    assert all(len(number) == 3 for number in text.split(","))
    spread = 0.5 * digits.scale * (1 + 1e-6) + 1e-9 * max(map(abs, values))
    assert np.abs(digits.decode(text) - values).max() <= spread


@pytest.mark.parametrize("level", [0.0, 5.0, -300.0])
def test_a_constant_context_is_the_middle(level):
    digits = Digits.of([level] * 4)
    assert digits.encode([level]) == "499"
    assert digits.decode("499")[0] == pytest.approx(level)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_is_no_series_is_refused(values):
    with pytest.raises(DataError, match="flat series"):
        Digits.of(values)


def test_the_reward_reads_the_numbers_as_the_task_does():
    """Catches a reward that judges other numbers than the metrics: an exact continuation of a season is as good as can be."""
    example = next(one for one in Forecast().examples() if one.stratum == "Hourly")
    context, inputs = np.array(example.inputs["series"][0]), example.inputs
    text = Digits(inputs["offset"], inputs["scale"]).encode(context[-48:])
    reward = load_reward("spectral")
    (found,) = reward.explain(
        prompts=[example.prompt], completions=[text], completion_ids=[[]], **{name: [value] for name, value in inputs.items()}
    )
    stated = Forecast().forecast(example, text)
    assert stated is not None
    assert np.abs(stated - context[-48:]).max() <= inputs["scale"]
    assert found["num_values"] == found["horizon"] == 48
    assert found["value"] > 0.8


def test_the_prompt_shows_the_end_of_the_past_and_nothing_after_it():
    """Catches a context that reaches into the test part."""
    for example in Forecast().examples():
        facts, (context,) = FREQUENCIES[example.stratum], example.inputs["series"]
        assert len(context) <= facts.max_context
        assert example.prompt == forecast_prompt(context, example.stratum)
        assert json.loads(example.target or "")["values"] != context[-facts.horizon :]
        assert example.prompt[0] == facts.letter
        assert example.prompt.endswith("\n")


def write(folder, past="a,1,2,3,4,5,6,7,8,9", future="a,1,2,3,4,5,6"):
    (folder / "Yearly-train.csv").write_text(f"V1,V2\n{past}\n")
    (folder / "Yearly-test.csv").write_text(f"V1,V2\n{future}\n")
    return folder


def test_m4_files_are_read_whole(tmp_path):
    """Empty cells pad the short rows of a wide table."""
    write(tmp_path, past="a,1,2,3,4,5,6,7,8,9,,\n\nb,5,5,5,5,5,5,5,6", future="b,1,2,3,4,5,6\na,1,2,3,4,5,7")
    first, second = read_split_series(tmp_path, ["Hourly", "Yearly"])
    assert (first.id, first.past, first.future) == ("a", (1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 5, 7))
    assert (second.id, second.frequency, len(second.past)) == ("b", "Yearly", 8)
    (example, _) = Forecast().examples(data_dir=tmp_path)
    assert example.id == "forecast/Yearly/a"
    assert json.loads(example.target or "") == {"values": [1, 2, 3, 4, 5, 7], "seasonal_naive_error": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"past": "a,1,2,x,4,5,6,7,8"}, "value 3 is 'x'"),
        ({"past": "a,1,2,inf,4,5,6,7,8"}, "finite"),
        ({"past": "a,1,2,3"}, "at least 8"),
        ({"future": "a,1,2,3"}, "6 values to forecast"),
        ({"future": "b,1,2,3,4,5,6"}, "continuation of 'a'"),
        ({"past": "a,1,2,3,4,5,6,7,8\na,1,2,3,4,5,6,7,9"}, "once"),
    ],
)
def test_a_bad_file_is_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        Forecast().examples(data_dir=write(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="M4's layout"):
        Forecast().examples(data_dir=tmp_path)
    (tmp_path / "Yearly-train.csv").write_text("V1\na,1,2\n")
    with pytest.raises(DataError, match=r"Yearly-test\.csv"):
        Forecast().examples(data_dir=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        Forecast().examples(data_dir=tmp_path / "nowhere")


def test_parquet_in_the_same_columns_is_read_too(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "id": ["a", "b"],
        "frequency": ["Yearly", "Unheard"],
        "train": [[1.0] * 4 + [2.0] * 5, [1.0] * 9],
        "test": [[1.0] * 6, [1.0]],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "some.parquet")
    (example,) = Forecast().examples(data_dir=tmp_path)
    assert example.inputs["series"] == [[1.0] * 4 + [2.0] * 5]
    (tmp_path / "some.parquet").write_text("nonsense")
    with pytest.raises(DataError, match="Parquet"):
        Forecast().examples(data_dir=tmp_path)


def test_measures_by_hand(tmp_path):
    """Past 1 to 9: M4 scales by 1. Everything is off by two units of 8 · 2 / 999 at most, the rounding of the digits."""
    (example,) = Forecast().examples(data_dir=write(tmp_path, future="a,9,8,7,6,5,4"))
    task, digits = Forecast(), Digits(example.inputs["offset"], example.inputs["scale"])
    right, off = digits.encode([9, 8, 7, 6, 5, 4]), digits.encode([8, 7, 6, 5, 4, 3])
    found = task.measures(example, right, [right], [1.0])
    assert found["complete"] == 1
    assert found["mase"] == pytest.approx(0, abs=0.01)
    assert found["psd_distance"] == pytest.approx(0, abs=0.05)
    assert found["variance_ratio"] == pytest.approx(1, abs=0.01)
    found = task.measures(example, off, [right, off, "400,500"], [0.25, 0.25, 0.5])
    assert found["mase"] == pytest.approx(1, abs=0.01)
    # Half of the members right, half off by 1: ½ − ½ · 1 (two members, their distance 1). The short one is no forecast.
    assert found["scaled_crps"] == pytest.approx(0, abs=0.01)
    assert task.measures(example, off, [off, right], [1.0, 0.0])["scaled_crps"] == pytest.approx(1, abs=0.01)
    assert task.measures(example, "1,2,3", ["1,2,3"], [1.0]) == {
        "complete": 0.0,
        "mase": None,
        "scaled_crps": None,
        "psd_distance": None,
        "variance_ratio": None,
    }
    # What is stated beyond the horizon is not looked at.
    assert task.measures(example, right + ",000", [right], [1.0])["mase"] == pytest.approx(0, abs=0.01)


def test_a_series_that_gives_nothing_to_scale_by_has_no_scaled_error(tmp_path):
    (example,) = Forecast().examples(data_dir=write(tmp_path, past="a" + ",5" * 9))
    text = Digits(example.inputs["offset"], example.inputs["scale"]).encode([5] * 6)
    found = Forecast().measures(example, text, [text], [1.0])
    assert found["complete"] == 1
    assert found["mase"] is found["scaled_crps"] is None


def test_a_run_has_the_embedded_model_of_its_tasks():
    """Catches digits for the model that reads soft prompts, and one model for tasks that need two."""
    pytest.importorskip("torch")
    engine = load_engine(RunConfig(tasks=("forecast",), device="cpu"))
    assert "forecast_model" in engine.identity["model"]
    with pytest.raises(SettingError, match="different embedded models"):
        load_engine(RunConfig(tasks=("forecast", "har_cot"), device="cpu"))


def test_the_command_needs_neither_model_nor_length(tmp_path, capsys):
    """Catches a default length that cuts forecasts short, and a default model that cannot read digits."""
    pytest.importorskip("torch")
    command = ["eval", "forecast", "--method", "greedy", "--limit", "5", "--output-dir", str(tmp_path / "run"), "--format", "json"]
    with pytest.raises(SystemExit, match="0"):
        main(command)
    row = json.loads(capsys.readouterr().out)["tasks"]["forecast"]["greedy"]
    assert row["n"] == 5
    assert row["measures"]["complete"]["mean"] == 1
    assert row["measures"]["mase"]["n"] == 5
    with pytest.raises(SystemExit, match="0"):
        main([*command[:-3], str(tmp_path / "short"), "--preset", "quick", "--format", "json"])
    measures = json.loads(capsys.readouterr().out)["tasks"]["forecast"]["greedy"]["measures"]
    # 30 tokens hold the six values of a year's horizon, and no other.
    assert measures["complete"]["mean"] == pytest.approx(1 / 5)
