"""Sliding windows: layers that see no more than the last so many positions, such as five of six layers of Gemma 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["SlidingWindow", "sliding_window"]

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """The window of a model's sliding layers."""

    size: int
    """Positions that a token sees, its own included."""
    is_by_type: bool
    """Whether the model takes a mask for each type of layer, or one for all of them."""

    def masks(self, mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Hide what lies before the window.

        Args:
            mask: Additive, [rows, 1, 1, keys]: each row sees its own keys and the one about to be written. A key's place is its
                position.
            lengths: Keys that each row has so far: [rows].

        Returns:
            What the model takes as its attention mask.
        """
        keys = torch.arange(mask.shape[-1], device=mask.device)
        is_before = keys <= lengths[:, None] - self.size
        narrow = mask.masked_fill(is_before[:, None, None, :], torch.finfo(mask.dtype).min)
        return {FULL: mask, SLIDING: narrow} if self.is_by_type else narrow


def sliding_window(model: Any) -> SlidingWindow | None:
    """Return the window of a model's sliding layers; None if it has none, or layers of yet another type beside them."""
    config = model.config.get_text_config(decoder=True)
    types, size = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if not isinstance(size, int) or (types is not None and (SLIDING not in types or not set(types) <= {FULL, SLIDING})):
        return None
    return SlidingWindow(size, types is not None)
