"""Asks a server once what it can do, with a few requests of one token."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from maxent_ts.engines.openai_client import Client, RefusedError
from maxent_ts.engines.openai_policy import MISSING_MASS, Reports
from maxent_ts.engines.openai_replies import Key, Piece, Reply, read_reply
from maxent_ts.errors import EngineError, ModelError, SettingError

__all__ = ["Asking", "Server", "probe"]

logger = logging.getLogger(__name__)

Level = Literal["token", "segment", "completion"]

PROBE_TEXT = "a"
SAME = 2e-3
"""nats within which two answers to one question are the same: servers compute in half precision and in changing batches."""

NUMBERS_OF_TOP = (4096, 1024, 256, 100, 50, 20, 10, 5)
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What keeps a server from its own defaults, which would be another policy."""
SAMPLERS = {"samplers": ["temperature", "top_k", "top_p"], "cache_prompt": True}
"""For llama.cpp: these and no others, in the order of transformers."""
FIELDS: Sequence[Mapping[str, Any]] = (
    {**NEUTRAL, **SAMPLERS, "return_token_ids": True, "logprobs": 1},
    {**NEUTRAL, "logprobs": 1},
    {"generation_config": '{"do_sample": true, "top_k": 0}'},
    {"logprobs": 1},
    {},
)
TEMPERATURE_FIRST = frozenset({"vllm", "sglang", "llamacpp"})


@dataclass(frozen=True, slots=True)
class Server:
    """What a server can do."""

    kind: str
    """As it calls itself: vllm, sglang, llamacpp … ; `unknown` where it does not say."""
    model: str
    endpoint: str
    level: Level
    """`token`: it returns and takes token ids. `segment`: text, with log-probabilities. `completion`: text alone."""
    fields: Mapping[str, Any]
    """Sent with every request."""
    reports: Reports
    bias: Literal["raw", "renormalised"] | None
    """What log-probabilities are of where `logit_bias` is set; None where it is not honoured."""
    honours_seed: bool
    varies: bool
    """Whether it was seen to sample: to write different texts for different seeds."""
    counts_cached_tokens: bool
    tokenizes: bool
    detokenizes: bool
    continues_messages: bool
    """Whether an assistant's message can be continued; only asked of servers that have chat alone."""
    context_length: int | None
    num_slots: int = 0
    """Caches of llama.cpp, one for each request at once; 0 for a server of one cache."""
    takes_rows: bool | None = None
    """Whether prompts may be rows of input embeddings; None where it was not asked, which takes an embedder."""

    def at(self, level: Level) -> Server:
        """Return the same server, of which less is asked.

        Raises:
            SettingError: if it cannot do that much.
        """
        levels = ("token", "segment", "completion")
        if level not in levels or levels.index(level) < levels.index(self.level):
            raise SettingError(f"This server works by {self.level}, so level={level!r} is not possible.")
        return dataclasses.replace(self, level=level, bias=self.bias if level == "token" else None)

    def with_num_top(self, num: int) -> Server:
        """Return the same server, of which fewer next tokens are asked."""
        reports = dataclasses.replace(self.reports, num_top=min(num, self.reports.num_top), is_whole=False)
        return dataclasses.replace(self, reports=reports)

    def described(self) -> dict[str, Any]:
        """Return what decides what log p means here, for records."""
        return {
            "server": self.kind,
            "endpoint": self.endpoint,
            "level": self.level,
            "logprobs": None
            if self.level == "completion"
            else f"temperature {self.reports.temperature or 'unknown'}, truncation {self.reports.truncation or 'unknown'}",
            "num_top_logprobs": self.reports.num_top,
            "logit_bias": self.bias is not None,
            "seed": self.honours_seed,
            "samples": self.varies,
            **({} if self.takes_rows is None else {"prompt_embeds": self.takes_rows}),
        }


async def probe(client: Client, model: str | None, endpoint: str | None) -> Server:
    """Find out what a server can do.

    Args:
        client: Speaks to it.
        model: Its name there; None if it serves only one.
        endpoint: "completions" or "chat/completions"; None for the first of them that it has.

    Raises:
        EngineError: if it does not answer, or answers as no completions server does.
        ModelError: if it does not serve this model, or several and none is named.
    """
    entry = await _model(client, model)
    name = str(entry["id"])
    asking = await _endpoint(client, name, endpoint)
    first = await asking.reply({})
    tokenizes = await _answers(client, "/tokenize", {"model": name, "prompt": PROBE_TEXT, "content": PROBE_TEXT}, "tokens")
    ids = [piece.token for piece in first.pieces if piece.token is not None]
    level: Level = "segment" if first.pieces else "completion"
    if ids and asking.endpoint == "/completions" and await asking.takes_ids(ids):
        level = "token"
    table, num_top = await _table(asking) if first.pieces else ({}, 0)
    mass = math.fsum(math.exp(value) for value in table.values())
    honours_seed, varies = await _sampling(asking)
    if not varies:
        logger.warning(
            "The server wrote the same twelve tokens for four seeds at temperature 1: it may not sample. Check its default "
            "sampling settings, or the methods that draw will see one completion only."
        )
    kind = str(entry.get("owned_by", "unknown"))
    return Server(
        kind=kind,
        model=name,
        endpoint=asking.endpoint,
        level=level,
        fields=asking.fields,
        reports=Reports(
            temperature=await _temperature(asking, table, num_top),
            truncation=await _truncation(asking, table, num_top),
            num_top=num_top,
            is_whole=bool(table) and len(table) < num_top and abs(1 - mass) < MISSING_MASS,
            temperature_goes_first=kind in TEMPERATURE_FIRST,
        ),
        bias=await _bias(asking, table, num_top) if level == "token" else None,
        honours_seed=honours_seed,
        varies=varies,
        counts_cached_tokens=first.num_cached_tokens is not None,
        tokenizes=tokenizes,
        detokenizes=bool(ids) and await _answers(client, "/detokenize", {"model": name, "tokens": ids}, None),
        continues_messages=await _continues(asking, first),
        context_length=_context_length(entry),
        num_slots=await _num_slots(client) if kind == "llamacpp" else 0,
    )


@dataclass(frozen=True, slots=True)
class Asking:
    """How this server wants to be asked."""

    client: Client
    model: str
    endpoint: str
    fields: Mapping[str, Any]

    async def reply(self, changes: Mapping[str, Any]) -> Reply:
        """One token behind PROBE_TEXT, asked for with other fields; those that are None are left out."""
        body = {"model": self.model, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "seed": 1, **self.fields}
        if self.endpoint == "/completions":
            body["prompt"] = PROBE_TEXT
        else:
            body["messages"] = [{"role": "user", "content": PROBE_TEXT}]
        body = {name: value for name, value in {**body, **changes}.items() if value is not None}
        return read_reply(await self.client.ask(self.endpoint, body))

    async def piece(self, changes: Mapping[str, Any]) -> Piece:
        """The one token that is asked for."""
        pieces = (await self.reply(changes)).pieces
        if not pieces:
            raise EngineError("The server returns log-probabilities with one request and none with the next.")
        return pieces[0]

    def top(self, num: int) -> dict[str, Any]:
        """Fields that ask for next tokens, by id where that can be had."""
        if self.endpoint == "/completions":
            return {"logprobs": num, **({"return_tokens_as_token_ids": True} if "return_token_ids" in self.fields else {})}
        return {"logprobs": True, "top_logprobs": num}

    async def takes_ids(self, ids: Sequence[int]) -> bool:
        """Whether a prompt may be token ids."""
        try:
            return (await self.reply({"prompt": [ids[0]] * 3})).num_prompt_tokens == 3
        except RefusedError:
            return False


async def _model(client: Client, model: str | None) -> dict[str, Any]:
    try:
        served = (await client.ask("/models", max_retries=None if model is None else 0)).get("data")
    except RefusedError as error:
        if error.status in (401, 403) or model is None:
            raise
        served = []
    except EngineError:
        if model is None:
            raise
        served = []  # transformers serve fails here on a machine without a hub cache; whether it is up shows at once
    if not isinstance(served, list) or not all(isinstance(one, dict) and "id" in one for one in served):
        raise EngineError(f"{client.base_url}/models does not list models. Does base_url end in /v1?")
    for one in served:
        if model in (one["id"], *(one.get("aliases") or ())) or (model is None and len(served) == 1):
            return one
    names = ", ".join(str(one["id"]) for one in served[:10])
    if model is not None and not served:
        return {"id": model}  # transformers serve lists what is in the hub cache, not what it has loaded
    if model is None:
        raise ModelError(f"The server serves {len(served)} models. Name one with --model: {names}.")
    raise ModelError(f"The server does not serve '{model}'. It serves: {names}.")


async def _endpoint(client: Client, model: str, endpoint: str | None) -> Asking:
    """The first endpoint and the most fields that the server accepts."""
    last: RefusedError | None = None
    for path in ("/completions", "/chat/completions") if endpoint is None else (f"/{endpoint}",):
        for fields in FIELDS:
            if path != "/completions" and "logprobs" in fields:
                fields = {**fields, "logprobs": True, "top_logprobs": 1}
            asking = Asking(client, model, path, fields)
            try:
                await asking.reply({})
            except RefusedError as error:
                if error.status in (401, 403):
                    raise
                last = error
            else:
                return asking
    raise EngineError(f"The server accepts no request for a completion. {last}")


async def _answers(client: Client, path: str, body: Mapping[str, Any], key: str | None) -> bool:
    try:
        found = await client.ask(path, body, at_root=True)
    except RefusedError:
        return False
    return key is None or isinstance(found.get(key), list)


async def _table(asking: Asking) -> tuple[dict[Key, float], int]:
    """Next tokens, as many as the server gives, and how many it may be asked for."""
    for num in NUMBERS_OF_TOP:
        try:
            reply = await asking.reply(asking.top(num))
        except RefusedError:
            continue
        table = dict(reply.pieces[0].top) if reply.pieces else {}
        # Keys that are texts may fall together.
        return table, num if table else 0
    return {}, 0


async def _temperature(asking: Asking, table: Mapping[Key, float], num: int) -> Literal["raw", "scaled"] | None:
    """Ask at temperature 2, and see whether it shows."""
    if len(table) < 3:
        return None
    other = (await asking.piece({**asking.top(num), "temperature": 2.0})).top
    common = [(table[key], other[key]) for key in table if key in other]
    if len(common) < 3 or max(one for one, _ in common) - min(one for one, _ in common) < 10 * SAME:
        return None
    if all(abs(one - two) < SAME for one, two in common):
        return "raw"
    shifts = [two - one / 2 for one, two in common]
    return "scaled" if max(shifts) - min(shifts) < SAME else None


async def _truncation(asking: Asking, table: Mapping[Key, float], num: int) -> Literal["raw", "renormalised"] | None:
    """Ask for the most likely token alone: is its probability 1?"""
    if not table or "top_k" not in asking.fields or max(table.values()) > -10 * SAME:
        return None
    piece = await asking.piece({**asking.top(num), "top_k": 1})
    if abs(piece.logprob) < SAME:
        return "renormalised"
    return "raw" if abs(piece.logprob - max(table.values())) < SAME else None


async def _bias(asking: Asking, table: Mapping[Key, float], num: int) -> Literal["raw", "renormalised"] | None:
    """Force an unlikely token by its logit, and see whether it comes and with which probability."""
    if not table or not all(isinstance(key, int) for key in table):
        return await _bias_without_table(asking)
    token, value = min(table.items(), key=lambda one: one[1])
    try:
        piece = await asking.piece({**asking.top(num), "logit_bias": {str(token): 100}})
    except RefusedError:
        return None
    if piece.token != token or value > -10 * SAME:
        return None
    if abs(piece.logprob - value) < SAME:
        return "raw"
    return "renormalised" if abs(piece.logprob) < SAME else None


async def _bias_without_table(asking: Asking) -> Literal["raw", "renormalised"] | None:
    """The same where next tokens come without ids: forbid what is drawn, draw another, and force that one."""
    try:
        one = await asking.piece({})
        two = await asking.piece({"logit_bias": {str(one.token): -100}})
        forced = await asking.piece({"logit_bias": {str(two.token): 100}})
    except RefusedError:
        return None
    if one.token == two.token or forced.token != two.token or abs(one.logprob) < 10 * SAME:
        return None
    if abs(forced.logprob) < SAME:
        return "renormalised"
    return "raw" if abs(forced.logprob - two.logprob) < SAME else None


async def _sampling(asking: Asking) -> tuple[bool, bool]:
    """Whether one seed gives one text, and whether texts differ at all."""
    texts = [(await asking.reply({"max_tokens": 12, "seed": seed})).text for seed in (5, 5, 6, 7, 8)]
    varies = len(set(texts)) > 1
    return varies and texts[0] == texts[1], varies


async def _continues(asking: Asking, first: Reply) -> bool:
    """Whether a message of the assistant that is not ended makes the prompt longer by itself alone."""
    if asking.endpoint == "/completions":
        return False
    messages = [{"role": "user", "content": PROBE_TEXT}, {"role": "assistant", "content": first.text or PROBE_TEXT}]
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    try:
        reply = await asking.reply({"messages": messages, **flags})
    except RefusedError:
        return False
    return 0 < reply.num_prompt_tokens - first.num_prompt_tokens <= first.num_tokens + 1


async def _num_slots(client: Client) -> int:
    try:
        found = (await client.ask("/props", at_root=True)).get("total_slots")
    except RefusedError:
        return 0
    return found if isinstance(found, int) else 0


def _context_length(entry: Mapping[str, Any]) -> int | None:
    found = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
    return int(found) if found else None
