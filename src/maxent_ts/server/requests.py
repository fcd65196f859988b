"""From a request to searches: names are looked up in tables and nowhere else, budgets are bounded, nothing is left open."""

from __future__ import annotations

import inspect
import math
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from maxent_ts.config import check_settings
from maxent_ts.errors import SettingError
from maxent_ts.loading import shared_settings
from maxent_ts.registry import (
    METHODS,
    METHODS_OF_ONE_COMPLETION,
    METHODS_THAT_VOTE,
    METHODS_WITHOUT_REWARD,
    load,
)
from maxent_ts.rewards.base import Reward, other_prompts
from maxent_ts.search.base import SearchFactory
from maxent_ts.search.run import SearchJob
from maxent_ts.server.errors import ApiError
from maxent_ts.server.rewards import RewardTable
from maxent_ts.server.schemas import ChatRequest, CompletionRequest, SearchRequest, SeriesPrompt
from maxent_ts.server.settings import ServerSettings
from maxent_ts.types import Budget, Policy, Prompt, SeriesSegment, TimeSeriesPrompt

__all__ = ["METHODS_NOT_SERVED", "Plan", "plan_searches"]

TAKEN_COLUMNS = frozenset(
    {"prompts", "completions", "completion_ids", "logprobs", "finish_reasons", "trainer_state", "log_extra", "log_metric"}
)
"""What every reward is given; a request's own columns must have other names."""

METHODS_NOT_SERVED: Mapping[str, str] = {
    **dict.fromkeys(sorted(METHODS_THAT_VOTE), "votes on final answers, and nothing here says what those are. Use best_of_n"),
    "exact": "enumerates all there is, which is for tables. Use maxent_sample",
}

MOST_NEXT_TOKENS = 128
"""Next tokens that a search may look at from one prefix: it keeps them for every prefix."""

FIELDS_OF_THEIR_OWN = {"num_return_sequences": "n", "num_rollouts": "num_rollouts", "num_beams": "num_rollouts", "tree": None}
"""Settings of methods that a request gives by other fields, or not at all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The searches of one request, and what its reply needs to know."""

    id: str
    created: int
    """Seconds since 1970."""
    model_name: str
    is_chat: bool
    method: str
    reward: Reward
    reward_name: str | None
    tilt: float
    seed: int
    stop: tuple[str, ...]
    jobs: tuple[SearchJob, ...]
    prompt_indices: tuple[int, ...]
    """For each job the place of its prompt in the request."""
    num_choices: int
    """Completions that each search returns, where it finds as many."""

    def cut(self, text: str) -> str:
        """Return a completion's text up to the first stop string, which OpenAI's replies leave out."""
        ends = [text.find(stop) for stop in self.stop]
        return text[: min((end for end in ends if end >= 0), default=len(text))]


def plan_searches(request: CompletionRequest | ChatRequest, settings: ServerSettings, rewards: RewardTable) -> Plan:
    """Turn a request into searches.

    `sample` returns `n` draws by `n` searches, numbered in the random streams; all other methods return `n` completions of one.

    Raises:
        ApiError: if the model has another name.
        MaxentError: if a name, a setting or a budget is wrong.
    """
    if request.model not in (None, settings.model_name):
        message = f"There is no model '{request.model}' here. This server has '{settings.model_name}'."
        raise ApiError(404, message, "invalid_request_error", param="model", code="model_not_found")
    method, policy = _method_and_policy(request, settings)
    reward = rewards.find(request.reward)
    _check_columns(request, reward)
    n = request.n or 1
    num_rollouts = request.num_rollouts or settings.num_rollouts
    num_searches, num_choices = (n, 1) if method in METHODS_OF_ONE_COMPLETION else (1, n)
    prompts = _prompts(request)
    budget = _budget(request, settings, method, policy, num_rollouts, len(prompts) * num_searches)
    factory = load(METHODS, method, "method")
    own = _settings(request, settings)
    checked = check_settings(
        method, factory, {**shared_settings(factory, num_rollouts=num_rollouts, num_return_sequences=num_choices), **own}
    )
    _check_width(method, factory, checked)
    seed = secrets.randbits(32) if request.seed is None else request.seed
    is_chat = isinstance(request, ChatRequest)
    request_id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
    tilt = settings.tilt if request.tilt is None else request.tilt
    indices = tuple(index for index in range(len(prompts)) for _ in range(num_searches))
    jobs = tuple(
        SearchJob(
            id=f"{request_id}/{number}",
            prompt=prompts[index],
            policy=policy,
            method=partial(factory, **checked),
            tilt=tilt,
            budget=budget,
            seed=(seed, number),
            inputs=request.inputs,
        )
        for number, index in enumerate(indices)
    )
    name = None if request.reward is None else reward.name
    created = int(time.time())
    stop = policy.stop_strings
    return Plan(
        request_id, created, settings.model_name, is_chat, method, reward, name, tilt, seed, stop, jobs, indices, num_choices
    )


def _method_and_policy(request: SearchRequest, settings: ServerSettings) -> tuple[str, Policy]:
    method = request.method or ("sample" if request.reward is None else "maxent")
    temperature = 1.0 if request.temperature is None else request.temperature
    if temperature == 0 and method in METHODS_OF_ONE_COMPLETION:
        method, temperature = "greedy", 1.0
    load(METHODS, method, "method")
    if method in METHODS_NOT_SERVED:
        raise SettingError(f"The method '{method}' {METHODS_NOT_SERVED[method]}.")
    if request.reward is None and method not in METHODS_WITHOUT_REWARD:
        raise SettingError(f'The method \'{method}\' searches for a reward. Name one, such as "reward": "logprob".')
    if method == "greedy" and (request.n or 1) > 1:
        raise SettingError("The method 'greedy' (or temperature 0) has one completion, so n must be 1. Use sample for several.")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    length = request.max_tokens or getattr(request, "max_completion_tokens", None) or settings.max_new_tokens
    return method, Policy(
        max_new_tokens=length,
        temperature=temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        stop_strings=tuple(stop),
        min_p=request.min_p,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        no_repeat_ngram_size=request.no_repeat_ngram_size or 0,
    )


def _check_columns(request: SearchRequest, reward: Reward) -> None:
    taken = sorted((TAKEN_COLUMNS | set(other_prompts(reward))) & set(request.inputs))
    if taken:
        raise SettingError(f"inputs: the column '{taken[0]}' is made by the server. Give yours another name, or leave it out.")


def _budget(
    request: SearchRequest, settings: ServerSettings, method: str, policy: Policy, num_rollouts: int, num_searches: int
) -> Budget:
    """One search's budget. All of a request's together stay below the server's bound, and so do the counts that set memory."""
    length = policy.max_new_tokens
    default = length if method in METHODS_OF_ONE_COMPLETION else num_rollouts * length
    generated = request.max_generated_tokens or default
    bound = settings.max_tokens_per_request
    if max(length, num_rollouts, num_searches * generated) > bound:
        raise SettingError(
            f"This request may generate up to {num_searches * generated} tokens (searches: {num_searches}, budget of each: "
            f"{generated}, num_rollouts: {num_rollouts}, length: {length}), but this server allows {bound} at most, for each of "
            "these numbers too. Lower num_rollouts, max_tokens or n, or give max_generated_tokens."
        )
    return Budget(generated, num_rollouts, request.max_seconds)


def _check_width(method: str, factory: SearchFactory, checked: Mapping[str, Any]) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(factory).parameters.items()}
    for name, field in (("num_beams", "num_rollouts, which is its width,"), ("num_candidates", "settings.num_candidates")):
        width = checked.get(name, defaults.get(name, 0))
        if width is None or width > MOST_NEXT_TOKENS:
            raise SettingError(
                f"The method '{method}' may look at {MOST_NEXT_TOKENS} next tokens here. Give {field} of at most that."
            )


def _settings(request: SearchRequest, settings: ServerSettings) -> Mapping[str, Any]:
    for name, value in request.settings.items():
        if name in FIELDS_OF_THEIR_OWN:
            hint = FIELDS_OF_THEIR_OWN[name]
            raise SettingError(f"settings: '{name}' cannot be set here. {f'Use the field {hint!r}' if hint else 'Leave it out'}.")
        if isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) <= settings.max_tokens_per_request):
            raise SettingError(
                f"settings: '{name}' is {value}, but no number here may be above {settings.max_tokens_per_request}, the most "
                "tokens that a request may generate."
            )
    return request.settings


def _prompts(request: CompletionRequest | ChatRequest) -> list[Prompt]:
    if isinstance(request, ChatRequest):
        messages = [
            {
                "role": one.role,
                "content": one.content if isinstance(one.content, str) else "".join(part.text for part in one.content),
            }
            for one in request.messages
        ]
        return [messages]
    prompt = request.prompt
    if isinstance(prompt, SeriesPrompt):
        series = tuple(SeriesSegment(one.text, tuple(one.values)) for one in prompt.series)
        return [TimeSeriesPrompt(prompt.pre_prompt, series, prompt.post_prompt)]
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return list(prompt)  # type: ignore[arg-type]
