"""This engine at work: seconds up to the first token, seconds of the steps, and bytes of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from benchmarks.decoding.clock import now
from benchmarks.decoding.shapes import prompt

from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.types import Policy

__all__ = ["Work", "roll_out"]


@dataclass(frozen=True, slots=True)
class Work:
    """One job of rollouts, in seconds: see `clock`."""

    first: float
    """Prefill, and the first step."""
    steps: float
    """The steps behind it."""
    held_bytes: int
    """Keys and values held when the job is done: the prompt's, and those of all continuations."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.first + self.steps


def roll_out(engine: HFEngine, rows: int, round_: int, length: int, num_new: int) -> Work:
    """Put a prompt of ids through the engine, and `rows` rollouts behind it."""
    device = torch.device(engine.identity["device"])
    context = engine.open(prompt(round_, length).tolist(), Policy(max_new_tokens=num_new))
    with torch.inference_mode():
        before = engine.stats.held_bytes
        start = now(device)
        engine.submit(RolloutJob(context, (), tuple((round_, row) for row in range(rows))))
        finished = engine.step()
        between = now(device)
        while not finished:
            finished = engine.step()
        end = now(device)
        held = engine.stats.held_bytes - before
    engine.close(context)
    return Work(between - start, end - between, held)
