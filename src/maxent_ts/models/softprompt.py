"""Time series as soft prompts: patches of a series become rows of input embeddings between the rows of text.

The shape is that of OpenTSLM-SoftPrompt (Langer et al., arXiv 2510.02410, section 3): a patch encoder, a projector into
the embedding space of a causal language model, and prompts that interleave text with series. One directory holds both
halves: an ordinary Hugging Face causal language model (`config.json`, `model.safetensors`, `tokenizer.json`, ...), and
beside it `time_series_encoder.json` (sizes) with `time_series_encoder.safetensors` (tensors named `encoder.*` and
`projector.*`, as in OpenTSLM's `encoder_state` and `projector_state`). The embedded model and a user's own model are read
by the same code, which refuses a directory that lacks a tensor, holds one too many, or holds a number that is not finite.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from maxent_ts.errors import ModelError, PromptError
from maxent_ts.types import TimeSeriesPrompt

__all__ = ["EncoderConfig", "Projector", "SoftPromptModel", "TimeSeriesEncoder", "is_softprompt_directory"]

CONFIG_FILE = "time_series_encoder.json"
WEIGHTS_FILE = "time_series_encoder.safetensors"


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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "bos_per_fragment":
                if not isinstance(value, bool):
                    raise ModelError(f"{CONFIG_FILE}: bos_per_fragment must be true or false, but is {value!r}.")
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
        if not isinstance(entries, dict) or set(entries) != names:
            found = sorted(entries) if isinstance(entries, dict) else type(entries).__name__
            raise ModelError(f"{path} should hold exactly the entries {sorted(names)}, but holds {found}.")
        return cls(**entries)


class TimeSeriesEncoder(nn.Module):
    """Patches of a series to vectors: convolution, learned positions, layer norm, transformer encoder (post-norm, GELU)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(1, config.embed_dim, config.patch_size, stride=config.patch_size, bias=False)
        self.pos_embed = nn.Parameter(torch.randn(1, config.max_patches, config.embed_dim) * 0.02)
        self.input_norm = nn.LayerNorm(config.embed_dim)
        layer = nn.TransformerEncoderLayer(
            config.embed_dim, config.num_heads, config.feedforward_dim, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Encode series of one length, which is a multiple of the patch size.

        Args:
            series: float tensor of shape [batch, length].

        Returns:
            Tensor of shape [batch, length / patch size, embed_dim].
        """
        patches = self.patch_embed(series[:, None, :]).transpose(1, 2)
        return self.encoder(self.input_norm(patches + self.pos_embed[:, : patches.shape[1]]))


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


class SoftPromptModel(nn.Module):
    """A causal language model that reads time series.

    Encoder and projector compute in fp32 whatever the language model's dtype, as OpenTSLM does it; their output is cast.
    """

    def __init__(self, language_model: Any, tokenizer: Any, config: EncoderConfig) -> None:
        super().__init__()
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
        self.encoder = TimeSeriesEncoder(config)
        self.projector = Projector(config)

    @classmethod
    def from_directory(cls, path: str | Path, *, dtype: torch.dtype, device: str | torch.device) -> SoftPromptModel:
        """Load both halves and check every tensor. Reads local files only.

        Args:
            path: the model directory.
            dtype: of the language model. Encoder and projector stay in fp32.
            device: where all of it goes.

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
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"The tokenizer in {directory} cannot be read: {error}.") from error
        model = cls(language_model, tokenizer, config)
        halves = nn.ModuleDict({"encoder": model.encoder, "projector": model.projector})
        tensors = read_tensors(directory / WEIGHTS_FILE)
        check_tensors(directory / WEIGHTS_FILE, tensors, {name: value.shape for name, value in halves.state_dict().items()})
        halves.load_state_dict(tensors)
        return model.to(device).eval()

    def save(self, path: str | Path) -> None:
        """Write the directory that `from_directory` reads."""
        directory = Path(path)
        self.language_model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        (directory / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")
        halves = nn.ModuleDict({"encoder": self.encoder, "projector": self.projector})
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in halves.state_dict().items()}, directory / WEIGHTS_FILE
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.pos_embed.device

    def fragment_ids(self, prompt: TimeSeriesPrompt) -> list[list[int]]:
        """Return the token ids of each text fragment: before the series, one for each series, after the series.

        Fragments are tokenised one by one, so no token spans a series. See `EncoderConfig.bos_per_fragment`.
        """
        texts = [prompt.pre_prompt, *(segment.text for segment in prompt.series), prompt.post_prompt]
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        bos = self.tokenizer.bos_token_id
        return [[bos, *fragment] if self.config.bos_per_fragment or index == 0 else fragment for index, fragment in enumerate(ids)]

    def encode_series(self, series: Sequence[Sequence[float]]) -> list[torch.Tensor]:
        """Encode series and project them, each on its own: no series sees another, or the padding that another needs.

        Args:
            series: normalised values; each is padded with zeros at its end to a multiple of the patch size.

        Returns:
            For each series a tensor of shape [ceil(length / patch size), hidden size], in the language model's dtype.

        Raises:
            PromptError: if a series is empty, longer than the model's positions, or holds a value that is not finite.
        """
        size = self.config.patch_size
        groups: dict[int, list[int]] = {}
        for index, values in enumerate(series):
            num_patches = -(-len(values) // size)
            if not 1 <= num_patches <= self.config.max_patches:
                raise PromptError(
                    f"A series must have 1 to {self.config.max_patches * size} points for this model, but one has {len(values)}. "
                    "Crop or resample it."
                )
            groups.setdefault(num_patches, []).append(index)
        rows: list[torch.Tensor] = [torch.empty(0)] * len(series)
        for num_patches, members in groups.items():
            padded = torch.zeros(len(members), num_patches * size)
            for row, index in enumerate(members):
                padded[row, : len(series[index])] = torch.tensor(series[index], dtype=torch.float32)
            if not torch.isfinite(padded).all():
                raise PromptError("A series must hold finite numbers, but one holds NaN or infinity. Drop or fill those points.")
            vectors = self.projector(self.encoder(padded.to(self.device)))
            for index, vector in zip(members, vectors.to(self.language_model.dtype), strict=True):
                rows[index] = vector
        return rows

    def embed(self, prompt: TimeSeriesPrompt) -> torch.Tensor:
        """Turn a prompt into input embeddings.

        The order is emb(pre_prompt), then for each series emb(its text) and its projected patches, then emb(post_prompt).

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


def load_language_model(directory: Path, *, dtype: torch.dtype) -> Any:
    """Load the causal language model of a directory on the CPU, every tensor checked.

    Raises:
        ModelError: as `SoftPromptModel.from_directory`.
    """
    paths = sorted(path for path in directory.glob("*.safetensors") if path.name != WEIGHTS_FILE)
    if not paths:
        raise ModelError(f"{directory} should hold the language model's weights as .safetensors, but holds none.")
    for path in paths:
        check_finite(path, read_tensors(path))
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"The language model in {directory} cannot be loaded: {error}.") from error
    model, report = loaded
    for kind, problem in (("missing_keys", "lacks"), ("unexpected_keys", "holds the unexpected"), ("mismatched_keys", "misshapes")):
        names = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report[kind])
        if names:
            raise ModelError(
                f"{', '.join(path.name for path in paths)} in {directory} {problem} tensor {names[0]} ({len(names)} in all), "
                "so it does not fit config.json. Save the model again, or use the config it was saved with."
            )
    return model


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        ModelError: if it is missing, cut off or corrupt.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} should be a safetensors file, but is missing, cut off or corrupt: {error}.") from error


def check_tensors(path: Path, tensors: dict[str, torch.Tensor], shapes: dict[str, torch.Size]) -> None:
    """Raise ModelError unless a file holds exactly the tensors of these names and shapes, all finite."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelError(f"{path} lacks tensor {name}, which {CONFIG_FILE} asks for.")
        if tensors[name].shape != shape:
            raise ModelError(
                f"{path}: tensor {name} should have shape {list(shape)} by {CONFIG_FILE}, but has {list(tensors[name].shape)}."
            )
    unexpected = sorted(set(tensors) - set(shapes))
    if unexpected:
        raise ModelError(f"{path} holds the unexpected tensor {unexpected[0]}, for which {CONFIG_FILE} leaves no place.")
    check_finite(path, tensors)


def check_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ModelError if a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: tensor {name} holds a number that is not finite. The file is damaged; get it again.")
