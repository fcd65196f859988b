"""`doctor`: what it finds here, and what it says where something is missing."""

from __future__ import annotations

import importlib.util
import json

import pytest

pytest.importorskip("torch")

from maxent_ts.cli import doctor, main


@pytest.fixture
def examined(capsys):
    """The checks by name, and the exit code."""

    def call():
        with pytest.raises(SystemExit) as left:
            main(["doctor", "--format", "json"])
        out, _ = capsys.readouterr()
        return {check["name"]: check for check in json.loads(out)}, left.value.code

    return call


def test_a_whole_installation_is_well(examined, monkeypatch, tmp_path):
    """Catches a check that fails for nothing, and one that is left out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    checks, code = examined()
    assert code == 0
    assert all(check["ok"] for check in checks.values())
    assert "float32" in checks["devices"]["found"]
    assert checks["free memory"]["found"].endswith("GiB")
    assert checks["hub"]["found"].startswith("logged in")
    assert str(tmp_path / "not" / "yet") in checks["hub"]["found"]
    assert "hf_secret" not in json.dumps(checks)
    assert "5 tokens" in checks["generation"]["found"]
    assert "matplotlib" in checks["extra report"]["found"]


def test_what_is_missing_comes_with_the_line_that_installs_it(examined, monkeypatch, capsys):
    """Catches an optional package whose absence is a failure, and a missing model that is none."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)

    def no_model():
        raise doctor.MaxentError("The embedded model is not part of this installation.")

    monkeypatch.setattr(doctor, "embedded_model_path", no_model)
    checks, code = examined()
    assert code == 1
    assert checks["extra wandb"] == {
        "name": "extra wandb",
        "ok": True,
        "found": "not installed. Run: pip install 'maxent-ts[wandb]'",
    }
    assert "hf auth login" in checks["hub"]["found"]
    assert not checks["embedded model"]["ok"]
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert "FAIL  embedded model: The embedded model is not part" in capsys.readouterr().out
