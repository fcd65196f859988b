r"""A model class for EleutherAI's evaluation harness, lm-eval: its tasks, our searches.

    python -m maxent_ts.integrations.lm_eval run --model maxent-ts --tasks gsm8k \
        --model_args pretrained=ID,method=maxent,reward=my.py:reward,tilt=2

lm-eval finds models that are not its own only after they are imported, which is what this module's command does before it hands
over to lm-eval's. In Python: import this module, then `lm_eval.simple_evaluate(model="maxent-ts", model_args=…)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text

from maxent_ts.config import check_settings
from maxent_ts.engines.base import Engine
from maxent_ts.engines.hf import HFEngine
from maxent_ts.errors import MaxentError, SettingError
from maxent_ts.loading import load_named, shared_settings
from maxent_ts.registry import METHODS
from maxent_ts.rewards.base import prefix_function
from maxent_ts.rewards.combine import load_reward
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy, Usage

__all__ = ["MaxentLM", "main"]


_HFLM: Any = HFLM  # its decorator hides its members from type checkers


@register_model("maxent-ts")
class MaxentLM(_HFLM):
    """lm-eval's own transformers model, whose `generate_until` searches.

    All else, log-likelihoods and chat templates among it, is lm-eval's. Its weights are used as they are.

    The reference policy p has the temperature given here. A task that samples (`do_sample: true`) sets temperature, top-k and
    top-p itself; a task that decodes greedily has nothing to say about p.

    Args:
        pretrained: Hub id, directory, or a transformers model.
        method: A name of `maxent-ts list methods`.
        reward: Name, "file.py:function" or "module:function". It sees the context as text, as `prompts`.
        tilt: λ, in 1 / unit of the reward.
        num_rollouts: Completions that may be started for each request.
        temperature: Of p.
        search_batch_size: Most rollouts that decode at once; `batch_size` is for log-likelihoods.
        seed: Same seed, same completions, where the engine can promise it.
        kwargs: Settings of the method, such as `exploration`, and whatever `HFLM` takes.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        method: str = "maxent",
        reward: str = "logprob",
        tilt: float = 1.0,
        num_rollouts: int = 10,
        temperature: float = 1.0,
        search_batch_size: int = 32,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        factory = load_named(METHODS, method, "method")
        own = [name for name, one in inspect.signature(factory).parameters.items() if one.kind is one.KEYWORD_ONLY]
        settings = {name: kwargs.pop(name) for name in own if name in kwargs}
        self._method = partial(
            factory, **check_settings(method, factory, {**shared_settings(factory, num_rollouts=num_rollouts), **settings})
        )
        self._reward = load_reward(reward)
        self._tilt, self._temperature, self._seed = float(tilt), float(temperature), int(seed)
        self._budget = Budget(rollouts=int(num_rollouts))
        super().__init__(pretrained, **kwargs)
        if self.backend != "causal":
            raise SettingError("A search needs a causal language model, but this one has an encoder. Use lm-eval's --model hf.")
        engine = HFEngine(self.model, self.tokenizer, dtype="auto", max_batch_size=int(search_batch_size))
        self._engine = cast(Engine, engine)
        self.usages: list[Usage] = []
        """What each search cost, in the order of the requests."""

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answer of one search for each request; contexts that are too long lose their beginning, as in `HFLM`.

        Args:
            requests: lm-eval's instances; `args` is the context and its generation settings.
            disable_tqdm: No progress bar; there is none in any case.

        Raises:
            SettingError: if a task asks for something that no engine applies.
            MaxentError: whatever ended a search.
        """
        del disable_tqdm
        jobs, ends = [], []
        for index, request in enumerate(requests):
            context, settings = request.args
            length, stops, policy = self._policy(dict(settings))
            ids = self.tok_encode(context, left_truncate_len=self.max_length - length)
            jobs.append(
                SearchJob(
                    str(index), ids, policy, self._method, self._tilt, self._budget, (self._seed, index), {"contexts": context}
                )
            )
            ends.append(stops)
        found = {
            result.job.id: result for result in run_searches(jobs, self._engine, _WithContexts(self._reward), max_concurrent=16)
        }
        self.usages = [found[job.id].usage for job in jobs]
        texts = []
        for request, job, stops in zip(requests, jobs, ends, strict=True):
            result = found[job.id]
            if result.error is not None:
                raise result.error
            assert result.outcome is not None
            end = self.think_end_token if isinstance(self.think_end_token, str) else None
            texts.append(postprocess_generated_text(generation=result.outcome.best.text, stop=stops, think_end_token=end))
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        return texts

    def _policy(self, settings: dict[str, Any]) -> tuple[int, list[str], Policy]:
        """Return the length, the stop strings and p of one request."""
        length = int(settings.pop("max_gen_toks", settings.pop("max_new_tokens", self.max_gen_toks)))
        stops = [stop for stop in handle_stop_sequences(settings.pop("until", None), eos=None) if stop]
        samples = bool(settings.pop("do_sample", False)) and float(settings.get("temperature") or 1.0) > 0
        sampling = {name: settings.pop(name, None) for name in ("temperature", "top_k", "top_p")}
        if settings:
            raise SettingError(
                f"The task sets {', '.join(sorted(settings))} for generation, which changes the model's distribution in a way "
                "that no engine applies. Override it with --gen_kwargs, or use lm-eval's --model hf."
            )
        if not samples:
            sampling = {"temperature": None, "top_k": None, "top_p": None}
        policy = Policy(
            length,
            float(sampling["temperature"] or self._temperature),
            int(sampling["top_k"]) if sampling["top_k"] else None,
            float(sampling["top_p"]) if sampling["top_p"] else None,
            tuple(stops),
        )
        return length, stops, policy


class _WithContexts:
    """A reward that sees the contexts' texts in place of their ids."""

    def __init__(self, reward: Any) -> None:
        self.name, self.range, self._reward = reward.name, reward.range, reward
        prefix = prefix_function(reward)
        self.prefix = prefix and (lambda *, prompts, contexts, **columns: prefix(prompts=contexts, **columns))  # noqa: ARG005

    def __call__(self, *, prompts: list[Any], contexts: list[str], **columns: Any) -> list[float | None]:
        del prompts
        return self._reward(prompts=contexts, **columns)

    def explain(self, *, prompts: list[Any], contexts: list[str], **columns: Any) -> list[Mapping[str, Any]]:
        del prompts
        return self._reward.explain(prompts=contexts, **columns)


def main() -> None:
    """Run lm-eval's command line, which now knows the model."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except MaxentError as error:
        raise SystemExit(f"Error: {error}") from error


if __name__ == "__main__":
    main()
