"""Any causal language model of Hugging Face transformers as an engine: one prefill per prompt, one batch for all rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from maxent_ts.engines.base import Capabilities, Finished, Job
from maxent_ts.engines.batch import Batch
from maxent_ts.engines.cache import CacheStats, KeyValueStore
from maxent_ts.engines.contexts import HFContext
from maxent_ts.engines.encoding import encode
from maxent_ts.engines.exact import ExactModel
from maxent_ts.engines.jobs import JobQueue
from maxent_ts.engines.loading import load_model, quantization_config
from maxent_ts.engines.memory import GIB, store_limit
from maxent_ts.engines.replacements import Replacements
from maxent_ts.engines.selfcheck import check_decoding, is_row_independent, no_media
from maxent_ts.engines.whole import WholeSequences
from maxent_ts.errors import EngineError, PromptError, SettingError
from maxent_ts.presets import DEFAULT_COMPAT
from maxent_ts.types import Policy, Prompt

__all__ = ["HFContext", "HFEngine"]


class HFEngine:
    """A causal language model of transformers that decodes the rollouts of many prompts in one batch.

    The reference policy is the model's own distribution under the settings of `Policy` and nothing else: the sampling
    defaults of the model's generation config are not used.

    What went through the model is kept and shared: a prompt by all contexts that hold the same one, a prefix by all
    rollouts that begin with it. A closed context's prompt stays until the limit needs its room. `Finished.forwarded_tokens`
    charges each context for its own prompt once even if another's was reused, so that the cost of a search does not
    depend on its neighbours; `stats` counts what really ran.

    Where a model's past cannot be shared, such as a recurrent state, the engine warns and keeps nothing: see `engines.whole`.

    Args:
        model: Directory, hub id, OpenTSLM checkpoint (file, directory or hub id), transformers model or `SoftPromptModel`. A
            model in memory is used as it is and put in evaluation mode.
        tokenizer: Tokenizer, or directory or hub id of one; the model's own if None.
        device: "auto" for the best there is, or "cpu", "cuda", "cuda:1", "mps".
        dtype: "float32", "bfloat16", "float16", or "auto" for what the model is stored in.
        max_batch_size: Most rollouts that decode at once; fewer, with a warning, where their keys and values have no room.
        kv_cache_gib: Memory for keys and values that may be needed again, in GiB, besides those of the batch; at most half of what
            is free, which is logged.
        quantization: "rq8" for linear layers in 8 bits on a CPU; then p is the quantised model. See `engines.linears`.
        exact_logprobs: With `quantization`: p is the exact model. The quantised one draws the tokens, and all log-probabilities are
            those of one more pass, of the exact model over each finished rollout. See `engines.exact`.
        revision: Branch, tag or commit on the hub.
        model_kwargs: Passed on to `from_pretrained`.
        base_model: Directory or hub id of the language model that an OpenTSLM checkpoint is of; None for what its name tells.
        compat: Which of OpenTSLM's ways to read a prompt: see `maxent_ts.models.opentslm.load_series_model`.

    Raises:
        ModelError: if the model or its tokenizer cannot be found or read, or if its rows do not decode side by side.
        SettingError: if a parameter is outside its domain.
    """

    def __init__(
        self,
        model: str | Path | Any,
        tokenizer: Any = None,
        *,
        device: str = "auto",
        dtype: str = "float32",
        max_batch_size: int = 32,
        kv_cache_gib: float = 1.0,
        quantization: str | None = None,
        exact_logprobs: bool = False,
        revision: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        base_model: str | Path | None = None,
        compat: str = DEFAULT_COMPAT,
    ) -> None:
        if max_batch_size < 1:
            raise SettingError(f"max_batch_size must be at least 1, but is {max_batch_size}.")
        if not kv_cache_gib >= 0:
            raise SettingError(f"kv_cache_gib must be at least 0, but is {kv_cache_gib}.")
        if exact_logprobs and quantization is None:
            raise SettingError("exact_logprobs is for a quantised model: without quantization log-probabilities are exact.")
        self._loaded = load_model(
            model,
            tokenizer,
            device=device,
            dtype=dtype,
            revision=revision,
            model_kwargs=model_kwargs or {},
            base_model=base_model,
            compat=compat,
        )
        self._compat = compat
        self._model, self._tokenizer = self._loaded.model, self._loaded.tokenizer
        self._replacements = Replacements(self._model, quantization, getattr(self._loaded.series_model, "cross_attention", None))
        make_media = getattr(self._loaded.series_model, "example_media", no_media)
        is_exact = self._model.device.type == "cpu" and self._model.dtype == torch.float32
        with self._replacements.applied():
            self._layout = check_decoding(self._model, self._loaded.name, make_media, self._loaded.unshareable)
            is_independent = (
                is_exact
                and self._layout != "none"
                and is_row_independent(
                    self._model,
                    max_batch_size,
                    self._replacements.row_multiple,
                    make_media,
                    shares_prompts=self._layout == "shared",
                )
            )
        self._capabilities = Capabilities(
            deterministic=is_independent,
            time_series=self._loaded.series_model is not None,
            scores=True,
        )
        self._max_batch_size, self._exact_logprobs = max_batch_size, exact_logprobs
        if exact_logprobs and self._layout == "none":
            raise SettingError("exact_logprobs needs a model that decodes with a cache. Leave it or quantization out.")
        self._store = KeyValueStore(store_limit(int(kv_cache_gib * GIB), self._model.device))
        build = WholeSequences if self._layout == "none" else Batch
        batch = build(self._model, max_batch_size, self._layout == "shared", self._replacements.row_multiple, self._store.stats)
        exact = ExactModel(self._model, self._replacements, self._store, self._loaded.eos_token_ids) if exact_logprobs else None
        self._jobs = JobQueue(self._loaded, self._replacements, batch, self._store, exact)

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can promise. `deterministic` is measured on this machine with this model."""
        return self._capabilities

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, hash of the weights, number types, device and versions. Computes the hash on first use."""
        by_transformers = quantization_config(self._model)
        return {
            "engine": "hf",
            "model": self._loaded.name,
            "revision": self._loaded.revision,
            "content_hash": self._loaded.hash(),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": self._model.device.type,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "max_batch_size": self._max_batch_size,
            "quantization": self._replacements.quantization,
            "kernels": self._replacements.kernels is not None,
            **({} if by_transformers is None else {"quantization_config": by_transformers}),
            **({"exact_logprobs": True} if self._exact_logprobs else {}),
            **({"cache": "none"} if self._layout == "none" else {}),
            **({} if self._compat == DEFAULT_COMPAT else {"compat": self._compat}),
        }

    @property
    def stats(self) -> CacheStats:
        """What the engine has done so far; a copy."""
        return dataclasses.replace(self._store.stats)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None if the engine has none."""
        return self._tokenizer

    def open(self, prompt: Prompt, policy: Policy) -> HFContext:
        """Encode a prompt: text, chat messages, token ids, input embeddings or time series.

        Text gets the special tokens that the tokenizer adds by itself; messages go through the chat template.

        Raises:
            PromptError: if the prompt is empty, too long for the context with `max_new_tokens`, holds ids or numbers that
                the model cannot take, or is of a kind that it cannot take.
            SettingError: if the policy has stop strings, but the engine no tokenizer, or if it leaves tokens out of p although
                log-probabilities are to be another model's than the draws.
        """
        if policy.stop_strings and self._tokenizer is None:
            raise SettingError("stop_strings need a tokenizer, but this engine has none. Give tokenizer=… to HFEngine.")
        if self._exact_logprobs and (policy.top_k, policy.top_p, policy.min_p) != (None, None, None):
            raise SettingError(
                "With top_k, top_p or min_p the exact model may leave out a token that the quantised one draws. Leave them out, or "
                "exact_logprobs."
            )
        with torch.inference_mode():
            encoded = encode(self._loaded, prompt)
        inputs = encoded.inputs
        if len(inputs) == 0:
            raise PromptError("The prompt is empty: it has no tokens. Give at least one.")
        limit = self._loaded.context_length
        if limit is not None and len(inputs) + policy.max_new_tokens > limit:
            raise PromptError(
                f"The prompt has {len(inputs)} tokens and max_new_tokens is {policy.max_new_tokens}, together "
                f"{len(inputs) + policy.max_new_tokens}, but this model's context is {limit}. Shorten the prompt or lower "
                "max_new_tokens."
            )
        return HFContext(policy, inputs, encoded.digest(), encoded.media)

    def close(self, context: HFContext) -> None:
        """Forget a context, its continuations' keys and values, and its unfinished jobs."""
        context.is_open = False
        self._jobs.forget(context)
        self._store.drop(context.root)

    def submit(self, job: Job) -> int:
        """Queue a job; returns its ticket.

        Raises:
            EngineError: if its context is closed.
        """
        if not job.context.is_open:
            raise EngineError("The job's context is closed. Open the prompt again.")
        return self._jobs.add(job)

    def step(self) -> list[Finished]:
        """Fill free slots, feed every row one token, and return the jobs that finished.

        Where memory runs out, the batch is halved and the step tried once more; then the jobs in it fail.
        """
        return self._jobs.step()

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn continuation tokens into text, without special tokens.

        Raises:
            ModelError: if the engine has no tokenizer.
        """
        return self._loaded.decode(tokens)
