"""Rewards for the stated answer: does the rationale fit it, does the signal make the text likelier, what would a classifier say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from maxent_ts.errors import DataError, RewardError
from maxent_ts.rewards.classifier import Classifier, FittedClassifier, features, fit
from maxent_ts.rewards.consistency import Consistency
from maxent_ts.rewards.contrast import SCALE, Contrast, zeroed
from maxent_ts.tasks.opentslm import HAR_LABELS, HarCot, har_prompt

RNG = np.random.default_rng(0)
STILL = (0.02 * RNG.normal(size=(3, 128)) + [[9.8], [0.0], [0.0]]).tolist()
MOVING = (np.array([[9.8], [0.0], [0.0]]) + 3.0 * np.sin(2 * np.pi * 2.0 * np.arange(128) / 50)).tolist()


def explain(reward: Any, text: str, **columns: Any) -> dict[str, Any]:
    return reward.explain(
        prompts=[None], completions=[text], completion_ids=[[]], **{name: [value] for name, value in columns.items()}
    )[0]


@pytest.mark.parametrize(
    ("rationale", "moving"),
    [
        ("Variation is large and strongest on x, rhythmic near 2 Hz.", 1.0),
        ("Variation is small on all axes, and there is no rhythm.", 0.0),
        ("The signal shows a lack of significant movement.", 0.0),
        ("The body is not still.", 1.0),
        ("A stationary state with minimal movement, but for one stride.", 1 / 3),
    ],
)
def test_words_speak_for_the_answer_that_they_fit(rationale: str, moving: float):
    """Catches a negation or an amount on the wrong word, and a part that is the same for every label."""
    for label, expected in (("walking_up", moving), ("sitting", 1.0 - moving)):
        found = explain(Consistency(), f"{rationale} Answer: {label}.", labels=HAR_LABELS)
        assert set(found["parts"]) == {"words"}
        assert found["value"] == pytest.approx(expected), found


@pytest.mark.parametrize(("series", "moving"), [(STILL, 0.0), (MOVING, 1.0)])
def test_the_series_speak_for_the_answer_that_they_fit(series, moving):
    """Catches a measure of the wrong axis, and words that drown it."""
    columns = {"labels": HAR_LABELS, "series": series, "sampling_rate": 50.0}
    assert explain(Consistency(), "Hm. Answer: running", **columns)["value"] == pytest.approx(moving, abs=0.15)
    assert explain(Consistency(), "Hm. Answer: lying", **columns)["value"] == pytest.approx(1.0 - moving, abs=0.15)
    found = explain(Consistency(), "Variation is large. Answer: running", **columns)
    assert found["value"] == pytest.approx((1.0 + found["parts"]["signal"]["value"]) / 2)


def test_sleep_stages_have_words_too():
    labels = ("Wake", "Non-REM stage 2", "Non-REM stage 3", "REM sleep")
    text = "Slow waves of high amplitude and low-frequency, synchronised activity. Answer: "
    assert explain(Consistency(), text + "Non-REM stage 3", labels=labels)["value"] == 1.0
    assert explain(Consistency(), text + "Wake", labels=labels)["value"] == 0.0
    assert explain(Consistency(), text + "Non-REM stage 2", labels=labels)["value"] == 0.5


def test_without_a_valid_answer_nothing_is_consistent_and_without_words_nothing_is_known():
    assert explain(Consistency(), "It moves a lot.", labels=HAR_LABELS)["value"] == 0.0
    assert explain(Consistency(), "It moves a lot. Answer: flying", labels=HAR_LABELS)["value"] == 0.0
    assert explain(Consistency(), "Well. Answer: walking", labels=HAR_LABELS)["value"] == 0.5
    with pytest.raises(RewardError, match="column 'labels'"):
        Consistency()(prompts=[None], completions=[""], completion_ids=[[]])


@pytest.mark.parametrize(("own", "other"), [(-3.0, -5.0), (-5.0, -3.0), (-4.0, -4.0), (-1.0, -math.inf), (-1e5, -1.0)])
def test_contrast_is_the_logistic_function_of_the_difference(own, other):
    """Catches a sign, a scale, an overflow, and evidence without the two log-probabilities."""
    found = explain(Contrast(), "x", logprobs=own, zeroed_logprobs=other)
    difference = own - max(other, -1e6)
    assert found["value"] == pytest.approx(1.0 / (1.0 + math.exp(min(-difference / SCALE, 700.0))))
    assert found["parts"]["contrast"] == {
        "value": found["value"],
        "logprob": own,
        "zeroed_logprob": max(other, -1e6),
        "difference": difference,
    }


def test_contrast_takes_the_signal_away_and_leaves_the_words():
    """Catches a zeroed prompt that loses its means and deviations, or its length."""
    prompt = har_prompt(*MOVING)
    other = zeroed(prompt)
    assert [one.text for one in other.series] == [one.text for one in prompt.series]
    assert all(set(one.values) == {0.0} and len(one.values) == 128 for one in other.series)
    assert (other.pre_prompt, other.post_prompt) == (prompt.pre_prompt, prompt.post_prompt)
    with pytest.raises(RewardError, match="without series"):
        zeroed("text")
    with pytest.raises(RewardError, match="zeroed_logprobs"):
        explain(Contrast(), "x", logprobs=-1.0)


def test_the_shipped_classifier_knows_the_embedded_windows():
    """Catches a file that was fitted on other features, units or labels. They are of subjects that it was not fitted on."""
    examples = HarCot().examples()
    found = Classifier().predict([one.inputs["series"] for one in examples])
    assert np.mean([answer == one.target for answer, one in zip(found, examples, strict=True)]) > 0.8


def test_the_value_is_the_probability_of_the_stated_label():
    """Catches a value that does not depend on what the text says, or is not a probability."""
    reward = Classifier()
    values = [explain(reward, f"x Answer: {label}", series=MOVING, labels=HAR_LABELS)["value"] for label in HAR_LABELS]
    assert sum(values) == pytest.approx(1.0)
    assert explain(reward, "Answer: walking.", series=MOVING, labels=HAR_LABELS)["value"] == values[HAR_LABELS.index("walking")]
    found = explain(reward, "no answer", series=MOVING, labels=HAR_LABELS)
    assert found["value"] == 0.0
    assert found["parts"]["classifier"]["kind"] == "auxiliary-supervised"


@pytest.mark.parametrize("num_labels", [2, 3])
def test_a_fitted_classifier_is_scikit_learn_s_and_survives_its_file(num_labels, tmp_path):
    """Catches coefficients in another order, a lost intercept, and a hash that changes with reading."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(1)
    labels = [f"label {index % num_labels}" for index in range(60)]
    series = [(rng.normal(size=(2, 80)) * (1 + index % num_labels) + index % 7).tolist() for index in range(60)]
    fitted = fit(series, labels, sampling_rate=10.0, trained_on="noise.")
    (tmp_path / "fitted.json").write_text(fitted.to_json())
    read = FittedClassifier.load(tmp_path / "fitted.json")
    assert read == fitted
    assert read.sha256 == fitted.sha256
    inputs = np.stack([features(one, 10.0) for one in series])
    scaler = StandardScaler().fit(inputs)
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(inputs), labels)
    expected = model.predict_proba(scaler.transform(inputs))
    found = [list(read.probabilities(one).values()) for one in series]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    (value,) = Classifier(tmp_path / "fitted.json")(
        prompts=[None],
        completions=["Answer: label 1"],
        completion_ids=[[]],
        series=[series[0]],
        labels=[tuple(sorted(set(labels)))],
    )
    assert value == pytest.approx(expected[0, 1], abs=1e-4)


def test_series_of_another_kind_and_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(RewardError, match="fitted on other series"):
        explain(Classifier(), "Answer: walking", series=MOVING[:2], labels=HAR_LABELS)
    with pytest.raises(RewardError, match="at least 64"):
        explain(Classifier(), "Answer: walking", series=[[1.0, 2.0]], labels=HAR_LABELS)
    with pytest.raises(RewardError, match="'series'"):
        explain(Classifier(), "Answer: walking", labels=HAR_LABELS)
    (tmp_path / "bad.json").write_text("[]")
    for name in ("none.json", "bad.json"):
        with pytest.raises(DataError, match="no fitted classifier"):
            Classifier(tmp_path / name)
