"""Prompts that a server takes as rows of input embeddings, and what makes the rows here.

The field is vLLM's `prompt_embeds` ("Prompt Embedding Inputs" in its documentation): base64 of what `torch.save` writes of a
tensor [length, hidden size]. The server does not join rows with text or token ids. So what follows a prompt, the tokens of a
tree's prefix, goes as rows too, looked up in the language model's own table.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from maxent_ts.engines.encoding import check_embeddings
from maxent_ts.engines.loading import load_model
from maxent_ts.engines.openai_contexts import EmbeddedPrompt
from maxent_ts.errors import EngineError, ModelError, PromptError, SettingError
from maxent_ts.models.opentslm import SeriesModel
from maxent_ts.models.softprompt import SoftPromptModel
from maxent_ts.presets import DEFAULT_COMPAT
from maxent_ts.types import Embeddings, TimeSeriesPrompt, Tokens

__all__ = ["Embedder", "embedded_prompt"]


class Embedder:
    """Embeds prompts and tokens as the server's language model does.

    Args:
        source: A soft-prompt model: a directory, checkpoint or hub id, or the model itself. Or an embedding table: an array
            [vocabulary, hidden size], a module, a function from ids [length] to rows [length, hidden size], or a language model
            whose table it is.
        base_model: Directory or hub id of a checkpoint's language model; None for what the checkpoint's name tells.
        compat: See `maxent_ts.models.opentslm.load_series_model`.

    Raises:
        ModelError: if it cannot be found or read, or reads series in another way than by input embeddings.
        SettingError: if `source` is none of these, or if `base_model` or `compat` is given for one that has no use for it.
    """

    def __init__(self, source: Any, *, base_model: str | Path | None = None, compat: str = DEFAULT_COMPAT) -> None:
        self._language_model: Any = None
        self._series_model: SoftPromptModel | None = None
        self._is_own = isinstance(source, (str, Path))
        if not isinstance(source, (str, Path, PreTrainedModel, SeriesModel)):
            if base_model is not None or compat != DEFAULT_COMPAT:
                raise SettingError(
                    "base_model and compat are for a checkpoint, but embedder is an embedding table. Leave them out."
                )
            self._lookup, self.identity = _table(source)
            return
        loaded = load_model(
            source,
            None,
            device="cpu" if self._is_own else "auto",
            dtype="auto",  # what the weights are stored in: rows in a wider type would say no more
            revision=None,
            model_kwargs={},
            base_model=base_model,
            compat=compat,
        )
        if loaded.series_model is not None and not isinstance(loaded.series_model, SoftPromptModel):
            raise ModelError(
                f"'{loaded.name}' reads series by cross-attention inside its layers, which no server is given from outside. Give a "
                "soft-prompt model, or use --engine hf."
            )
        self._language_model, self._series_model = loaded.model, loaded.series_model
        self._lookup = _module_lookup(loaded.model.get_input_embeddings(), loaded.model.device)
        self.identity: Mapping[str, Any] = {"embedder": loaded.name, "embedder_hash": loaded.hash()}

    @property
    def time_series(self) -> bool:
        """Whether it embeds series, not only tokens."""
        return self._series_model is not None

    @torch.inference_mode()
    def tokens(self, tokens: Sequence[int]) -> torch.Tensor:
        """Look up the rows of tokens: [length, hidden size].

        Raises:
            EngineError: if the table has no such token, or answers with another shape.
        """
        try:
            rows = torch.as_tensor(self._lookup(torch.tensor(list(tokens), dtype=torch.long)))
        except IndexError as error:
            raise EngineError(
                f"The embedding table has no row for one of the tokens {min(tokens)} to {max(tokens)}: it is not the table of the "
                "server's model."
            ) from error
        if rows.ndim != 2 or len(rows) != len(tokens) or not rows.is_floating_point():
            raise EngineError(
                f"The embedding table should answer {len(tokens)} ids with as many rows of numbers, but answers with {rows.dtype} "
                f"of shape {list(rows.shape)}."
            )
        return rows.cpu()

    @torch.inference_mode()
    def series(self, prompt: TimeSeriesPrompt) -> torch.Tensor:
        """Embed a prompt with time series: [length, hidden size].

        Raises:
            PromptError: if only a table is there, or if the encoder cannot take a series.
        """
        if self._series_model is None:
            raise PromptError(
                "The prompt has time series, but embedder is a table of tokens. Give a soft-prompt model as embedder, or use "
                "--engine hf."
            )
        return self._series_model.embed(prompt).cpu()

    def written(self, tokens: Sequence[int]) -> str:
        """Rows of tokens as the server takes them."""
        return _in_base64(self.tokens(tokens))

    @torch.inference_mode()
    def law(self, tokens: Sequence[int]) -> dict[int, float] | None:
        """Log p of every next token after some by the language model that was loaded; None if there is a table alone."""
        if self._language_model is None:
            return None
        rows = self.tokens(tokens).to(self._language_model.device)
        logits = self._language_model(inputs_embeds=rows[None], use_cache=False).logits[0, -1].float()
        return dict(enumerate(logits.log_softmax(-1).tolist()))

    def forget_language_model(self) -> None:
        """Keep what embeds alone, unless the model is another's."""
        if self._is_own and self._series_model is not None:
            self._series_model.language_model = _TableAlone(self._language_model)
        self._language_model = None


def embedded_prompt(prompt: Embeddings | TimeSeriesPrompt, embedder: Embedder | None) -> EmbeddedPrompt:
    """Embed a prompt, once for all its requests.

    Raises:
        PromptError: if it has no rows, rows of another width than the table's, or numbers that are not finite; or if it holds
            series and nothing here embeds them.
    """
    if isinstance(prompt, TimeSeriesPrompt):
        if embedder is None:
            raise PromptError(
                "The prompt has time series, which a server takes as input embeddings alone, and nothing here makes them. Give "
                "OpenAIEngine a soft-prompt model (embedder=…, --embedder), or use --engine hf."
            )
        rows = embedder.series(prompt)
    else:
        rows = torch.as_tensor(prompt.values).detach().cpu()
        rows = rows if rows.dtype in (torch.float32, torch.bfloat16, torch.float16) else rows.float()
    like = None if embedder is None else embedder.tokens([0])
    check_embeddings(rows, None if like is None else like.shape[1])
    if len(rows) == 0:
        raise PromptError("The prompt is empty: it has no rows. Give at least one.")

    def written(prefix: Tokens) -> str:
        if not prefix or embedder is None:
            return _in_base64(rows)
        behind = embedder.tokens(prefix)
        return _in_base64(torch.cat([rows.to(behind.dtype), behind]))

    return EmbeddedPrompt(len(rows), written, continues=embedder is not None)


class _TableAlone(nn.Module):
    """What is left of a language model when only its embedding table is needed."""

    def __init__(self, language_model: Any) -> None:
        super().__init__()
        self.dtype = language_model.dtype
        self._table = language_model.get_input_embeddings()

    def get_input_embeddings(self) -> nn.Module:
        return self._table


def _table(source: Any) -> tuple[Callable[[torch.Tensor], Any], Mapping[str, Any]]:
    """A lookup in what a user gave as a table, and what names it in records."""
    if isinstance(source, nn.Module):
        weight = getattr(source, "weight", None)
        device = weight.device if isinstance(weight, torch.Tensor) else torch.device("cpu")
        named = {} if not isinstance(weight, torch.Tensor) else {"embedder_hash": _hash(weight)}
        return _module_lookup(source, device), {"embedder": type(source).__name__, **named}
    if hasattr(source, "__array__"):
        array = torch.as_tensor(source)
        if array.ndim != 2 or not array.is_floating_point():
            raise SettingError(
                f"An embedding table must be numbers of shape [vocabulary, hidden size], but is {array.dtype} of shape "
                f"{list(array.shape)}."
            )
        return array.__getitem__, {"embedder": "table", "embedder_hash": _hash(array)}
    if callable(source):
        return source, {"embedder": getattr(source, "__qualname__", type(source).__name__)}
    raise SettingError(
        "embedder must be a soft-prompt model (a directory, checkpoint or hub id) or an embedding table (an array, a module or a "
        f"function), but is {type(source).__name__}."
    )


def _module_lookup(module: nn.Module, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda ids: module(ids.to(device))


def _hash(table: torch.Tensor) -> str:
    return hashlib.sha256(table.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _in_base64(rows: torch.Tensor) -> str:
    file = io.BytesIO()
    torch.save(rows.clone(), file)  # of a view, torch.save would write all that it is a view of
    return base64.b64encode(file.getvalue()).decode()
