"""Training samples, and the padded batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from augment import augment_acceleration, augment_series
from data import HarItem, SeriesItem, har_training, m4_training
from maxent_ts.models.softprompt import SoftPromptModel
from maxent_ts.tasks.opentslm import HAR_LABELS, har_prompt, m4_prompt
from maxent_ts.types import TimeSeriesPrompt
from writer import write_caption, write_rationale

__all__ = ["Batch", "Sample", "Sampler", "collate"]

ANSWER = "Answer:"
SHORT, LONG = (64, 144), (64, 512)
"""Ranges of crop lengths, in points: monthly series end at 144."""


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model should write after it."""

    prompt: TimeSeriesPrompt
    text: str
    label: int
    """Index into HAR_LABELS; -1 for captions."""
    measurements: str
    """What a training row goes on with after the end-of-sequence token. See `collate`."""


@dataclass(frozen=True)
class Batch:
    """Rows of [prompt without its shared head, answer, padding]; padding comes last, so causal attention never sees it."""

    head: torch.Tensor
    """Token ids that every row starts with, shape [head length]."""
    ids: torch.Tensor
    """Shape [rows, length]; where `is_patch`, a placeholder."""
    is_patch: torch.Tensor
    series: torch.Tensor
    """Shape [number of series, points], in the order in which `is_patch` meets them."""
    predicts: torch.Tensor
    """Row of each scored token, and its place in that row's answer, shape [n, 2]."""
    targets: torch.Tensor
    """The scored tokens, shape [n]."""
    weights: torch.Tensor
    labels: torch.Tensor
    """Shape [rows]."""
    prompt_ends: torch.Tensor
    """Column of each row's last prompt position."""
    longest_answer: int


class Sampler:
    """Draws samples with random changes to the series and a wording of its own each time."""

    def __init__(self, shared_dir: Path, *, all_subjects: bool, strength: float, seed: int | list[int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.strength = strength
        self.har: list[HarItem] = har_training(shared_dir) + (har_training(shared_dir, validation=True) if all_subjects else [])
        self.series: list[SeriesItem] = m4_training(shared_dir, num_crops=4)
        self._order: list[int] = []

    def har_samples(self, num: int) -> list[Sample]:
        """Draw windows epoch by epoch, each once before any comes again."""
        samples = []
        for _ in range(num):
            if not self._order:
                self._order = self.rng.permutation(len(self.har)).tolist()
            x, y, z, label = self.har[self._order.pop()]
            axes = np.stack([x, y, z])
            if self.rng.random() < 0.8:
                axes = augment_acceleration(axes, self.rng, strength=self.strength)
            samples.append(self.har_sample(axes, label))
        return samples

    def har_sample(self, axes: np.ndarray, label: str) -> Sample:
        """Make the sample of one window, m/s², shape [3, length]."""
        text = write_rationale(dict(zip(("x", "y", "z"), axes, strict=True)), label, self.rng)
        order = self.rng.permutation(3).tolist()
        numbers = [f" {'xyz'[row]} mean {axes[row].mean():.1f} std {axes[row].std(ddof=1):.1f}" for row in order]
        return Sample(har_prompt(*axes), text, HAR_LABELS.index(label), ",".join(numbers))

    def caption_samples(self, num: int) -> list[Sample]:
        """Draw series that are cropped to one length, so that a batch is encoded at once."""
        low, high = SHORT if self.rng.random() < 0.5 else LONG
        length = int(self.rng.integers(low, high + 1))
        pool = [values for _, values in self.series if len(values) >= length]
        while not pool:
            length = length * 3 // 4
            pool = [values for _, values in self.series if len(values) >= length]
        samples = []
        for _ in range(num):
            values = pool[int(self.rng.integers(len(pool)))]
            start = int(self.rng.integers(0, len(values) - length + 1))
            samples.append(self.caption_sample(augment_series(values[start : start + length], self.rng)))
        return samples

    def caption_sample(self, values: np.ndarray) -> Sample:
        """Make the sample of one series."""
        names = ("mean", "std", "minimum", "maximum")
        numbers = (values.mean(), values.std(ddof=1), values.min(), values.max())
        places = {"highest": values.argmax(), "lowest": values.argmin()}
        facts = [f" {name} {significant(number)}" for name, number in zip(names, numbers, strict=True)]
        facts += [f" {name} {round(20 * place / (len(values) - 1)) * 5}%" for name, place in places.items()]
        order = self.rng.permutation(len(facts)).tolist()
        return Sample(m4_prompt(values), write_caption(values, self.rng), -1, ",".join(facts[index] for index in order))


def significant(number: float) -> str:
    """Write a number with three significant digits and no exponent."""
    rounded = float(f"{number:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 100 else f"{rounded:g}" if abs(rounded) >= 1e-4 else "0"


def collate(model: SoftPromptModel, samples: Sequence[Sample], *, answer_weight: float) -> Batch:
    """Build a batch of samples whose prompts share the pre-prompt and whose series have one length.

    The head is the pre-prompt with BOS: one forward pass serves all rows. After the end-of-sequence token a row goes on with
    measurements of the series. No completion ever reaches them; they teach the model to read and copy numbers, of which a
    written text holds only two or three.

    Args:
        model: whose tokenizer and sizes are used.
        samples: one task at a time.
        answer_weight: weight of the label's tokens in the loss; every other token has 1.
    """
    tokenizer: PreTrainedTokenizerFast = model.tokenizer
    size = model.config.patch_size
    fragments = [model.fragment_ids(sample.prompt) for sample in samples]
    rows: list[list[int]] = []
    predicts, targets, weights, ends, series = [], [], [], [], []
    for row, (sample, (_, *texts, post)) in enumerate(zip(samples, fragments, strict=True)):
        ids: list[int] = []
        for text, segment in zip(texts, sample.prompt.series, strict=True):
            num_patches = -(-len(segment.values) // size)
            ids += text + [-1] * num_patches
            series.append(np.pad(segment.values, (0, num_patches * size - len(segment.values))))
        ids += post
        written, answer = encode_answer(tokenizer, sample.text)
        written += tokenizer.encode(sample.measurements, add_special_tokens=False)
        ends.append(len(ids) - 1)
        for offset, token in enumerate(written):
            predicts.append((row, offset))
            targets.append(token)
            weights.append(answer_weight if offset in answer else 1.0)
        rows.append(ids + written[:-1])
    length = max(len(ids) for ids in rows)
    table = torch.full((len(rows), length), tokenizer.pad_token_id, dtype=torch.long)
    for row, ids in enumerate(rows):
        table[row, : len(ids)] = torch.tensor(ids)
    is_patch = table < 0
    return Batch(
        head=torch.tensor(fragments[0][0]),
        ids=table.masked_fill(is_patch, 0),
        is_patch=is_patch,
        series=torch.tensor(np.stack(series), dtype=torch.float32),
        predicts=torch.tensor(predicts),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights),
        labels=torch.tensor([sample.label for sample in samples]),
        prompt_ends=torch.tensor(ends),
        longest_answer=1 + max(offset for _, offset in predicts),
    )


def encode_answer(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], range]:
    """Return the tokens of a text with a leading space and EOS, and which of them are the label after "Answer:"."""
    head, found, label = (" " + text).rpartition(ANSWER)
    if not found:
        ids = tokenizer.encode(" " + text, add_special_tokens=False)
        return [*ids, tokenizer.eos_token_id], range(0)
    before = tokenizer.encode(head + found, add_special_tokens=False)
    after = tokenizer.encode(label, add_special_tokens=False)
    return [*before, *after, tokenizer.eos_token_id], range(len(before), len(before) + len(after))
