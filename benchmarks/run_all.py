"""Runs the short versions of the benchmarks, one after the other, and writes docs/benchmarks.md from what they print.

    make bench            (= OMP_NUM_THREADS=1 python benchmarks/run_all.py)
    python benchmarks/run_all.py --only engine-135m     runs one and keeps the other sections as they are

A benchmark that fails has its error in the page. Each section says when, where and with which command its figures were made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from maxent_ts.fingerprint import hardware

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("maxent-ts", "torch", "transformers", "numpy")

BENCHMARKS = {
    "engine-tiny": ("Decoding, 6 million parameters", "benchmarks/engine.py --shape tiny --json"),
    "engine-135m": (
        "Decoding, 135 million parameters",
        "benchmarks/engine.py --shape 135m --rounds 2 --without a --sections speed memory --json",
    ),
    "engine-long": (
        "Decoding, 135 million parameters: long prompts, time outside the model, the seed's job",
        "benchmarks/engine.py --shape 135m --rounds 2 --sections long overhead seed --json",
    ),
    "engine-1b": (
        "Decoding, 1.2 billion parameters",
        "benchmarks/engine.py --shape 1b --rollouts 10 --rounds 1 --without a d e g --sections speed --json",
    ),
    "opentslm": ("A sample of OpenTSLM's stages 2 and 3, 1.2 billion parameters", "benchmarks/opentslm.py --items 1 --json"),
    "tree": ("The search beside the model: one search", "benchmarks/tree_growth.py --json"),
    "serve": ("The server under load", "benchmarks/serve.py --seconds 15 --json"),
    "driver": ("The search beside the model: many searches", "benchmarks/driver.py"),
    "exact": ("Against the truth: laws", "benchmarks/exact.py --quick --section enumerable --table additive --json"),
    "efficiency": ("Against the truth: the best reward", "benchmarks/search_efficiency.py --instances 6 --family additive --json"),
    "coverage": ("Coverage of the paired interval", "benchmarks/interval_coverage.py --samples 100 --resamples 199"),
    "kill": ("Killed and continued", "benchmarks/kill.py --kills 5 --seed 1"),
    "ray-kills": ("Nodes of a cluster killed", "benchmarks/ray_kills.py --kills 3"),
    "scale": ("More workers, and what 1000 GPUs would need", "benchmarks/scale.py --rounds 1 --json"),
}
"""Title and command of each section."""

HEAD = """# Benchmarks

Made by `make bench` from the short versions of the benchmarks; every section has its command, which without its limits runs the
long version. Ratios count, measured side by side in one process: absolute times are those of one machine on one day.
"""


def section(name: str) -> str:
    """Run one benchmark and return its section."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, "-W", "ignore", *BENCHMARKS[name][1].split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    problem = (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None
    return rendered(name, done.stdout, problem, (time.perf_counter() - start) / 60)


def rendered(name: str, output: str, problem: str | None, minutes: float) -> str:
    """Turn what a benchmark printed into a section of the page."""
    title, command = BENCHMARKS[name]
    lines = output.rstrip().splitlines()
    gates = json.loads(lines.pop()).get("gates") if lines and lines[-1].startswith("{") else None
    if gates:
        lines = [line for line in lines if line.rpartition(": ")[0] not in gates]
    parts = [f"## {title}", "", f"<!-- section {name} -->", f"`python {command}` · {_setting()} · {minutes:.1f} minutes", ""]
    if problem:
        parts += ["It failed:", "", "```text", problem, "```", ""]
    if lines:
        parts += ["```text", *lines, "```", ""]
    if gates:
        parts += ["| figure | value | goal | |", "|---|---|---|---|"]
        for gate, found in gates.items():
            goal = "" if found["goal"] is None else found["goal"]
            parts.append(f"| {gate} | {found['value']} | {goal} | {'' if goal == '' else 'met' if found['ok'] else 'not met'} |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Run what was asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    args = parser.parse_args()
    kept = _sections(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    for name in args.only:
        kept[name] = section(name)
        PAGE.write_text("\n".join([HEAD, *(kept[one] for one in BENCHMARKS if one in kept)]).rstrip() + "\n", encoding="utf-8")


def _sections(page: str) -> dict[str, str]:
    parts = re.split(r"(?m)^(?=## )", page)[1:]
    return {found.group(1): part.rstrip() + "\n" for part in parts if (found := re.search(r"<!-- section (\S+) -->", part))}


def _setting() -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    machine = f"{hardware()['processor']}, {os.cpu_count()} cores"
    return f"{datetime.now(UTC):%Y-%m-%d} · {machine} · Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
