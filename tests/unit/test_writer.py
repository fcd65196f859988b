"""The rule-based writer: what it writes is true, short, varied, and in the form that the rewards ask for."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from maxent_ts.rewards.claims import Claims
from maxent_ts.rewards.text import Format

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
LABELS = ("biking", "lying", "running", "sitting", "standing", "walking", "walking_down", "walking_up")
GRAVITY = 9.80665


@pytest.fixture(scope="module")
def writer() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("writer_under_test", ROOT / "training" / "writer.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


def synthetic_windows(count: int) -> list[dict[str, np.ndarray]]:
    """Windows of 128 samples: gravity in a random direction, still or moving at 1.4 to 2.2 Hz."""
    rng = np.random.default_rng(0)
    windows = []
    for number in range(count):
        direction = rng.normal(size=3)
        direction *= GRAVITY / np.linalg.norm(direction)
        phase = 2 * np.pi * rng.uniform(1.4, 2.2) * np.arange(128) / 50.0
        size = rng.uniform(0.0, 4.0, 3) if number % 2 else np.zeros(3)
        values = direction[:, None] + size[:, None] * np.sin(phase + rng.uniform(0, 6, (3, 1))) + rng.normal(0, 0.1, (3, 128))
        windows.append(dict(zip("xyz", values, strict=True)))
    return windows


def synthetic_series(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    series = []
    for number in range(count):
        steps = np.arange(int(rng.integers(4, 400)), dtype=float)
        shape = number % 6
        noise = rng.normal(size=len(steps))
        choices = (
            noise,
            noise.cumsum(),
            5 * np.sin(steps / 3) + 0.3 * noise,
            steps * rng.normal() + 3,
            np.exp(2 * noise),
            1e6 + noise,
        )
        series.append(choices[shape])
    return series


def real_windows(count: int) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    pandas = pytest.importorskip("pandas")
    table = _table(pandas, "uci_har_subset.parquet").sample(count, random_state=0)
    windows = [{axis: np.array(row[f"{axis}_axis"], dtype=float) * GRAVITY for axis in "xyz"} for _, row in table.iterrows()]
    return windows, list(table["label"])


def real_series(count: int) -> list[np.ndarray]:
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    series = []
    for values in _table(pandas, "m4_hourly_weekly.parquet").sample(count, random_state=0)["train"]:
        length = min(len(values), int(rng.integers(64, 512)))
        start = int(rng.integers(0, len(values) - length + 1))
        series.append(np.array(values[start : start + length], dtype=float))
    return series


def _table(pandas: Any, name: str) -> Any:
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not here")
    return pandas.read_parquet(DATA / name)


def rewards(
    texts: list[str], series: list[list[list[float]]], names: list[str], labels: tuple[str, ...], rate: float | None
) -> tuple[list, list]:
    count = len(texts)
    call = {"prompts": [None] * count, "completions": texts, "completion_ids": [[]] * count, "series": series}
    call |= {
        "series_names": [names] * count,
        "labels": [labels] * count,
        "finish_reasons": ["eos"] * count,
        "sampling_rate": [rate] * count,
    }
    return Claims()(**call), Format()(**call)


def assert_rationales_are_good(writer: ModuleType, windows: list[dict[str, np.ndarray]], labels: list[str]) -> list[str]:
    rng = np.random.default_rng(2)
    texts = [writer.write_rationale(window, label, rng) for window, label in zip(windows, labels, strict=True)]
    series = [[window[axis].tolist() for axis in "xyz"] for window in windows]
    claims, forms = rewards(texts, series, ["x_axis", "y_axis", "z_axis"], LABELS, 50.0)
    for text, label, claim, form in zip(texts, labels, claims, forms, strict=True):
        assert claim >= 0.95, text
        assert form == pytest.approx(1.0), text
        assert text.endswith(f" Answer: {label}")
        assert not re.search("|".join(LABELS), text.rpartition("Answer:")[0]), text
        assert writer.token_estimate(text) <= writer.MAX_TOKENS
        assert len(text.split()) <= 36, text
        assert "\n" not in text
    return texts


def assert_captions_are_good(writer: ModuleType, series: list[np.ndarray]) -> list[str]:
    rng = np.random.default_rng(3)
    texts = [writer.write_caption(values, rng) for values in series]
    claims, forms = rewards(texts, [[values.tolist()] for values in series], ["series"], (), None)
    # The checker judges by degrees: what is just within the writer's bounds is partly true for it.
    assert np.mean(claims) >= 0.98
    for text, claim, form in zip(texts, claims, forms, strict=True):
        assert claim >= 0.8, text
        assert form >= 0.95, text  # two places alike, in the same words, are a small repetition
        assert writer.token_estimate(text) <= writer.MAX_TOKENS
    return texts


def test_rationales_of_real_windows_are_true_well_formed_and_varied(writer: ModuleType):
    """Catches a wording that the checker reads differently, and a label word before the last sentence."""
    windows, labels = real_windows(500)
    assert len(set(assert_rationales_are_good(writer, windows, labels))) >= 300


def test_captions_of_real_series_are_true_well_formed_and_varied(writer: ModuleType):
    """Catches a fact whose threshold is looser than the checker's."""
    assert len(set(assert_captions_are_good(writer, real_series(500)))) >= 300


def test_rationales_of_synthetic_windows_are_true_and_well_formed(writer: ModuleType):
    """Catches gravity in a direction that no real window has."""
    windows = synthetic_windows(120)
    assert_rationales_are_good(writer, windows, [LABELS[number % len(LABELS)] for number in range(len(windows))])


def test_captions_of_synthetic_series_are_true_and_well_formed(writer: ModuleType):
    """Catches short, noisy, huge and nearly constant series."""
    assert_captions_are_good(writer, synthetic_series(180))


def test_a_constant_series_has_a_caption(writer: ModuleType):
    """Catches a division by a spread of zero."""
    for level in (0.0, -3.0, 12345.678):
        text = writer.write_caption(np.full(64, level), np.random.default_rng(0))
        assert "constant" in text


def test_the_same_generator_writes_the_same_text_and_another_words_it_differently(writer: ModuleType):
    """Catches global randomness, and a writer that varies nothing for one and the same series."""
    window = synthetic_windows(2)[1]
    texts = [writer.write_rationale(window, "walking", np.random.default_rng(seed)) for seed in range(30)]
    assert texts[0] == writer.write_rationale(window, "walking", np.random.default_rng(0))
    assert len(set(texts)) >= 20


def test_numbers_in_a_caption_have_three_significant_digits(writer: ModuleType):
    """Catches long numbers, which cost a token per digit, and a lost sign."""
    values = -98765.4321 + np.sin(np.arange(100.0))
    for seed in range(10):
        for number in re.findall(r"-?\d[\d.]*\d", writer.write_caption(values, np.random.default_rng(seed))):
            assert len(number.strip("-0.").replace(".", "")) <= 3
