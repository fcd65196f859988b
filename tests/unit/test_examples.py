"""The example notebook runs, and what is printed in it was printed by it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_search.ipynb"
SCRIPT = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def printed(notebook):
    """What each code cell wrote to standard output."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join("".join(one["text"]) for one in cell["outputs"] if one.get("name") == "stdout") for cell in cells]


def reward(text):
    return float(re.search(r"reward (-?[\d.]+)", text)[1])


def test_the_notebook_runs_from_top_to_bottom_and_shows_what_it_says(tmp_path):
    """Catches an example that has drifted from the code, and a search that does not beat a draw in its own showcase."""
    pytest.importorskip("nbclient")
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path), "IPYTHONDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(NOTEBOOK), str(tmp_path / "run.ipynb")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = printed(json.loads(NOTEBOOK.read_text()))
    found = printed(json.loads((tmp_path / "run.ipynb").read_text()))
    assert all(stored)
    assert all(found)
    assert [len(text.splitlines()) for text in found] == [len(text.splitlines()) for text in stored]
    for outputs in (stored, found):
        assert reward(outputs[2]) > reward(outputs[1])
