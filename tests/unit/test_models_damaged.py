"""Damaged and hostile checkpoint files: each is refused with a message, and nothing that a file names is ever run."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from maxent_ts.errors import ModelError  # noqa: E402
from maxent_ts.models.opentslm import load_series_model  # noqa: E402
from tests.opentslm_fixtures import save_base, save_softprompt, softprompt_content  # noqa: E402

Content = dict[str, Any]
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
LINEAR = "encoder.layers.5.linear1.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def refused(path: Path, base: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_series_model(path, dtype=torch.float32, device=torch.device("cpu"), base_model=base)
    message = str(caught.value)
    assert str(path) in message
    return message


def drop(part: str, name: str) -> Callable[[Content], None]:
    return lambda content: content[part].pop(name)


def put(part: str, name: str, value: Any) -> Callable[[Content], None]:
    return lambda content: content[part].update({name: value})


def top(name: str, value: Any = None) -> Callable[[Content], Any]:
    return lambda content: content.pop(name) if value is None else content.update({name: value})


def spoil(content: Content) -> None:
    content["encoder_state"][LINEAR][3, 3] = float("nan")


CONTENTS: dict[str, tuple[Callable[[Content], Any], list[str]]] = {
    "a missing encoder tensor": (drop("encoder_state", LINEAR), [f"lacks tensor encoder_state/{LINEAR}"]),
    "a missing projector tensor": (drop("projector_state", "projector.1.bias"), ["lacks tensor projector_state/projector.1.bias"]),
    "an unexpected tensor": (
        put("encoder_state", "stray.weight", torch.zeros(2)),
        ["unexpected tensor encoder_state/stray.weight"],
    ),
    "a layer too many": (
        put("encoder_state", "encoder.layers.6.norm1.bias", torch.zeros(128)),
        ["unexpected tensor encoder_state/encoder.layers.6.norm1.bias"],
    ),
    "a wrong shape": (put("encoder_state", LINEAR, torch.zeros(512, 128)), [LINEAR, "[1024, 128]", "[512, 128]"]),
    "positions of a wrong shape": (put("encoder_state", "pos_embed", torch.zeros(40, 128)), ["encoder_state/pos_embed"]),
    "a number that is not finite": (spoil, [LINEAR, "not finite", "get it again"]),
    "whole numbers": (put("encoder_state", LINEAR, torch.zeros(1024, 128, dtype=torch.int64)), [LINEAR, "int64"]),
    "a text for a tensor": (put("encoder_state", LINEAR, "weights"), [LINEAR, "holds str"]),
    "another base": (
        put("projector_state", "projector.1.weight", torch.zeros(2048, 128)),
        ["width 2048", "width 32", "--base-model"],
    ),
    "no projector": (top("projector_state"), ["lacks projector_state"]),
    "an unexpected part": (top("extra_state", {"a": 1}), ["holds extra_state"]),
    "parts of nothing known": (lambda content: content.clear() or content.update(weights={}), ["encoder_state", "holds weights"]),
    "nothing": (lambda content: content.clear(), ["holds nothing"]),
    "adapters without a state": (top("lora_state"), ["lacks lora_state"]),
    "adapters without a configuration": (top("lora_config", {}), ["lora_config", "scale"]),
    "adapters that are not enabled": (top("lora_enabled", False), ["holds lora_state", "not enabled"]),
    "an adapter's half": (
        drop("lora_state", f"{Q_PROJ}.lora_B.default.weight"),
        ["model.layers.0.self_attn.q_proj has a lora_A but no lora_B"],
    ),
    "an adapter too few": (
        lambda content: [content["lora_state"].pop(f"{Q_PROJ}.lora_{half}.default.weight") for half in "AB"],
        [f"lacks tensor lora_state/{Q_PROJ}.lora_A.default.weight"],
    ),
    "an adapter of another model": (
        lambda content: [
            content["lora_state"].update({f"base_model.model.model.layers.9.self_attn.q_proj.lora_{half}.default.weight": tensor})
            for half, tensor in (("A", torch.zeros(16, 32)), ("B", torch.zeros(32, 16)))
        ],
        ["unexpected tensor lora_state/base_model.model.model.layers.9"],
    ),
    "a name that is no adapter's": (put("lora_state", "lm_head.weight", torch.zeros(2)), ["unexpected tensor lora_state/lm_head"]),
    "an adapter of another rank": (
        put("lora_state", f"{Q_PROJ}.lora_A.default.weight", torch.zeros(8, 32)),
        ["[16, 32]", "[8, 32]"],
    ),
}


@pytest.mark.parametrize("damage", CONTENTS)
def test_what_is_wrong_in_a_checkpoint_is_named(base: Path, tmp_path: Path, damage: str):
    """Catches weights that stay at random values, or adapters that are passed over, because a name did not match."""
    change, words = CONTENTS[damage]
    content = softprompt_content(lora=True)
    change(content)
    message = refused(save_softprompt(tmp_path / "model_checkpoint.pt", content), base)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"target_modules": {"q_proj", "c_attn"}}, "c_attn"),
        ({"target_modules": {"q_proj"}}, "unexpected tensor"),
    ],
)
def test_adapters_of_a_kind_not_known_are_refused(base: Path, tmp_path: Path, settings: dict[str, Any], word: str):
    """Catches a variant of LoRA that would be merged as if it were the plain one."""
    path = save_softprompt(tmp_path / "model_checkpoint.pt", softprompt_content(lora=True), **settings)
    assert word in refused(path, base)


def rewritten(path: Path, keep: Callable[[str], bool], change: Callable[[str, bytes], bytes] = lambda _name, data: data) -> None:
    """Write an archive again with some of its files, changed."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if keep(name)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, change(name, data))


FILES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "empty": (lambda path: path.write_bytes(b""), ["zip archive", "is empty", "Get the file again"]),
    "text": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), ["zip archive", "bytes are not"]),
    "cut in half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), ["cut short"]),
    "cut at the end": (lambda path: path.write_bytes(path.read_bytes()[:-30]), ["Get the file again"]),
    "an archive of nothing": (lambda path: rewritten(path, lambda _name: False), ["damaged"]),
    "an archive without data.pkl": (lambda path: rewritten(path, lambda name: not name.endswith("data.pkl")), ["damaged"]),
    "an archive without tensors": (lambda path: rewritten(path, lambda name: "/data/" not in name), ["damaged"]),
    "garbage for data.pkl": (
        lambda path: rewritten(path, lambda _: True, lambda name, data: b"\xff" * 40 if name.endswith("data.pkl") else data),
        ["Get the file"],
    ),
    "data.pkl cut short": (
        lambda path: rewritten(path, lambda _: True, lambda name, data: data[:200] if name.endswith("data.pkl") else data),
        ["Get the file"],
    ),
    "a bare pickle": (lambda path: path.write_bytes(pickle.dumps({"encoder_state": {}})), ["zip archive"]),
    "a list": (lambda path: torch.save([1, 2], path), ["should hold a dictionary", "list"]),
}


@pytest.mark.parametrize("damage", FILES)
def test_a_damaged_file_is_named_with_what_to_do(base: Path, tmp_path: Path, damage: str):
    """Catches tracebacks of zip, pickle and torch, which do not name the file."""
    change, words = FILES[damage]
    path = save_softprompt(tmp_path / "model_checkpoint.pt", softprompt_content(lora=False))
    change(path)
    message = refused(path, base)
    for word in words:
        assert word in message


class Hostile:
    """Runs a command when an ordinary unpickler loads it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.what


@pytest.mark.parametrize("where", ["top", "lora_config", "optimizer_state"])
@pytest.mark.parametrize("function", [os.system, exec, os.mkdir], ids=["system", "exec", "mkdir"])
def test_a_hostile_file_runs_nothing(base: Path, tmp_path: Path, where: str, function: Callable[..., Any]):
    """Catches a loader that unpickles: whoever can change a checkpoint could run anything on the user's machine."""
    mark = tmp_path / "mark"
    arguments = {os.system: (f"touch {mark}",), exec: (f"open({str(mark)!r}, 'w').close()",), os.mkdir: (str(mark),)}[function]
    hostile = Hostile(function, *arguments)
    content: Any = softprompt_content(lora=True) | {where: hostile}
    path = tmp_path / "model_checkpoint.pt"
    torch.save(hostile if where == "top" else content, path)
    message = refused(path, base)
    assert not mark.exists()
    assert "nothing in it was run" in message
    assert function.__name__ in message
    torch.load(path, weights_only=False)
    assert mark.exists(), "the payload must be one that works, or nothing is tested"
