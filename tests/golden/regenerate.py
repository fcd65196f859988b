"""Write the golden files of all registered methods, or of those named: `python -m tests.golden.regenerate [NAME…]`.

Regenerate only what is meant to have changed, and read the difference before it is committed.
"""

from __future__ import annotations

import sys

from maxent_ts.registry import METHODS
from tests.golden.cases import FOLDER, dump, path_of, run_case


def main(names: list[str]) -> None:
    for name in names or METHODS:
        path_of(name).write_text(dump(run_case(name)) + "\n")
    for path in FOLDER.glob("*.json"):
        if path.stem not in METHODS:
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
