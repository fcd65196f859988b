"""The Python entry point."""

from __future__ import annotations

import pytest

from maxent_ts import TableEngine, generate
from maxent_ts.errors import PromptError, RewardError, SettingError, UnknownNameError
from maxent_ts.registry import METHODS, METHODS_THAT_VOTE
from maxent_ts.rewards.function import from_function


@pytest.fixture
def engine() -> TableEngine:
    return TableEngine.random(num_tokens=4, seed=3)


def count_of_a(completions, **columns):
    return [text.count("a") for text in completions]


def bounded_share_of_a():
    """A reward with bounds, which `exact_sample` needs and a plain function does not have."""
    reward = from_function(lambda completions, **columns: [text.count("a") / 5 for text in completions], "share_of_a")
    reward.range = (0.0, 1.0)
    return reward


def test_a_plain_function_is_a_reward(engine):
    """TRL's signature, nothing else needed."""
    found = generate(engine, "ab", reward=count_of_a, num_rollouts=12, max_new_tokens=5, tilt=2.0)
    assert found.text == found.texts[0]
    assert found.text.count("a") == max(text.count("a") for text in (one.text for one in found.completions))
    assert sum(found.weights) == pytest.approx(1)
    assert found.usage.rollouts == 12
    assert found.tree is not None
    assert found.info["log_z_lower"] <= found.info["log_z"] <= found.info["log_z_upper"]


@pytest.mark.parametrize("method", sorted(METHODS.keys() - METHODS_THAT_VOTE - {"exact"}))
def test_every_method_is_called_the_same_way(engine, method):
    """`num_rollouts` is a width for a beam, a budget for the others, and nothing to greedy."""
    found = generate(engine, "ab", reward=bounded_share_of_a(), method=method, num_rollouts=4, max_new_tokens=5)
    assert found.usage.generated_tokens <= 4 * 5
    assert found.completions


def test_num_return_sequences(engine):
    """Distinct ones, best first, for the methods that rank."""
    found = generate(engine, "ab", reward=count_of_a, num_rollouts=12, max_new_tokens=5, num_return_sequences=3)
    counts = [text.count("a") for text in found.texts]
    assert counts == sorted(counts, reverse=True)
    assert len(set(found.texts)) == 3


def test_names_that_are_unknown_come_with_the_nearest(engine):
    """A typo must not be a stack trace."""
    with pytest.raises(UnknownNameError, match="Did you mean 'maxent'"):
        generate(engine, "ab", reward=count_of_a, method="maxnet")
    with pytest.raises(UnknownNameError, match="Did you mean 'num_parallel'"):
        generate(engine, "ab", reward=count_of_a, num_paralel=2)
    with pytest.raises(UnknownNameError, match="Did you mean 'format'"):
        generate(engine, "ab", reward="fromat")


def test_bad_input_is_named(engine):
    """Each has its own error."""
    with pytest.raises(PromptError, match="empty"):
        generate(engine, "", reward=count_of_a)
    with pytest.raises(SettingError, match="tilt"):
        generate(engine, "ab", reward=count_of_a, tilt=-1.0)
    with pytest.raises(SettingError, match="temperature"):
        generate(engine, "ab", reward=count_of_a, temperature=0.0)
    with pytest.raises(SettingError, match="selection"):
        generate(engine, "ab", reward=count_of_a, selection="luck")
    with pytest.raises(RewardError):
        generate(engine, "ab", reward=lambda completions, **columns: [float("nan")] * len(completions))
