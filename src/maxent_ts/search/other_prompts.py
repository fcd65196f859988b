"""What the model thinks of a search's completions under other prompts, where the reward asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maxent_ts.engines.base import Engine, ScoreJob
from maxent_ts.errors import SettingError
from maxent_ts.types import Completion, Policy, Prompt, Tokens

__all__ = ["OtherPrompts"]


class OtherPrompts:
    """The other prompts of one search, opened when the first completion is scored under them, and what is known of completions.

    Args:
        engine: Scores; its `capabilities.scores` must hold if there are other prompts.
        prompt: The search's own.
        policy: The rules of sampling, the same under every prompt.
        makers: For each column a function from the prompt to the other one: `maxent_ts.rewards.base.other_prompts`.

    Raises:
        SettingError: if the engine cannot score given tokens.
    """

    def __init__(self, engine: Engine, prompt: Prompt, policy: Policy, makers: Mapping[str, Callable[[Prompt], Prompt]]) -> None:
        if makers and not engine.capabilities.scores:
            raise SettingError(
                f"The reward needs the log-probabilities {', '.join(sorted(makers))}, but this engine cannot score given tokens. "
                "Use an engine that can, such as hf, or leave the reward out."
            )
        self._engine, self._prompt, self._policy, self._makers = engine, prompt, policy, makers
        self._contexts: dict[str, Any] = {}
        self._logprobs: dict[tuple[str, Tokens], float] = {}
        self._asked: list[tuple[str, Tokens]] = []

    def jobs(self, completions: Sequence[Completion]) -> list[ScoreJob]:
        """Return the jobs for what is not yet known of completions."""
        if self._makers and not self._contexts:
            made = {name: make(self._prompt) for name, make in self._makers.items()}
            self._contexts = {name: self._engine.open(prompt, self._policy) for name, prompt in made.items()}
        wanted = dict.fromkeys((name, one.tokens) for one in completions for name in self._makers)
        self._asked = [key for key in wanted if key not in self._logprobs]
        return [ScoreJob(self._contexts[name], tokens) for name, tokens in self._asked]

    def receive(self, answers: Sequence[Sequence[float]]) -> None:
        """Take the answers to the last jobs, in their order."""
        for key, answer in zip(self._asked, answers, strict=True):
            self._logprobs[key] = math.fsum(answer)

    def columns(self, completions: Sequence[Completion]) -> dict[str, tuple[float, ...]]:
        """Return log p of completions under every other prompt, nats; all must have been asked for."""
        return {name: tuple(self._logprobs[name, one.tokens] for one in completions) for name in self._makers}

    def close(self) -> None:
        """Free the contexts."""
        for context in self._contexts.values():
            self._engine.close(context)
        self._contexts = {}
