from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from pathlib import Path

import pytest

from maxent_ts.rewards.classifier import FittedClassifier, fit
from maxent_ts.tasks.opentslm import HarCot, M4Caption

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "src" / "maxent_ts" / "assets"
SHARED = REPOSITORY.parent / "shared" / "data"
EXCERPTS = [ASSETS / "har", ASSETS / "m4", ASSETS / "forecast"]

needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the parquet files that the sample is drawn from")


@pytest.fixture
def data(monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.syspath_prepend(str(REPOSITORY / "training"))
    return importlib.import_module("data")


def test_the_sample_is_small_and_balanced():
    """Catches an excerpt that outgrows the wheel, or that lost a class."""
    assert sum(path.stat().st_size for folder in EXCERPTS for path in folder.iterdir()) < 1_000_000
    har, m4 = HarCot().examples(), M4Caption().examples()
    assert set(Counter(example.target for example in har).values()) == {17}
    assert Counter(example.stratum for example in m4) == {"Hourly": 50, "Weekly": 50}
    assert all(64 <= len(example.inputs["series"][0]) <= 512 for example in m4)
    assert all(len(axis) == 128 for example in har for axis in example.inputs["series"])


def test_har_is_in_metres_per_second_squared():
    """Catches windows in g, on which a model trained in m/s² sees another planet."""
    for example in HarCot().examples():
        x, y, z = example.inputs["series"]
        magnitude = [(a * a + b * b + c * c) ** 0.5 for a, b, c in zip(x, y, z, strict=True)]
        assert 7 < sum(magnitude) / len(magnitude) < 15


@pytest.mark.parametrize("folder", EXCERPTS, ids=lambda folder: folder.name)
def test_files_are_those_that_sample_json_describes(folder):
    """Catches data edited by hand, and line ends changed on checkout."""
    recorded = json.loads((folder / "SAMPLE.json").read_text(encoding="utf-8"))["sha256"]
    assert recorded == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.csv")}


def test_every_excerpt_has_its_licence_section():
    """Catches data shipped without source and licence."""
    text = (ASSETS / "DATA_LICENSES.md").read_text(encoding="utf-8")
    for folder in [*EXCERPTS, ASSETS / "classifier"]:
        assert f"## {folder.name}/" in text


@needs_shared_data
def test_the_classifier_is_fitted_again_to_what_is_shipped(data):
    """Catches features that changed under the shipped coefficients, and a fit on other than the training windows."""
    builder = importlib.import_module("fit_classifier")
    series, labels = builder.items(SHARED, "train")
    shipped = FittedClassifier.load(ASSETS / "classifier" / "har.json")
    fitted = fit(series, labels, sampling_rate=shipped.sampling_rate, trained_on=shipped.trained_on)
    for example in HarCot().examples(limit=20):
        expected = fitted.probabilities(example.inputs["series"])
        found = shipped.probabilities(example.inputs["series"])
        assert found == pytest.approx(expected, abs=5e-3)


@needs_shared_data
def test_the_sample_is_rebuilt_to_the_byte(data, tmp_path):
    """Catches a builder that no longer makes what is shipped."""
    builder = importlib.import_module("build_assets")
    builder.build(SHARED, tmp_path)
    for folder in EXCERPTS:
        assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / folder.name).iterdir()}
        for path in folder.iterdir():
            assert path.read_bytes() == (tmp_path / folder.name / path.name).read_bytes(), path.name


@needs_shared_data
def test_the_gold_texts_of_the_tests_are_rebuilt_to_the_byte(data, tmp_path, monkeypatch):
    """Catches texts edited by hand until a test passes."""
    builder = importlib.import_module("build_fixtures")
    monkeypatch.setattr("sys.argv", ["build_fixtures", "--shared", str(SHARED), "--output", str(tmp_path / "texts.json")])
    builder.main()
    assert (tmp_path / "texts.json").read_bytes() == builder.OUTPUT.read_bytes()


def test_the_published_folder_and_the_answers_of_templates_have_their_section_too():
    """Catches a table shipped without a source."""
    text = (ASSETS / "DATA_LICENSES.md").read_text(encoding="utf-8")
    assert all(f"## {name}/" in text for name in ("ecg_qa", "published"))


@needs_shared_data
def test_training_validation_and_test_share_no_subject(data):
    """Catches windows of one person, which overlap by half, on both sides of a split."""
    frame = data.har_frame(SHARED, "train")
    subject_of = {row.x_axis.tobytes(): row.subject_inferred for row in frame.itertuples()}
    training = {subject_of[item[0].tobytes()] for item in data.har_training(SHARED)}
    validation = {subject_of[item[0].tobytes()] for item in data.har_training(SHARED, validation=True)}
    rows = json.loads((ASSETS / "har" / "SAMPLE.json").read_text(encoding="utf-8"))["rows"]
    test = {row["subject"] for row in rows}
    assert (len(training), len(validation), len(test)) == (18, 3, 9)
    assert not training & validation
    assert not (training | validation) & test


@needs_shared_data
def test_no_test_series_is_trained_on(data):
    """Catches M4 test items among the training material, and training and validation that overlap."""
    training, validation = data.m4_training(SHARED, num_crops=2), data.m4_training(SHARED, validation=True)
    names = {name.split("#")[0] for name, _ in training}
    assert len(training) == 2 * len(names) > 3000
    assert not names & {name for name, _ in validation}
    test = {example.id.rpartition("series-")[2] for example in M4Caption().examples()}
    assert len(test) == 100
    assert not test & (names | {name for name, _ in validation})
    assert all(64 <= len(values) <= 512 for _, values in training + validation)


@needs_shared_data
def test_training_material_is_the_same_every_time(data):
    """Catches crops from global randomness, with which no trained model can be made again."""
    once, again = data.m4_training(SHARED), data.m4_training(SHARED)
    assert all(a[0] == b[0] and (a[1] == b[1]).all() for a, b in zip(once, again, strict=True))
