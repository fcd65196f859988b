"""A record: what is written down about one search on one item."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, WithJsonSchema, model_validator

__all__ = ["FORMAT", "AnswerScore", "Key", "Number", "Record", "ScoredCompletion", "record_schema"]

FORMAT = 2
"""Of run directories. Those of an older format can be read, and are never written to."""

Key = tuple[str, str, str]
"""(task, label of the variant, example id). A variant has its method's settings, λ, budget and seed; all else that the
record depends on (model, data, rewards, sampling rules) is the run directory's, and all its records share it."""

Number = Annotated[
    float, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]})
]
"""A float. JSON has no numbers for those that are not finite, so they are written as texts."""


class ScoredCompletion(BaseModel):
    """One of a record's completions."""

    model_config = ConfigDict(extra="forbid")

    text: str
    reward: float | None
    logprob: float
    weight: float
    finish_reason: str
    answer: str | None
    num_tokens: int


class AnswerScore(BaseModel):
    """What one scorer makes of the chosen completion."""

    model_config = ConfigDict(extra="forbid")

    answer: str | None
    target: str
    correct: bool


class Record(BaseModel):
    """One search on one item. The completion is the one the method chose; without one, `error` says why."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    task: str
    variant: str
    """What names the search in its run beside task and example: `MethodConfig.label`; the method's name if left out."""
    method: str
    settings: dict[str, Any]
    tilt: Number
    num_rollouts: int | None = None
    """What the budget is made of, together with the next two."""
    max_new_tokens: int | None = None
    max_generated_tokens: int | None = None
    """The budget that the driver kept."""
    example_id: str
    seed: list[int]
    """The seed, and a number that the example's id gives."""
    text: str | None = None
    tokens: list[int] = []
    logprob: Number | None = None
    finish_reason: str | None = None
    reward: Number | None = None
    evidence: dict[str, Any] = {}
    """What the rewards say about the completion: `Reward.explain`."""
    answer: str | None = None
    target: str | None = None
    correct: bool | None = None
    """Whether the run's scorer counts the answer as the target; None for a task without labels."""
    scores: dict[str, AnswerScore] = {}
    """What every scorer that the task has makes of the completion: `clean`, and `upstream`, that of the data's authors. `answer`,
    `answers`, `target` and `correct` are those of the run's scorer."""
    measures: dict[str, Number | None] = {}
    """What the task's own metrics say: its `measures`; None where one does not apply to the item."""
    num_completions: int = 0
    """Distinct completions evaluated. The lists below have an entry for each of them, in order of evaluation."""
    chosen: list[int] = []
    """Those that the method returned, the answer first."""
    texts: list[str] = []
    completion_ids: list[list[int]] = []
    """Tokens."""
    finish_reasons: list[str] = []
    rewards: list[Number | None] = []
    logprobs: list[Number] = []
    other_logprobs: dict[str, list[Number]] = {}
    """log p under other prompts, by column, where the reward asked for it."""
    weights: list[Number] = []
    """The method's estimate of π on them; sums to 1."""
    answers: list[str | None] = []
    """Empty for a task without labels."""
    usage: dict[str, Number] = {}
    trajectory: list[tuple[int, Number]] = []
    """(generated tokens so far, best reward so far)."""
    tree: dict[str, Number] | None = None
    """Size and shape of the search tree: `Tree.statistics`."""
    info: dict[str, Number] = {}
    """Diagnostics: `Outcome.info`."""
    marginals: dict[str, list[Number]] = {}
    """For each final answer [π(answer), low, high], the last two the ends of a 95 % interval: `Outcome.marginals`."""
    error: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_variant(cls, values: Any) -> Any:
        if isinstance(values, dict) and "variant" not in values and "method" in values:
            return {**values, "variant": values["method"]}
        return values

    @property
    def key(self) -> Key:
        """What names this record in its run."""
        return (self.task, self.variant, self.example_id)

    @property
    def generated_tokens(self) -> int:
        """By its search; 0 where none are counted."""
        return int(self.usage.get("generated_tokens", 0))

    @property
    def completions(self) -> list[ScoredCompletion]:
        """All of them, the answer first, then the heaviest first."""
        order = sorted(range(len(self.texts)), key=lambda i: (i != self.chosen[0], -self.weights[i]))
        return [
            ScoredCompletion(
                text=self.texts[i],
                reward=self.rewards[i],
                logprob=self.logprobs[i],
                weight=self.weights[i],
                finish_reason=self.finish_reasons[i],
                answer=self.answers[i] if self.answers else None,
                num_tokens=len(self.completion_ids[i]),
            )
            for i in order
        ]


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a line of samples.jsonl."""
    schema = Record.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": f"maxent-ts records, format {FORMAT}", **schema}
