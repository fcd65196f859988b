"""`--config`, shell completion and exit codes: what a command takes from where."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from maxent_ts.cli import main
from maxent_ts.errors import MaxentError
from maxent_ts.registry import METHODS, REWARDS, TASKS, TRACKERS

from .toy_runs import FAKES

FILE = f"""
tasks: [{FAKES}:LetterTask]
engine: {FAKES}:make_engine
model: toy
method: [greedy, maxent]
set:
  maxent:
    exploration: 0.25
    tilt: 3
max_new_tokens: 6
num-rollouts: 4
tilt: 2
reward: [{FAKES}:share_of_a]
reward_weights: [0.5]
stop_string: 7
quiet: true
"""


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    """Run a command line in this process, in a folder that has FILE as run.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(FILE)
    return run


def resolved(run, *arguments):
    code, out, _ = run("eval", *arguments, "--dry-run", "--format", "json")
    assert code == 0
    return json.loads(out)["config"]


def test_a_file_fills_in_what_the_command_line_leaves_out(run):
    """Catches a key that is read and forgotten."""
    config = resolved(run, "--config", "run.yaml")
    assert config["tasks"] == [f"{FAKES}:LetterTask"]
    assert [(one["name"], one["settings"], one["tilt"]) for one in config["methods"]] == [
        ("greedy", {}, None),
        ("maxent", {"exploration": "0.25"}, 3.0),
    ]
    assert (config["tilt"], config["num_rollouts"], config["max_new_tokens"]) == (2.0, 4, 6)
    assert (config["reward_weights"], config["stop_strings"]) == ([0.5], ["7"])
    assert config["temperature"] == 1.0


def test_a_flag_goes_before_the_file_and_the_file_before_the_default(run):
    """Catches a file that overrides what was typed, wherever the flag stands."""
    for arguments in (("--config", "run.yaml", "--tilt", "5"), ("--tilt", "5", "--config", "run.yaml")):
        config = resolved(run, *arguments, "--method", "beam", "--set", "length_penalty=0")
        assert config["tilt"] == 5.0
        assert [one["name"] for one in config["methods"]] == ["beam"]
        assert config["num_rollouts"] == 4
    assert resolved(run, "har_cot", "--config", "run.yaml")["tasks"] == ["har_cot"]


def test_a_run_from_a_file_runs(run, tmp_path):
    """Catches values of the file that only the dry run sees."""
    (tmp_path / "run.yaml").write_text(FILE.replace("stop_string: 7\n", ""))
    code, out, err = run("eval", "--config", "run.yaml", "--output-dir", "out", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "summary.json").read_text())
    code, out, _ = run("generate", "--config", "generate.yaml")
    assert code == 2
    (tmp_path / "generate.yaml").write_text(f"task: {FAKES}:LetterTask\nengine: {FAKES}:make_engine\nformat: json\nquiet: true\n")
    code, out, err = run("generate", "--config", "generate.yaml")
    assert (code, err) == (0, "")
    assert json.loads(out)["item"] == "item/0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tildt: 3", "Did you mean 'tilt'"),
        ("dry_run: true", "no option named 'dry_run'"),
        ("tilt: [1, 2]", "'tilt' takes one value"),
        ("tilt: {a: 1}", "'tilt' takes no nested values"),
        ("tilt: many", "unable to parse string as a number"),
        ("limit: true", "'limit' cannot be True"),
        ("quiet: maybe", "'quiet' cannot be 'maybe'"),
        ("format: xml", "xml"),
        ("method: maxnt", "Did you mean 'maxent'"),
        ("tilt: [", "is not YAML"),
        ("just words", "must hold options"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_clear_message_and_exit_code_2(run, tmp_path, text, expected):
    """Catches keys that are ignored, and tracebacks for typing errors."""
    path = tmp_path / "wrong.yaml"
    if text is not None:
        path.write_text(text)
    code, out, err = run("eval", "demo", "--config", "wrong.yaml", "--limit", "1", *(["--dry-run"] if text else []))
    assert (code, out) == (2, "")
    assert expected in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def offered(words):
    """What bash would offer for the last of `words`."""
    code = "import sys; sys.argv = ['maxent-ts']; from maxent_ts.cli import main; main()"
    environment = {
        **os.environ,
        "_MAXENT_TS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return set(done.stdout.split())


def test_the_shell_completes_names_of_methods_tasks_rewards_and_settings():
    """Catches a name in the registry that Tab does not know."""
    assert offered(["maxent-ts", "eval", "--method", "b"]) == {name for name in METHODS if name.startswith("b")}
    assert offered(["maxent-ts", "eval", ""]) >= {*TASKS, "demo"}
    assert offered(["maxent-ts", "generate", "--reward", ""]) == set(REWARDS)
    assert offered(["maxent-ts", "eval", "--track", ""]) == set(TRACKERS)
    assert "maxent.exploration=" in offered(["maxent-ts", "eval", "--set", "maxent.e"])


def test_an_interrupt_outside_an_evaluation_gives_130(run, monkeypatch):
    """Catches a Ctrl-C that scripts take for failed items."""

    def stop(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("maxent_ts.cli.generation.run_generate", stop)
    assert run("generate", "abc")[0] == 130


def test_debug_lets_the_error_through_and_without_it_there_is_one_line(run):
    """Catches a --debug that only some commands honour."""
    for arguments in (("eval", "wurst"), ("generate", "--task", "wurst"), ("report", "wurst"), ("list", "wurst")):
        code, out, err = run(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        with pytest.raises(MaxentError):
            main([*arguments, "--debug"])
