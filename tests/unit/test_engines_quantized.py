"""Models that torchao or bitsandbytes has quantised on their way through transformers: the engine takes them as they are."""

from __future__ import annotations

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TorchAoConfig

from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.types import Policy
from tests.unit.hf_helpers import answers, largest_difference, streams, tiny_tokenizer

POLICY = Policy(max_new_tokens=8)
ROUNDED_ACTIVATIONS = 0.5
"""nats: rows of 8-bit activations that differ in the last bit before rounding differ visibly behind it."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of sizes that the quantised products take."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(vocab_size=64, **sizes, initializer_range=0.2, bos_token_id=0, eos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def configured(kind: str) -> TorchAoConfig | BitsAndBytesConfig:
    """What a user gives transformers."""
    if kind.startswith("bitsandbytes"):
        pytest.importorskip("bitsandbytes")
        return BitsAndBytesConfig(load_in_8bit=kind.endswith("8"), load_in_4bit=kind.endswith("4"), bnb_4bit_quant_type="nf4")
    quantization = pytest.importorskip("torchao.quantization")
    if kind == "torchao weights 8":
        return TorchAoConfig(quantization.Int8WeightOnlyConfig())
    if kind == "torchao 8":
        return TorchAoConfig(quantization.Int8DynamicActivationInt8WeightConfig())
    granularity = pytest.importorskip("torchao.quantization.granularity").PerGroup(32)
    return TorchAoConfig(quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=granularity))


KINDS = {
    "torchao weights 8": 1e-4,
    "torchao weights 4": 1e-4,
    "torchao 8": ROUNDED_ACTIVATIONS,
    "bitsandbytes 4": 1e-4,
    "bitsandbytes 8": ROUNDED_ACTIVATIONS,
}


@pytest.mark.filterwarnings("ignore:.*will be cast from torch.float32 to float16:UserWarning")
@pytest.mark.parametrize(("kind", "tolerance"), KINDS.items(), ids=str)
def test_rollouts_equal_the_quantised_models_own_forward(directory, kind, tolerance):
    """Catches quantised layers that are packed again from what they hold, and a record that does not say what p is."""
    settings = {"model_kwargs": {"quantization_config": configured(kind)}, "device": "cpu", "max_batch_size": 4}
    engine = HFEngine(directory, tiny_tokenizer(), **settings)
    context = engine.open(list(range(5, 40)), POLICY)
    (done,) = answers(engine, [RolloutJob(context, (), streams(4))])
    assert max(largest_difference(engine._model, context.inputs, (), one, POLICY) for one in done.answer.rollouts) < tolerance
    plain = HFEngine(directory, tiny_tokenizer(), device="cpu", max_batch_size=4)
    with engine._replacements.applied():
        replaced = {name for name, module in engine._model.named_modules() if "forward" in vars(module)}
    assert "lm_head" in replaced
    assert not any(name.endswith(("_proj", "mlp")) for name in replaced)
    rows = answers(plain, [RolloutJob(plain.open(list(range(5, 40)), POLICY), (), streams(4))])[0].answer.rollouts
    assert [one.logprobs for one in rows] != [one.logprobs for one in done.answer.rollouts]
    method = engine.identity["quantization_config"]["quant_method" if "torchao" in kind else f"load_in_{kind[-1]}bit"]
    assert method in ("torchao", True)
    assert "quantization_config" not in plain.identity
    assert "cache" not in engine.identity


def test_a_quantised_model_in_memory_has_a_hash(directory):
    """Catches integers and scales that the hash does not see."""
    hashes = set()
    for kind in ("torchao weights 8", "torchao weights 4"):
        model = LlamaForCausalLM.from_pretrained(directory, quantization_config=configured(kind))
        hashes.add(HFEngine(model, max_batch_size=2).identity["content_hash"])
    assert len(hashes) == 2
