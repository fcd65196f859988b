"""A prompt opened by the Hugging Face engine, and a job under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from maxent_ts.engines.base import Job
from maxent_ts.engines.cache import Segment
from maxent_ts.engines.sampler import log_probabilities
from maxent_ts.errors import EngineError
from maxent_ts.types import Policy, Rollout, Tokens

__all__ = ["HFContext", "Task", "distribution", "not_finite"]


@dataclass(eq=False)
class HFContext:
    """A prompt as the model takes it, under a policy."""

    policy: Policy
    inputs: torch.Tensor
    """Token ids [length], or input embeddings [length, hidden size]."""
    key: bytes
    """SHA-256 of the inputs: contexts with the same prompt share its keys and values."""
    root: Segment = field(default_factory=Segment)
    is_charged: bool = False
    """Whether a job of this context has been charged for the prompt."""
    is_open: bool = True

    @property
    def num_prompt_tokens(self) -> int:
        """Positions of the prompt."""
        return len(self.inputs)

    @cached_property
    def prompt_ids(self) -> list[int]:
        """The prompt's token ids; none for a prompt of embeddings."""
        return self.inputs.tolist() if self.inputs.ndim == 1 else []


@dataclass(eq=False, slots=True)
class Task:
    """A job and how far it is."""

    ticket: int
    job: Job
    rollouts: list[Rollout | None] = field(default_factory=list)
    log_unseen: float = 0.0
    num_open: int = 0
    num_forwarded: int = 0


def distribution(logits: torch.Tensor, task: Task) -> np.ndarray:
    """Log p of every token after a job's prefix: float64 [vocabulary], all NaN if the logits are not finite."""
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    context = task.job.context
    histories = [[*context.prompt_ids, *task.job.prefix]] if context.policy.has_history else None
    return log_probabilities(logits[None], context.policy, histories)[0].cpu().numpy()


def not_finite(tokens: Tokens) -> EngineError:
    """Return the error of a job whose logits after `tokens` hold NaN or infinity."""
    return EngineError(
        f"The model returned logits that are not finite after {len(tokens)} tokens of the continuation. Its weights may be "
        "damaged, or its numbers overflow: try dtype='float32', or 'bfloat16' in place of 'float16'."
    )
