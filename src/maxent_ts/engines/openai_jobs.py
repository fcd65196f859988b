"""Carries out the jobs of searches on a server: each a coroutine that sends requests until it has its answer.

Sampled tokens keep the log-probability that came with them; nothing is sent again to be scored. A token that may not be
drawn is kept out by its logit where the server lets us. Elsewhere the draw is thrown away, and the answer says so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import Any

import numpy as np

from maxent_ts.engines.base import NextTokensJob, RolloutJob, Stream, uniforms
from maxent_ts.engines.openai_client import Client
from maxent_ts.engines.openai_contexts import EmbeddedPrompt, Place, Segments, ServerContext, Step, TokenIds, Written
from maxent_ts.engines.openai_policy import MISSING_MASS
from maxent_ts.engines.openai_probe import Server
from maxent_ts.engines.openai_replies import Reply, read_reply, text_of
from maxent_ts.errors import EngineError
from maxent_ts.registry import METHODS_WITHOUT_LOGPROBS
from maxent_ts.types import Branch, FinishReason, Rollout, Tokens, TopTokens

__all__ = ["JobRunner", "without_logprobs"]

LOOK = 20
"""Next tokens asked for where one of them is drawn here: more than any server refuses."""

KEPT = 8
"""Next tokens kept at every token that a search on a tree has written, so that it need not ask again where it branches."""

FORBIDDEN, FORCED = -100.0, 100.0
"""Logit biases; the API has no larger ones."""

NO_MASS = 1e-6
"""Less is rounding: all next tokens have been seen."""

UNKNOWN_TREE = (
    "A tree that was grown elsewhere cannot be gone on with on this server, which does not tell the probability of what the tree "
    "holds. Let this engine grow a tree of its own."
)


class JobRunner:
    """Answers jobs.

    Args:
        client: Sends requests.
        server: What it can do.
        writing: How continuations are written down.
    """

    def __init__(self, client: Client, server: Server, writing: TokenIds | Segments) -> None:
        self._client = client
        self._server = server
        self._writing = writing
        self.num_prompt_tokens = 0
        """Sent so far, as the server counts them."""
        self.num_cached_tokens = 0
        """Of those, what the server had in its cache."""

    async def roll_out(self, job: RolloutJob) -> tuple[Branch, int]:
        """Return the rollouts of a job, and the positions that were forwarded for them."""
        context: ServerContext = job.context
        self._check_prefix(job)
        counter = [0]
        if (job.distinct or job.exclude) and self._server.bias is not None:
            context.num_kept = min(KEPT, self._server.reports.num_top)
        if job.exclude or (job.distinct and len(job.streams) > 1):
            if self._server.level == "completion":
                raise without_logprobs(self._server, "continuations that differ from those it has seen")
            if self._server.bias is None:
                return await self._roll_out_and_throw_away(job, counter), counter[0]
            return await self._roll_out_unseen(job, counter), counter[0]
        if len(job.streams) > 1 and not job.prefix and not context.root.num_asked and isinstance(self._writing, TokenIds):
            await self._look(context, (), 1, counter)  # leaves the prompt in the server's cache before the others need it
        written = await _all(self._write(context, job.prefix, one, job, counter) for one in job.streams)
        return self._branch(job, written), counter[0]

    async def next_tokens(self, job: NextTokensJob) -> tuple[TopTokens, int]:
        """Return the next tokens that a job asks for."""
        context: ServerContext = job.context
        self._check_prefix(job)
        if not isinstance(self._writing, TokenIds) or not (self._server.reports.num_top or job.stream is not None):
            raise without_logprobs(self._server, "next tokens with their probabilities")
        if job.num < 1:
            raise EngineError(f"A job must ask for at least one next token, but asks for {job.num}.")
        counter = [0]
        if job.stream is not None:
            if self._server.bias is None:
                raise without_logprobs(self._server, "next tokens drawn without replacement")
            place = await self._look(context, job.prefix, 1, counter)
            tokens: list[int] = []
            for number in uniforms(job.stream, min(job.num, 1 << 16)):
                token = await self._draw(context, job.prefix, tokens, (*job.stream, len(tokens)), number, counter)
                if token is None:
                    break
                tokens.append(token)
        else:
            place = await self._look(context, job.prefix, job.num, counter)
            known = place.known
            tokens = sorted(known, key=lambda token: -known[token])[: job.num]
            if len(tokens) < job.num and place.unseen_mass(tokens) > MISSING_MASS:
                raise EngineError(
                    f"The method asks for {job.num} next tokens, but this server returns {len(tokens)} at most. Use fewer beams or "
                    "candidates, start the server with a higher limit (vLLM: --max-logprobs), or use maxent, best_of_n or smc."
                )
        is_end = await _all(self._ends(context, job.prefix, token, counter) for token in tokens)
        return TopTokens(tuple(tokens), tuple(place.known[token] for token in tokens), tuple(is_end)), counter[0]

    async def _roll_out_unseen(self, job: RolloutJob, counter: list[int]) -> Branch:
        """Draw first tokens here, from what is left, and let the server go on from each."""
        context: ServerContext = job.context
        place = context.place(job.prefix)
        await self._look(context, job.prefix, 1, counter)
        for token in job.exclude:
            if token not in place.known:
                await self._force(context, job.prefix, token, counter)
        seen, firsts, drawn = list(job.exclude), [], []
        for stream in job.streams:
            number = float(uniforms(stream, len(job.prefix) + 1)[-1]) if job.do_sample else None
            token = await self._draw(context, job.prefix, seen, stream, number, counter)
            if token is None:
                break
            firsts.append(token)
            drawn.append(stream)
            if job.distinct:
                seen.append(token)

        async def finish(token: int, stream: Stream) -> Written:
            first = Written((Step(token, place.known[token], 1),), "cut", 1)
            if await self._ends(context, job.prefix, token, counter):
                return dataclasses.replace(first, finish="eos")
            first = await self._cut(first, context, job.prefix)
            if first.finish == "stop" or len(job.prefix) + 1 >= job.limit:
                return first
            rest = await self._write(context, (*job.prefix, token), stream, job, counter)
            return Written((*first.steps, *rest.steps), rest.finish, 1 + rest.num_tokens)

        written = await _all(finish(token, stream) for token, stream in zip(firsts, drawn, strict=True))
        return self._branch(job, written, is_exhausted=len(firsts) < len(job.streams))

    async def _roll_out_and_throw_away(self, job: RolloutJob, counter: list[int]) -> Branch:
        """Let the server draw, and keep what is new: each stream is one draw, so that the budget holds."""
        context: ServerContext = job.context
        known = context.place(job.prefix).known
        if any(token not in known for token in job.exclude):
            raise EngineError(UNKNOWN_TREE)
        kept: list[Written] = []
        thrown_away: list[int] = []
        seen = set(job.exclude)
        for one in await _all(self._write(context, job.prefix, stream, job, counter) for stream in job.streams):
            first = one.steps[0]
            if first.token in seen:
                thrown_away.append(one.num_tokens)
                continue
            kept.append(one)
            if job.distinct:
                seen.add(first.token)
        return self._branch(job, kept, thrown_away=tuple(thrown_away))

    async def _look(self, context: ServerContext, prefix: Tokens, num: int, counter: list[int]) -> Place:
        """Log p of the most likely next tokens, at least `num` where the server has them; asked once for each prefix."""
        place = context.place(prefix)
        most = max(self._server.reports.num_top, 1)
        if place.num_asked >= min(num, most):
            return place
        num = max(min(max(num, LOOK), most), context.num_top)
        reply = await self._send(context, prefix, (0,), 1, counter, **self._top(num))
        context.learn(prefix, self._writing.read(reply, context).steps, num)
        return place

    async def _draw(
        self, context: ServerContext, prefix: Tokens, seen: list[int], stream: Stream, number: float | None, counter: list[int]
    ) -> int | None:
        """Draw a next token from p without those seen; None if there is no other. Without a number, the most likely."""
        place = context.place(prefix)
        known = place.known
        left = place.unseen_mass(seen)
        if left < NO_MASS:
            return None
        order = sorted((token for token in known if token not in seen), key=lambda token: (-known[token], token))
        aim = 0.0 if number is None else number * left
        for token in order:
            aim -= math.exp(known[token])
            if aim < 0:
                return token
        if place.unseen_mass(known) < NO_MASS:
            return order[-1] if order else None
        token = await self._draw_other(context, prefix, list(known), stream, number is None, counter)
        return token if token is not None else order[-1] if order else None

    async def _draw_other(
        self, context: ServerContext, prefix: Tokens, others: list[int], stream: Stream, is_greedy: bool, counter: list[int]
    ) -> int | None:
        """Let the server draw a next token besides some that are known; None if it has no other."""
        place = context.place(prefix)
        forbidden = dict.fromkeys(map(str, others), FORBIDDEN)
        rest = math.log(place.unseen_mass(others))
        reply = await self._send(context, prefix, stream, 1, counter, is_greedy, logit_bias=forbidden)
        (step,) = self._writing.read(reply, context).steps
        if str(step.token) in forbidden:
            return None
        # Another job may have drawn it meanwhile.
        place.known.setdefault(step.token, step.logprob + (rest if self._server.bias == "renormalised" else 0.0))
        return step.token

    async def _force(self, context: ServerContext, prefix: Tokens, token: int, counter: list[int]) -> None:
        """Learn log p of one next token, where log-probabilities are of the model whatever the bias."""
        if self._server.bias != "raw" or context.num_top:
            raise EngineError(UNKNOWN_TREE)
        reply = await self._send(context, prefix, (0,), 1, counter, logit_bias={str(token): FORCED})
        (step,) = self._writing.read(reply, context).steps
        if step.token != token:
            raise EngineError(UNKNOWN_TREE)
        context.place(prefix).known[token] = step.logprob

    async def _ends(self, context: ServerContext, prefix: Tokens, token: int, counter: list[int]) -> bool:
        """Whether a token ends the completion: known from what was written, or asked by forcing it."""
        assert isinstance(self._writing, TokenIds)
        if token not in self._writing.eos_token_ids and token not in self._writing.other_token_ids:
            if self._server.bias is None:
                raise EngineError(
                    "Whether a next token ends the completion cannot be asked of this server: it honours no logit_bias."
                )
            reply = await self._send(context, prefix, (0,), 2, counter, logit_bias={str(token): FORCED})
            self._writing.learn_end(reply)
        return token in self._writing.eos_token_ids

    async def _write(self, context: ServerContext, prefix: Tokens, stream: Stream, job: RolloutJob, counter: list[int]) -> Written:
        """Let the server continue a prefix to the job's limit."""
        num = context.policy.max_new_tokens - self._writing.num_tokens(prefix)
        if job.num_tokens is not None:
            begun = len(prefix) - len(job.prefix)
            num = min(num, (job.num_tokens - begun) * getattr(self._writing, "segment_tokens", 1))
        reply = await self._send(context, prefix, stream, num, counter, not job.do_sample)
        written = self._writing.read(reply, context)
        if not written.steps:
            raise EngineError("The server returned an empty completion without the end-of-sequence token.")
        if written.finish == "cut" and reply.num_tokens < num:
            raise EngineError(
                f"The server stopped after {reply.num_tokens} of {num} tokens ({reply.finish_reason}). Its context may be too "
                "short: lower max_new_tokens, or start it with a longer one."
            )
        self._client.gate.leave(context.number, (*prefix, *(step.token for step in written.steps)))
        written = await self._cut(written, context, prefix)
        context.learn(prefix, written.steps, max(context.num_kept, context.num_top))
        return written

    async def _cut(self, written: Written, context: ServerContext, prefix: Tokens) -> Written:
        """End a continuation where a stop string does."""
        writing = self._writing
        if not context.policy.stop_strings or not isinstance(writing, TokenIds):
            return written
        unknown = [token for token in (*prefix, *(one.token for one in written.steps)) if not writing.has_text(token)]
        for token in unknown if self._server.detokenizes else ():
            found = await self._client.ask("/detokenize", {"model": self._server.model, "tokens": [token]}, at_root=True)
            writing.pieces[token] = text_of(found).encode()
        return writing.cut(written, context, prefix)

    async def _send(
        self,
        context: ServerContext,
        prefix: Tokens,
        stream: Stream,
        num_tokens: int,
        counter: list[int],
        is_greedy: bool = False,
        **fields: Any,
    ) -> Reply:
        """Ask for one completion. The gate decides when it goes out, and is told what it leaves in the server's cache."""
        policy, server = context.policy, self._server
        body = {
            "model": server.model,
            "max_tokens": num_tokens,
            "temperature": policy.temperature,
            "top_p": policy.top_p or 1.0,
            "seed": int(np.random.SeedSequence(stream).generate_state(1)[0] >> 1),
            **server.fields,
        }
        if policy.top_k is not None:
            body["top_k"] = policy.top_k
        if is_greedy:
            body["temperature"] = 0.0
        num_top = max(context.num_top, context.num_kept)
        if num_top:
            body |= self._top(num_top)
        body |= fields

        def whole() -> dict[str, Any]:
            return {**body, **self._writing.body(context, prefix)}

        reply = read_reply(await self._client.ask(server.endpoint, whole, group=context.number, prefix=prefix))
        self._client.gate.leave(context.number, prefix)
        counter[0] += reply.num_forwarded
        self.num_prompt_tokens += reply.num_prompt_tokens
        self.num_cached_tokens += reply.num_cached_tokens or 0
        context.num_prompt_tokens = context.num_prompt_tokens or reply.num_prompt_tokens - self._writing.num_tokens(prefix)
        return reply

    def _top(self, num: int) -> dict[str, Any]:
        """Fields that ask for next tokens with their log-probabilities, by id where that can be had."""
        if self._server.endpoint != "/completions":
            return {"logprobs": True, "top_logprobs": num}
        by_id = "return_token_ids" in self._server.fields and self._server.level == "token"
        return {"logprobs": num, **({"return_tokens_as_token_ids": True} if by_id else {})}

    def _branch(
        self, job: RolloutJob, written: list[Written], *, is_exhausted: bool = False, thrown_away: tuple[int, ...] = ()
    ) -> Branch:
        context: ServerContext = job.context
        length = context.policy.max_new_tokens - self._writing.num_tokens(job.prefix)
        # A server's numbers for one token differ from request to request in the last digits: here it has one, as in `log_unseen`.
        place = context.place(job.prefix)
        rollouts = []
        for one in written:
            is_whole = one.finish != "cut" or one.num_tokens >= length
            reason: FinishReason = "unfinished" if not is_whole else "length" if one.finish == "cut" else one.finish
            tokens = tuple(step.token for step in one.steps)
            num = None if one.num_tokens == len(tokens) else one.num_tokens
            logprobs = (place.known[tokens[0]], *(step.logprob for step in one.steps[1:]))
            rollouts.append(Rollout(tokens, logprobs, reason, num))
        seen = [*job.exclude, *(one.tokens[0] for one in rollouts)]
        mass = place.unseen_mass(seen)
        log_unseen = -math.inf if is_exhausted or mass < NO_MASS else math.log(mass)
        return Branch(tuple(rollouts), log_unseen, thrown_away)

    def _check_prefix(self, job: RolloutJob | NextTokensJob) -> None:
        context: ServerContext = job.context
        if self._writing.num_tokens(job.prefix) >= context.policy.max_new_tokens:
            raise EngineError(
                f"A prefix must be shorter than max_new_tokens={context.policy.max_new_tokens}, but has {len(job.prefix)} tokens."
            )
        if isinstance(context.prompt, EmbeddedPrompt) and not context.prompt.continues and _needs_prefixes(job):
            raise EngineError(
                "The method asks for continuations of what was begun. Behind a prompt of input embeddings these are rows too, and "
                "this engine has no embedding table to look them up in. Give OpenAIEngine the table of the server's model "
                f"(embedder=…). Without it these work: {', '.join(sorted(METHODS_WITHOUT_LOGPROBS))}."
            )
        if self._server.level == "completion" and isinstance(job, RolloutJob) and job.num_tokens is not None:
            raise without_logprobs(self._server, "parts of completions")
        if job.prefix and (
            self._server.level == "completion" or (self._server.endpoint != "/completions" and not self._server.continues_messages)
        ):
            raise without_logprobs(self._server, "continuations of what was begun")


def without_logprobs(server: Server, what: str) -> EngineError:
    """Return the error for a job that a server cannot do."""
    means = {
        "token": "which this server does not return with ids",
        "segment": "but this server gives texts without token ids",
        "completion": "but this server gives whole texts without log-probabilities",
    }[server.level]
    works = sorted(METHODS_WITHOUT_LOGPROBS)
    if server.level != "completion":
        works = ["maxent", "maxent_sample", "best_of_n_unique", "smc", *works]
    return EngineError(f"The method asks for {what}, {means}. These work: {', '.join(works)}.")


def _needs_prefixes(job: RolloutJob | NextTokensJob) -> bool:
    """Whether a job, or what its method will ask for next, goes on from tokens."""
    if job.prefix or isinstance(job, NextTokensJob):
        return True
    return bool(job.exclude) or (job.distinct and len(job.streams) > 1) or job.num_tokens is not None


async def _all(coroutines: Any) -> list[Any]:
    """Await all at once; the first that fails cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in coroutines]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in tasks]
