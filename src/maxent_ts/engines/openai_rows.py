"""Asks a server whether it takes prompts as rows of input embeddings, and whether it means by them what is meant here.

Rows of another width than the model's can bring older versions of vLLM down, so nothing is asked before there are rows.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maxent_ts.engines.openai_client import Client
from maxent_ts.engines.openai_probe import Asking, Server
from maxent_ts.engines.openai_replies import Key, Piece
from maxent_ts.errors import EngineError

__all__ = ["ask_rows", "probe_rows"]

logger = logging.getLogger(__name__)

NUM_PROBE_TOKENS = 8
"""Sent once as ids and once as rows."""
NUM_COMPARED = 20
"""Likely next tokens that are compared."""
OTHER = 0.1
"""nats: a mean distance of log-probabilities that half precision does not make."""
WITH_ROWS = "Start vLLM with --enable-prompt-embeds and the embedder's own language model, or use --engine hf."


async def ask_rows(client: Client, server: Server, written: str, num_rows: int) -> Piece:
    """Ask for one token behind rows of input embeddings, as vLLM takes them.

    Args:
        client: Speaks to the server.
        server: What it can do.
        written: The rows, in base64.
        num_rows: How many.

    Raises:
        EngineError: if the server does not take them.
    """
    if server.level != "token":
        raise EngineError(
            f"Input embeddings need a server that returns token ids with log-probabilities, but this one works by {server.level}. "
            f"{WITH_ROWS}"
        )
    asking = Asking(client, server.model, server.endpoint, server.fields)
    try:
        reply = await asking.reply({**asking.top(max(server.reports.num_top, 1)), "prompt": None, "prompt_embeds": written})
    except EngineError as error:
        raise EngineError(f"The server takes no input embeddings, or not these. It says: {error} {WITH_ROWS}") from error
    if reply.num_prompt_tokens != num_rows or not reply.pieces:
        raise EngineError(
            f"The server was sent {num_rows} rows of input embeddings and counts {reply.num_prompt_tokens} prompt tokens: it does "
            f"not know the field prompt_embeds. {WITH_ROWS}"
        )
    return reply.pieces[0]


async def probe_rows(
    client: Client,
    server: Server,
    written: Callable[[Sequence[int]], str],
    law: Callable[[Sequence[int]], Mapping[int, float] | None],
) -> Server:
    """Find out whether a server takes input embeddings, and whether those made here are those of its model.

    Args:
        client: Speaks to it.
        server: What it can do.
        written: Rows of tokens, in base64.
        law: Log p of next tokens by the language model that the rows are from; None if it is not there.

    Raises:
        EngineError: if it takes none, or if rows of tokens mean something else to it than the tokens.
    """
    if server.level != "token":
        await ask_rows(client, server, "", 0)
    asking = Asking(client, server.model, server.endpoint, server.fields)
    own = [piece.token for piece in (await asking.reply({"max_tokens": NUM_PROBE_TOKENS})).pieces]
    ids = [token for token in own if token is not None]
    by_ids = await asking.piece({**asking.top(max(server.reports.num_top, 1)), "prompt": ids})
    by_rows = await ask_rows(client, server, written(ids), len(ids))
    if (apart := _distance(by_ids.top, by_rows.top)) > OTHER:
        raise EngineError(
            f"The same {len(ids)} tokens, once as ids and once as rows of the embedder, give next tokens whose log-probabilities "
            f"differ by {apart:.2g} nats on average: the embedder is not of the model that the server serves. Give the one that is."
        )
    expected = law(ids) if all(isinstance(key, int) for key in by_ids.top) else None
    if expected is not None and (apart := _distance(by_ids.top, expected)) > OTHER:
        logger.warning(
            "The server's log-probabilities differ from those of the embedder's own language model by %.2g nats on average. It "
            "serves other weights: quantised ones, or, of a checkpoint with adapters, the base model without them.",
            apart,
        )
    return dataclasses.replace(server, takes_rows=True)


def _distance(one: Mapping[Key, float], two: Mapping[Any, float]) -> float:
    """Mean distance of the log-probabilities of the most likely tokens, nats; infinite if the likeliest is in one alone."""
    keys = sorted(one, key=lambda key: -one[key])[:NUM_COMPARED]
    if not keys:
        return 0.0
    if keys[0] not in two:
        return math.inf
    common = [key for key in keys if key in two]
    return math.fsum(abs(one[key] - two[key]) for key in common) / len(common)
