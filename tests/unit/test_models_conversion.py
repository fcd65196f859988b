"""`maxent-ts convert`, and checkpoints on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from maxent_ts.engines.base import RolloutJob  # noqa: E402
from maxent_ts.engines.hf import HFEngine  # noqa: E402
from maxent_ts.errors import ModelError  # noqa: E402
from maxent_ts.models.conversion import convert  # noqa: E402
from maxent_ts.types import Policy  # noqa: E402
from tests.opentslm_fixtures import prompt, save_base, save_softprompt, softprompt_content  # noqa: E402
from tests.unit.hf_helpers import answers  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_softprompt(tmp_path / "checkpoint" / "model_checkpoint.pt", softprompt_content(lora=True, training=True))


def rollouts(engine: HFEngine) -> list:
    jobs = [RolloutJob(engine.open(prompt(9, 30, shift=index), Policy(8)), (), ((index, 0), (index, 1))) for index in range(3)]
    return [found.answer.rollouts for found in answers(engine, jobs)]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_checkpoint_answers_as_the_checkpoint_did(base: Path, tmp_path: Path, lora: bool, dtype: str):
    """Catches a rule or a tensor that is lost on the way, and merged weights that are rounded in the file."""
    path = save_softprompt(tmp_path / "model_checkpoint.pt", softprompt_content(lora=lora))
    written = convert(path, tmp_path / "out", base_model=base)
    assert (written / "config.json").is_file()
    assert not list(written.glob("*.pt"))
    assert not list(written.glob("*.bin"))
    before = HFEngine(path, base_model=base, device="cpu", dtype=dtype)
    after = HFEngine(written, device="cpu", dtype=dtype)
    assert rollouts(after) == rollouts(before)


def test_convert_on_the_command_line(run, base: Path, checkpoint: Path, tmp_path: Path):
    """Catches a command that leaves something on standard output, or a half-written directory behind."""
    code, out, err = run("convert", checkpoint, tmp_path / "out", "--base-model", base)
    assert (code, out) == (0, "")
    assert "--model" in err
    code, out, err = run("convert", checkpoint.parent, tmp_path / "out", "--base-model", base)
    assert code == 2
    assert "exists" in err
    checkpoint.write_bytes(b"no")
    code, out, err = run("convert", checkpoint, tmp_path / "other", "--base-model", base)
    assert code == 2
    assert "zip archive" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


def test_only_checkpoints_are_converted(base: Path, tmp_path: Path):
    """Catches a model directory that is copied as if it had been converted."""
    for source in (base, tmp_path / "absent", "gpt2"):
        with pytest.raises(ModelError, match="should be a checkpoint of OpenTSLM"):
            convert(source, tmp_path / "out")


def test_a_checkpoint_is_a_model_wherever_one_is_taken(run, base: Path, checkpoint: Path, tmp_path: Path):
    """Catches a command that takes model directories only, and a run that does not say which base it had."""
    common = ("--model", checkpoint, "--base-model", base, "--max-new-tokens", "4", "--num-rollouts", "2", "--device", "cpu")
    for what in (["--task", "m4_caption"], ["a b"]):
        code, out, err = run("generate", *what, "--method", "best_of_n", *common, "--format", "json", "--quiet")
        assert code == 0, err
        assert json.loads(out)["completions"]
    task = tmp_path / "short.py"
    task.write_text(
        "from maxent_ts.tasks.base import Example\n"
        "from tests.opentslm_fixtures import prompt\n"
        "class Short:\n"
        "    name, labels, rewards = 'short', (), {'logprob': 1.0}\n"
        "    def examples(self, *, data_dir=None, limit=None, seed=0):\n"
        "        return [Example('one', prompt(9, 30), {}, None, '')]\n"
        "    def answer(self, text):\n"
        "        return None\n"
    )
    arguments = (f"{task}:Short", "--method", "best_of_n", *common, "--compat", "gemma-leftpad", "--output-dir", tmp_path / "run")
    code, out, err = run("eval", *arguments, "--format", "json", "--quiet")
    assert code == 0, err
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["config"]["base_model"] == str(base)
    assert stored["config"]["compat"] == "gemma-leftpad"
    code, out, err = run("generate", "a b", "--method", "best_of_n", *common, "--compat", "nonsense")
    assert code == 2
    assert "compat must be upstream or gemma-leftpad" in err
