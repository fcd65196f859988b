"""How tasks read the answer that a text states."""

from __future__ import annotations

import re

__all__ = ["stated_answer"]

_SPECIAL_TOKENS = re.compile(r"<\|[^<>]*\|>|</?[a-z_]+>")
_AROUND_A_LABEL = " \t\r\n.,!?;:\"'`*"


def stated_answer(text: str) -> str | None:
    """Return what stands behind the last "Answer:", in lower case, without special tokens, quotes and punctuation around it.

    Returns:
        None for a text without "Answer:".
    """
    _, marker, tail = text.rpartition("Answer:")
    return _SPECIAL_TOKENS.sub("", tail).strip(_AROUND_A_LABEL).lower() if marker else None
