"""What cross-attention sees of time series while a language model runs: media, prepared once for each prompt.

A language model's forward takes tokens only. So what its layers see besides is set around the call, by `attending`, for
each row of the call: rows that continue one prompt see the media of that prompt, and no row sees another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch

__all__ = ["MEDIA", "Media", "MediaKeyValues", "MediaRows", "attending", "attending_prompt"]


@dataclass(frozen=True, slots=True)
class MediaKeyValues:
    """Keys and values of one prompt's media in every layer."""

    tensors: tuple[torch.Tensor, ...]
    """Key and value of each layer in turn: [heads, num_media * latents of a medium, head size]."""
    num_media: int
    time: torch.Tensor
    """Which medium the tokens behind the prompt see, as `MediaRows.times`: int64 [1]."""

    def behind_prompt(self) -> MediaKeyValues:
        """Keep what the tokens behind the prompt can see: their medium, or all if they see none of them or each alike."""
        time = int(self.time)
        if self.num_media == 1 or not 1 <= time <= self.num_media:
            return self
        size = self.tensors[0].shape[1] // self.num_media
        own = tuple(tensor[:, (time - 1) * size : time * size].clone() for tensor in self.tensors)
        return MediaKeyValues(own, 1, torch.ones_like(self.time))


@dataclass(frozen=True, slots=True)
class MediaRows:
    """Rows of a call that see the media of one prompt."""

    key_values: MediaKeyValues
    rows: torch.Tensor
    """int64 [num_rows, or more]: filled up with any of them."""
    num_rows: int
    times: torch.Tensor
    """Which medium each position of the rows sees: int64 [positions]. 0: none, what they get is zero. k: the k-th. Above the
    number of media: every latent of every medium alike, as a softmax over nothing but masked scores gives it."""


@dataclass(frozen=True, slots=True)
class Media:
    """The series of one prompt, encoded."""

    latents: torch.Tensor
    """float32 [num_media, latents of a medium, width]."""
    times: torch.Tensor
    """As `MediaRows.times`, for the positions of the prompt."""
    project: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    """Turns latents into `MediaKeyValues.tensors`."""

    def key_values(self) -> MediaKeyValues:
        """Project the latents for every layer."""
        return MediaKeyValues(self.project(self.latents), self.latents.shape[0], self.times[-1:])

    def until(self, length: int) -> Media:
        """Return what the first positions of the prompt see."""
        return replace(self, times=self.times[:length])


def attending_prompt(media: Media | None, key_values: MediaKeyValues | None) -> AbstractContextManager[None]:
    """Within, the one row of a call is a prompt that sees its media."""
    if media is None or key_values is None:
        return attending(())
    return attending([MediaRows(key_values, torch.zeros_like(media.times[:1]), 1, media.times)])


MEDIA: ContextVar[Sequence[MediaRows]] = ContextVar("media", default=())
"""What the rows of the call under way see. Rows in none of these see no media."""


@contextmanager
def attending(media: Sequence[MediaRows]) -> Iterator[None]:
    """Within, the rows of a call see these media."""
    token = MEDIA.set(media)
    try:
        yield
    finally:
        MEDIA.reset(token)
