"""How soon the page of a large search tree is on the screen, and how long its slowest answers take.

    python benchmarks/tree_page.py [--num-rollouts 2600] [--repeats 5] [--output FILE] [--json]

`maxent_sample` grows a tree over an explicit table of words (numpy only), its page is written, and a headless Chromium of this
machine opens it `repeats` times as a file, each time in a fresh context. Figures are medians, in milliseconds. Of the start: the
processor time of the page's main thread until the tree is on the screen, which a busy machine changes least; first contentful
paint by the browser's paint timing; and the second frame after the script, when the whole tree has been presented. Then: one
drawing of the whole tree, a search, a step of the playback, and the longest frame while widths change from posterior to visits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from maxent_ts.config import make_config
from maxent_ts.engines.table import TableEngine
from maxent_ts.evaluate import evaluate
from maxent_ts.report.tree_choice import choose_tree
from maxent_ts.report.tree_page import write_tree_page
from maxent_ts.tasks.base import Example

TEXT = "the level rises falls slowly sharply at first near end and then stays flat with a peak in middle before dips grows while"
WORDS = [f" {word}" for word in TEXT.split()]
LENGTH = 24
CHROMIUM = "/usr/bin/chromium"

BEFORE = """addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => requestAnimationFrame(() => {
  window.treeOnScreen = performance.now();
})));"""

MEASURE = """async () => {
  const median = (run, times) => {
    const once = () => { const start = performance.now(); run(); return performance.now() - start; };
    const taken = Array.from({ length: times }, once);
    return taken.sort((a, b) => a - b)[times >> 1];
  };
  const { model, icicle } = window.treePage, result = {};
  result.first_contentful_paint = performance.getEntriesByName("first-contentful-paint")[0].startTime;
  result.tree_on_screen = window.treeOnScreen;
  result.draw = median(() => icicle.draw(), 15);
  result.search = median(() => model.search("the level rises"), 5);
  result.step = median(() => icicle.show(model.at(model.last >> 1), "posterior", true), 5);
  icicle.show(model.full, "posterior", true);
  icicle.show(model.full, "visits");
  let last = performance.now(), longest = 0;
  for (const start = last; last - start < 320; ) {
    const now = await new Promise(requestAnimationFrame);
    longest = Math.max(longest, now - last);
    last = Math.max(now, performance.now());
  }
  result.longest_frame = longest;
  return result;
}"""


class Words:
    """A task without labels: one prompt, continued by words."""

    name = "words"
    labels = ()
    rewards = {f"{__file__}:rises": 1.0}  # noqa: RUF012 - read as a mapping

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Example]:
        """One item."""
        del data_dir, limit, seed
        return [
            Example(id="words/1", prompt=[0], inputs={"series": [np.sin(np.arange(200) / 9).tolist()]}, target=None, stratum="")
        ]

    def answer(self, text: str) -> str | None:
        """None: there is no answer to read."""
        del text


def rises(completions: list[str]) -> list[float]:
    """Share of words that speak of rising."""
    return [sum(text.count(word) for word in (" rises", " grows", " peak")) / LENGTH for text in completions]


def probabilities(tokens: tuple[int, ...]) -> np.ndarray:
    """A Dirichlet draw for every prefix: a few likely words each."""
    return np.random.default_rng([5, *tokens]).dirichlet(np.full(len(WORDS), 0.08))


def build_page(num_rollouts: int, output: Path) -> dict[str, int]:
    """Grow a tree and write its page."""
    engine = TableEngine(probabilities, WORDS)
    with tempfile.TemporaryDirectory() as directory:
        config = make_config(
            tasks=("words",),
            methods=({"name": "maxent_sample"},),
            num_rollouts=num_rollouts,
            max_new_tokens=LENGTH,
            generated_tokens=num_rollouts * LENGTH,
            tilt=6.0,
            model="table",
            output_dir=Path(directory) / "run",
        )
        run = evaluate(config, engine=engine, tasks=[Words()])
        stored = choose_tree(run)
        write_tree_page(run, stored, output)
    return {"num_nodes": len(stored.tree["nodes"]), "num_completions": len(stored.tree["completions"])}


def measure(page: Path, repeats: int, width: int, height: int) -> dict[str, float]:
    """Open a page and take the medians of its timings, in milliseconds."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(repeats):
            context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
            opened = context.new_page()
            opened.add_init_script(BEFORE)
            inside = context.new_cdp_session(opened)
            inside.send("Performance.enable", {"timeDomain": "threadTicks"})
            opened.goto(page.as_uri())
            opened.wait_for_function("window.treeOnScreen && performance.getEntriesByName('first-contentful-paint').length > 0")
            metrics = {one["name"]: one["value"] for one in inside.send("Performance.getMetrics")["metrics"]}
            found.append({"main_thread_cpu": 1000 * metrics["TaskDuration"], **opened.evaluate(MEASURE)})
            context.close()
        browser.close()
    return {name: round(statistics.median(one[name] for one in found), 1) for name in found[0]}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rollouts", type=int, default=2600)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(tempfile.gettempdir()) / "tree-of-words.html")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = build_page(options.num_rollouts, options.output)
    result["kilobytes"] = options.output.stat().st_size // 1024
    result["desktop"] = measure(options.output, options.repeats, 1280, 800)
    result["phone"] = measure(options.output, options.repeats, 390, 844)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
