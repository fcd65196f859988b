"""Decoding speed of the Hugging Face engine next to `transformers.generate`, in one process, on a random tiny Llama.

    OMP_NUM_THREADS=1 python benchmarks/engine.py [--json] [--rounds 3] [--rows 10 32]

Variants: (a) one rollout at a time without a cache, extrapolated from single forwards; (b) `generate` with its cache, one
rollout at a time; (c) `generate(num_return_sequences=rows)`; (engine) this engine, prefill, self-check left out. All sample
at temperature 1 and never stop early. The variants are interleaved; a figure is the median over the rounds, in process CPU
seconds, which a busy machine disturbs less than wall time. Ratios are to (b).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from maxent_ts.engines.base import RolloutJob
from maxent_ts.engines.hf import HFEngine
from maxent_ts.types import Policy

NUM_PROMPT_TOKENS = 300
NUM_NEW_TOKENS = 50
VOCABULARY = 2048


def build_model() -> LlamaForCausalLM:
    """A random Llama of 5.9 million parameters with no end-of-sequence token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def prompt(round_: int) -> torch.Tensor:
    """Another prompt for each round, so that nothing is cached from the last."""
    return torch.randint(VOCABULARY, (NUM_PROMPT_TOKENS,), generator=torch.Generator().manual_seed(round_))


def without_cache(model: LlamaForCausalLM, rows: int, round_: int) -> float:
    """CPU seconds of forwards of the shortest and the longest sequence, averaged, times the number of forwards."""
    ids = prompt(round_)
    longest = torch.cat([ids, ids[:NUM_NEW_TOKENS]])
    with torch.inference_mode():
        total = sum(measured(lambda ids=ids: model(input_ids=ids[None], use_cache=False)) for ids in (ids, longest))
    return total / 2 * rows * NUM_NEW_TOKENS


def generate(model: LlamaForCausalLM, rows: int, round_: int, *, together: bool) -> float:
    """CPU seconds of `generate`."""
    ids = prompt(round_)[None]
    settings = {"max_new_tokens": NUM_NEW_TOKENS, "min_new_tokens": NUM_NEW_TOKENS, "do_sample": True, "top_k": 0}
    mask = torch.ones_like(ids)
    if together:
        return measured(lambda: model.generate(ids, attention_mask=mask, num_return_sequences=rows, **settings))
    # Each is like the others, so some stand for all of them.
    num_measured = min(rows, 4)
    return (
        sum(measured(lambda: model.generate(ids, attention_mask=mask, **settings)) for _ in range(num_measured))
        * rows
        / num_measured
    )


def engine_seconds(engine: HFEngine, rows: int, round_: int) -> float:
    """CPU seconds of this engine, prefill included."""
    context = engine.open(prompt(round_).tolist(), Policy(max_new_tokens=NUM_NEW_TOKENS))

    def work() -> None:
        engine.submit(RolloutJob(context, (), tuple((round_, row) for row in range(rows))))
        while not engine.step():
            pass

    seconds = measured(work)
    engine.close(context)
    return seconds


def measured(work: Callable[[], object]) -> float:
    """Process CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[10, 32])
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    model = build_model()
    results = []
    for rows in args.rows:
        engine = HFEngine(model, max_batch_size=rows)
        variants: dict[str, Callable[[int], float]] = {
            "a: no cache, one at a time (extrapolated)": lambda round_, rows=rows: without_cache(model, rows, round_),
            "b: generate, one at a time": lambda round_, rows=rows: generate(model, rows, round_, together=False),
            "c: generate, num_return_sequences": lambda round_, rows=rows: generate(model, rows, round_, together=True),
            "engine": lambda round_, rows=rows, engine=engine: engine_seconds(engine, rows, round_),
        }
        for variant in variants.values():
            variant(0)
        seconds = {name: [] for name in variants}
        for round_ in range(1, args.rounds + 1):
            for name, variant in variants.items():
                seconds[name].append(variant(round_))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        base = medians["b: generate, one at a time"]
        for name, value in medians.items():
            speed = rows * NUM_NEW_TOKENS / value
            results.append(
                {"rows": rows, "variant": name, "tokens_per_cpu_second": round(speed, 1), "ratio_to_b": round(base / value, 2)}
            )
    if args.json:
        setting = {"prompt_tokens": NUM_PROMPT_TOKENS, "new_tokens": NUM_NEW_TOKENS, "threads": torch.get_num_threads()}
        print(json.dumps({**setting, "rounds": args.rounds, "torch": torch.__version__, "results": results}, indent=2))
        return
    print(
        f"prompt {NUM_PROMPT_TOKENS}, {NUM_NEW_TOKENS} new tokens, fp32, threads: {torch.get_num_threads()}, rounds: {args.rounds}"
    )
    print(f"{'rows':>4}  {'variant':<42} {'tokens / CPU s':>14} {'ratio to b':>10}")
    for result in results:
        print(f"{result['rows']:>4}  {result['variant']:<42} {result['tokens_per_cpu_second']:>14} {result['ratio_to_b']:>10}")


if __name__ == "__main__":
    main()
