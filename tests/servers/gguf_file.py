"""The tiny Llama of the tests as a GGUF file, so that llama.cpp's server runs the very model that HFEngine runs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.decoding.gguf_file import Vocabulary
from benchmarks.decoding.gguf_file import write_gguf as write

from tests.unit.hf_helpers import BOS, EOS, VOCABULARY


def write_gguf(path: Path, model, *, eos_token_id: int = EOS, chat_template: str | None = None) -> Path:
    """Write a `LlamaForCausalLM` over VOCABULARY, one token per character, in float32."""
    vocabulary = Vocabulary(
        VOCABULARY,
        control=("<s>", "</s>"),
        bos_token_id=BOS,
        eos_token_id=eos_token_id,
        unk_token_id=VOCABULARY.index("."),
        chat_template=chat_template,
    )
    return write(path, model, vocabulary)
