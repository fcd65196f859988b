"""From a prompt of any kind to what a model takes: token ids, or rows of input embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maxent_ts.engines.loading import LoadedModel
from maxent_ts.errors import PromptError
from maxent_ts.models.flamingo import FlamingoModel
from maxent_ts.models.media import Media
from maxent_ts.types import Embeddings, Prompt, TimeSeriesPrompt

__all__ = ["Encoded", "check_embeddings", "encode"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the model takes it."""

    inputs: torch.Tensor
    """Token ids [length], or input embeddings [length, hidden size], on the model's device."""
    media: Media | None = None
    """What cross-attention sees besides."""

    def digest(self) -> bytes:
        """SHA-256 of all that the model takes."""
        digest = hashlib.sha256()
        for tensor in (self.inputs,) if self.media is None else (self.inputs, self.media.latents):
            digest.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.digest()


def encode(loaded: LoadedModel, prompt: Prompt) -> Encoded:
    """Turn a prompt into what a model takes.

    Text gets the special tokens that the tokenizer adds by itself; messages go through the chat template.

    Raises:
        PromptError: if the prompt is of a kind that this model cannot take, or holds ids or numbers that it cannot.
    """
    if isinstance(prompt, Embeddings):
        return Encoded(_embeddings(loaded.model, torch.as_tensor(prompt.values)))
    if isinstance(prompt, TimeSeriesPrompt):
        if loaded.series_model is None:
            raise PromptError(
                f"'{loaded.name}' is a model of text, so it cannot take a time-series prompt. Use a model directory that has a "
                "time-series encoder, or put the series into the text."
            )
        if isinstance(loaded.series_model, FlamingoModel):
            return Encoded(*loaded.series_model.encode(prompt))
        return Encoded(_embeddings(loaded.model, loaded.series_model.embed(prompt)))
    if isinstance(prompt, str):
        ids = _tokenizer(loaded, "text")(prompt)["input_ids"] if prompt else []
    elif isinstance(prompt, Sequence) and prompt and all(isinstance(message, Mapping) for message in prompt):
        tokenizer = _tokenizer(loaded, "messages")
        if getattr(tokenizer, "chat_template", None) is None:
            raise PromptError(f"'{loaded.name}' has no chat template, so it takes no messages. Give the prompt as text.")
        ids = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    elif isinstance(prompt, (Sequence, np.ndarray, torch.Tensor)) and all(_is_integer(token) for token in prompt):
        ids = [int(token) for token in prompt]  # type: ignore[arg-type]
        size = loaded.model.get_input_embeddings().weight.shape[0]
        if any(not 0 <= token < size for token in ids):
            raise PromptError(f"The prompt's token ids must lie in [0, {size}), but range from {min(ids)} to {max(ids)}.")
    else:
        raise PromptError(
            "A prompt is text, a list of chat messages, a list of token ids, Embeddings or a TimeSeriesPrompt, but got "
            f"{type(prompt).__name__}."
        )
    return Encoded(torch.tensor(ids, dtype=torch.long, device=loaded.model.device))


def check_embeddings(values: torch.Tensor, size: int | None) -> None:
    """Raise PromptError unless a prompt's rows are finite and of shape [length, size]; `size` is None where it is not known."""
    if values.ndim != 2 or (size is not None and values.shape[1] != size):
        shown = "hidden size" if size is None else size
        raise PromptError(f"Input embeddings must have the shape [length, {shown}], but have {list(values.shape)}.")
    if not bool(values.isfinite().all()):
        raise PromptError(
            "The prompt's input embeddings hold numbers that are not finite. Look for NaN in what they were made from."
        )


def _embeddings(model: Any, values: torch.Tensor) -> torch.Tensor:
    check_embeddings(values, model.get_input_embeddings().weight.shape[1])
    return values.to(device=model.device, dtype=model.dtype)


def _tokenizer(loaded: LoadedModel, kind: str) -> Any:
    if loaded.tokenizer is None:
        raise PromptError(
            f"A prompt of {kind} needs a tokenizer, but this engine has none. Give tokenizer=… to HFEngine, or token ids."
        )
    return loaded.tokenizer


def _is_integer(token: Any) -> bool:
    return isinstance(token, (int, np.integer)) or (
        isinstance(token, torch.Tensor) and token.ndim == 0 and not token.is_floating_point()
    )
