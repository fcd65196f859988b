"""The command line: quick to start, clear when something is wrong, and nothing but data on standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer

from maxent_ts.cli import main
from maxent_ts.cli.app import app
from maxent_ts.records import read_run
from maxent_ts.registry import METHODS

from .toy_runs import FAKES, TOY

HEAVY = ("torch", "transformers", "scipy", "sklearn", "datasets", "pandas", "matplotlib")


def eval_toy(tmp_path, *more):
    return (
        "eval",
        f"{FAKES}:LetterTask",
        *TOY,
        "--method",
        "greedy",
        "--method",
        "best_of_n",
        "--output-dir",
        tmp_path / "run",
        *more,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["eval", "--help"], ["list", "methods"]])
def test_help_version_and_lists_import_nothing_heavy(arguments):
    """Catches an import at the top of a module that makes every command wait for torch."""
    code = (
        "import sys\nfrom maxent_ts.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as left:\n    assert not left.code\n"
        f"sys.stderr.write(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert done.stderr == ""


COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_the_source_says(run, monkeypatch, command):
    """Catches what rich takes for its markup, as it does `[default: 1]`, and a default that an option has in words only."""
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = run(command, "--help")
    assert code == 0
    assert COMMANDS[command].help in out
    for parameter in COMMANDS[command].params:
        assert (parameter.help or "") in out
        assert "default:" not in (parameter.help or "")
        if isinstance(parameter.show_default, str):
            assert f"[default: ({parameter.show_default})]" in out


def test_help_is_there_in_half_a_second():
    """Catches a slow start. The processor time of the best of several tries counts, since other processes share the machine."""
    command = [sys.executable, "-c", "from maxent_ts.cli import main; main(['--help'])"]
    seconds = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5


def test_an_evaluation_prints_a_table_with_every_method(run, tmp_path):
    """Catches a table that loses rows, columns or the line with the paired difference."""
    code, out, err = run(*eval_toy(tmp_path, "--method", "maxent"))
    assert code == 0
    for expected in ("greedy", "best_of_n", "maxent", "accuracy", "macro", "reward: maxent − best_of_n", "correlation"):
        assert expected in out
    assert "36/36 searches" in err
    assert "0 failed" in err


def test_the_table_fits_a_terminal_of_80_columns(run, tmp_path, monkeypatch):
    """Catches columns that are cut to dots in the window that most people have."""
    monkeypatch.setattr("maxent_ts.cli.tables.WIDTH_WITHOUT_TERMINAL", 80)
    _, out, _ = run(*eval_toy(tmp_path, "--method", "best_of_n_softmax"))
    assert "best_of_n_softmax" in out
    assert "…" not in out


def test_json_is_all_that_standard_output_gets(run, tmp_path):
    """Catches progress or notes between the data."""
    code, out, _ = run(*eval_toy(tmp_path, "--format", "json"))
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "run" / "summary.json").read_text())
    code, out, _ = run("list", "--format", "json")
    assert code == 0
    assert set(json.loads(out)) == {"methods", "tasks", "rewards", "engines", "trackers"}


def test_quiet_prints_nothing_but_data(run, tmp_path):
    """Catches progress and notes that cannot be turned off."""
    code, out, err = run(*eval_toy(tmp_path, "--quiet"))
    assert (code, err) == (0, "")
    assert "best_of_n" in out


def test_a_dry_run_shows_upper_bounds_and_touches_nothing(run, tmp_path):
    """Catches a dry run that runs, and bounds that the real run exceeds."""
    code, out, _ = run(*eval_toy(tmp_path, "--dry-run", "--format", "json"))
    assert code == 0
    assert not (tmp_path / "run").exists()
    found = json.loads(out)
    assert found["config"]["num_rollouts"] == 4
    bounds = found["bounds"]
    assert bounds["generated_tokens_at_most"] == 12 * 6 + 12 * 24
    run(*eval_toy(tmp_path))
    records = read_run(tmp_path / "run").records
    assert len(records) == bounds["searches"]
    assert 0 < sum(one.usage["generated_tokens"] for one in records) <= bounds["generated_tokens_at_most"]
    assert 0 < sum(one.usage["reward_calls"] for one in records) <= bounds["reward_calls_at_most"]
    code, out, _ = run(*eval_toy(tmp_path, "--dry-run"))
    assert "generated_tokens_at_most: 360" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["eval", "har_cott"], "Did you mean 'har_cot'"),
        (["eval", f"{FAKES}:LettersTask"], "Did you mean 'LetterTask'"),
        (["eval", "/no/such/file.py:Task"], "does not exist"),
        (["eval", f"{FAKES}:LetterTask", "--method", "maxnt"], "Did you mean 'maxent'"),
        (
            ["eval", f"{FAKES}:LetterTask", "--method", "best_of_n", "--set", "best_of_n.num_rolouts=3"],
            "Did you mean 'num_rollouts'",
        ),
        (["eval", f"{FAKES}:LetterTask", "--engine", "hff"], "no engine named 'hff'"),
        (["eval", f"{FAKES}:LetterTask", "--engine", "table"], "made in Python"),
        (["eval", f"{FAKES}:LetterTask", "--preset", "big"], "no preset named 'big'"),
        (["eval", f"{FAKES}:LetterTask", "--reward", "formt"], "Did you mean 'format'"),
        (["eval", f"{FAKES}:LetterTask", "--reward", "format", "--reward-weights", "1,x"], "takes a number"),
        (["eval", f"{FAKES}:LetterTask", "--temperature", "0"], "temperature"),
        (["generate"], "a PROMPT, --task TASK or --series"),
        (["generate", "--task", f"{FAKES}:LetterTask", "--item", "item/99"], "Did you mean 'item/9'"),
        (["report", "/no/such/run"], "not a run directory"),
        (["list", "metods"], "Did you mean 'methods'"),
        (["eval"], "Name what to evaluate"),
        (["evl", "demo"], "Did you mean 'eval'"),
        (["eval", "demo", "--tild", "1"], "--tilt"),
        (["eval", "demo", "--track", "wandbb"], "Did you mean 'wandb'"),
    ],
)
def test_a_wrong_command_gives_one_clear_message_and_exit_code_2(run, arguments, expected, tmp_path, monkeypatch):
    """Catches tracebacks for users' typing errors, and exit codes that scripts take for success."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert expected in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback():
    """Catches a --debug that hides where the error came from."""
    with pytest.raises(Exception, match="no task named 'wurst'"):
        main(["eval", "wurst", "--debug"])


def test_failed_items_give_exit_code_1_unless_they_were_allowed(run, tmp_path):
    """Catches a run with failures that looks like a success, and a message that does not say what failed."""
    arguments = eval_toy(tmp_path, "--reward", f"{FAKES}:fails_on_ee", "--max-new-tokens", "12")
    code, _, err = run(*arguments)
    assert code == 1
    assert "two e in a row" in err
    assert "failures.log" in err
    num_failed = sum(one.error is not None for one in read_run(tmp_path / "run").records)
    code, _, err = run(*arguments, "--max-failures", num_failed)
    assert code == 0
    assert "Traceback (most recent" not in err


def test_ctrl_c_gives_exit_code_130_and_a_run_to_continue(tmp_path):
    """Catches an interrupt that ends in a traceback, or in a run directory that refuses to go on."""
    # A process inherits that SIGINT is ignored, as it is below `nohup … &`. Ctrl-C is for those in which it is not.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from maxent_ts.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, eval_toy(tmp_path))]
    samples = tmp_path / "run" / "samples.jsonl"
    process = subprocess.Popen(
        command, env={**os.environ, "TEST_ENGINE_PAUSE": "1.0"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (samples.exists() and samples.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "continues from there" in err
    assert "Traceback" not in err
    assert read_run(tmp_path / "run").info.status == "interrupted"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "of them finished earlier" in done.stderr
    assert len(read_run(tmp_path / "run").records) == 24


def test_the_same_command_finds_its_own_run_directory(run, tmp_path, monkeypatch):
    """Catches default names that differ from call to call, or that two different commands share."""
    monkeypatch.chdir(tmp_path)
    arguments = ("eval", f"{FAKES}:LetterTask", *TOY, "--method", "greedy")
    run(*arguments)
    (first,) = (tmp_path / "runs").iterdir()
    code, _, err = run(*arguments)
    assert code == 0
    assert "12 of them finished earlier" in err
    run(*arguments, "--seed", "1")
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert read_run(first).info.continued == 1


def test_generate_prints_completions_weights_rewards_and_cost(run):
    """Catches a missing figure, and weights in another order than the completions."""
    arguments = ("generate", "--task", f"{FAKES}:LetterTask", *TOY, "--num-return-sequences", "2", "--tilt", "2")
    code, out, _ = run(*arguments)
    assert code == 0
    for expected in ("weight", "reward", "log p", "tokens generated", "tilt 2"):
        assert expected in out
    code, out, _ = run(*arguments, "--format", "json")
    found = json.loads(out)
    assert len(found["completions"]) == 2
    assert found["usage"]["rollouts"] == 4
    assert found["completions"][0]["reward"] == max(one["reward"] for one in found["completions"])
    assert code == 0


def test_list_methods_shows_every_method_with_its_settings(run):
    """Catches a method without a description, and settings that the list invents."""
    _, out, _ = run("list", "methods", "--format", "json")
    found = {one["name"]: one for one in json.loads(out)["methods"]}
    assert set(found) == set(METHODS)
    assert all(one["description"].endswith(".") for one in found.values())
    assert "num_rollouts" in found["best_of_n"]["settings"]
    code, out, _ = run("list")
    assert code == 0
    assert "har_cot" in out
