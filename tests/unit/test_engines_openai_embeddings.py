"""Soft prompts on a server that takes input embeddings: a stand-in over the very model that HFEngine runs, not vLLM itself."""

from __future__ import annotations

import base64
import io
import logging
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

from maxent_ts.engines.base import NextTokensJob, RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.engines.openai_embedder import Embedder
from maxent_ts.errors import EngineError, MissingExtraError, ModelError, PromptError, SettingError
from maxent_ts.models.softprompt import EncoderConfig, SoftPromptModel
from maxent_ts.registry import METHODS, METHODS_THAT_VOTE, METHODS_WITHOUT_LOGPROBS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Embeddings, Policy, SeriesSegment, TimeSeriesPrompt
from tests.conftest import TokenReward
from tests.servers import tasks
from tests.servers.embeddings import embeddings_server
from tests.unit.hf_helpers import EOS, answers, largest_difference, plain_rows, streams, tiny_model, tiny_tokenizer

PROMPT = TimeSeriesPrompt("ab", (SeriesSegment("cd", tuple(math.sin(i) for i in range(9))), SeriesSegment("e", (0.5,) * 5)), "fg")
POLICY = Policy(max_new_tokens=8)
SAME = 1e-4
TASKS = tasks.__file__
"""nats: between float32 forwards with and without a cache."""


def soft_prompt_model(*, hidden_size: int = 32) -> SoftPromptModel:
    model = tiny_model()
    sizes = EncoderConfig(hidden_size=hidden_size, embed_dim=8, num_layers=1, num_heads=2, feedforward_dim=16, max_patches=6)
    return SoftPromptModel(model, tiny_tokenizer(), sizes).eval()


@pytest.fixture(scope="module")
def model() -> SoftPromptModel:
    return soft_prompt_model()


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("soft prompt") / "model"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def served(model):
    with embeddings_server(model.language_model) as found:
        yield found


@pytest.fixture
def make(served):
    made = []

    def build(url: str = served[0], **settings) -> OpenAIEngine:
        made.append(OpenAIEngine(url, **{"timeout": 30.0, "max_retries": 1, **settings}))
        return made[-1]

    yield build
    for engine in made:
        engine.shut_down()


@pytest.fixture(scope="module")
def rows(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.embed(PROMPT).clone()


def sent_rows(body: dict) -> torch.Tensor:
    return torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)


@pytest.mark.parametrize("prefix", [(), (8, 9, 10)])
def test_log_probabilities_are_the_models_own_on_the_soft_prompt(make, model, directory, rows, prefix):
    """Catches rows in another order, a prefix that is left out or embedded otherwise, and a prompt that is embedded twice."""
    engine, reference = make(embedder=directory), HFEngine(model)
    context, other = engine.open(PROMPT, POLICY), reference.open(PROMPT, POLICY)
    assert context.num_prompt_tokens == other.num_prompt_tokens == len(rows)
    (done,) = answers(engine, [RolloutJob(context, prefix, streams(30))])
    for rollout in done.answer.rollouts:
        assert largest_difference(model.language_model, rows, prefix, rollout, POLICY) < SAME
        assert (rollout.tokens[-1] == EOS) == (rollout.finish_reason == "eos")
    (expected,) = answers(reference, [RolloutJob(other, prefix, streams(300))])
    known = {one.tokens[0]: one.logprobs[0] for one in expected.answer.rollouts}
    common = [one for one in done.answer.rollouts if one.tokens[0] in known]
    assert len(common) > 20
    for rollout in common:
        assert rollout.logprobs[0] == pytest.approx(known[rollout.tokens[0]], abs=SAME)
    one, two = (answers(each, [NextTokensJob(at, prefix, 5)])[0].answer for each, at in ((engine, context), (reference, other)))
    assert one.tokens == two.tokens
    np.testing.assert_allclose(one.logprobs, two.logprobs, atol=SAME)


def test_rollouts_follow_the_law_of_the_hf_engine(make, model, directory):
    """χ² of the first two tokens and of the lengths, 200 rollouts each."""
    policy = Policy(max_new_tokens=3)
    counts = []
    for engine in (make(embedder=directory), HFEngine(model)):
        (done,) = answers(engine, [RolloutJob(engine.open(PROMPT, policy), (), streams(200))])
        counts.append(
            [Counter(map(feature, done.answer.rollouts)) for feature in (lambda one: one.tokens[0], lambda one: len(one.tokens))]
        )
    for one, two in zip(*counts, strict=True):
        keys = [key for key in set(one) | set(two) if one[key] + two[key] >= 10]
        table = [[each[key] for key in keys] + [200 - sum(each[key] for key in keys)] for each in (one, two)]
        keep = [i for i in range(len(table[0])) if table[0][i] + table[1][i]]
        assert chi2_contingency([[row[i] for i in keep] for row in table]).pvalue > 1e-4


@pytest.mark.parametrize("method", ["maxent", "maxent_sample", "smc", "best_of_n"])
def test_whole_searches_run_on_time_series(make, model, directory, rows, method):
    """Every p in the tree against teacher forcing: catches a prefix whose rows go elsewhere as the tree grows."""
    engine = make(embedder=directory, max_concurrent_requests=4)
    job = SearchJob("one", PROMPT, Policy(5), load(METHODS, method, "method"), 1.0, Budget(generated_tokens=60), (3, 0))
    (result,) = run_searches([job], engine, TokenReward(lambda tokens: float(tokens.count(2))))
    assert result.error is None, result.error
    assert result.usage.prompt_tokens == len(rows)
    assert result.outcome.completions
    for one in result.outcome.completions:
        law = plain_rows(model.language_model, rows, one.tokens, Policy(5))
        assert one.logprob == pytest.approx(sum(law[i][token] for i, token in enumerate(one.tokens)), abs=SAME)
    tree = result.outcome.tree
    for node in range(len(tree)) if method == "maxent" else ():
        law = plain_rows(model.language_model, rows, tree.prefix(node), Policy(5))[-1]
        for token, child in tree.children[node].items():
            assert tree.logprob[child] == pytest.approx(law[token], abs=SAME)


def test_rows_are_made_once_and_a_prefix_is_appended_from_the_table(make, served, model, directory, rows, monkeypatch):
    """Catches an encoder that runs for every request, other rows or another number type, and text beside the rows."""
    engine = make(embedder=directory)
    calls = []
    embed = type(engine._embedder).series
    monkeypatch.setattr(type(engine._embedder), "series", lambda self, prompt: calls.append(1) or embed(self, prompt))
    context = engine.open(PROMPT, POLICY)
    served[1].clear()
    answers(engine, [RolloutJob(context, (8, 9), streams(3)), RolloutJob(context, (), streams(1))])
    sent = [one for one in served[1] if one["path"] == "/v1/completions"]
    assert len(calls) == 1
    assert len(sent) == 4
    assert all("prompt" not in one for one in sent)
    table = model.language_model.get_input_embeddings().weight.detach()
    for one in sent:
        found = sent_rows(one)
        assert found.dtype == torch.float32
        assert len(found) in (len(rows), len(rows) + 2)
        torch.testing.assert_close(found, torch.cat([rows, table[[8, 9]][: len(found) - len(rows)]]), rtol=0, atol=1e-6)
        assert len(one["prompt_embeds"]) < 2 * found.numel() * 4 + 4096  # not all that the rows are a view of


def test_the_decoder_is_not_kept_but_a_users_own_model_is(make, model, directory):
    """Catches a language model that stays in memory beside the server's, and one in use that loses its layers."""
    loaded = make(embedder=directory)
    kept = sum(one.numel() for one in loaded._embedder._series_model.parameters())
    assert kept < sum(one.numel() for one in model.parameters())
    assert kept == sum(
        one.numel() for one in (*model.halves.parameters(), *model.language_model.get_input_embeddings().parameters())
    )
    make(embedder=model)
    assert model.language_model.config.num_hidden_layers == len(model.language_model.model.layers) == 2


@pytest.mark.parametrize("kind", ["array", "module", "function", "language model"])
def test_embeddings_go_on_from_any_table(make, model, rows, kind):
    """Catches a kind of table that is looked up otherwise."""
    lookup = model.language_model.get_input_embeddings()
    array = lookup.weight.detach().numpy()
    table = {"array": array, "module": lookup, "function": lambda ids: array[ids.numpy()], "language model": model.language_model}
    engine = make(embedder=table[kind])
    assert not engine.capabilities.time_series
    context = engine.open(Embeddings(rows.numpy()), POLICY)
    (done,) = answers(engine, [RolloutJob(context, (8, 9), streams(5), (4,), True)])
    assert len(done.answer.rollouts) == 5
    for rollout in done.answer.rollouts:
        assert largest_difference(model.language_model, rows, (8, 9), rollout, POLICY) < SAME
    with pytest.raises(PromptError, match="a table of tokens"):
        engine.open(PROMPT, POLICY)


def test_embeddings_without_a_table_work_at_the_root_alone(make, model, rows):
    """Catches a search that spends its budget before it fails, and one that goes on without its prefix."""
    engine = make()
    context = engine.open(Embeddings(rows.double().numpy()), POLICY)
    (done, behind, unseen) = answers(
        engine,
        [RolloutJob(context, (), streams(10)), RolloutJob(context, (8,), streams(1)), RolloutJob(context, (), streams(1), (3,))],
    )
    for rollout in done.answer.rollouts:
        assert largest_difference(model.language_model, rows, (), rollout, POLICY) < SAME
    for one in (behind, unseen):
        assert isinstance(one.answer, EngineError)
        assert "no embedding table" in str(one.answer)
    for method in sorted(METHODS_WITHOUT_LOGPROBS - METHODS_THAT_VOTE):
        job = SearchJob(
            "one", Embeddings(rows), Policy(3), load(METHODS, method, "method"), 1.0, Budget(generated_tokens=12), (3, 0)
        )
        (result,) = run_searches([job], engine, TokenReward(lambda tokens: float(tokens.count(2))))
        assert result.error is None, (method, result.error)
    job = SearchJob("one", Embeddings(rows), Policy(3), load(METHODS, "maxent", "method"), 1.0, Budget(generated_tokens=12), (3, 0))
    (result,) = run_searches([job], engine, TokenReward(lambda tokens: float(tokens.count(2))))
    assert "Give OpenAIEngine the table of the server's model" in str(result.error)


@pytest.mark.parametrize(
    ("knows", "message"),
    [("refuses", "You must set `--enable-prompt-embeds`"), ("nothing", "must be provided"), ("ignores", "does not know the field")],
)
def test_a_server_without_the_field_is_told_at_once(make, model, directory, rows, knows, message):
    """Catches a server that answers to an empty prompt in place of the soft prompt."""
    with embeddings_server(model.language_model, knows=knows) as (url, _):
        with pytest.raises(EngineError, match="Start vLLM with --enable-prompt-embeds") as found:
            make(url, embedder=directory)
        assert message in str(found.value)
        with pytest.raises(EngineError, match="Start vLLM with --enable-prompt-embeds"):
            make(url).open(Embeddings(rows), POLICY)


def test_rows_of_another_model_are_refused(make, directory, rows):
    """Catches p of a mixture of two models."""
    with pytest.raises(EngineError, match="hidden_size 16 does not match the model's hidden_size 32"):
        make(embedder=np.ones((31, 16), dtype=np.float32))
    with pytest.raises(EngineError, match=r"differ by .* nats on average"):
        make(embedder=tiny_model(seed=1).get_input_embeddings())
    with pytest.raises(EngineError, match="no row for one of the tokens"):
        make(embedder=np.ones((1, 32), dtype=np.float32))
    with pytest.raises(PromptError, match=r"shape \[length, 32\], but have \[4, 8\]"):
        make(embedder=directory).open(Embeddings(np.ones((4, 8))), POLICY)
    with pytest.raises(EngineError, match="hidden_size 8 does not match"):
        make().open(Embeddings(np.ones((4, 8))), POLICY)
    engine = make(embedder=directory)
    with pytest.raises(PromptError, match="not finite"):
        engine.open(Embeddings(np.full((4, 32), np.nan)), POLICY)
    with pytest.raises(PromptError, match="no rows"):
        engine.open(Embeddings(np.ones((0, 32))), POLICY)
    with pytest.raises(PromptError, match="server's context is 64"):
        engine.open(Embeddings(rows), Policy(max_new_tokens=60))


def test_other_weights_behind_the_same_table_are_warned_of(make, model, directory, caplog):
    """Catches a checkpoint with adapters whose base is served without them: the tables are equal, p is not."""
    with caplog.at_level(logging.WARNING):
        make(embedder=directory)
    assert not [one for one in caplog.records if "other weights" in one.message]
    other = tiny_model(seed=1)
    other.set_input_embeddings(model.language_model.get_input_embeddings())
    with embeddings_server(other) as (url, _), caplog.at_level(logging.WARNING):
        make(url, embedder=directory)
    assert [one for one in caplog.records if "other weights" in one.message]


def test_what_cannot_embed_is_refused_in_words(make, served, model, tmp_path):
    """Catches an AttributeError in place of a message, and a setting that would be ignored."""
    with pytest.raises(PromptError, match=r"Give OpenAIEngine a soft-prompt model \(embedder=…, --embedder\)"):
        make().open(PROMPT, POLICY)
    with pytest.raises(SettingError, match="embedder must be a soft-prompt model"):
        Embedder(7)
    with pytest.raises(SettingError, match=r"shape \[vocabulary, hidden size\]"):
        Embedder(np.ones(4))
    with pytest.raises(ModelError, match="There is no model directory"):
        Embedder(tmp_path / "none")
    with pytest.raises(SettingError, match="there is none"):
        OpenAIEngine(served[0], base_model="somewhere")
    with pytest.raises(SettingError, match="embedding table"):
        Embedder(model.language_model.get_input_embeddings(), base_model="somewhere")


def test_records_say_what_embeds(make, model, directory):
    """Catches two encoders that pass for one run, and an identity that changes on the way."""
    engine, plain = make(embedder=directory), make()
    assert engine.capabilities.time_series
    assert engine.identity["prompt_embeds"] is True
    assert engine.identity["embedder"] == str(directory)
    assert len(engine.identity["embedder_hash"]) == 64
    before = dict(plain.identity)
    plain.open(Embeddings(np.zeros((3, 32), dtype=np.float32)), POLICY)
    assert plain.identity == before
    assert "prompt_embeds" not in before


def test_a_server_of_text_needs_no_torch(monkeypatch):
    """Catches an import that makes the light installation heavy, and a traceback where it is needed."""
    code = "import sys, maxent_ts.engines.openai; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    from maxent_ts.engines import openai

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "maxent_ts.engines.openai_embedder", raising=False)
    with pytest.raises(MissingExtraError, match=r"maxent-ts\[hf\]"):
        openai._embedding()


def test_eval_and_generate_run_on_a_soft_prompt(run, served, directory, tmp_path):
    """Catches an option that is lost on its way."""
    server = ("--engine", "openai", "--base-url", served[0], "--embedder", directory, "--max-new-tokens", 4, "--num-rollouts", 4)
    code, _, err = run("eval", f"{TASKS}:Series", *server, "--method", "maxent", "--output-dir", tmp_path / "run")
    assert code == 0, err
    assert "input embeddings of" in err
    code, _, err = run("generate", "--task", f"{TASKS}:Series", *server, "--method", "maxent", "--format", "json")
    assert code == 0, err
    code, _, err = run("generate", "ab", "--embedder", directory)
    assert code == 2
    assert "--embedder is for a server" in " ".join(err.split())
