"""What requests may hold: OpenAI's parameters under OpenAI's names, and those of searches beside them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ChatMessage", "ChatRequest", "CompletionRequest", "SearchRequest", "SeriesPrompt", "StreamOptions"]

MOST_CHOICES = 128
MOST_STOPS = 16
LARGEST_SEED = 2**63 - 1

NOT_SERVED = {
    "audio": "completions are text",
    "best_of": "choose a method: best_of_n with num_rollouts",
    "echo": "replies hold completions alone",
    "frequency_penalty": "use repetition_penalty, which is part of p here",
    "function_call": "there are no tools here",
    "functions": "there are no tools here",
    "logit_bias": "p is the model under its sampling rules; a reward is the way to prefer tokens",
    "logprobs": "log-probabilities are told of whole completions, under maxent.logprob of each choice",
    "parallel_tool_calls": "there are no tools here",
    "presence_penalty": "use repetition_penalty, which is part of p here",
    "response_format": "completions are free text",
    "suffix": "completions only continue the prompt",
    "tool_choice": "there are no tools here",
    "tools": "there are no tools here",
    "top_logprobs": "log-probabilities are told of whole completions, under maxent.logprob of each choice",
}
"""Parameters of OpenAI's that mean something which is not done here. Without effect (null, false, 0, empty) they may be sent."""

Scalar = bool | int | float | str | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """How to stream."""

    include_usage: bool = False
    """Whether a last chunk holds the usage."""


class Segment(_Strict):
    """One series of a prompt: `maxent_ts.SeriesSegment`."""

    text: str
    values: list[float] = Field(min_length=1)


class SeriesPrompt(_Strict):
    """A prompt of text and series, for models that take them: `maxent_ts.TimeSeriesPrompt`."""

    pre_prompt: str
    series: list[Segment] = Field(min_length=1)
    post_prompt: str


class SearchRequest(_Strict):
    """What both kinds of requests share."""

    model: str | None = Field(default=None, description="The served model's name; may be left out.")
    max_tokens: int | None = Field(default=None, ge=1, description="Length of a completion at most, in tokens.")
    temperature: Literal[0] | Annotated[float, Field(ge=0.001, le=1000)] | None = Field(
        default=None, description="Of p. 0 is the method greedy."
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="Of p.")
    top_k: int | None = Field(default=None, ge=1, description="Of p.")
    min_p: float | None = Field(default=None, gt=0, le=1, description="Of p.")
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100, description="Of p, as in transformers.")
    no_repeat_ngram_size: int | None = Field(default=None, ge=0, description="Of p, as in transformers.")
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES, description="Completions to return.")
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED, description="Same seed, same reply. Without one: at random.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="Taken, and not used.")

    method: str | None = Field(
        default=None, description="A name of `maxent-ts list methods`. Default: maxent with a reward, else sample."
    )
    reward: str | dict[str, float] | None = Field(default=None, description="A reward's name, or names with weights.")
    tilt: float | None = Field(default=None, ge=0, le=1e6, description="λ in p(x)·exp(λ r(x)).")
    num_rollouts: int | None = Field(default=None, ge=1, description="Completions that one search may start.")
    max_generated_tokens: int | None = Field(
        default=None, ge=1, description="Budget of one search. Default: num_rollouts × max_tokens."
    )
    max_seconds: float | None = Field(default=None, gt=0, description="Wall time of one search, which then returns what it has.")
    settings: dict[str, Scalar] = Field(default_factory=dict, description="Further settings of the method.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="Columns that the reward reads, such as series.")

    @model_validator(mode="before")
    @classmethod
    def _without_what_has_no_effect(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        try:
            json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError("it must hold finite numbers, texts of valid Unicode, and no endless nesting") from error
        for name in NOT_SERVED.keys() & values.keys():
            if values[name] not in (None, False, 0, [], {}):
                raise ValueError(f"'{name}' is not served: {NOT_SERVED[name]}. Leave it out")
        return {name: value for name, value in values.items() if name not in NOT_SERVED}


class CompletionRequest(SearchRequest):
    """The body of `POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]], Field(min_length=1)]
        | SeriesPrompt
    ) = Field(description="Text, token ids, a list of either, or text with series.")


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]


class ChatRequest(SearchRequest):
    """The body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, description="OpenAI's other name of max_tokens.")

    @model_validator(mode="after")
    def _one_length(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens are two names of one thing, and differ. Give one of them")
        return self
