"""Write the gold texts that the tests of OpenTSLM's tasks are made with.

    python training/build_fixtures.py --shared ../shared/data

A few dozen rationales of each task, drawn in proportion to their labels with a fixed seed, out of the first 200 of OpenTSLM's test
splits. They carry no series: tests put them beside series of the embedded samples, in OpenTSLM's file layout, to test
readers and parsers. Same seed, same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from maxent_ts.tasks.subset import stratified_subset

SEED = 0
NUM_TEXTS = 30
OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "opentslm" / "gold_texts.json"
TASKS = ("tsqa", "har_cot", "sleep_cot", "ecg_qa_cot")


def gold_texts(shared_dir: Path) -> dict[str, list[dict[str, object]]]:
    """Return for each task texts with the label that they end in; for ECG questions also the possible answers."""
    frame = pd.read_parquet(shared_dir / "opentslm_gold_rationales_test200.parquet")
    found = {}
    for task in TASKS:
        rows = frame[frame["dataset"] == task].reset_index(drop=True)
        chosen = stratified_subset([str(label) for label in rows["gold_label"]], NUM_TEXTS, SEED)
        found[task] = [
            {
                "text": str(rows.loc[index, "gold_text"]),
                "label": str(rows.loc[index, "gold_label"]),
                **({"answers": [str(one) for one in rows.loc[index, "label_vocab"]]} if task == "ecg_qa_cot" else {}),
            }
            for index in chosen
        ]
    return found


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="Folder with the parquet files.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    text = json.dumps(gold_texts(arguments.shared), indent=1, ensure_ascii=False) + "\n"
    arguments.output.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
