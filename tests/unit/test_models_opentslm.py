"""OpenTSLM's soft-prompt checkpoints: what they compute, and where they and their base models are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from huggingface_hub.errors import GatedRepoError  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

from maxent_ts.engines.base import RolloutJob  # noqa: E402
from maxent_ts.engines.hf import HFEngine  # noqa: E402
from maxent_ts.errors import ModelError, PromptError, SettingError  # noqa: E402
from maxent_ts.models.checkpoints import base_model_of, find_checkpoint, read_checkpoint  # noqa: E402
from maxent_ts.models.lora import adapted_layers  # noqa: E402
from maxent_ts.models.opentslm import load_series_model  # noqa: E402
from maxent_ts.models.softprompt import SoftPromptModel  # noqa: E402
from maxent_ts.types import Branch, Policy, SeriesSegment, TimeSeriesPrompt  # noqa: E402
from tests.opentslm_fixtures import TARGETS, PlainSoftPrompt, prompt, save_base, save_softprompt, softprompt_content, wave  # noqa: E402
from tests.unit.hf_helpers import BOS, answers, largest_difference, plain_logprobs  # noqa: E402

POLICY = Policy(max_new_tokens=12)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def base(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base", kind=request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["frozen", "lora"])
def checkpoint(request, base: Path) -> tuple[Path, PlainSoftPrompt]:
    content = softprompt_content(lora=request.param, training=request.param)
    path = save_softprompt(base.parent / f"checkpoint-{request.param}" / "model_checkpoint.pt", content)
    return path, PlainSoftPrompt(base, content)


def load(path: Path, base: Path, **settings) -> SoftPromptModel:
    model = load_series_model(path, base_model=base, **{"dtype": torch.float32, "device": CPU, **settings})
    assert isinstance(model, SoftPromptModel)
    return model


@torch.inference_mode()
def test_a_prompt_becomes_the_rows_that_the_description_gives(checkpoint, base: Path):
    """Catches another order, a lost BOS, padding that is left out, and tensors that went to the wrong place."""
    path, plain = checkpoint
    model = load(path, base)
    for one in (prompt(16), prompt(9, 30, 13), prompt(160, 3)):
        torch.testing.assert_close(model.embed(one), plain.embed(one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_decoding_equals_a_plain_forward_whatever_the_batch(checkpoint, base: Path, batch_size: int):
    """Catches prompts that see the padding or the series of their batch-mates, as upstream's do, and adapters that are lost."""
    path, plain = checkpoint
    engine = HFEngine(path, base_model=base, max_batch_size=batch_size, device="cpu")
    lengths = [(5,), (16, 9), (40,), (7, 7, 31), (160,), (12, 4), (90, 61), (1,)]
    indices = range(2 if batch_size == 1 else 16)
    prompts = [prompt(*lengths[index % 8], shift=index, pre="look " * (index % 3 + 1)) for index in indices]
    jobs = [RolloutJob(engine.open(one, POLICY), (), ((index, 0), (index, 1))) for index, one in enumerate(prompts)]
    for one, job, found in zip(prompts, jobs, answers(engine, jobs), strict=True):
        rows = plain.embed(one)
        assert job.context.num_prompt_tokens == len(rows)
        assert isinstance(found.answer, Branch)
        for rollout in found.answer.rollouts:
            assert largest_difference(plain.model, rows, (), rollout, POLICY) < 1e-5


def test_batch_mates_change_no_token(checkpoint, base: Path):
    """Catches the upstream batching, which feeds a prompt the padding that its batch-mates need."""
    path, _ = checkpoint
    prompts = [prompt(9, 30, shift=index, pre="look " * index) for index in range(32)]
    found = []
    for batch_size in (1, 32):
        engine = HFEngine(path, base_model=base, max_batch_size=batch_size, device="cpu")
        contexts = [engine.open(one, POLICY) for one in (prompts if batch_size == 32 else prompts[:4])]
        jobs = [RolloutJob(context, (), ((index, 0),)) for index, context in enumerate(contexts)]
        found.append([one.answer.rollouts[0].tokens for one in answers(engine, jobs)][:4])
    assert found[0] == found[1]


def test_the_first_token_of_an_answer_is_given_and_not_scored(checkpoint, base: Path):
    """Catches a BOS that is drawn, counted or scored: it would be the same for all and cost each a token."""
    path, plain = checkpoint
    engine = HFEngine(path, base_model=base, device="cpu")
    context = engine.open(prompt(16), POLICY)
    (found,) = answers(engine, [RolloutJob(context, (), ((0, 0),))])
    (rollout,) = found.answer.rollouts
    rows = plain.embed(prompt(16))
    assert torch.equal(rows[-1], plain.model.get_input_embeddings()(torch.tensor(BOS)))
    assert len(rollout.tokens) <= POLICY.max_new_tokens
    expected = float(plain_logprobs(plain.model, rows, (), POLICY)[rollout.tokens[0]])
    assert rollout.logprobs[0] == pytest.approx(expected, abs=1e-5)
    assert context.num_prompt_tokens == len(rows)
    assert found.forwarded_tokens == len(rows) + len(rollout.tokens) - 1


@torch.no_grad()
def test_left_padding_does_to_fragments_what_upstream_does(tmp_path: Path):
    """Catches any other rule for what a tokenizer that pads on the left leaves of the shorter fragments."""
    base = save_base(tmp_path / "base")
    content = softprompt_content(lora=False)
    path = save_softprompt(tmp_path / "model_checkpoint.pt", content)
    plain = PlainSoftPrompt(base, content)
    one = TimeSeriesPrompt("a longer text than the others.", (SeriesSegment("some words here.", wave(9)),), "no")
    # As `pad_and_apply_batch` has it: all fragments in one batch with padding, the first `length` positions of each, and the
    # attention mask of the same positions.
    plain.tokenizer.padding_side, plain.tokenizer.pad_token = "left", "</s>"
    batch = plain.tokenizer([one.pre_prompt, one.series[0].text, one.post_prompt], padding=True, return_tensors="pt")
    embedded = plain.model.get_input_embeddings()(batch["input_ids"])
    rows, mask = [], []
    for index, (text, visible) in enumerate(zip(embedded, batch["attention_mask"], strict=True)):
        length = int(visible.sum())
        rows.append(text[:length])
        mask.append(visible[:length])
        if index == 1:
            vectors = plain.embed(TimeSeriesPrompt("", one.series, ""))[1 + 17 : 1 + 17 + 3]
            rows.append(vectors)
            mask.append(torch.ones(3, dtype=torch.long))
    rows.append(plain.model.get_input_embeddings()(torch.tensor([BOS])))
    rows, mask = torch.cat(rows), torch.cat([*mask, torch.ones(1).long()])
    assert int(mask.sum()) < len(mask) - 3, "some padding must be inside, or nothing is tested"
    expected = plain.model.generate(
        inputs_embeds=rows[None], attention_mask=mask[None], max_new_tokens=6, do_sample=False, output_logits=True,
        return_dict_in_generate=True, pad_token_id=1,
    )  # fmt: skip
    engine = HFEngine(path, base_model=base, device="cpu", compat="gemma-leftpad")
    assert engine.identity["compat"] == "gemma-leftpad"
    (found,) = answers(engine, [RolloutJob(engine.open(one, Policy(6)), (), ((0, 0),), do_sample=False)])
    (rollout,) = found.answer.rollouts
    assert list(rollout.tokens) == expected.sequences[0].tolist()
    for token, logprob, logits in zip(rollout.tokens, rollout.logprobs, expected.logits, strict=True):
        assert logprob == pytest.approx(float(logits[0].log_softmax(-1)[token]), abs=1e-5)
    clean = HFEngine(path, base_model=base, device="cpu").open(one, POLICY)
    assert clean.num_prompt_tokens > int(mask.sum())


def test_compat_is_one_of_the_known_ones(checkpoint, base: Path):
    """Catches a switch that is passed over where it has no meaning."""
    with pytest.raises(SettingError, match=r"compat must be upstream or gemma-leftpad .* but is 'fixed'"):
        load(checkpoint[0], base, compat="fixed")
    with pytest.raises(SettingError, match="reads no time series"):
        HFEngine(base, compat="fixed")
    with pytest.raises(SettingError, match="brings its own language model"):
        HFEngine(base, base_model=base)


def test_the_longest_series_is_what_the_positions_in_the_file_allow(checkpoint, base: Path):
    """Catches a number of positions that comes from the code: OpenTSLM's has changed (issue #33)."""
    model = load(checkpoint[0], base)
    assert model.config.max_patches == 40
    assert len(model.encode_series([wave(160)])[0]) == 40
    with pytest.raises(PromptError, match="1 to 160 points"):
        model.encode_series([wave(161)])


def test_adapters_are_merged_in_the_precision_of_fp32(base: Path, tmp_path: Path):
    """Catches a sum taken in bf16, which loses most of a small adapter."""
    path = save_softprompt(tmp_path / "model_checkpoint.pt", softprompt_content(lora=True))
    exact = load(path, base).language_model.state_dict()
    half = load(path, base, dtype=torch.bfloat16)
    assert half.encoder.pos_embed.dtype == torch.float32
    for name, tensor in half.language_model.state_dict().items():
        torch.testing.assert_close(tensor, exact[name].to(torch.bfloat16), rtol=0, atol=0)


def test_a_checkpoint_from_before_adapters_were_known_is_read(base: Path, tmp_path: Path):
    """Catches a loader that asks for `lora_enabled` in files that were written before OpenTSLM had it."""
    content = softprompt_content(lora=False)
    del content["lora_enabled"]
    assert load(save_softprompt(tmp_path / "old.pt", content), base).config.bos_before_answer


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("OpenTSLM/llama-3.2-1b-har-sp", "meta-llama/Llama-3.2-1B"),
        ("OpenTSLM/llama-3.2-3b-ecg-flamingo", "meta-llama/Llama-3.2-3B"),
        ("OpenTSLM/gemma-3-270m-tsqa-sp", "google/gemma-3-270m"),
        ("OpenTSLM/gemma-3-270m-pt-ecg-flamingo", "google/gemma-3-270m"),
        ("OpenTSLM/gemma-3-1b-pt-m4-sp", "google/gemma-3-1b-pt"),
        ("OpenTSLM/llama3b-ecg-flamingo", "meta-llama/Llama-3.2-3B"),
        ("downloads/softprompt-gemma_3_270m-ecg.pt", "google/gemma-3-270m"),
        ("llama-3.2-1b/of/another/gemma-3-1b-pt-har-sp/model_checkpoint.pt", "google/gemma-3-1b-pt"),
        ("some/model.pt", None),
    ],
)
def test_the_base_model_is_read_off_the_name(name: str, base: str | None):
    """Catches `google/gemma-3-1b`, which upstream's table names and which does not exist."""
    assert base_model_of(name) == base


def test_a_checkpoint_is_found_as_a_file_a_directory_or_a_hub_id(base: Path, tmp_path: Path, monkeypatch):
    """Catches a model directory taken for a checkpoint, and a checkpoint taken for a model directory."""
    path = save_softprompt(tmp_path / "llama-3.2-1b-har-sp" / "other.pt", softprompt_content(lora=False))
    assert find_checkpoint(path) == path
    assert find_checkpoint(path.parent) == path
    assert find_checkpoint(base) is None
    assert find_checkpoint("gpt2") is None
    assert find_checkpoint("someone/a-model-sp") is None
    second = save_softprompt(path.parent / "second.pt", softprompt_content(lora=False))
    with pytest.raises(ModelError, match=r"holds 2 checkpoints and none of them is called model_checkpoint.pt"):
        find_checkpoint(path.parent)
    main = second.rename(path.parent / "model_checkpoint.pt")
    assert find_checkpoint(path.parent) == main
    asked = []
    monkeypatch.setattr(
        "maxent_ts.models.hub.hf_hub_download", lambda *names, revision: asked.append((*names, revision)) or str(path)
    )
    assert find_checkpoint("OpenTSLM/llama-3.2-1b-har-sp", "v1") == path
    assert asked == [("OpenTSLM/llama-3.2-1b-har-sp", "model_checkpoint.pt", "v1")]


def test_what_is_not_in_the_cache_is_named_with_the_steps(tmp_path: Path, monkeypatch):
    """Catches a hub traceback, and a message that does not tell the checkpoint from its base model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"hf download OpenTSLM/llama-3.2-1b-har-sp model_checkpoint.pt"):
        HFEngine("OpenTSLM/llama-3.2-1b-har-sp")
    path = save_softprompt(tmp_path / "llama-3.2-1b-har-sp" / "model_checkpoint.pt", softprompt_content(lora=False))
    with pytest.raises(ModelError, match=r"needs its base model 'meta-llama/Llama-3.2-1B'.*hf download.*--base-model"):
        HFEngine(path.parent)
    with monkeypatch.context() as patched:

        def refuse(*_args, **_kwargs):
            raise OSError("You are trying to access a gated repo.") from GatedRepoError.__new__(GatedRepoError)

        patched.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
        with pytest.raises(ModelError, match=r"needs its base model.*Llama-3.2-1B' is gated. Log in .* accept .* hf auth login"):
            HFEngine(path.parent)
    with pytest.raises(ModelError, match=r"does not tell its base model.*--base-model"):
        HFEngine(path.rename(tmp_path / "mine.pt"))


def test_reading_leaves_peft_out(base: Path, tmp_path: Path):
    """Catches a reader that imports what the file names."""
    import sys

    path = save_softprompt(tmp_path / "model_checkpoint.pt", softprompt_content(lora=True, training=True))
    content = read_checkpoint(path)
    assert "peft" not in sys.modules or sys.modules["peft"].__spec__ is not None
    config = content["lora_config"]["default"]
    assert (config.r, config.lora_alpha, config.peft_type) == (16, 32, "LORA")
    assert content["epoch"] == 3


def test_the_adapters_of_a_released_checkpoint_would_all_have_a_place():
    """Catches a rule for the adapted layers that is not peft's: OpenTSLM's log for Llama-3.2-1B counts these numbers."""
    config = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_key_value_heads=8, head_dim=64)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    targets = adapted_layers(model, {"target_modules": TARGETS}, Path("model_checkpoint.pt"))
    assert 2 * len(targets) == 224
    assert sum(16 * sum(layer.weight.shape) for layer in targets.values()) == 11_272_192
