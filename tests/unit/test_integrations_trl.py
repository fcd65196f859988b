"""Rewards as TRL's users have them: every documented form, and TRL's own functions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from maxent_ts import generate
from maxent_ts.engines.hf import HFEngine
from maxent_ts.errors import PromptError, RewardError, SettingError
from maxent_ts.integrations.trl import reward_model
from maxent_ts.rewards.combine import WeightedSum
from maxent_ts.rewards.function import from_function

from .hf_helpers import VOCABULARY, tiny_model, tiny_tokenizer

CHAT = [{"role": "user", "content": "abc"}]


def called(function, *, prompts=("abc", "d"), completions=("x", "yy"), **columns):
    ids = [[1, 2], [3]]
    return from_function(function)(prompts=list(prompts), completions=list(completions), completion_ids=ids, **columns)


def test_the_arguments_are_trls():
    """Catches a keyword that TRL passes and a user's function needs."""
    seen = {}

    def reward(prompts, completions, completion_ids, solution, trainer_state, log_extra, log_metric, **kwargs):
        seen.update(kwargs, state=trainer_state.global_step)
        log_extra("length", [len(text) for text in completions])
        log_metric("mean", 1.0)
        assert (prompts, completion_ids, solution) == (["abc", "d"], [[1, 2], [3]], ["s", "t"])
        return [float(len(text)) for text in completions]

    assert called(reward, solution=["s", "t"], level=[1, 2]) == [1.0, 2.0]
    assert seen == {"level": [1, 2], "state": 0}


def test_none_is_not_applicable_and_leaves_the_others_in_a_sum():
    """Catches a None that becomes a zero."""
    assert called(lambda completions: [None, 2.0]) == [None, 2.0]
    both = WeightedSum(
        [from_function(lambda completions: [None, 2.0], "a"), from_function(lambda prompts: [1.0, 1.0], "b")], [1, 3]
    )
    assert both(prompts=["p", "q"], completions=["x", "y"], completion_ids=[[1], [2]]) == [3.0, 5.0]


def test_a_chat_prompts_completion_comes_as_messages():
    """Catches text where a conversational reward reads completion[0]['content'], for each row by its own prompt."""
    kinds = called(lambda completions: [float(isinstance(one, list)) for one in completions], prompts=(CHAT, "d"))
    assert kinds == [1.0, 0.0]
    contents = called(lambda completions: [float(len(one[0]["content"])) for one in completions], prompts=(CHAT, CHAT))
    assert contents == [1.0, 2.0]


class Slow:
    async def __call__(self, completions, **kwargs):
        await asyncio.sleep(0)
        return [float(len(text)) for text in completions]


async def slow(completions, offset=0, **kwargs):
    await asyncio.sleep(0)
    return [float(len(text)) + offset for text in completions]


async def slow_and_broken(completions, **kwargs):
    raise ValueError("no answer")


@pytest.mark.parametrize("function", [slow, Slow(), partial(slow, offset=0)])
def test_async_functions_are_waited_for_also_inside_a_running_loop(function):
    """Catches a coroutine that nobody awaits, and the loop that a notebook already runs."""
    assert called(function) == [1.0, 2.0]

    async def notebook():
        return called(function)

    assert asyncio.run(notebook()) == [1.0, 2.0]


def test_an_async_function_that_raises_is_a_reward_error():
    """Catches an exception lost in a thread."""
    with pytest.raises(RewardError, match=r"slow_and_broken.*no answer"):
        called(slow_and_broken)


def test_a_chat_prompt_is_searched_with_a_conversational_reward():
    """Catches a form that works in a unit test and not in a search."""

    def has_vowel(completions, **kwargs):
        return [float(not set("aeiou").isdisjoint(completion[0]["content"])) for completion in completions]

    engine = HFEngine(tiny_model(), tiny_tokenizer(), dtype="auto")
    found = generate(engine, CHAT, reward=has_vowel, max_new_tokens=6, num_rollouts=12)
    assert {one.reward for one in found.completions} == {0.0, 1.0}
    assert not set("aeiou").isdisjoint(found.text)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(VOCABULARY), **shape, num_labels=1, initializer_range=0.2)
    return LlamaForSequenceClassification(config).eval()


def test_a_reward_model_gives_the_first_logit_of_prompt_and_completion(classifier):
    """Catches padding that is read as text, and a batch that changes a value."""
    tokenizer = tiny_tokenizer()
    reward = reward_model(classifier, tokenizer, batch_size=2)
    prompts, completions = ["ab", "abcdef", CHAT], ["c", "ghi", "de"]
    values = reward(prompts=prompts, completions=completions, completion_ids=[[0]] * 3)
    texts = ["abc", "abcdefghi", tokenizer.apply_chat_template([*CHAT, {"role": "assistant", "content": "de"}], tokenize=False)]
    for value, text in zip(values, texts, strict=True):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            assert value == pytest.approx(classifier(input_ids=ids).logits[0, 0].item(), abs=1e-5)
    assert reward.explain(prompts=["ab"], completions=["c"])[0]["value"] == pytest.approx(values[0], abs=1e-5)
    found = generate(HFEngine(tiny_model(), tiny_tokenizer(), dtype="auto"), "abc", reward=reward, max_new_tokens=4, num_rollouts=4)
    assert found.outcome.best.reward == max(one.reward for one in found.completions)


def test_a_module_without_its_tokenizer_is_told_what_to_do(classifier):
    """Catches a reward model called with texts."""
    with pytest.raises(SettingError, match="reward_model"):
        from_function(classifier)
    with pytest.raises(PromptError, match="text or chat messages"):
        reward_model(classifier, tiny_tokenizer())(prompts=[[1, 2]], completions=["a"])


def test_trls_own_functions_are_taken_as_they_are():
    """Catches a signature of the real library that differs from what its documentation says."""
    pytest.importorskip("trl")
    code = """
from trl.rewards import get_soft_overlong_punishment, get_repetition_penalty_reward, think_format_reward
from maxent_ts.rewards.function import from_function
chat = [{"role": "user", "content": "why"}]
texts, ids = ["<think>so</think>because", "because"], [[1] * 5, [1] * 18]
def call(function):
    return from_function(function)(prompts=[chat, chat], completions=texts, completion_ids=ids)
assert call(think_format_reward) == [1.0, 0.0]
assert call(get_soft_overlong_punishment(20, 10)) == [0, -0.8]
assert all(-1 <= value <= 0 for value in call(get_repetition_penalty_reward(ngram_size=2)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
