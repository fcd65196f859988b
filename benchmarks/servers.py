"""Prompt tokens that a server computes again, as it counts them itself, against what would be ideal.

    python benchmarks/servers.py [--num-slots 1 4] [--prompt 300] [--length 50] [--rollouts 10] [--prompts 4] [--method NAME ...]
    python benchmarks/servers.py --endless --sharpness 3 --prompt 600 --length 200 [--similarity 0]

Starts llama.cpp's own server (the package xllamacpp) over a random tiny Llama and searches several prompts side by side. Ideal
is every prompt once and every token of the tree once, since a server with a perfect cache needs no more. Computed is what
the server says it evaluated of the prompts that it was sent: `usage.prompt_tokens` without `prompt_tokens_details.cached_tokens`,
and the generated tokens but the last. `looks` are requests for a prefix that had been computed before: the server looks at
one token of each all the same, so that `least`, (ideal + looks) / ideal, is the ratio of a perfect cache behind such a server.
`hf` is the ratio of this project's own HFEngine on the same model, which keeps the keys and values of the whole tree.

The random model is nearly undecided about every token and ends a completion after some 25; `--sharpness` multiplies its logits,
and `--endless` takes the end of sequence away.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import TokenReward
from tests.servers.gguf_file import write_gguf
from tests.servers.processes import llama_server
from tests.unit.hf_helpers import EOS, VOCABULARY, tiny_model, tiny_tokenizer

from maxent_ts.engines.base import Engine
from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.engines.openai_replies import read_reply
from maxent_ts.registry import METHODS, load
from maxent_ts.search.run import SearchJob, run_searches
from maxent_ts.types import Budget, Policy, Tokens

AT_ONCE = 32
"""Requests that the engine lets go at once if it is not told otherwise; of llama.cpp's no more than it has slots."""

NEVER = -30.0
"""What an endless model's logit of the end is, times a number near 1."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-slots", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, AT_ONCE])
    parser.add_argument("--prompt", type=int, default=300)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--rollouts", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--method", nargs="+", default=["best_of_n", "maxent", "maxent_sample"])
    parser.add_argument("--endless", action="store_true", help="completions end at their length alone")
    parser.add_argument("--sharpness", type=float, default=1.0, help="factor of the logits")
    parser.add_argument("--similarity", type=float, default=0.1, help="llama.cpp's --slot-prompt-similarity")
    given = parser.parse_args()
    context = given.prompt + given.length + 16
    with tempfile.TemporaryDirectory() as directory:
        model = changed(tiny_model(num_positions=context), given.endless, given.sharpness)
        print(f"entropy of a next token: {entropy(model):.1f} nats")
        path = write_gguf(Path(directory) / "tiny.gguf", model, eos_token_id=EOS)
        own = {name: own_ratio(model, name, given) for name in given.method}
        print("slots  at once  method          requests  ideal  computed  ratio  looks  least     hf")
        for num_slots in given.num_slots:
            for num_at_once in given.at_once:
                for name in given.method:
                    with llama_server(path, num_slots=num_slots, length=context, similarity=given.similarity) as url:
                        found = measured(url, num_at_once, name, given)
                        print(f"{num_slots:5}  {num_at_once:7}  {name:14}  {found}  {own[name]:5.3f}", flush=True)


@torch.no_grad()
def changed(model: Any, is_endless: bool, sharpness: float) -> Any:
    """Make a model surer of its next tokens, and let it end no completion: by a coordinate that no layer changes."""
    model.lm_head.weight *= sharpness
    if is_endless:
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[EOS, 0] = NEVER
    return model


@torch.no_grad()
def entropy(model: Any) -> float:
    """Mean over random prefixes, nats."""
    ids = torch.randint(EOS + 1, len(VOCABULARY), (8, 200), generator=torch.Generator().manual_seed(0))
    return float(torch.distributions.Categorical(logits=model(ids).logits).entropy().mean())


def measured(url: str, num_at_once: int, name: str, given: argparse.Namespace) -> str:
    """Search, and put what the server counted beside the ideal."""
    engine = OpenAIEngine(url, max_concurrent_requests=num_at_once)
    before = engine.stats["requests"]
    looks = count_looks(engine)
    ideal, computed = searched(engine, name, given)
    num_requests = engine.stats["requests"] - before
    engine.shut_down()
    ratio, least = computed / ideal, (ideal + looks[0]) / ideal
    return f"{num_requests:8}  {ideal:5}  {computed:8}  {ratio:5.3f}  {looks[0]:5}  {least:5.3f}"


def count_looks(engine: OpenAIEngine) -> list[int]:
    """Count from now on the requests for prefixes that were computed before, in a list of one number."""
    ask, looks = engine._client.ask, [0]
    computed: dict[int, set[Tokens]] = defaultdict(set)

    async def counted(path: str, body: Any = None, *, group: int = 0, prefix: Tokens = (), **options: Any) -> dict[str, Any]:
        found = await ask(path, body, group=group, prefix=prefix, **options)
        if group:
            looks[0] += prefix in computed[group]
            whole = (*prefix, *(piece.token or 0 for piece in read_reply(found).pieces[:-1]))
            computed[group].update(whole[:i] for i in range(len(whole) + 1))
        return found

    engine._client.ask = counted
    return looks


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
