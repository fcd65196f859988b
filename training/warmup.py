"""Prepare the encoder before the language model sees it: name the activity, and describe the shape of the series.

An encoder step costs a thirtieth of a step of the whole model, and a language model that is given informative patches from
the start learns to read them sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from augment import augment_acceleration, augment_series
from batches import Sampler
from maxent_ts.models.softprompt import SoftPromptModel
from maxent_ts.tasks.opentslm import HAR_LABELS

__all__ = ["describe", "warm_up_encoder"]

NUM_BINS, NUM_SEGMENTS = 24, 8


def describe(series: torch.Tensor) -> torch.Tensor:
    """Return what a caption may speak of: spectrum, course, and the places of the extrema.

    Args:
        series: normalised, shape [batch, length], length at least 2 * NUM_BINS.

    Returns:
        Tensor of shape [batch, NUM_BINS + NUM_SEGMENTS + 4].
    """
    length = series.shape[1]
    spectrum = torch.fft.rfft(series * torch.hann_window(length)).abs()[:, 1 : NUM_BINS + 1] / length
    segments = torch.stack([piece.mean(1) for piece in series.tensor_split(NUM_SEGMENTS, dim=1)], dim=1)
    places = torch.stack([series.argmax(1), series.argmin(1)], dim=1) / length * 2 - 1
    extremes = torch.stack([series.amax(1), series.amin(1)], dim=1) / 3
    return torch.cat([torch.log(spectrum + 0.01) / 2 + 2, segments, places, extremes], dim=1)


def warm_up_encoder(
    model: SoftPromptModel,
    sampler: Sampler,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    average: Callable[[list[nn.Parameter]], None],
) -> None:
    """Train the encoder on descriptions and activities, with heads that are thrown away.

    Args:
        model: whose encoder is trained.
        sampler: source of windows, series and randomness.
        steps: number of updates.
        batch_size: windows or series at each update.
        lr: peak of the learning rate.
        average: replaces gradients by their mean over the workers.
    """
    rng = sampler.rng
    width = model.config.embed_dim
    activity = nn.Linear(3 * width, len(HAR_LABELS))
    description = nn.Linear(width, NUM_BINS + NUM_SEGMENTS + 4)
    parameters = [*model.encoder.parameters(), *activity.parameters(), *description.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    started = time.monotonic()
    for step in range(steps):
        labels = None
        if step % 4 == 3:
            length = int(rng.integers(64, 145))
            pool = [values for _, values in sampler.series if len(values) >= length]
            chosen = [pool[int(rng.integers(len(pool)))] for _ in range(batch_size)]
            starts = [int(rng.integers(0, len(values) - length + 1)) for values in chosen]
            rows = [augment_series(values[at : at + length], rng) for values, at in zip(chosen, starts, strict=True)]
            series = normalise(np.stack(rows))
            series = functional.pad(series, (0, -length % model.config.patch_size))
        else:
            items = [sampler.har[index] for index in rng.integers(len(sampler.har), size=batch_size)]
            windows = [augment_acceleration(np.stack(item[:3]), rng, strength=sampler.strength) for item in items]
            series = normalise(np.concatenate(windows))
            labels = torch.tensor([HAR_LABELS.index(item[3]) for item in items])
        pooled = model.encoder(series).mean(1)
        loss = functional.mse_loss(description(pooled), describe(series)) * 2
        if labels is not None:
            classified = functional.cross_entropy(activity(pooled.reshape(len(labels), -1)), labels)
            loss = loss + classified
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        if step % 50 == 49 and labels is None:
            print(f"encoder {step + 1} {time.monotonic() - started:.0f}s captions' series {loss.item():.3f}", flush=True)
        elif step % 50 == 48 and labels is not None:
            print(f"encoder {step + 1} {time.monotonic() - started:.0f}s {loss.item():.3f} {classified.item():.3f}", flush=True)


def normalise(rows: np.ndarray) -> torch.Tensor:
    """Centre and scale each row as the prompts do it (ddof 1)."""
    spread = np.maximum(rows.std(axis=1, ddof=1, keepdims=True), 1e-6)
    return torch.tensor((rows - rows.mean(axis=1, keepdims=True)) / spread, dtype=torch.float32)
