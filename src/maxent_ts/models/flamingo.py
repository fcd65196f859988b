"""OpenTSLM-Flamingo (Langer et al., arXiv 2510.02410, section 3): text sees time series by gated cross-attention.

A patch embedding and a perceiver resampler turn series into media of 64 latents each, and before every decoder layer of a
causal language model a gated cross-attention lets text see them. A directory holds an ordinary Hugging Face language model,
and beside it `time_series_flamingo.json` (sizes) with `time_series_flamingo.safetensors`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maxent_ts.errors import ModelError, PromptError, SettingError
from maxent_ts.models.encoders import PatchEmbedding, pad_series
from maxent_ts.models.files import load_language_model, load_local_tokenizer, load_parts, save_series_model
from maxent_ts.models.flamingo_layers import NUM_LATENTS, GatedCrossAttention, PerceiverResampler
from maxent_ts.models.media import MEDIA, Media
from maxent_ts.presets import DEFAULT_COMPAT
from maxent_ts.types import TimeSeriesPrompt

__all__ = ["FlamingoConfig", "FlamingoModel", "add_media_tokens", "is_flamingo_directory"]

CONFIG_FILE = "time_series_flamingo.json"
WEIGHTS_FILE = "time_series_flamingo.safetensors"
IMAGE, END_OF_CHUNK, PAD = "<image>", "<|endofchunk|>", "<PAD>"
FIXED = "fixed"
FLAMINGO_COMPAT = (DEFAULT_COMPAT, FIXED)


@dataclass(frozen=True, slots=True)
class FlamingoConfig:
    """Sizes of the patch embedding. All others are the language model's, or the same in every checkpoint."""

    max_patches: int = 1024
    patch_size: int = 4
    embed_dim: int = 128

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"{CONFIG_FILE}: {name} must be a whole number of at least 1, but is {value!r}.")

    @classmethod
    def from_file(cls, path: Path) -> FlamingoConfig:
        """Read the sizes from a JSON file.

        Raises:
            ModelError: if the file cannot be read, or lacks, misspells or misuses an entry.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
            raise ModelError(
                f"{path} should hold max_patches, patch_size and embed_dim as JSON, but cannot be read: {error}."
            ) from error


class FlamingoModel(nn.Module):
    """A causal language model whose layers see time series.

    Patch embedding and resampler compute in fp32, cross-attention in the language model's number type.
    """

    def __init__(self, language_model: Any, tokenizer: Any, config: FlamingoConfig, *, compat: str = DEFAULT_COMPAT) -> None:
        """Put the parts together. From then on the language model's layers attend to what `attending` sets.

        Args:
            language_model: A causal language model of transformers, as large as the tokenizer with its media tokens.
            tokenizer: Its tokenizer, with media tokens: see `add_media_tokens`.
            config: Sizes.
            compat: "upstream": the series of a prompt are one medium, and text behind the second series or a later one sees
                all latents alike: so released checkpoints were trained (OpenTSLM issue 54). "fixed": each series is a medium
                of its own, and text sees the one that it follows.

        Raises:
            ModelError: if the tokenizer has no media tokens.
            SettingError: if `compat` is anything else.
        """
        super().__init__()
        if compat not in FLAMINGO_COMPAT:
            raise SettingError(f"compat must be {' or '.join(FLAMINGO_COMPAT)} for a Flamingo model, but is '{compat}'.")
        image = tokenizer.convert_tokens_to_ids(IMAGE)
        if image is None or image == tokenizer.unk_token_id:
            raise ModelError(f"The tokenizer of a Flamingo model must have the token {IMAGE}. Save the tokenizer with the model.")
        width, dtype = language_model.get_input_embeddings().weight.shape[1], language_model.dtype
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.config = config
        self.compat = compat
        self.image_token_id = image
        self.encoder = PatchEmbedding(patch_size=config.patch_size, embed_dim=config.embed_dim, max_patches=config.max_patches)
        self.perceiver = PerceiverResampler(config.embed_dim)
        layers = language_model.get_decoder().layers
        blocks = [GatedCrossAttention(width, config.embed_dim).to(dtype) for _ in layers]
        self.cross_attention = nn.ModuleList(blocks)
        for index, (layer, block) in enumerate(zip(layers, blocks, strict=True)):
            layer.register_forward_pre_hook(partial(_see_media, block, index))

    @classmethod
    def from_directory(
        cls, path: str | Path, *, dtype: torch.dtype | str, device: str | torch.device, compat: str = DEFAULT_COMPAT
    ) -> FlamingoModel:
        """Load all parts and check every tensor. Reads local files only.

        Args:
            path: the model directory.
            dtype: of the language model; "auto" for what it is stored in.
            device: where all of it goes.
            compat: see the constructor.

        Raises:
            ModelError: if a file is missing or unreadable, or a tensor is missing, unexpected, misshaped or not finite.
        """
        directory = Path(path)
        config = FlamingoConfig.from_file(directory / CONFIG_FILE)
        language_model = load_language_model(directory, dtype=dtype)
        model = cls(language_model, load_local_tokenizer(directory), config, compat=compat)
        load_parts(directory / WEIGHTS_FILE, model.series_parts, "config.json and " + CONFIG_FILE)
        return model.to(device).eval()

    def save(self, path: str | Path) -> None:
        """Write the directory that `from_directory` reads."""
        save_series_model(Path(path), self, self.series_parts, CONFIG_FILE, WEIGHTS_FILE)

    @property
    def series_parts(self) -> nn.ModuleDict:
        """All but the language model."""
        return nn.ModuleDict({"encoder": self.encoder, "perceiver": self.perceiver, "cross_attention": self.cross_attention})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.pos_embed.device

    def encode(self, prompt: TimeSeriesPrompt) -> tuple[torch.Tensor, Media | None]:
        """Turn a prompt into tokens and media.

        The text is pre_prompt, then " <image> " and its text and " <|endofchunk|>" for each series, then a space and
        post_prompt. It is tokenised as a whole, with the special tokens that the tokenizer adds by itself.

        Returns:
            Token ids, int64 [length], and the media; None for a prompt without series.

        Raises:
            PromptError: if a text holds the image token, or a series is empty, too long or not finite.
        """
        chunks = "".join(f" {IMAGE} {segment.text} {END_OF_CHUNK}" for segment in prompt.series)
        text = prompt.pre_prompt + chunks + (f" {prompt.post_prompt}" if prompt.post_prompt else "")
        ids = torch.tensor(self.tokenizer(text)["input_ids"], dtype=torch.long, device=self.device)
        times = (ids == self.image_token_id).cumsum(0)
        if int((ids == self.image_token_id).sum()) != len(prompt.series):
            raise PromptError(f"The prompt's texts hold {IMAGE}, which stands for a series and nothing else. Take it out.")
        if not prompt.series:
            return ids, None
        return ids, Media(self.latents([segment.values for segment in prompt.series]), times, self.project)

    def latents(self, series: list[tuple[float, ...]]) -> torch.Tensor:
        """Encode the series of one prompt, padded with zeros to the longest of them.

        Returns:
            float32 tensor of shape [media, 64, embed_dim]: one medium, or with `compat="fixed"` one for each series.

        Raises:
            PromptError: if a series is empty, too long or not finite.
        """
        config = self.config
        padded = pad_series(series, patch_size=config.patch_size, max_patches=config.max_patches, to_longest=True)
        patches = self.encoder(torch.stack(padded).to(self.device))
        return self.perceiver(patches if self.compat == FIXED else patches.flatten(0, 1)[None])

    def project(self, latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Turn latents into the keys and values of every layer: `MediaKeyValues.tensors`."""
        return tuple(tensor for block in self.cross_attention for tensor in block.key_values(latents))  # type: ignore[operator]

    def example_media(self, length: int) -> Media:
        """Media for a made-up prompt of `length` tokens that sees them from its third on, other media for other lengths."""
        generator = torch.Generator().manual_seed(length)
        latents = torch.randn(1, NUM_LATENTS, self.config.embed_dim, generator=generator).to(self.device)
        return Media(latents, (torch.arange(length, device=self.device) >= 2).long(), self.project)


def _see_media(block: GatedCrossAttention, index: int, _layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put cross-attention before a decoder layer."""
    return (block(arguments[0], MEDIA.get(), index), *arguments[1:])


def add_media_tokens(tokenizer: Any) -> None:
    """Add the tokens that OpenTSLM adds, in its order: they take the next free ids."""
    tokenizer.add_special_tokens({"extra_special_tokens": [END_OF_CHUNK, IMAGE]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})


def is_flamingo_directory(path: str | Path) -> bool:
    """Tell whether a path is a directory with Flamingo's layers beside a language model."""
    return (Path(path) / CONFIG_FILE).is_file()
