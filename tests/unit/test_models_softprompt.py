"""The soft-prompt model: what a prompt becomes, and what its loader refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from maxent_ts.errors import ModelError, PromptError  # noqa: E402
from maxent_ts.models.softprompt import EncoderConfig, SoftPromptModel, is_softprompt_directory  # noqa: E402
from maxent_ts.types import SeriesSegment, TimeSeriesPrompt  # noqa: E402

WORDS = ["<bos>", "<eos>", "<pad>", "look", "at", "this", "series", "now", "answer", "?"]
EMBEDDED = Path(__file__).resolve().parents[2] / "src" / "maxent_ts" / "assets" / "model"


def tiny_model(*, bos_per_fragment: bool = False, seed: int = 0) -> SoftPromptModel:
    torch.manual_seed(seed)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="?"
    )
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    sizes = EncoderConfig(
        hidden_size=16, embed_dim=8, num_layers=2, num_heads=2, feedforward_dim=16, max_patches=6, bos_per_fragment=bos_per_fragment
    )
    return SoftPromptModel(LlamaForCausalLM(config), tokenizer, sizes).eval()


def wave(length: int, shift: float = 0.0) -> tuple[float, ...]:
    return tuple(torch.sin(torch.arange(length) * 0.7 + shift).tolist())


def prompt(*lengths: int) -> TimeSeriesPrompt:
    segments = tuple(SeriesSegment("this series", wave(length, index)) for index, length in enumerate(lengths))
    return TimeSeriesPrompt("look at", segments, "answer now ?")


@pytest.fixture(scope="module")
def model() -> SoftPromptModel:
    return tiny_model()


@pytest.fixture
def saved(model: SoftPromptModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def load(path: Path) -> SoftPromptModel:
    return SoftPromptModel.from_directory(path, dtype=torch.float32, device="cpu")


@torch.inference_mode()
@pytest.mark.parametrize("bos_per_fragment", [False, True])
def test_text_and_series_alternate_in_the_order_of_the_prompt(bos_per_fragment: bool):
    """Catches series placed before their own text, a fragment lost, and a wrong rule for the beginning-of-sequence token."""
    model = tiny_model(bos_per_fragment=bos_per_fragment)
    rows = model.embed(prompt(8, 9))
    lookup = model.language_model.get_input_embeddings()
    first, second = model.encode_series([wave(8, 0), wave(9, 1)])
    bos = [WORDS[0]] if bos_per_fragment else []

    def text(*words: str) -> torch.Tensor:
        return lookup(torch.tensor([WORDS.index(word) for word in words]))

    series = text(*bos, "this", "series")
    expected = [text("<bos>", "look", "at"), series, first, series, second, text(*bos, "answer", "now", "?")]
    assert len(first) == 2
    assert len(second) == 3
    torch.testing.assert_close(rows, torch.cat(expected), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_series_is_padded_at_its_end_with_zeros(model: SoftPromptModel):
    """Catches padding at the front, and the last points of a series being dropped."""
    padded = model.encode_series([(*wave(9), 0.0, 0.0, 0.0)])[0]
    torch.testing.assert_close(model.encode_series([wave(9)])[0], padded, rtol=0, atol=0)
    cut = model.encode_series([wave(8)])[0]
    assert not torch.allclose(model.encode_series([wave(9)])[0][:2], cut)


@torch.inference_mode()
def test_encoding_does_not_depend_on_the_other_series(model: SoftPromptModel):
    """Catches padding to the longest series of a batch, which changes what the model sees of the shorter ones."""
    series = [wave(24), wave(5, 1.0), wave(8, 2.0), wave(7, 3.0), wave(24, 4.0)]
    together = model.encode_series(series)
    for one, rows in zip(series, together, strict=True):
        torch.testing.assert_close(rows, model.encode_series([one])[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("values", "message"), [((), "points"), (wave(25), "24 points"), ((0.0, float("nan")), "finite")])
def test_a_series_the_encoder_cannot_take_is_refused(model: SoftPromptModel, values: tuple[float, ...], message: str):
    """Catches a series that silently loses its tail or turns every embedding into NaN."""
    with pytest.raises(PromptError, match=message):
        model.encode_series([wave(8), values])


@torch.inference_mode()
def test_a_saved_model_reads_prompts_as_before(model: SoftPromptModel, saved: Path):
    """Catches a tensor that is saved but not loaded, and a tokenizer that changes on the way."""
    again = load(saved)
    assert is_softprompt_directory(saved)
    assert not is_softprompt_directory(saved.parent)
    assert again.config == model.config
    torch.testing.assert_close(again.embed(prompt(8, 9)), model.embed(prompt(8, 9)), rtol=0, atol=0)
    ids = torch.tensor([[0, 3, 4, 5]])
    torch.testing.assert_close(again.language_model(ids).logits, model.language_model(ids).logits, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_embeddings_take_the_dtype_of_the_language_model(saved: Path):
    """Catches fp32 patches between bf16 words, which no language model accepts."""
    half = SoftPromptModel.from_directory(saved, dtype=torch.bfloat16, device="cpu")
    assert half.embed(prompt(8)).dtype == torch.bfloat16
    assert half.encoder.pos_embed.dtype == torch.float32


ENCODER, LANGUAGE_MODEL = "time_series_encoder.safetensors", "model.safetensors"
NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("file", "tensor"), [(ENCODER, "encoder.pos_embed"), (ENCODER, "projector.projector.1.weight"), (LANGUAGE_MODEL, NORM)]
)
@pytest.mark.parametrize("damage", ["missing", "unexpected", "misshaped", "not finite"])
def test_a_damaged_tensor_is_named_with_its_file(saved: Path, file: str, tensor: str, damage: str):
    """Catches weights that stay at their random initial values because a key did not match: the model would just be bad."""
    tensors = load_file(saved / file)
    if damage == "missing":
        del tensors[tensor]
    elif damage == "unexpected":
        tensor = "stray.weight"
        tensors[tensor] = torch.zeros(2)
    elif damage == "misshaped":
        tensors[tensor] = torch.zeros(3, *tensors[tensor].shape[1:])
    else:
        tensors[tensor].view(-1)[1] = float("inf")
    save_file(tensors, saved / file, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load(saved)
    assert file in str(caught.value)
    assert tensor in str(caught.value)


@pytest.mark.parametrize("file", [ENCODER, LANGUAGE_MODEL])
@pytest.mark.parametrize("keep", [0, 5, 600, -1])
def test_a_weight_file_that_is_cut_off_is_named(saved: Path, file: str, keep: int):
    """Catches a broken download that surfaces as a traceback, or as a model with the wrong numbers."""
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(whole[:keep])
    with pytest.raises(ModelError, match=file):
        load(saved)


@pytest.mark.parametrize("file", [ENCODER, LANGUAGE_MODEL, "config.json", "tokenizer.json", "time_series_encoder.json"])
def test_a_missing_file_is_one_clear_error(saved: Path, file: str):
    """Catches an error of another library, which does not say that the directory is incomplete."""
    (saved / file).unlink()
    with pytest.raises(ModelError):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers"),
        ({"patch_size": "4"}, "patch_size"),
        ({"num_heads": 3}, "multiple"),
        ({"hidden_size": 32}, "hidden_size"),
        ({"bos_per_fragment": 1}, "bos_per_fragment"),
        ({"layers": 2}, "exactly the entries"),
    ],
)
def test_impossible_sizes_are_refused(saved: Path, change: dict[str, object], message: str):
    """Catches sizes that torch would refuse with an assertion deep inside, or take silently."""
    path = saved / "time_series_encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load(saved)


def test_sizes_that_are_not_json_are_refused(saved: Path):
    """Catches a JSON traceback instead of the name of the file."""
    (saved / "time_series_encoder.json").write_text("{")
    with pytest.raises(ModelError, match=r"time_series_encoder\.json"):
        load(saved)


def test_the_released_opentslm_sizes_are_the_defaults():
    """Catches names or shapes that drift from OpenTSLM's `encoder_state`, so that its checkpoints could not be loaded."""
    sizes = EncoderConfig(hidden_size=2048)
    assert (sizes.patch_size, sizes.embed_dim, sizes.num_layers, sizes.num_heads, sizes.feedforward_dim) == (4, 128, 6, 8, 1024)
    names = set(tiny_model().encoder.state_dict())
    assert {"patch_embed.weight", "pos_embed", "input_norm.weight", "encoder.layers.1.linear1.weight"} <= names
    assert set(tiny_model().projector.state_dict()) == {
        f"projector.{index}.{kind}" for index in (0, 1) for kind in ("weight", "bias")
    }


def test_the_embedded_model_is_whole_and_small(tmp_path: Path):
    """Catches an asset that was committed damaged or has outgrown the wheel, and a loader that writes beside it."""
    sizes = {path.name: path.stat().st_size for path in EMBEDDED.iterdir()}
    assert sum(size for name, size in sizes.items() if name.endswith(".safetensors")) <= 12_000_000
    assert sum(sizes.values()) <= 13_000_000
    shutil.copytree(EMBEDDED, tmp_path / "model")
    model = load(tmp_path / "model")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert model.language_model.config.max_position_embeddings >= 1024
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(sizes)
