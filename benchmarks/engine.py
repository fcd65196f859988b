"""Decoding speed of the Hugging Face engine next to the other ways to decode, in one process, on random weights.

    OMP_NUM_THREADS=1 python benchmarks/engine.py [--shape tiny|135m|1b] [--rollouts 10 32] [--prompt 300] [--json]
    python benchmarks/engine.py --device cuda --dtype bfloat16 [...]

(a) one rollout at a time without a cache, extrapolated from two forwards; (b) `generate` with its cache, one rollout at a time;
(c) `generate(num_return_sequences=…)`; (d) transformers' continuous batching; (e) a plain batched loop behind one prefill;
where llama-cpp-python and gguf are installed, (g) llama.cpp at Q8_0 and Q4_0; and this engine, exact and with rq8. All draw at
temperature 1 and never stop early; prefill and sampling are included, the engine's self-check at its making is not. The
variants are interleaved, another prompt for each round, and a figure is the median over the rounds, in process CPU seconds,
which a busy machine disturbs less than wall time; on a GPU in wall seconds, when the device is done.

Sections: `speed` as above; `long` compares the decoding step behind a prompt of 3000 with (e)'s; `memory` counts the bytes of
keys and values; `overhead` is the share of the time that the model's own forward does not take; `seed` is 30 rollouts of 250
tokens against (a); `threads` compares one and two threads by wall time.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.decoding import baselines, llamacpp
from benchmarks.decoding.clock import now
from benchmarks.decoding.ours import roll_out
from benchmarks.decoding.roofline import roofline
from benchmarks.decoding.shapes import SHAPES, build_model

from maxent_ts.engines.hf import HFEngine
from maxent_ts.engines.kernels import kernels_status
from maxent_ts.fingerprint import hardware

SECTIONS = ("speed", "long", "memory", "overhead", "seed", "threads")
EXACT_RQ8 = "rq8 with exact log-probabilities"
LONG_PROMPT, LONG_STEPS = 3000, 12
SEED_ROLLOUTS, SEED_TOKENS = 30, 250

GOALS: Mapping[str, Mapping[str, float]] = {
    "135m": {
        "exact / b, 10 rollouts": 5, "exact / b, 32 rollouts": 10, "rq8 / b, 10 rollouts": 14, "rq8 / b, 32 rollouts": 22,
        "rq8 / c, 10 rollouts": 6, "rq8 / d, 10 rollouts": 3.5, "rq8 / e, 10 rollouts": 3, "rq8 / e, 32 rollouts": 3,
        "rq8 / g Q8_0, 10 rollouts": 1.8, "rq8 / g Q8_0, 32 rollouts": 1.8, "rq8 / g Q4_0, 10 rollouts": 1.4,
        "rq8 / g Q4_0, 32 rollouts": 1.4, "step behind 3000, 10 rollouts": 1.8, "step behind 3000, 32 rollouts": 3,
        "30 x 250 / a": 250, "two threads": 1.6,
    },
    "1b": {"rq8 / b, 10 rollouts": 16, "rq8 / c, 10 rollouts": 5},
}  # fmt: skip
"""Ratios of speed that are aimed at, by shape. Others are shown without one."""
MOST_OVERHEAD = 0.10
"""Share of the time that may pass outside the model's forward."""
MOST_BYTES = 1.10
"""Bytes of keys and values, as a multiple of those of the prompt and of each continuation's own tokens."""


class Bench:
    """One shape, its engines, and what was measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model = build_model(args.shape, getattr(torch, args.dtype), args.device)
        self.settings: dict[str, dict[str, Any]] = {"exact": {}}
        if self.model.device.type == "cpu" and args.dtype == "float32":
            self.settings |= {"rq8": {"quantization": "rq8"}, EXACT_RQ8: {"quantization": "rq8", "exact_logprobs": True}}
        self.unit = "tokens_per_cpu_second" if self.model.device.type == "cpu" else "tokens_per_second"
        self.results: list[dict[str, Any]] = []
        self.gates: dict[str, dict[str, Any]] = {}

    def engine(self, rows: int, mode: str) -> HFEngine:
        """One whose store holds nothing but the job under way."""
        return HFEngine(self.model, dtype="auto", max_batch_size=rows, kv_cache_gib=4.0, **self.settings[mode])

    def gate(self, name: str, value: float, *, at_most: float | None = None) -> None:
        """Note a figure next to what it should be."""
        goal = at_most if at_most is not None else GOALS.get(self.args.shape, {}).get(name)
        is_met = goal is None or (value <= goal if at_most is not None else value >= goal)
        self.gates[name] = {"value": round(value, 2), "goal": goal, "ok": is_met}

    def speed(self) -> None:
        """The variants side by side."""
        length, num_new = self.args.prompt, self.args.new_tokens
        for rows in self.args.rollouts:
            variants: dict[str, Callable[[int], float]] = {
                "a: no cache, one at a time (extrapolated)": self._plain(baselines.without_cache, rows),
                "b: generate, one at a time": self._plain(baselines.generate_one_by_one, rows),
                "c: generate, num_return_sequences": self._plain(baselines.generate_together, rows),
                "d: continuous batching": self._plain(baselines.continuous_batching, rows),
                "e: batched loop behind one prefill": self._plain(baselines.batched_loop, rows),
            }
            for mode in self.settings:
                engine = self.engine(rows, mode)
                variants[f"this engine, {mode}"] = lambda round_, engine=engine, rows=rows: (
                    roll_out(engine, rows, round_, length, num_new).seconds
                )
            if self.model.device.type == "cpu":
                variants.update(llamacpp.variants(self.model, self.args.shape, rows, length, num_new))
            left_out = tuple(self.args.without)
            medians = self._interleaved({name: work for name, work in variants.items() if not name.startswith(left_out)})
            self._report(rows, medians)

    def long(self) -> None:
        """The step behind a long prompt, which (e) copies for each row."""
        for rows in self.args.rollouts:
            engine = self.engine(rows, "exact")
            medians = self._interleaved(
                {
                    "e": lambda r, rows=rows: baselines.batched_loop_parts(self.model, rows, r, LONG_PROMPT, LONG_STEPS + 1)[1],
                    "ours": lambda r, rows=rows, engine=engine: roll_out(engine, rows, r, LONG_PROMPT, LONG_STEPS + 1).steps,
                }
            )
            self.gate(f"step behind {LONG_PROMPT}, {rows} rollouts", medians["e"] / medians["ours"])

    def memory(self) -> None:
        """Keys and values that are held when all rollouts are done."""
        length, num_new = self.args.prompt, self.args.new_tokens
        config = self.model.config
        one = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
        one *= self.model.dtype.itemsize
        for rows in self.args.rollouts:
            held = roll_out(self.engine(rows, "exact"), rows, 1, length, num_new).held_bytes
            self.gate(f"bytes / ideal, {rows} rollouts", held / (one * (length + rows * (num_new - 1))), at_most=MOST_BYTES)

    def overhead(self) -> None:
        """Time of the steps outside the model's forward: drawing, slots, keys and values that are kept."""
        inside = 0.0
        forward = self.model.forward

        @functools.wraps(forward)
        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            start = now(self.model.device)
            output = forward(*args, **kwargs)
            inside += now(self.model.device) - start
            return output

        for mode in ("exact", "rq8") if "rq8" in self.settings else ("exact",):
            for rows in self.args.rollouts:
                engine, shares = self.engine(rows, mode), []
                for round_ in range(self.args.rounds + 1):
                    self.model.forward = timed
                    inside = 0.0
                    work = roll_out(engine, rows, round_, self.args.prompt, self.args.new_tokens)
                    del self.model.forward
                    shares.append(1 - inside / work.seconds)
                self.gate(
                    f"{mode}: share outside the forward, {rows} rollouts", statistics.median(shares[1:]), at_most=MOST_OVERHEAD
                )

    def seed(self) -> None:
        """The job that this project began with."""
        engine = self.engine(SEED_ROLLOUTS, self._fastest)
        ours = roll_out(engine, SEED_ROLLOUTS, 1, self.args.prompt, SEED_TOKENS).seconds
        theirs = baselines.without_cache(self.model, SEED_ROLLOUTS, 1, self.args.prompt, SEED_TOKENS)
        self.results.append(
            {"job": f"{SEED_ROLLOUTS} x {SEED_TOKENS}", f"{self._fastest} seconds": ours, "a seconds (extrapolated)": theirs}
        )
        self.gate(f"{SEED_ROLLOUTS} x {SEED_TOKENS} / a", theirs / ours)

    def threads(self) -> None:
        """Wall seconds with one thread and with two; for an idle machine of two cores."""
        rows = max(self.args.rollouts)
        engine = self.engine(rows, self._fastest)

        def wall(round_: int, num_threads: int) -> float:
            torch.set_num_threads(num_threads)
            start = time.perf_counter()
            roll_out(engine, rows, round_, self.args.prompt, self.args.new_tokens)
            return time.perf_counter() - start

        before = torch.get_num_threads()
        medians = self._interleaved({"1": functools.partial(wall, num_threads=1), "2": functools.partial(wall, num_threads=2)})
        torch.set_num_threads(before)
        self.gate("two threads", medians["1"] / medians["2"])

    @property
    def _fastest(self) -> str:
        return "rq8" if "rq8" in self.settings else "exact"

    def _plain(self, work: Callable[..., float], rows: int) -> Callable[[int], float]:
        return lambda round_: work(self.model, rows, round_, self.args.prompt, self.args.new_tokens)

    def _interleaved(self, variants: Mapping[str, Callable[[int], float]]) -> dict[str, float]:
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for round_ in range(self.args.rounds + 1):
            for name, variant in variants.items():
                seconds[name].append(variant(round_))
        # The first round warms up.
        return {name: statistics.median(values[1:]) for name, values in seconds.items()}

    def _report(self, rows: int, medians: Mapping[str, float]) -> None:
        num_tokens = rows * self.args.new_tokens
        by_letter = {name.split(":")[0]: value for name, value in medians.items() if ":" in name}
        for name, value in medians.items():
            result = {"rollouts": rows, "variant": name, self.unit: round(num_tokens / value, 1)}
            if "b" in by_letter:
                result["ratio_to_b"] = round(by_letter["b"] / value, 2)
            self.results.append(result)
        for mode in self.settings:
            own = medians.get(f"this engine, {mode}")
            for letter, value in by_letter.items() if own else ():
                if letter != "a":
                    self.gate(f"{mode} / {letter}, {rows} rollouts", value / own)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object with the gates")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rollouts", type=int, nargs="+", default=[10, 32])
    parser.add_argument("--prompt", type=int, default=300, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=["speed", "memory"])
    parser.add_argument("--without", nargs="*", default=[], help="variants to leave out, by letter")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    bench = Bench(args)
    for section in args.sections:
        getattr(bench, section)()
    limits = roofline(bench.model, args.rollouts) if "speed" in args.sections and args.device == "cpu" else {}
    for rows, limit in limits.items():
        own = [one for one in bench.results if one.get("rollouts") == rows and one["variant"] == "this engine, exact"]
        bench.gate(f"exact: share of the roofline, {rows} rollouts", own[0][bench.unit] / limit if own else 0.0)
    setting = {
        "shape": args.shape, "prompt": args.prompt, "new_tokens": args.new_tokens, "rounds": args.rounds,
        "device": args.device, "dtype": args.dtype,
        "threads": torch.get_num_threads(), "machine": hardware()["processor"], "kernels": kernels_status(),
        "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    print(", ".join(f"{name}: {value}" for name, value in setting.items()))
    for result in bench.results:
        print("  ".join(f"{name}={value}" for name, value in result.items()))
    for name, gate in bench.gates.items():
        goal = "" if gate["goal"] is None else f" (goal {gate['goal']}, {'met' if gate['ok'] else 'not met'})"
        print(f"{name}: {gate['value']}{goal}")
    if args.json:
        print(json.dumps({"setting": setting, "results": bench.results, "gates": bench.gates}))


if __name__ == "__main__":
    main()
