"""Seconds for a sample of OpenTSLM's stages 2 and 3, 10 rollouts of 50 tokens, at the shape of Llama 3.2 1B with random weights.

    OMP_NUM_THREADS=1 python benchmarks/opentslm.py [--shape 1b] [--items 2] [--rounds 1] [--json]

Prompts and series are real (the embedded samples of m4_caption and har_cot), encoder and projector have OpenTSLM's sizes, and no
completion ends early. The sequential baseline is what research scripts do: each rollout by `generate(inputs_embeds=…)`, which has a
cache but prefills the prompt again; without a cache it is extrapolated from two forwards. Ours are whole searches through the
driver, reward included. The variants are interleaved; medians of process CPU seconds, and wall seconds where they were measured.

The tokenizer is the embedded model's: Llama's own would make the texts a little shorter or longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.decoding.shapes import SHAPES, build_model

from maxent_ts.config import make_config
from maxent_ts.engines.hf import HFEngine
from maxent_ts.loading import embedded_model_path
from maxent_ts.models.encoders import EncoderConfig
from maxent_ts.models.softprompt import SoftPromptModel
from maxent_ts.planning import TaskPlan, plan
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy

TASKS = ("m4_caption", "har_cot")
NUM_ROLLOUTS, NUM_TOKENS = 10, 50


def build(shape: str) -> SoftPromptModel:
    """A soft-prompt model of OpenTSLM's sizes around a random language model."""
    language_model = build_model(shape)
    width = int(SHAPES[shape]["hidden_size"])
    config = EncoderConfig(hidden_size=width, bos_before_answer=True, pads_to_longest=True)
    return SoftPromptModel(language_model, AutoTokenizer.from_pretrained(embedded_model_path()), config).eval()


def one_by_one(model: SoftPromptModel, one: TaskPlan, num_items: int) -> float:
    """`generate` from the prompt's embeddings, one rollout measured and counted for all."""
    settings = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS, "do_sample": True, "top_k": 0}
    with torch.inference_mode():
        for example in one.examples[:num_items]:
            embeddings = model.embed(example.prompt)[None]
            mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
            model.language_model.generate(inputs_embeds=embeddings, attention_mask=mask, **settings)
    return NUM_ROLLOUTS


def without_cache(model: SoftPromptModel, one: TaskPlan, num_items: int) -> float:
    """A forward of the shortest and one of the longest sequence stand for all."""
    with torch.inference_mode():
        for example in one.examples[:num_items]:
            embeddings = model.embed(example.prompt)[None]
            for more in (0, NUM_TOKENS):
                longer = torch.cat([embeddings, embeddings[:, :1].expand(-1, more, -1)], dim=1)
                model.language_model(inputs_embeds=longer, use_cache=False)
    return NUM_ROLLOUTS * NUM_TOKENS / 2


def search(engine: HFEngine, name: str, one: TaskPlan, num_items: int) -> float:
    """Whole searches, side by side."""
    method = next(method for config, method in one.methods if config.name == name)
    budget = Budget(NUM_ROLLOUTS * NUM_TOKENS)
    jobs = [
        SearchJob(example.id, example.prompt, Policy(NUM_TOKENS), method, 4.0, budget, (0, index), example.inputs)
        for index, example in enumerate(one.examples[:num_items])
    ]
    for result in run_searches(jobs, engine, one.reward):
        if result.error is not None:
            raise result.error
    return 1.0


def measured(work: Callable[[], float], num_items: int) -> tuple[float, float]:
    """CPU and wall seconds for one sample; `work` returns what they are to be multiplied by."""
    cpu, wall = time.process_time(), time.perf_counter()
    factor = work()
    return factor * (time.process_time() - cpu) / num_items, factor * (time.perf_counter() - wall) / num_items


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    model = build(args.shape)
    methods = [{"name": name} for name in ("best_of_n", "maxent")]
    config = make_config(tasks=TASKS, methods=methods, limit=args.items, num_rollouts=NUM_ROLLOUTS, max_new_tokens=NUM_TOKENS)
    results: list[dict[str, Any]] = []
    for one in plan(config):
        variants: dict[str, Callable[[], float]] = {
            "no cache (extrapolated)": partial(without_cache, model, one, args.items),
            "generate, one by one": partial(one_by_one, model, one, args.items),
        }
        for mode, quantization in (("exact", None), ("rq8", "rq8")):
            for name in ("best_of_n", "maxent"):
                variants[f"{name}, {mode}"] = partial(_fresh_search, model, quantization, name, one, args.items)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for _ in range(args.rounds):
            for name, variant in variants.items():
                found[name].append(measured(variant, args.items) if "," not in name or "generate" in name else variant())  # type: ignore[arg-type]
        base = statistics.median(cpu for cpu, _ in found["generate, one by one"])
        length = int(model.embed(one.examples[0].prompt).shape[0])
        for name, seconds in found.items():
            cpu, wall = (statistics.median(column) for column in zip(*seconds, strict=True))
            results.append(
                {
                    "task": one.task.name,
                    "prompt": length,
                    "variant": name,
                    "cpu_seconds_per_sample": round(cpu, 2),
                    "wall_seconds_per_sample": round(wall, 2),
                    "times_as_fast": round(base / cpu, 2),
                }
            )
            print("  ".join(f"{key}={value}" for key, value in results[-1].items()), flush=True)
    print("for context, as quoted by the project this one began with, on other hardware: 50-75 s a sample before, 5-10 s after")
    if args.json:
        gates = {
            f"{one['task']}: {one['variant']}": {"value": one["times_as_fast"], "goal": None, "ok": True}
            for one in results
            if "exact" in one["variant"] or "rq8" in one["variant"]
        }
        print(json.dumps({"setting": vars(args), "results": results, "gates": gates}))


def _fresh_search(
    model: SoftPromptModel, quantization: str | None, name: str, one: TaskPlan, num_items: int
) -> tuple[float, float]:
    """With an engine that knows nothing yet; making it, and packing its weights, is not counted."""
    engine = HFEngine(model, max_batch_size=32, quantization=quantization)
    return measured(partial(search, engine, name, one, num_items), num_items)


if __name__ == "__main__":
    main()
