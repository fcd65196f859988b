"""The official client of OpenAI against a server on loopback: what it asks is what is answered, and concatenating a stream gives
the completion."""

from __future__ import annotations

import math

import httpx
import openai
import pytest

from maxent_ts import generate
from maxent_ts.engines.hf import HFEngine
from tests.server.conftest import application, serving
from tests.unit.hf_helpers import tiny_model, tiny_tokenizer

SEARCH = {"reward": "logprob", "tilt": 0.5, "num_rollouts": 6}


def make_engine():
    return HFEngine(tiny_model(), tiny_tokenizer())


@pytest.fixture(scope="module")
def url():
    with serving(application(make_engine())) as url:
        yield url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_completion_is_what_generate_finds_and_usage_is_all_it_cost(client):
    """Catches another budget, seed, policy or prompt than the request's, and a bill for the returned tokens alone."""
    found = generate(make_engine(), "abc", reward="logprob", tilt=0.5, num_rollouts=6, max_new_tokens=8, temperature=1.5, seed=5)
    reply = client.completions.create(
        model="tiny", prompt="abc", max_tokens=8, temperature=1.5, seed=5, extra_body={"method": "maxent", **SEARCH}
    )
    (choice,) = reply.choices
    assert choice.text == found.text
    assert choice.maxent["logprob"] == found.outcome.best.logprob
    assert choice.maxent["reward"] == found.outcome.best.reward
    assert choice.finish_reason == ("length" if found.outcome.best.finish_reason == "length" else "stop")
    assert reply.usage.completion_tokens == found.usage.generated_tokens > choice.maxent["num_tokens"]
    assert reply.usage.prompt_tokens == found.usage.prompt_tokens
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.maxent["searches"][0]["info"] == pytest.approx(dict(found.info))


def test_n_best_are_distinct_and_best_first(client):
    """Catches n copies of the best."""
    reply = client.completions.create(model="tiny", prompt="abc", max_tokens=8, n=4, seed=0, extra_body=SEARCH)
    rewards = [one.maxent["reward"] for one in reply.choices]
    assert rewards == sorted(rewards, reverse=True)
    assert len({one.text for one in reply.choices}) == len(reply.choices) == 4
    assert [one.index for one in reply.choices] == [0, 1, 2, 3]


def test_several_prompts_have_their_choices_in_order(client):
    """Catches choices of one prompt under the index of another."""
    alone = [
        client.completions.create(model="tiny", prompt=one, max_tokens=6, temperature=0).choices[0].text for one in ("abc", "zyx")
    ]
    both = client.completions.create(model="tiny", prompt=["abc", "zyx"], max_tokens=6, temperature=0)
    assert [one.text for one in both.choices] == alone
    assert [one.index for one in both.choices] == [0, 1]
    ids = client.completions.create(model="tiny", prompt=[0, 2, 3, 4], max_tokens=6, temperature=0)
    assert ids.choices[0].text == alone[0]


@pytest.mark.parametrize("extra", [{}, SEARCH, {**SEARCH, "method": "maxent_sample"}])
@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_concatenates_to_the_completion(client, extra, n):
    """Catches best-so-far text that is replaced later but was sent as a delta, and a stream that never says how it ends."""
    asked = {"model": "tiny", "prompt": "abc", "max_tokens": 12, "seed": 3, "n": n, "extra_body": extra}
    whole = client.completions.create(**asked)
    texts, reasons, best, last = [""] * n, [None] * n, [], None
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            best += [(choice.maxent or {}).get("best_so_far")] if hasattr(choice, "maxent") else []
        last = chunk
    assert texts == [one.text for one in whole.choices]
    assert reasons == [one.finish_reason for one in whole.choices]
    assert last.usage == whole.usage
    rewards = [one["reward"] for one in best if one and one["reward"] is not None]
    assert rewards == sorted(rewards)
    assert bool(rewards) == bool(extra)


def test_a_chat_goes_through_the_template_and_streams_alike(client):
    """Catches messages that are joined otherwise than the model was trained on."""
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": [{"type": "text", "text": "cd"}]}]
    asked = {"model": "tiny", "messages": messages, "max_completion_tokens": 8, "seed": 1, "extra_body": SEARCH}
    reply = client.chat.completions.create(**asked)
    (choice,) = reply.choices
    plain = [{"role": "system", "content": "ab"}, {"role": "user", "content": "cd"}]
    found = generate(make_engine(), plain, reward="logprob", tilt=0.5, num_rollouts=6, max_new_tokens=8, seed=1)
    assert choice.message.content == found.text
    assert choice.message.role == "assistant"
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == found.text
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason


def test_a_stop_string_ends_a_completion_and_is_left_out(client):
    """OpenAI's replies end before it; a reply with it would be another text than clients expect."""
    whole = client.completions.create(model="tiny", prompt="abc", max_tokens=20, temperature=0).choices[0].text
    stop = whole[3:5]
    cut = client.completions.create(model="tiny", prompt="abc", max_tokens=20, temperature=0, stop=[stop, "never"])
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_without_a_seed_requests_differ_and_the_reply_says_which_was_used(client):
    """Catches a server that gives everybody the same draw."""
    replies = [client.completions.create(model="tiny", prompt="a", max_tokens=20) for _ in range(3)]
    assert len({one.choices[0].text for one in replies}) > 1
    again = client.completions.create(model="tiny", prompt="a", max_tokens=20, seed=replies[0].maxent["seed"])
    assert again.choices[0].text == replies[0].choices[0].text


def test_models_and_metrics_can_be_read(client, url):
    """What a client and Prometheus ask first."""
    assert [one.id for one in client.models.list()] == ["tiny"]
    before = httpx.get(f"{url}/metrics").text
    client.completions.create(model="tiny", prompt="abc", max_tokens=4, temperature=0)
    after = httpx.get(f"{url}/metrics").text

    def counted(text, name):
        return math.fsum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    answered = 'maxent_requests_total{method="greedy",path="/v1/completions",status="200"}'
    assert counted(after, answered) == counted(before, answered) + 1
    assert counted(after, "maxent_generated_tokens_total") - counted(before, "maxent_generated_tokens_total") == 4
    assert counted(after, "maxent_searches_live") == counted(after, "maxent_searches_waiting") == 0


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "This server has 'tiny'"),
        ({"extra_body": {"reward": "os:getcwd"}}, openai.BadRequestError, "no reward named 'os:getcwd'"),
        ({"extra_body": {"reward": "evil.py:f"}}, openai.BadRequestError, "no reward named"),
        ({"extra_body": {"reward": "logprob", "method": "os:getcwd"}}, openai.BadRequestError, "no method named"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "allows 20000"),
        ({"max_tokens": 120, "prompt": "abcabcabcabc"}, openai.BadRequestError, "context is 128"),
    ],
)
def test_errors_are_of_the_clients_own_kinds(client, given, error, words):
    """Catches an answer that the client cannot read, and code that a request could name."""
    with pytest.raises(error, match=words):
        client.completions.create(**{"model": "tiny", "prompt": "abc", "max_tokens": 4, **given})
