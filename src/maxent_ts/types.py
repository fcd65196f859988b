"""The values that travel between rooms. Frozen, and free of torch and numpy.

Units, everywhere: log-probabilities in nats, time in seconds, sizes in tokens. `tilt` is λ in π(x) ∝ p(x)·exp(λ r(x)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from maxent_ts.errors import SettingError

if TYPE_CHECKING:
    from maxent_ts.tree import Tree

__all__ = [
    "Branch",
    "Budget",
    "Completion",
    "Embeddings",
    "FinishReason",
    "Marginal",
    "Message",
    "Outcome",
    "Policy",
    "Prompt",
    "Rollout",
    "SeriesSegment",
    "Target",
    "TimeSeriesPrompt",
    "Tokens",
    "TopTokens",
    "Usage",
]

Tokens = tuple[int, ...]
"""Token ids of a continuation: the prompt is never part of it."""

FinishReason = Literal["eos", "stop", "length", "unfinished"]
"""`eos`: ended by the end-of-sequence token (part of the tokens). `stop`: ended by a stop string. `length`: cut at
`max_new_tokens`, which is another event than ending there, and still a leaf. `unfinished`: cut by a request that asked for a
few tokens only; no leaf, and never part of an outcome."""

Message = Mapping[str, str]
"""A chat message with the keys `role` and `content`."""


@dataclass(frozen=True, slots=True)
class SeriesSegment:
    """One time series inside a prompt."""

    text: str
    """What introduces the series, with its mean and standard deviation in the series' own unit."""
    values: tuple[float, ...]
    """What the encoder sees: the normalised series."""


@dataclass(frozen=True, slots=True)
class TimeSeriesPrompt:
    """Text, then series each behind its own text, then text: the prompt of OpenTSLM (arXiv 2510.02410, section 3)."""

    pre_prompt: str
    series: tuple[SeriesSegment, ...]
    post_prompt: str


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A prompt that is already input embeddings."""

    values: Any
    """Array of shape [length, hidden size]: numpy array or torch tensor."""


Prompt = str | Sequence[Message] | Sequence[int] | TimeSeriesPrompt | Embeddings


@dataclass(frozen=True, slots=True)
class Policy:
    """The reference policy p: the model under explicit sampling rules. Whatever is set here IS p, and is recorded."""

    max_new_tokens: int = 50
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop_strings: tuple[str, ...] = ()
    min_p: float | None = None
    """Tokens of less than this share of the most likely one's probability are left out."""
    repetition_penalty: float = 1.0
    """Positive logits of tokens that the prompt or the continuation holds are divided by this, negative ones multiplied."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens comes twice in prompt and continuation; 0 for no such rule."""

    @property
    def has_history(self) -> bool:
        """Whether the rules look at the tokens before."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram_size > 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingError(f"max_new_tokens must be at least 1, but is {self.max_new_tokens}.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SettingError(
                f"temperature must be a finite number above 0, but is {self.temperature}. "
                "For the single most likely token at every step use the method 'greedy'."
            )
        if self.top_k is not None and self.top_k < 1:
            raise SettingError(f"top_k must be at least 1, but is {self.top_k}. Leave it out to keep the whole vocabulary.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SettingError(f"top_p must lie in (0, 1], but is {self.top_p}.")
        if self.min_p is not None and not 0 < self.min_p <= 1:
            raise SettingError(f"min_p must lie in (0, 1], but is {self.min_p}.")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise SettingError(
                f"repetition_penalty must be a finite number above 0, but is {self.repetition_penalty}. 1 is no penalty."
            )
        if self.no_repeat_ngram_size < 0:
            raise SettingError(f"no_repeat_ngram_size must be at least 0, but is {self.no_repeat_ngram_size}. 0 is no such rule.")
        if any(not stop for stop in self.stop_strings):
            raise SettingError("stop_strings holds an empty string, which would stop every completion at once. Remove it.")


@dataclass(frozen=True, slots=True)
class Target:
    """What the search aims at: π(x) = p(x)·exp(tilt · r(x)) / Z over completions of at most `max_new_tokens`."""

    tilt: float = 1.0
    """λ, in 1 / unit of the reward. 0 is the model itself."""
    max_new_tokens: int = 50
    reward_range: tuple[float, float] = (-math.inf, math.inf)
    """Bounds that the reward is known to keep; infinite where unknown. They bracket log Z."""
    has_prefix_rewards: bool = False
    """Whether the reward also scores unfinished completions: `search.base.PrefixRewards`."""
    has_answers: bool = False
    """Whether completions state final answers that can be read: `search.base.Answers`."""
    max_generated_tokens: int | None = None
    """The budget, for methods that must plan to finish what they begin; None where tokens are not bounded."""
    max_rollouts: int | None = None
    """The same in rollouts."""

    def with_tilt(self, tilt: float) -> Target:
        """Return the same target with another λ."""
        return replace(self, tilt=tilt)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tilt) and self.tilt >= 0):
            raise SettingError(f"tilt must be a finite number, at least 0, but is {self.tilt}.")


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the model wrote after a prefix."""

    tokens: Tokens
    """The tokens after the prefix; at least one."""
    logprobs: tuple[float, ...]
    """log p(token | everything before), nats, one each, never renormalised for excluded tokens."""
    finish_reason: FinishReason
    num_generated_tokens: int | None = None
    """Tokens of the model; None: as many as `tokens`, where those are the model's own and not segments of text."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The rollouts from one prefix. Fewer than asked when the budget or the unseen tokens ran out."""

    rollouts: tuple[Rollout, ...]
    log_unseen: float
    """log of the prior mass at the prefix that is neither excluded nor drawn: log ρ(s) afterwards. -inf when all is
    seen; NaN when there are no rollouts because the budget was spent."""
    thrown_away: tuple[int, ...] = ()
    """Of an engine that cannot exclude: the lengths, in tokens of the model, of further rollouts that began with an excluded
    token. They cost what they cost."""


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely next tokens, most likely first."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    """nats under p; empty when the budget was spent."""
    is_end: tuple[bool, ...]
    """Whether the token ends the completion (end-of-sequence)."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished continuation of the prompt."""

    tokens: Tokens
    logprob: float
    """log p(tokens | prompt) in nats; the end-of-sequence token counts."""
    finish_reason: FinishReason
    reward: float | None = None
    text: str = ""
    """Decoded by the driver; without the end-of-sequence token."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds for one search.

    A rollout starts only if the longest completion it can become still fits: `generated_tokens` is never exceeded.
    """

    generated_tokens: int | None = None
    rollouts: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("generated_tokens", "rollouts", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingError(f"The budget's {name} must be above 0, but is {value}. Leave it out for no bound.")


@dataclass(slots=True)
class Usage:
    """What one search has cost, counted by the driver and the engine, never by the method."""

    generated_tokens: int = 0
    """Next-token distributions used to extend a continuation: sampled tokens, and one for each prefix a beam looks at."""
    forwarded_tokens: int = 0
    """Positions that went through the model: prompt, generated tokens, and prefixes computed again."""
    prompt_tokens: int = 0
    rollouts: int = 0
    reward_calls: int = 0
    """Completions that were scored."""
    seconds: float = 0.0
    """Wall time from the first request to the outcome, waiting for batch-mates included."""


@dataclass(frozen=True, slots=True)
class Marginal:
    """An estimated probability under π with a 95 % interval."""

    probability: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search returns."""

    completions: tuple[Completion, ...]
    """Every completion that was evaluated, each once."""
    weights: tuple[float, ...]
    """The method's estimate of π on `completions`; sums to 1."""
    chosen: tuple[int, ...]
    """Indices into `completions`: what is returned, the answer first. Draws may repeat."""
    info: Mapping[str, float] = field(default_factory=dict)
    """Diagnostics: those of the method, such as `log_z_lower` and `log_z_upper`, and two that the driver adds for all. `ess` is
    the effective sample size 1 / Σ w² of the weights, between 1 and the number of completions. `duplicate_rate` is the share
    of the rollouts that wrote a whole completion which an earlier one had written; left out where no rollout did."""
    tree: Tree | None = None
    marginals: Mapping[str, Marginal] = field(default_factory=dict)
    """π(answer) for each final answer, where a method estimates it with an error."""

    @property
    def best(self) -> Completion:
        """The answer: the first chosen completion."""
        return self.completions[self.chosen[0]]

    def _repr_html_(self) -> str:
        """The tree, or else the completions, for notebooks."""
        from maxent_ts.report.notebook import outcome_html

        return outcome_html(self)
