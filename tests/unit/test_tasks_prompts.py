from __future__ import annotations

import hashlib
import platform

import numpy as np
import pytest

from maxent_ts.errors import PromptError
from maxent_ts.tasks.float32 import mean_float32
from maxent_ts.tasks.prompts import ecg_prompt, ecg_segments, har_prompt, m4_prompt, own_prompt, sleep_prompt, tsqa_prompt

# SHA-256 of OpenTSLM's prompts after .strip(), computed by running its source files (commit 2968f4b8). The ECG prompts are
# those of the question "Q" in the context "C", with the answers "a" and "b", and without answers.
HAR_PRE_PROMPT_SHA256 = "a27a720b325c0e55b3a6ef7591fd52291dc620b56949140967657a2f5843b8e0"
SLEEP_PROMPT_SHA256 = (
    "70f146e794ee8d50d89c9cd616b47e99bcccef90eac953a833557b9e0e8badd7",
    "711f8229efcfc7ef0b3cfb9d02a21bd64993c870d2c71f50013841834512c9ea",
)
ECG_PROMPT_SHA256 = (
    "b938fcd38eb203660e624facde36167d52d8e6b0d09b69bc8103f217e196466f",
    "9d220a491c4efdc561da45c0f832eb18e8f206dfac3ebe572539722aa811fc9c",
)
ECG_OPEN_POST_PROMPT_SHA256 = "3070c42c09c4cd0862ba4ff8437832be59a84e5fb192011bdcd53e2133e6677c"


x86_only = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="torch adds in another order on other processors than x86"
)


def window(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, (3, 128))


def test_the_har_prompt_is_opentslms_to_the_byte():
    """Catches a reflowed prompt: lost indentation, a hyphen for the dash, a trimmed blank line."""
    prompt = har_prompt(*window())
    assert hashlib.sha256(prompt.pre_prompt.encode()).hexdigest() == HAR_PRE_PROMPT_SHA256
    assert prompt.post_prompt == "Rationale:"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_sleep_and_ecg_prompts_are_opentslms_to_the_byte():
    """Catches the same, and a lost space at the end of the ECG prompt's first line."""
    sleep, ecg = sleep_prompt([1.0, 2.0]), ecg_prompt("Q", "C", ("a", "b"), ())
    assert (sha256(sleep.pre_prompt), sha256(sleep.post_prompt)) == SLEEP_PROMPT_SHA256
    assert (sha256(ecg.pre_prompt), sha256(ecg.post_prompt)) == ECG_PROMPT_SHA256
    assert sha256(ecg_prompt("Q", "C", (), ()).post_prompt) == ECG_OPEN_POST_PROMPT_SHA256


def test_each_stage_has_its_own_standard_deviation():
    """Catches one ddof for all stages: sample for TSQA, M4 and HAR, population for Sleep and ECG."""
    series = [1.0, 2.0, 3.0, 4.0]
    assert tsqa_prompt(" Q? ", "trend", series).series[0].text == "This is the time series, it has mean 2.5000 and std 1.2910."
    assert sleep_prompt(series).series[0].text == "The following is the EEG time series, it has mean 2.5000 and std 1.1180:"
    assert ecg_segments(np.array([series] * 12))[3].text == "This is ECG Lead aVR, it has mean 2.5000 and std 1.1180:"
    tsqa = tsqa_prompt(" Q? ", "trend", series)
    assert (tsqa.pre_prompt, tsqa.post_prompt) == ("Q?", "Predict the trend Answer:")


def test_a_flat_lead_and_a_flat_eeg_are_centred():
    """Catches a division by zero for an electrode that fell off."""
    for segment in (*ecg_segments(np.full((12, 40), 0.25)), sleep_prompt([0.25] * 40).series[0]):
        assert set(segment.values) == {0.0}


def test_a_prompt_for_ones_own_series_is_laid_out_as_opentslms():
    """Catches a lone series without labels that is asked about in words no checkpoint has seen, and labels that are not named."""
    series = [1.0, 2.0, 4.0, 8.0]
    assert own_prompt({"load": series}, m4_prompt(series).post_prompt, ()) == m4_prompt(series)
    both = own_prompt({"load": series, "heat": series[::-1]}, "Which?", ("up", "down"))
    assert [segment.text.partition(",")[0] for segment in both.series] == [
        "The following is the time series load",
        "The following is the time series heat",
    ]
    assert both.pre_prompt.startswith("Which?\n\nPossible labels are:\nup, down.\n")
    assert both.post_prompt == "Rationale:"


def test_series_texts_carry_mean_and_sample_standard_deviation_of_the_raw_series():
    """Catches ddof 0, statistics of the normalised series, and axes in the wrong order."""
    x, y, z = [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 10.0], [-9.8, -9.8, -9.8, -9.9]
    texts = [segment.text for segment in har_prompt(x, y, z).series]
    assert texts == [
        "The following is the accelerometer data on the x-axis, it has mean 2.5000 and std 1.2910:",
        "The following is the accelerometer data on the y-axis, it has mean 2.5000 and std 5.0000:",
        "The following is the accelerometer data on the z-axis, it has mean -9.8250 and std 0.0500:",
    ]
    m4 = m4_prompt(x)
    assert m4.pre_prompt == "You are an expert in time series analysis."
    assert m4.series[0].text == "This is the time series, it has mean 2.5000 and std 1.2910:"
    assert m4.post_prompt == "Please generate a detailed caption for this time-series, describing it as accurately as possible."


def test_values_in_the_prompt_are_normalised():
    """Catches raw values reaching the encoder."""
    for segment in (*har_prompt(*window()).series, *m4_prompt(window()[0] * 1000).series):
        values = np.array(segment.values)
        assert values.mean() == pytest.approx(0, abs=1e-5)
        assert values.std(ddof=1) == pytest.approx(1, abs=1e-5)
        assert all(type(value) is float for value in segment.values)


def test_a_constant_series_gives_a_finite_prompt():
    """Catches a division by a standard deviation of zero."""
    constant = [3.3] * 50
    for prompt in (har_prompt(constant, constant, constant), m4_prompt(constant)):
        for segment in prompt.series:
            assert np.isfinite(segment.values).all()
            assert np.abs(segment.values).max() < 1
    assert "mean 3.3000 and std 0.0000:" in har_prompt(constant, constant, constant).series[0].text
    assert "mean 3.3000 and std 0.0000:" in m4_prompt(constant).series[0].text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e39])
def test_values_that_are_not_finite_in_single_precision_are_refused(bad):
    """Catches NaN reaching a model, and an overflow to infinity on the way to float32."""
    with pytest.raises(PromptError, match="position 2"):
        m4_prompt([1.0, 2.0, bad, 4.0])
    with pytest.raises(PromptError, match="y-axis"):
        har_prompt([1.0, 2.0, 3.0], [1.0, 2.0, bad], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("bad", [[], [1.0], [[1.0, 2.0], [3.0, 4.0]]])
def test_a_series_must_be_flat_and_hold_two_points(bad):
    """Catches a standard deviation of NaN, and a series given as a matrix."""
    with pytest.raises(PromptError, match="shape"):
        m4_prompt(bad)


@x86_only
def test_means_equal_torchs_for_every_length():
    """Catches a different order of summation: the fourth decimal in one M4 prompt of nine would differ from OpenTSLM's."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    lengths = [*range(1, 80), *rng.integers(80, 600, 150), *rng.integers(600, 20_000, 15)]
    differing = 0
    for length in lengths:
        values = (rng.normal(size=length) * 10 ** rng.uniform(-2, 5) + 10 ** rng.uniform(-2, 5)).astype(np.float32)
        assert mean_float32(values) == torch.from_numpy(values).mean().item(), length
        differing += mean_float32(values) != values.mean()
    assert differing > 10, "numpy's own sum agrees with torch's: this test, and the module, are no longer needed"


@x86_only
def test_prompts_equal_those_of_opentslms_own_arithmetic():
    """Catches any rounding difference between the numpy prompt and the torch one a checkpoint was trained on."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    for index in range(300):
        spread = (300.0, 3.0, 0.1, 0.0)[index % 4]
        raw = (rng.normal(size=int(rng.integers(64, 513))) * spread + rng.uniform(10, 50_000)).tolist()
        tensor = torch.tensor(raw, dtype=torch.float32)
        mean, std = tensor.mean(), tensor.std()
        segment = m4_prompt(raw).series[0]
        assert segment.text == f"This is the time series, it has mean {mean:.4f} and std {std:.4f}:"
        assert list(segment.values) == ((tensor - mean) / std if std > 0 else tensor - mean).tolist()
        segment = tsqa_prompt("Q", "trend", raw).series[0]
        assert segment.text == f"This is the time series, it has mean {mean:.4f} and std {std:.4f}."
        assert list(segment.values) == ((tensor - mean) / (std + 1e-8)).tolist()
    axes = torch.tensor(window(1).tolist(), dtype=torch.float32)
    means, stds = axes.mean(dim=1, keepdim=True), torch.clamp(axes.std(dim=1, keepdim=True), min=1e-6)
    prompt = har_prompt(*window(1))
    assert [list(segment.values) for segment in prompt.series] == ((axes - means) / stds).tolist()
    for segment, mean, std in zip(prompt.series, means.squeeze().tolist(), stds.squeeze().tolist(), strict=True):
        assert segment.text.endswith(f"it has mean {mean:.4f} and std {std:.4f}:")
