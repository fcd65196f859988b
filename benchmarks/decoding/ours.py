"""This engine at work: seconds up to the first token, seconds of the steps, and bytes of keys and values."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from benchmarks.decoding.shapes import prompt

from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.types import Policy

__all__ = ["Work", "roll_out"]


@dataclass(frozen=True, slots=True)
class Work:
    """One job of rollouts, in process CPU seconds."""

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
    context = engine.open(prompt(round_, length).tolist(), Policy(max_new_tokens=num_new))
    with torch.inference_mode():
        before = engine.stats.held_bytes
        start = time.process_time()
        engine.submit(RolloutJob(context, (), tuple((round_, row) for row in range(rows))))
        finished = engine.step()
        between = time.process_time()
        while not finished:
            finished = engine.step()
        end = time.process_time()
        held = engine.stats.held_bytes - before
    engine.close(context)
    return Work(between - start, end - between, held)
