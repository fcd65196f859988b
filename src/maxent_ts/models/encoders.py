"""Patch encoders for time series, and the sizes they come in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

from maxent_ts.errors import ModelError, PromptError

__all__ = ["CONFIG_FILE", "EncoderConfig", "PatchEmbedding", "Projector", "TimeSeriesEncoder", "pad_series"]

CONFIG_FILE = "time_series_encoder.json"
SWITCHES = ("bos_per_fragment", "bos_before_answer", "pads_to_longest")
OPTIONAL = ("bos_before_answer", "pads_to_longest")
"""Entries that the file may leave out: then they are false."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes of encoder and projector. The defaults are those of the released OpenTSLM checkpoints."""

    hidden_size: int
    """Width of the language model's embeddings: where the projector leads."""
    patch_size: int = 4
    embed_dim: int = 128
    num_layers: int = 6
    num_heads: int = 8
    feedforward_dim: int = 1024
    max_patches: int = 1024
    """The longest series is `max_patches * patch_size` points."""
    bos_per_fragment: bool = True
    """True: every text fragment starts with the tokenizer's beginning-of-sequence token, as OpenTSLM does it. False: one
    such token at the very start of the prompt and no other."""
    bos_before_answer: bool = False
    """True: the prompt ends with a beginning-of-sequence token. OpenTSLM's training targets start with it, so it is given to
    the model, and neither drawn nor scored."""
    pads_to_longest: bool = False
    """True: the series of one prompt are padded with zeros to the longest of them, as OpenTSLM does it; the model reads the
    padding. False: each to a multiple of the patch size only."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in SWITCHES:
                if not isinstance(value, bool):
                    raise ModelError(f"{CONFIG_FILE}: {field.name} must be true or false, but is {value!r}.")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"{CONFIG_FILE}: {field.name} must be a whole number of at least 1, but is {value!r}.")
        if self.embed_dim % self.num_heads:
            raise ModelError(
                f"{CONFIG_FILE}: embed_dim must be a multiple of num_heads, but they are {self.embed_dim} and {self.num_heads}."
            )

    @classmethod
    def from_file(cls, path: Path) -> EncoderConfig:
        """Read the sizes from a JSON file.

        Raises:
            ModelError: if the file cannot be read, is not a JSON object, or lacks, misspells or misuses an entry.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(f"{path} should hold the encoder's sizes as JSON, but cannot be read: {error}.") from error
        names = {field.name for field in fields(cls)}
        required = names - set(OPTIONAL)
        if not isinstance(entries, dict) or not required <= set(entries) <= names:
            found = sorted(entries) if isinstance(entries, dict) else type(entries).__name__
            raise ModelError(
                f"{path} should hold exactly the entries {sorted(required)} and may hold {sorted(OPTIONAL)}, but holds {found}."
            )
        return cls(**entries)


class PatchEmbedding(nn.Module):
    """Patches of a series to vectors: convolution, learned positions, layer norm."""

    def __init__(self, *, patch_size: int, embed_dim: int, max_patches: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(1, embed_dim, patch_size, stride=patch_size, bias=False)
        self.pos_embed = nn.Parameter(torch.randn(1, max_patches, embed_dim) * 0.02)
        self.input_norm = nn.LayerNorm(embed_dim)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Embed series of one length, which is a multiple of the patch size.

        Args:
            series: float tensor of shape [batch, length].

        Returns:
            Tensor of shape [batch, length / patch size, embed_dim].
        """
        patches = self.patch_embed(series[:, None, :]).transpose(1, 2)
        return self.input_norm(patches + self.pos_embed[:, : patches.shape[1]])


class TimeSeriesEncoder(PatchEmbedding):
    """A patch embedding, then a transformer encoder (post-norm, GELU)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(patch_size=config.patch_size, embed_dim=config.embed_dim, max_patches=config.max_patches)
        layer = nn.TransformerEncoderLayer(
            config.embed_dim, config.num_heads, config.feedforward_dim, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Encode series; shapes as those of `PatchEmbedding`."""
        return self.encoder(super().forward(series))


class Projector(nn.Module):
    """Encoder vectors to rows of input embeddings."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.LayerNorm(config.embed_dim), nn.Linear(config.embed_dim, config.hidden_size), nn.GELU(), nn.Dropout(0.0)
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Map [..., embed_dim] to [..., hidden_size]."""
        return self.projector(patches)


def pad_series(
    series: Sequence[Sequence[float]], *, patch_size: int, max_patches: int, to_longest: bool = False
) -> list[torch.Tensor]:
    """Pad series with zeros at their ends to a multiple of the patch size.

    Args:
        series: normalised values.
        patch_size: points of a patch.
        max_patches: most patches that a series may have.
        to_longest: all of them to the length of the longest.

    Returns:
        For each series a float32 tensor of shape [patches * patch size].

    Raises:
        PromptError: if a series is empty, longer than the model's positions, or holds a value that is not finite.
    """
    longest = max((len(values) for values in series), default=0)
    padded = []
    for values in series:
        if not 1 <= len(values) <= max_patches * patch_size:
            raise PromptError(
                f"A series must have 1 to {max_patches * patch_size} points for this model, but one has {len(values)}. "
                "Crop or resample it."
            )
        num_points = longest if to_longest else len(values)
        row = torch.zeros(-(-num_points // patch_size) * patch_size)
        row[: len(values)] = torch.tensor(values, dtype=torch.float32)
        if not torch.isfinite(row).all():
            raise PromptError("A series must hold finite numbers, but one holds NaN or infinity. Drop or fill those points.")
        padded.append(row)
    return padded
