"""Time series as soft prompts: patches of a series become rows of input embeddings between the rows of text.

The shape is that of OpenTSLM-SoftPrompt (Langer et al., arXiv 2510.02410, section 3): a patch encoder, a projector into
the embedding space of a causal language model, and prompts that interleave text with series. One directory holds both
halves: an ordinary Hugging Face causal language model (`config.json`, `model.safetensors`, `tokenizer.json`, ...), and
beside it `time_series_encoder.json` (sizes) with `time_series_encoder.safetensors` (tensors named `encoder.*` and
`projector.*`, as in OpenTSLM's `encoder_state` and `projector_state`). The embedded model and a user's own model are read
by the same code, which refuses a directory that lacks a tensor, holds one too many, or holds a number that is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maxent_ts.errors import ModelError, SettingError
from maxent_ts.models.encoders import CONFIG_FILE, EncoderConfig, Projector, TimeSeriesEncoder, pad_series
from maxent_ts.models.files import load_language_model, load_local_tokenizer, load_parts, save_series_model
from maxent_ts.presets import DEFAULT_COMPAT
from maxent_ts.types import TimeSeriesPrompt

__all__ = ["EncoderConfig", "Projector", "SoftPromptModel", "TimeSeriesEncoder", "is_softprompt_directory"]

WEIGHTS_FILE = "time_series_encoder.safetensors"
LEFT_PAD = "gemma-leftpad"
"""A value of `compat`: see `SoftPromptModel.fragment_ids`."""
SOFTPROMPT_COMPAT = (DEFAULT_COMPAT, LEFT_PAD)


class SoftPromptModel(nn.Module):
    """A causal language model that reads time series.

    Encoder and projector compute in fp32 whatever the language model's dtype, as OpenTSLM does it; their output is cast.
    """

    def __init__(self, language_model: Any, tokenizer: Any, config: EncoderConfig, *, compat: str = DEFAULT_COMPAT) -> None:
        """Put the parts together.

        Args:
            language_model: A causal language model of transformers.
            tokenizer: Its tokenizer.
            config: Sizes and rules.
            compat: "upstream", or "gemma-leftpad": see `fragment_ids`.

        Raises:
            ModelError: if the parts do not fit.
            SettingError: if `compat` is anything else.
        """
        super().__init__()
        if compat not in SOFTPROMPT_COMPAT:
            raise SettingError(
                f"compat must be {' or '.join(SOFTPROMPT_COMPAT)} for a soft-prompt model, but is '{compat}'. Leave it out."
            )
        width = language_model.get_input_embeddings().weight.shape[1]
        if width != config.hidden_size:
            raise ModelError(f"{CONFIG_FILE}: hidden_size should equal the language model's {width}, but is {config.hidden_size}.")
        if tokenizer.bos_token_id is None:
            raise ModelError(
                "A soft-prompt model starts its prompts with a beginning-of-sequence token, but its tokenizer has none."
            )
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.config = config
        self.compat = compat
        self.encoder = TimeSeriesEncoder(config)
        self.projector = Projector(config)

    @classmethod
    def from_directory(
        cls, path: str | Path, *, dtype: torch.dtype | str, device: str | torch.device, compat: str = DEFAULT_COMPAT
    ) -> SoftPromptModel:
        """Load both halves and check every tensor. Reads local files only.

        Args:
            path: the model directory.
            dtype: of the language model; "auto" for what it is stored in. Encoder and projector stay in fp32.
            device: where all of it goes.
            compat: see `fragment_ids`.

        Raises:
            ModelError: if a file is missing or unreadable, or a tensor is missing, unexpected, of another shape than the
                config states, or not finite. Names the file and the tensor.
        """
        directory = Path(path)
        if not is_softprompt_directory(directory):
            raise ModelError(
                f"{directory} should be a directory with {CONFIG_FILE} and a language model, but has no {CONFIG_FILE}."
            )
        config = EncoderConfig.from_file(directory / CONFIG_FILE)
        language_model = load_language_model(directory, dtype=dtype)
        model = cls(language_model, load_local_tokenizer(directory), config, compat=compat)
        load_parts(directory / WEIGHTS_FILE, model.halves, CONFIG_FILE)
        return model.to(device).eval()

    def save(self, path: str | Path) -> None:
        """Write the directory that `from_directory` reads."""
        save_series_model(Path(path), self, self.halves, CONFIG_FILE, WEIGHTS_FILE)

    @property
    def halves(self) -> nn.ModuleDict:
        """What reads the series: `encoder` and `projector`."""
        return nn.ModuleDict({"encoder": self.encoder, "projector": self.projector})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.pos_embed.device

    def fragment_ids(self, prompt: TimeSeriesPrompt) -> list[list[int]]:
        """Return the token ids of each text fragment: before the series, one for each series, after the series.

        Fragments are tokenised one by one, so no token spans a series. See `EncoderConfig.bos_per_fragment` and
        `EncoderConfig.bos_before_answer`.

        With `compat="gemma-leftpad"` fragments lose their tails as they do in OpenTSLM's `pad_and_apply_batch` where the
        tokenizer pads on the left: the fragments of a prompt are padded to the longest, and of each the first n positions
        are taken, n being its own length. Of a fragment of n tokens beside a longest of L that leaves the first
        max(0, 2 n - L); the padding in front of them is masked, so the model does not see it. (Upstream it still takes up
        places in the windows of Gemma's sliding layers; here it does not.)
        """
        texts = [prompt.pre_prompt, *(segment.text for segment in prompt.series), prompt.post_prompt]
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        bos = self.tokenizer.bos_token_id
        ids = [[bos, *fragment] if self.config.bos_per_fragment or index == 0 else fragment for index, fragment in enumerate(ids)]
        if self.compat == LEFT_PAD:
            longest = max(len(fragment) for fragment in ids)
            ids = [fragment[: max(0, 2 * len(fragment) - longest)] for fragment in ids]
        if self.config.bos_before_answer:
            ids[-1] = [*ids[-1], bos]
        return ids

    def encode_series(self, series: Sequence[Sequence[float]]) -> list[torch.Tensor]:
        """Encode the series of one prompt and project them: no series sees another.

        Args:
            series: normalised values; each is padded with zeros at its end to a multiple of the patch size, or to the longest
                series (`EncoderConfig.pads_to_longest`).

        Returns:
            For each series a tensor of shape [ceil(length / patch size), hidden size], in the language model's dtype.

        Raises:
            PromptError: if a series is empty, longer than the model's positions, or holds a value that is not finite.
        """
        config = self.config
        padded = pad_series(series, patch_size=config.patch_size, max_patches=config.max_patches, to_longest=config.pads_to_longest)
        groups: dict[int, list[int]] = {}
        for index, values in enumerate(padded):
            groups.setdefault(len(values), []).append(index)
        rows: list[torch.Tensor] = [torch.empty(0)] * len(padded)
        for members in groups.values():
            vectors = self.projector(self.encoder(torch.stack([padded[index] for index in members]).to(self.device)))
            for index, vector in zip(members, vectors.to(self.language_model.dtype), strict=True):
                rows[index] = vector
        return rows

    def embed(self, prompt: TimeSeriesPrompt) -> torch.Tensor:
        """Turn a prompt into input embeddings.

        The order is emb(pre_prompt), then for each series emb(its text) and its projected patches, then emb(post_prompt), then
        what `EncoderConfig.bos_before_answer` adds.

        Returns:
            Tensor of shape [length, hidden size], in the language model's dtype.

        Raises:
            PromptError: see `encode_series`.
        """
        lookup = self.language_model.get_input_embeddings()
        texts = [lookup(torch.tensor(ids, dtype=torch.long, device=self.device)) for ids in self.fragment_ids(prompt)]
        parts = [texts[0]]
        for text, vectors in zip(texts[1:-1], self.encode_series([segment.values for segment in prompt.series]), strict=True):
            parts += [text, vectors]
        return torch.cat([*parts, texts[-1]])


def is_softprompt_directory(path: str | Path) -> bool:
    """Tell whether a path is a directory with a time-series encoder beside its language model."""
    return (Path(path) / CONFIG_FILE).is_file()
