"""Prompt tokens that a server computes again, as it counts them itself, against what would be ideal.

    python benchmarks/servers.py [--num-slots 1 4] [--prompt 300] [--length 50] [--rollouts 10] [--prompts 4] [--method NAME ...]

Starts llama.cpp's own server (the package xllamacpp) over a random tiny Llama and searches several prompts side by side. Ideal
is every prompt once and every token of the tree once, since a server with a perfect cache needs no more. Computed is what
the server says it evaluated of the prompts that it was sent: `usage.prompt_tokens` without `prompt_tokens_details.cached_tokens`,
and the generated tokens but the last. A server looks at least at one token of every request, cached or not. `hf` is the ratio
of this project's own HFEngine on the same model, which keeps the keys and values of the whole tree.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import TokenReward
from tests.servers.gguf_file import write_gguf
from tests.servers.processes import llama_server
from tests.unit.hf_helpers import tiny_model, tiny_tokenizer

from maxent_ts.engines.base import Engine
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy

AT_ONCE = 32
"""Requests that the engine lets go at once if it is not told otherwise; of llama.cpp's no more than it has slots."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-slots", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--prompt", type=int, default=300)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--rollouts", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--method", nargs="+", default=["best_of_n", "maxent", "maxent_sample"])
    given = parser.parse_args()
    context = given.prompt + given.length + 16
    with tempfile.TemporaryDirectory() as directory:
        model = tiny_model(num_positions=context)
        path = write_gguf(Path(directory) / "tiny.gguf", model, eos_token_id=1)
        own = {name: own_ratio(model, name, given) for name in given.method}
        print("slots  at once  method          requests  ideal  computed  ratio     hf")
        for num_slots in given.num_slots:
            for num_at_once in (1, AT_ONCE):
                for name in given.method:
                    with llama_server(path, num_slots=num_slots, length=context) as url:
                        found = measured(url, num_at_once, name, given)
                        print(f"{num_slots:5}  {num_at_once:7}  {name:14}  {found}  {own[name]:5.3f}", flush=True)


def measured(url: str, num_at_once: int, name: str, given: argparse.Namespace) -> str:
    """Search, and put what the server counted beside the ideal."""
    engine = OpenAIEngine(url, max_concurrent_requests=num_at_once)
    before = engine.stats["requests"]
    ideal, computed = searched(engine, name, given)
    num_requests = engine.stats["requests"] - before
    engine.shut_down()
    return f"{num_requests:8}  {ideal:5}  {computed:8}  {computed / ideal:5.3f}"


def own_ratio(model: Any, name: str, given: argparse.Namespace) -> float:
    """The same for HFEngine."""
    ideal, computed = searched(HFEngine(model, tiny_tokenizer()), name, given)
    return computed / ideal


def searched(engine: Engine, name: str, given: argparse.Namespace) -> tuple[int, int]:
    """Search all prompts; returns the ideal and the computed number of positions."""
    policy = Policy(given.length)
    budget = Budget(generated_tokens=given.rollouts * given.length)
    prompts = [[2 + (17 * i + 5 * j * j) % 27 for j in range(given.prompt)] for i in range(given.prompts)]
    jobs = [SearchJob(str(i), one, policy, load(METHODS, name, "method"), 1.0, budget, (0, i)) for i, one in enumerate(prompts)]
    results = list(run_searches(jobs, engine, TokenReward(lambda tokens: float(sum(token % 3 == 1 for token in tokens)))))
    computed = ideal = 0
    for result in results:
        if result.error is not None or result.outcome is None:
            raise RuntimeError(f"A search failed: {result.error}")
        paths = {one.tokens[:i] for one in result.outcome.completions for i in range(1, len(one.tokens))}
        ideal += given.prompt + len(paths)
        computed += result.usage.forwarded_tokens
    return ideal, computed


if __name__ == "__main__":
    main()
