"""A server that takes prompts as rows of input embeddings, as vLLM's source reads the field, over a real tiny model.

It shows what the engine sends and what it makes of the answers. It is no test of vLLM.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tests.servers.dialects import Dialect, serving
from tests.unit.hf_helpers import EOS, VOCABULARY


class _RefusedError(Exception):
    pass


class EmbeddingsDialect(Dialect):
    """vLLM's answers and refusals; `knows` is what `--enable-prompt-embeds` and the version make of the field."""

    model: torch.nn.Module
    knows: str
    scaled = renormalised = False
    by_id = True
    most_top = 20
    vocabulary = VOCABULARY
    end = EOS

    def _complete(self, body: dict) -> None:
        try:
            super()._complete(body)
        except _RefusedError as error:
            self._send(400, {"error": {"message": str(error), "type": "BadRequestError", "code": 400}})

    def _prompt(self, body: dict) -> tuple[int, Callable[[list[int]], np.ndarray]]:
        lookup = self.model.get_input_embeddings()
        if "prompt" not in body and ("prompt_embeds" not in body or self.knows == "nothing"):
            raise _RefusedError("Either prompt or prompt_embeds must be provided and non-empty.")
        if "prompt" in body:
            prompt = body["prompt"]
            ids = [self.vocabulary.index(one) for one in prompt] if isinstance(prompt, str) else prompt
            rows = lookup(torch.tensor(ids))
        elif self.knows == "ignores":  # another server, which takes a missing prompt for an empty one
            rows = lookup(torch.tensor([0]))
        elif self.knows == "refuses":
            raise _RefusedError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        else:
            rows = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True)), weights_only=True)
            if rows.shape[1] != lookup.weight.shape[1]:
                size = lookup.weight.shape[1]
                raise _RefusedError(f"`prompt_embeds` hidden_size {rows.shape[1]} does not match the model's hidden_size {size}.")
            rows = rows.to(lookup.weight.dtype)

        @torch.inference_mode()
        def row_after(tokens: list[int]) -> np.ndarray:
            whole = torch.cat([rows, lookup(torch.tensor(tokens, dtype=torch.long))])
            law = self.model(inputs_embeds=whole[None], use_cache=False).logits[0, -1].double().softmax(-1).numpy()
            return law / law.sum()

        return len(rows), row_after


@contextmanager
def embeddings_server(model: torch.nn.Module, *, knows: str = "rows") -> Iterator[tuple[str, list[dict]]]:
    """Start one over a causal language model; yields its base URL and what it has been asked.

    `knows` is "rows"; "refuses" as vLLM does without its option; "nothing" of the field; or "ignores" it with the prompt.
    """
    asked: list[dict] = []
    with serving(type("Handler", (EmbeddingsDialect,), {"model": model, "knows": knows, "asked": asked})) as url:
        yield url, asked
