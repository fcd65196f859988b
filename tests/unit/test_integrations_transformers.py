"""`generate(custom_generate=…)` of the real transformers on tiny random models, against the same search asked for directly."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from maxent_ts.engines.hf import HFEngine
from maxent_ts.errors import MaxentError, RewardError, SettingError, UnknownNameError
from maxent_ts.integrations.transformers import search
from maxent_ts.registry import METHODS, load
from maxent_ts.rewards.function import from_function
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy

from .hf_helpers import BOS, EOS, tiny_model, tiny_tokenizer

PROMPTS = [[BOS, 2, 3, 4], [BOS, 5]]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def vowels(completions, **columns):
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]


def padded():
    """Two prompts, the shorter one padded on the left."""
    ids = torch.tensor([PROMPTS[0], [EOS, EOS, *PROMPTS[1]]])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])}


def directly(model, *, num=1, tilt=2.0):
    """The token ids that the same searches return when they are asked for without transformers."""
    method = partial(load(METHODS, "maxent", "method"), num_return_sequences=num)
    engine = HFEngine(model, tiny_tokenizer(), dtype="auto")
    budget = Budget(rollouts=6)
    jobs = [SearchJob(str(i), prompt, Policy(5), method, tilt, budget, (3, i)) for i, prompt in enumerate(PROMPTS)]
    found = {result.job.id: result.outcome for result in run_searches(jobs, engine, from_function(vowels))}
    return [[list(found[str(i)].completions[j].tokens) for j in found[str(i)].chosen] for i in range(len(PROMPTS))]


@pytest.mark.parametrize("num", [1, 3])
def test_generate_returns_what_the_search_found_in_transformers_own_form(model, num):
    """Catches rows that are not regrouped, prompts that keep their padding, and answers in another order."""
    found = search(reward=vowels, tokenizer=tiny_tokenizer(), tilt=2.0, num_rollouts=6, seed=3)
    inputs = padded()
    out = model.generate(**inputs, custom_generate=found, max_new_tokens=5, do_sample=True, num_return_sequences=num)
    expected = [tokens for group in directly(model, num=num) for tokens in group]
    assert out.dtype == torch.int64
    assert out.shape == (2 * num, 4 + max(len(tokens) for tokens in expected))
    assert len(expected) == 2 * num
    for row, prompt, tokens in zip(out, inputs["input_ids"].repeat_interleave(num, 0), expected, strict=True):
        assert row[:4].tolist() == prompt.tolist()
        assert row[4:].tolist() == tokens + [EOS] * (out.shape[1] - 4 - len(tokens))
    assert [result.usage.rollouts for result in found.results] == [6, 6]


def test_the_weights_of_the_call_are_used_and_the_mode_is_left_as_it_was(model):
    """Catches an engine kept from the last call, whose cache is older than the weights, and a model left in evaluation mode."""
    trained = tiny_model(seed=1)
    trained.train()
    found = search(reward=vowels, tokenizer=tiny_tokenizer(), tilt=2.0, num_rollouts=6, seed=3)
    before = trained.generate(**padded(), custom_generate=found, max_new_tokens=5)
    assert trained.training
    trained.load_state_dict(model.state_dict())
    after = trained.generate(**padded(), custom_generate=found, max_new_tokens=5)
    assert after.tolist() == model.generate(**padded(), custom_generate=found, max_new_tokens=5).tolist()
    assert not torch.equal(before, after)


def test_the_reward_sees_texts_and_its_own_columns(model):
    """Catches columns that are shifted against their prompts."""
    seen = set()

    def reward(prompts, completions, letter):
        seen.update(zip(prompts, letter, strict=True))
        return [float(text.count(one)) for text, one in zip(completions, letter, strict=True)]

    found = search(reward=reward, tokenizer=tiny_tokenizer(), columns={"letter": ["a", "b"]}, num_rollouts=4)
    out = model.generate(**padded(), custom_generate=found, max_new_tokens=4, return_dict_in_generate=True)
    assert out.sequences.shape[0] == 2
    assert seen == {("abc", "a"), ("d", "b")}


def test_fewer_completions_than_asked_for_repeat_from_the_first(model):
    """Catches a tensor with missing rows."""
    found = search(reward=vowels, tokenizer=tiny_tokenizer(), num_rollouts=2)
    out = model.generate(**padded(), custom_generate=found, max_new_tokens=3, do_sample=True, num_return_sequences=3)
    assert out.shape[0] == 6
    num = len(found.results[0].outcome.chosen)
    assert num <= 2
    assert out[num].tolist() == out[0].tolist()


def test_stop_strings_end_completions(model):
    """Catches a setting of generate that is dropped."""

    def nothing(completions):
        return [0.0] * len(completions)

    found = search(reward=nothing, tokenizer=tiny_tokenizer(), num_rollouts=32, stop_strings=list("bcdfghjkm"))
    model.generate(**padded(), custom_generate=found, max_new_tokens=8)
    completions = [one for result in found.results for one in result.outcome.completions]
    assert any(one.finish_reason == "stop" for one in completions)
    assert all(not set("bcdfghjkm") & set(one.text[:-1]) for one in completions)


class Ban(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 0.5, "do_sample": True}, "Give it to search"),
        ({"top_k": 5, "do_sample": True}, "top_k=5"),
        ({"repetition_penalty": 1.2}, "Give it to search"),
        ({"typical_p": 0.5, "do_sample": True}, "No engine applies it"),
        ({"bad_words_ids": [[3]]}, "NoBadWords"),
        ({"logits_processor": LogitsProcessorList([Ban()])}, "Ban"),
        ({"eos_token_id": 5}, "eos_token_id"),
        ({"max_time": 5.0}, "MaxTime"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
    ],
)
def test_what_would_change_p_behind_the_searchs_back_is_refused(model, settings, expected):
    """Catches a temperature that is taken and forgotten."""
    with pytest.raises(SettingError, match=expected):
        model.generate(**padded(), custom_generate=search(reward=vowels, tokenizer=tiny_tokenizer()), max_new_tokens=3, **settings)


def test_a_models_own_sampling_defaults_are_not_the_reference_policy(model):
    """Catches a refusal for what nobody asked for."""
    own = tiny_model()
    own.generation_config.update(temperature=0.6, top_k=20, do_sample=True, repetition_penalty=1.05)
    found = search(reward=vowels, tokenizer=tiny_tokenizer(), num_rollouts=4)
    out = own.generate(**padded(), custom_generate=found, max_new_tokens=4)
    assert out.tolist() == model.generate(**padded(), custom_generate=found, max_new_tokens=4).tolist()


def test_errors_are_the_packages_own(model):
    """Catches an answer in place of an error."""

    def broken(completions):
        raise ValueError("no")

    with pytest.raises(RewardError, match="broken"):
        model.generate(**padded(), custom_generate=search(reward=broken, tokenizer=tiny_tokenizer()), max_new_tokens=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'maxent'"):
        search(reward=vowels, method="maxnt")
    with pytest.raises(UnknownNameError, match="exploration"):
        search(reward=vowels, exploraton=2)
    with pytest.raises(SettingError, match="returns one completion"):
        model.generate(
            **padded(),
            custom_generate=search(reward=vowels, tokenizer=tiny_tokenizer(), method="sample"),
            max_new_tokens=3,
            do_sample=True,
            num_return_sequences=2,
        )
    with pytest.raises(SettingError, match="3 values for 2 prompts"):
        model.generate(**padded(), custom_generate=search(reward=vowels, columns={"x": [1, 2, 3]}), max_new_tokens=3)
    with pytest.raises(MaxentError, match="tokenizer"):
        model.generate(**padded(), custom_generate=search(reward=vowels), max_new_tokens=3)
