"""The jobs of the Hugging Face engine, from the queue through the slots of a batch to their answers."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from maxent_ts.engines.base import Finished, Job, NextTokensJob, ScoreJob, Stream, uniforms
from maxent_ts.engines.batch import Batch, Row
from maxent_ts.engines.cache import KeyValueStore, PromptEntry
from maxent_ts.engines.contexts import HFContext, Task, distribution, next_tokens, not_finite, problem_of
from maxent_ts.engines.exact import ExactModel, quantization_kl
from maxent_ts.engines.loading import LoadedModel
from maxent_ts.engines.memory import give_back, is_out_of_memory, memory_message
from maxent_ts.engines.replacements import Replacements
from maxent_ts.engines.sampler import draw_first
from maxent_ts.errors import EngineError, MaxentError, OutOfMemoryError
from maxent_ts.types import Branch, FinishReason, Policy, Rollout, TopTokens

__all__ = ["JobQueue"]


class JobQueue:
    """Jobs of many contexts that decode together.

    A job begins from the logits behind its prompt or, where it has a prefix, with a row that looks at what comes after it. The
    first tokens of its rollouts are drawn there, and each rollout is a row from then on, until it ends.

    Args:
        loaded: The model and what belongs to it.
        replacements: The model's replaced parts, which each step puts in place.
        batch: The rows under way.
        store: Keys and values of prompts and prefixes that may be needed again.
        exact: What answers with log-probabilities of the exact model, where `loaded` draws as a quantised one.
    """

    def __init__(
        self, loaded: LoadedModel, replacements: Replacements, batch: Batch, store: KeyValueStore, exact: ExactModel | None
    ) -> None:
        self._loaded, self._model = loaded, loaded.model
        self._replacements, self._batch, self._store, self._exact = replacements, batch, store, exact
        self._tasks: deque[Task] = deque()
        """Not begun."""
        self._rows: deque[Row] = deque()
        """Of jobs that are begun, without a slot."""
        self._unscored: deque[tuple[Task, Branch | None]] = deque()
        """Rollouts of jobs, and None for other jobs, that wait for the exact model."""
        self._finished: list[Finished] = []
        self._eos_token_ids = np.array(sorted(loaded.eos_token_ids), dtype=np.int64)
        self._num_tickets = 0

    def add(self, job: Job) -> int:
        """Queue a job; returns its ticket."""
        self._num_tickets += 1
        self._tasks.append(Task(self._num_tickets, job))
        return self._num_tickets

    def forget(self, context: HFContext) -> None:
        """Drop the unfinished jobs of a context."""
        self._tasks = deque(task for task in self._tasks if task.job.context is not context)
        self._rows = deque(row for row in self._rows if row.task.job.context is not context)
        self._unscored = deque(pair for pair in self._unscored if pair[0].job.context is not context)
        for row in self._batch.rows:
            if row.task.job.context is context:
                self._batch.remove(self._batch.slot_of(row))

    def step(self) -> list[Finished]:
        """As `HFEngine.step`."""
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
            if self._replacements.quantization is not None and self._store.stats.quantization_kl is None:
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
            text = self._loaded.decode(tokens)
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
