"""Tiny random models and a tokenizer for the tests of the Hugging Face engine, and the slow obvious way to do its work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from maxent_ts.engines.base import Finished, Job, uniforms
from maxent_ts.engines.hf import HFEngine
from maxent_ts.types import FinishReason, Policy, Rollout, Tokens

VOCABULARY = ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", " ", ".", "\n"]
BOS, EOS = 0, 1
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}a.{% endif %}"


def streams(num: int, *, start: int = 0, example: int = 0) -> tuple[tuple[int, ...], ...]:
    """Sources of random numbers for so many rollouts."""
    return tuple((1, example, start + i) for i in range(num))


def tiny_model(kind: str = "llama", *, seed: int = 0, num_positions: int = 128, eos_token_id: int | list[int] | None = EOS):
    """A random causal language model over VOCABULARY, with rows that are far from flat."""
    torch.manual_seed(seed)
    size = len(VOCABULARY)
    common = {"vocab_size": size, "bos_token_id": BOS, "eos_token_id": eos_token_id, "initializer_range": 0.2}
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    rope = {**common, **shape, "num_key_value_heads": 2, "max_position_embeddings": num_positions}
    if kind == "llama-16":  # heads of a size that the compiled kernels take
        model = LlamaForCausalLM(LlamaConfig(**{**rope, "head_dim": 16}))
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**rope))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**rope))
    elif kind == "gemma2":  # caps its scores, which only the model's own attention does
        model = Gemma2ForCausalLM(Gemma2Config(**rope, sliding_window=16))
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(**rope, sliding_window=16))
    elif kind == "gemma3":
        layers = ["sliding_attention", "full_attention"]
        model = Gemma3ForCausalLM(Gemma3TextConfig(**rope, sliding_window=16, layer_types=layers, query_pre_attn_scalar=8))
    elif kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=num_positions))
        with torch.no_grad():  # positions must matter, or a wrong one does not show
            model.transformer.wpe.weight.normal_(std=0.5)
    elif kind == "mamba":
        model = MambaForCausalLM(MambaConfig(**common, hidden_size=32, num_hidden_layers=2, state_size=4))
    elif kind == "lfm2":  # a convolution's state in one layer, keys and values in the other
        sizes = {name: value for name, value in rope.items() if name != "head_dim"}
        model = Lfm2ForCausalLM(Lfm2Config(**sizes, layer_types=["conv", "full_attention"]))
    elif kind == "bloom":  # knows no positions but those of its mask, which must be a plain one
        model = BloomForCausalLM(BloomConfig(**common, hidden_size=32, n_layer=2, n_head=4))
    else:
        raise ValueError(kind)
    return model.eval()


def tiny_tokenizer(*, chat_template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per character; text starts with BOS."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = chat_template
    return fast


def save_model(path: Path, **settings) -> Path:
    """Write a tiny model with its tokenizer in Hugging Face layout."""
    tiny_model(**settings).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def answers(engine: HFEngine, jobs: Sequence[Job]) -> list[Finished]:
    """Run jobs together and return what became of them, in their order."""
    tickets = [engine.submit(job) for job in jobs]
    finished: dict[int, Finished] = {}
    for _ in range(10_000):
        for one in engine.step():
            finished[one.ticket] = one
        if len(finished) == len(tickets):
            return [finished[ticket] for ticket in tickets]
    raise AssertionError(f"{len(tickets) - len(finished)} jobs never finished")


def plain_rows(model, inputs: torch.Tensor, continuation: Sequence[int], policy: Policy) -> np.ndarray:
    """log p of every token after the prompt and after each further token: one full forward of one row, no cache.

    Returns:
        float64 array of shape [length of the continuation + 1, vocabulary].
    """
    with torch.no_grad():
        tail = torch.tensor(list(continuation), dtype=torch.long, device=inputs.device)
        if inputs.ndim == 1:
            logits = model(input_ids=torch.cat([inputs, tail])[None], use_cache=False).logits
        else:
            rows = torch.cat([inputs, model.get_input_embeddings()(tail)])
            logits = model(inputs_embeds=rows[None], use_cache=False).logits
    rows = logits[0, len(inputs) - 1 :].double().cpu().numpy() / policy.temperature
    rows = rows - rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


def plain_logprobs(model, inputs: torch.Tensor, continuation: Sequence[int], policy: Policy) -> np.ndarray:
    """log p of every token after prompt and continuation: float64 [vocabulary]."""
    return plain_rows(model, inputs, continuation, policy)[-1]


def plain_rollout(model, inputs: torch.Tensor, prefix: Tokens, stream: tuple[int, ...], policy: Policy) -> Rollout:
    """One rollout, token by token, each from a full forward and one number of the stream."""
    numbers = uniforms(stream, policy.max_new_tokens)
    tokens: list[int] = []
    logprobs: list[float] = []
    reason: FinishReason = "length"
    while len(prefix) + len(tokens) < policy.max_new_tokens:
        row = plain_logprobs(model, inputs, [*prefix, *tokens], policy)
        cumulative = np.cumsum(np.exp(row))
        token = int(np.flatnonzero(cumulative > numbers[len(prefix) + len(tokens)] * cumulative[-1])[0])
        tokens.append(token)
        logprobs.append(float(row[token]))
        if token == model.config.eos_token_id:
            reason = "eos"
            break
    return Rollout(tuple(tokens), tuple(logprobs), reason)


def largest_difference(model, inputs: torch.Tensor, prefix: Tokens, rollout: Rollout, policy: Policy) -> float:
    """Largest difference between a rollout's log-probabilities and teacher forcing without a cache, nats."""
    rows = plain_rows(model, inputs, [*prefix, *rollout.tokens], policy)[len(prefix) : -1]
    differences = [
        abs(float(row[token]) - logprob) for row, token, logprob in zip(rows, rollout.tokens, rollout.logprobs, strict=True)
    ]
    assert all(math.isfinite(difference) for difference in differences)
    return max(differences)
