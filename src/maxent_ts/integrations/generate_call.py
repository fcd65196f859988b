"""What transformers' `generate` was asked for, and what of it a search can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxent_ts.errors import PromptError, SettingError

__all__ = ["check_call", "padding_token"]

OWN_SETTINGS = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""Sampling settings that `search` takes itself, with what transformers fills in where nobody says anything."""

OTHER_SETTINGS = {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
"""Settings that no engine applies, the same way."""

PROCESSORS = frozenset(
    {
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "RepetitionPenaltyLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
    }
)
"""What transformers makes of the settings above."""

CRITERIA = frozenset({"MaxLengthCriteria", "EosTokenCriteria"})


def check_call(
    model: Any, generation_config: Any, logits_processor: Any, stopping_criteria: Any, model_kwargs: Mapping[str, Any]
) -> None:
    """Refuse what would change the model's distribution or its stopping behind the search's back.

    Args:
        model: The model whose `generate` was called; what its own generation config says is not what the caller asked for.
        generation_config: The resolved one.
        logits_processor: What transformers made of it, and what the caller added.
        stopping_criteria: The same.
        model_kwargs: What else would go to the model.

    Raises:
        SettingError: if a sampling setting, a processor, a criterion or an output was asked for that a search does not have.
        PromptError: if the model is no causal language model.
    """
    for name, default in {**OWN_SETTINGS, **OTHER_SETTINGS}.items():
        value = getattr(generation_config, name, None)
        if value not in (default, getattr(model.generation_config, name, None)):
            where = "Give it to search(…) instead." if name in OWN_SETTINGS else "No engine applies it. Leave it out."
            raise SettingError(f"generate() was given {name}={value}, which changes the model's distribution p. {where}")
    if generation_config.eos_token_id != model.generation_config.eos_token_id:
        raise SettingError("generate() was given another eos_token_id than the model's. Set model.generation_config.eos_token_id.")
    other = [type(one).__name__ for one in logits_processor or () if type(one).__name__ not in PROCESSORS]
    other += [type(one).__name__ for one in stopping_criteria or () if type(one).__name__ not in CRITERIA]
    other += [name for name in ("output_scores", "output_logits", "output_attentions") if getattr(generation_config, name, False)]
    other += [name for name in ("pixel_values", "input_features", "inputs_embeds") if model_kwargs.get(name) is not None]
    if other:
        raise SettingError(f"A search cannot do what generate() was asked for: {', '.join(other)}. Leave it out.")
    if model.config.is_encoder_decoder:
        raise PromptError("A search needs a causal language model, but this one has an encoder.")


def padding_token(generation_config: Any, tokenizer: Any) -> int:
    """Return what fills the ends of shorter completions: as in transformers, the end of sequence if there is no padding token."""
    ends = generation_config.eos_token_id
    first = ends[0] if isinstance(ends, (list, tuple)) else ends
    candidates = (generation_config.pad_token_id, getattr(tokenizer, "pad_token_id", None), first)
    return next((one for one in candidates if one is not None), 0)
