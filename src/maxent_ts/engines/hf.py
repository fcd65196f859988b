"""Any causal language model of Hugging Face transformers as an engine: one prefill per prompt, one batch for all rollouts."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from maxent_ts.engines.base import Capabilities, Finished, Job, NextTokensJob, ScoreJob, Stream, uniforms
from maxent_ts.engines.batch import Batch, Row
from maxent_ts.engines.cache import CacheStats, KeyValueStore, PromptEntry
from maxent_ts.engines.contexts import HFContext, Task, distribution, next_tokens, not_finite, problem_of
from maxent_ts.engines.encoding import encode
from maxent_ts.engines.exact import ExactModel, quantization_kl
from maxent_ts.engines.loading import load_model, quantization_config
from maxent_ts.engines.memory import GIB, give_back, is_out_of_memory, memory_message, store_limit
from maxent_ts.engines.replacements import Replacements
from maxent_ts.engines.sampler import draw_first
from maxent_ts.engines.selfcheck import check_decoding, is_row_independent, no_media
from maxent_ts.engines.whole import WholeSequences
from maxent_ts.errors import EngineError, MaxentError, ModelError, OutOfMemoryError, PromptError, SettingError
from maxent_ts.presets import DEFAULT_COMPAT
from maxent_ts.types import Branch, FinishReason, Policy, Prompt, Rollout, TopTokens

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
        self._max_batch_size = max_batch_size
        self._quantization = quantization
        if exact_logprobs and self._layout == "none":
            raise SettingError("exact_logprobs needs a model that decodes with a cache. Leave it or quantization out.")
        self._store = KeyValueStore(store_limit(int(kv_cache_gib * GIB), self._model.device))
        build = WholeSequences if self._layout == "none" else Batch
        self._batch = build(
            self._model, max_batch_size, self._layout == "shared", self._replacements.row_multiple, self._store.stats
        )
        self._exact: ExactModel | None = None
        if exact_logprobs:
            self._exact = ExactModel(self._model, self._replacements, self._store, self._loaded.eos_token_ids)
        self._tasks: deque[Task] = deque()
        """Not begun."""
        self._rows: deque[Row] = deque()
        """Of jobs that are begun, without a slot."""
        self._unscored: deque[tuple[Task, Branch | None]] = deque()
        """Rollouts of jobs, and None for other jobs, that wait for the exact model."""
        self._finished: list[Finished] = []
        self._eos_token_ids = np.array(sorted(self._loaded.eos_token_ids), dtype=np.int64)
        self._num_tickets = 0

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
            "quantization": self._quantization,
            "kernels": self._replacements.kernels is not None,
            **({} if by_transformers is None else {"quantization_config": by_transformers}),
            **({"exact_logprobs": True} if self._exact is not None else {}),
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
        if self._exact is not None and (policy.top_k, policy.top_p, policy.min_p) != (None, None, None):
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
        self._tasks = deque(task for task in self._tasks if task.job.context is not context)
        self._rows = deque(row for row in self._rows if row.task.job.context is not context)
        self._unscored = deque(pair for pair in self._unscored if pair[0].job.context is not context)
        for row in self._batch.rows:
            if row.task.job.context is context:
                self._batch.remove(self._batch.slot_of(row))
        self._store.drop(context.root)

    def submit(self, job: Job) -> int:
        """Queue a job; returns its ticket.

        Raises:
            EngineError: if its context is closed.
        """
        if not job.context.is_open:
            raise EngineError("The job's context is closed. Open the prompt again.")
        self._num_tickets += 1
        self._tasks.append(Task(self._num_tickets, job))
        return self._num_tickets

    def step(self) -> list[Finished]:
        """Fill free slots, feed every row one token, and return the jobs that finished.

        Where memory runs out, the batch is halved and the step tried once more; then the jobs in it fail.
        """
        try:
            self._work()
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            self._shrink()
            try:
                self._work()
            except RuntimeError as again:
                if not is_out_of_memory(again):
                    raise
                self._fail_for_memory()
        self._store.trim()
        finished, self._finished = self._finished, []
        return finished

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn continuation tokens into text, without special tokens.

        Raises:
            ModelError: if the engine has no tokenizer.
        """
        if self._tokenizer is None:
            raise ModelError("Turning tokens into text needs a tokenizer, but this engine has none. Give tokenizer=… to HFEngine.")
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _work(self) -> None:
        with torch.inference_mode(), self._replacements.applied():
            self._advance()
            while self._unscored:
                task, branch = self._unscored[0]
                assert self._exact is not None
                answer = self._exact.answer(task, branch)
                self._finished.append(Finished(task.ticket, answer, task.num_forwarded))
                self._unscored.popleft()

    def _advance(self) -> None:
        """One step, without its troubles. Whatever it raises, no row and no job is lost."""
        while self._batch.has_room and (self._rows or self._tasks):
            if self._rows:
                self._start(self._rows[0])
                self._rows.popleft()
            else:
                self._begin(self._tasks[0])
                self._tasks.popleft()
        if not self._batch.rows:
            return
        slots, logits = self._batch.step()
        is_drawing = np.array([self._batch.at(slot).index is not None for slot in slots.tolist()], dtype=bool)
        if is_drawing.all():
            self._extend(slots, logits)
            return
        drawing, looking = (torch.from_numpy(mask).to(logits.device) for mask in (is_drawing, ~is_drawing))
        self._extend(slots[is_drawing], logits[drawing])
        for slot, row_logits in zip(slots[~is_drawing].tolist(), logits[looking], strict=True):
            task = self._batch.at(slot).task
            logprobs = distribution(row_logits, task)
            self._leave(slot, is_sound=not np.isnan(logprobs[0]))
            self._branch(task, logprobs)

    def _begin(self, task: Task) -> None:
        """Take a job from the queue: from its prompt's logits, or with a row that looks at what comes after its prefix."""
        job, policy = task.job, task.job.context.policy
        problem = problem_of(job, self._model.get_input_embeddings().weight.shape[0])
        if problem is not None:
            self._finish(task, EngineError(problem))
        elif self._exact is not None and isinstance(job, (NextTokensJob, ScoreJob)):
            self._unscored.append((task, None))
        elif not job.prefix:
            self._branch(task, distribution(self._prompt(task).logits, task))
        else:
            task.num_open = 1
            self._rows.append(Row(task, None, list(job.prefix), [], np.empty(0), policy))

    def _prompt(self, task: Task) -> PromptEntry:
        """Look a prompt up or put it through the model, and charge the job where it is the first of its context."""
        context: HFContext = task.job.context
        entry = self._store.prompt(context.key)
        if entry is None or not context.is_charged:
            task.num_forwarded += context.num_prompt_tokens
            context.is_charged = True
        if entry is None:
            entry = self._batch.prefill(context.inputs, context.media)
            if self._quantization is not None and self._store.stats.quantization_kl is None:
                self._store.stats.quantization_kl = quantization_kl(self._model, self._replacements, context)
            self._store.add_prompt(context.key, entry)
        return entry

    def _start(self, row: Row) -> None:
        """Give a row a slot."""
        context: HFContext = row.task.job.context
        entry = self._prompt(row.task)
        self._batch.add(row, context.key, entry, self._store.match(context.root, tuple(row.tokens[:-1])))

    def _leave(self, slot: int, *, is_sound: bool = True) -> Row:
        """Take a row out of its slot and remember its keys and values."""
        context: HFContext = self._batch.at(slot).task.job.context
        fed = self._batch.fed_tokens(slot)
        if is_sound and fed and not self._batch.at(slot).forced:  # what scores needs the logits everywhere, so it reuses nothing
            try:
                self._store.add(context.root, fed, lambda start, stop: self._batch.read(slot, start, stop))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._store.clear()  # what is not remembered is computed again
        row = self._batch.remove(slot, is_sound=is_sound)
        row.task.num_forwarded += row.num_forwarded
        row.num_forwarded = 0
        return row

    def _branch(self, task: Task, logprobs: np.ndarray) -> None:
        """Answer from the distribution after a job's prefix, or start its rollouts with their first tokens.

        Args:
            task: The job.
            logprobs: float64 [vocabulary].
        """
        job, policy = task.job, task.job.context.policy
        if np.isnan(logprobs[0]):
            self._finish(task, not_finite(job.prefix))
        elif isinstance(job, NextTokensJob):
            self._finish(task, next_tokens(job, logprobs, self._loaded.eos_token_ids))
        elif isinstance(job, ScoreJob):
            first = job.tokens[0]
            row = Row(task, 0, [first], [float(logprobs[first])], np.empty(0), policy, limit=len(job.tokens), forced=job.tokens)
            if len(job.tokens) == 1:
                self._complete(row, "unfinished")
            else:
                self._rows.append(row)
        else:
            numbers = [self._numbers(stream, policy, job.do_sample) for stream in job.streams]
            first = draw_first(
                logprobs,
                np.array([own[len(job.prefix)] for own in numbers]),
                exclude=job.exclude,
                distinct=job.distinct,
                do_sample=job.do_sample,
            )
            task.log_unseen = first.log_unseen
            task.rollouts = [None] * len(first.tokens)
            task.num_open = len(first.tokens)
            for index, (token, logprob) in enumerate(zip(first.tokens, first.logprobs, strict=True)):
                row = Row(task, index, [*job.prefix, token], [logprob], numbers[index], policy, job.do_sample, job.limit)
                reason = self._end(row.tokens, row)
                if reason is None:
                    self._rows.append(row)
                else:
                    self._complete(row, reason)
            if not first.tokens:
                self._finish(task, Branch((), first.log_unseen))

    def _extend(self, slots: np.ndarray, logits: torch.Tensor) -> None:
        """Draw the next token of rows, and take out those that end with it."""
        if not len(slots):
            return
        tokens, logprobs = self._batch.draw(slots, logits)
        is_full = self._batch.append(slots, tokens, logprobs)
        is_ending = is_full | np.isnan(logprobs) | np.isin(tokens, self._eos_token_ids)
        for slot in slots[is_ending | self._batch.has_stop_strings[slots]].tolist():
            if not self._batch.is_live(slot):
                continue  # another row of its job failed just now
            row, so_far = self._batch.at(slot), self._batch.tokens_at(slot)
            if np.isnan(logprobs[np.flatnonzero(slots == slot)[0]]):
                self._fail(row.task, not_finite(tuple(so_far[:-1])))
                continue
            reason = self._end(so_far, row)
            if reason is not None:
                self._complete(self._leave(slot), reason)

    def _end(self, tokens: list[int], row: Row) -> FinishReason | None:
        """Tell whether a row's continuation ends with its last token, and why."""
        policy = row.policy
        if row.forced:
            return "unfinished" if len(tokens) >= row.limit else None
        if tokens[-1] in self._loaded.eos_token_ids:
            return "eos"
        if policy.stop_strings:
            text = self.decode(tokens)
            if any(stop in text for stop in policy.stop_strings):
                return "stop"
        if len(tokens) >= policy.max_new_tokens:
            return "length"
        return "unfinished" if len(tokens) >= row.limit else None

    def _complete(self, row: Row, reason: FinishReason) -> None:
        """Put a rollout into its job's answer."""
        task = row.task
        if row.forced:
            self._finish(task, tuple(row.logprobs))
            return
        task.rollouts[row.index] = Rollout(tuple(row.tokens[len(task.job.prefix) :]), tuple(row.logprobs), reason)
        task.num_open -= 1
        if task.num_open == 0:
            self._finish(task, Branch(tuple(task.rollouts), task.log_unseen))

    def _finish(self, task: Task, answer: Branch | TopTokens | tuple[float, ...] | MaxentError) -> None:
        if self._exact is not None and isinstance(answer, Branch) and answer.rollouts:
            self._unscored.append((task, answer))
            return
        self._finished.append(Finished(task.ticket, answer, task.num_forwarded))

    def _fail(self, task: Task, error: EngineError) -> None:
        """End a job with an error. Its rows leave; the slots, which may hold NaN, are wiped."""
        self._rows = deque(row for row in self._rows if row.task is not task)
        for row in self._batch.rows:
            if row.task is task:
                self._batch.remove(self._batch.slot_of(row), is_sound=False)
                task.num_forwarded += row.num_forwarded
        self._finish(task, error)

    def _shrink(self) -> None:
        """Halve the batch: every row goes back to the queue, and the memory of slots and store back to the device."""
        rows = self._batch.rows
        for row in rows:
            self._batch.remove(self._batch.slot_of(row))
        self._rows.extendleft(reversed(rows))
        self._batch.max_rows = max(1, (len(rows) or self._batch.max_rows) // 2)
        self._give_back_memory()

    def _fail_for_memory(self) -> None:
        """Fail the jobs in the batch and the one at the head of the queue."""
        tasks = {row.task.ticket: row.task for row in (*self._batch.rows, *list(self._rows)[:1])}
        tasks |= {task.ticket: task for task, _ in self._unscored}
        self._unscored.clear()
        if not tasks:
            task = self._tasks.popleft()
            tasks[task.ticket] = task
        longest = max(task.job.context.num_prompt_tokens + task.job.context.policy.max_new_tokens for task in tasks.values())
        message = memory_message(self._model, self._batch.max_rows, longest)
        for task in tasks.values():
            self._fail(task, OutOfMemoryError(message))
        self._give_back_memory()

    def _give_back_memory(self) -> None:
        self._batch.release()
        self._store.clear()
        give_back(self._model.device)

    def _numbers(self, stream: Stream, policy: Policy, do_sample: bool) -> np.ndarray:
        return uniforms(stream, policy.max_new_tokens) if do_sample else np.zeros(policy.max_new_tokens)
