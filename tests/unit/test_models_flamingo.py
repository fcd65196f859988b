"""OpenTSLM's Flamingo checkpoints: what they compute, and that every tensor of the file is accounted for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from maxent_ts.engines.base import RolloutJob  # noqa: E402
from maxent_ts.engines.hf import HFEngine  # noqa: E402
from maxent_ts.engines.linears import INT8_KERNELS  # noqa: E402
from maxent_ts.errors import ModelError, PromptError, SettingError  # noqa: E402
from maxent_ts.models.conversion import convert  # noqa: E402
from maxent_ts.models.opentslm import load_series_model  # noqa: E402
from maxent_ts.types import Branch, Policy, SeriesSegment, TimeSeriesPrompt  # noqa: E402
from tests.flamingo_fixtures import PlainFlamingo, flamingo_content, flamingo_state, save_flamingo  # noqa: E402
from tests.opentslm_fixtures import prompt, save_base, wave  # noqa: E402
from tests.unit.hf_helpers import answers, largest_difference  # noqa: E402

POLICY = Policy(max_new_tokens=10)
LENGTHS = [(5,), (16, 9), (40,), (7, 7, 31), (160,), (12, 4), (90, 61), (1,)]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def base(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"), kind=request.param)


@pytest.fixture(scope="module")
def llama_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def checkpoint(base: Path) -> Path:
    return save_flamingo(base / "flamingo" / "model_checkpoint.pt", flamingo_content(base))


def test_the_layout_has_as_many_keys_as_a_released_checkpoint(llama_base: Path):
    """Catches a layout that is not that of the releases: 716 keys and their 716 copies for Llama-3.2-1B's 16 layers."""
    state = flamingo_state(llama_base)
    in_layers = [name for name in state if ("layers." in name and name.startswith("lang_encoder")) or "old_decoder" in name]
    assert len(state) - len(in_layers) + len(in_layers) // 2 * 16 == 716


@pytest.mark.parametrize("compat", ["upstream", "fixed"])
@pytest.mark.parametrize("batch_size", [1, 32])
def test_decoding_equals_a_plain_forward_whatever_the_batch(base: Path, checkpoint: Path, batch_size: int, compat: str):
    """Catches media of another row of the batch, media that the cached tokens do not see, and a mask of another rule."""
    plain = PlainFlamingo(base, flamingo_state(base), fixed=compat == "fixed")
    engine = HFEngine(checkpoint, base_model=base, max_batch_size=batch_size, device="cpu", compat=compat)
    assert engine.capabilities.time_series
    indices = range(2, 4) if batch_size == 1 else range(16)
    prompts = [prompt(*LENGTHS[index % 8], shift=index, pre="look " * (index % 3 + 1)) for index in indices]
    jobs = [RolloutJob(engine.open(one, POLICY), (), ((index, 0), (index, 1))) for index, one in enumerate(prompts)]
    for one, job, found in zip(prompts, jobs, answers(engine, jobs), strict=True):
        ids = plain.read(one)
        assert job.context.num_prompt_tokens == len(ids)
        assert isinstance(found.answer, Branch)
        for rollout in found.answer.rollouts:
            assert largest_difference(plain.model, ids, (), rollout, POLICY) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_hold_their_prompts_see_their_media_too(base: Path, checkpoint: Path, attention: str):
    """Catches media that only reach rows which share their prompts' keys, as they do on a CPU with torch's attention."""
    plain = PlainFlamingo(base, flamingo_state(base))
    model = load_series_model(checkpoint, dtype=torch.float32, device=torch.device("cpu"), base_model=base)
    assert model is not None
    model.language_model.set_attn_implementation(attention)
    engine = HFEngine(model, max_batch_size=8, dtype="auto")
    prompts = [prompt(9, 30, shift=index, pre="a" * index) for index in range(5)]
    jobs = [RolloutJob(engine.open(one, POLICY), (), ((index, 0), (index, 1))) for index, one in enumerate(prompts)]
    for one, found in zip(prompts, answers(engine, jobs), strict=True):
        for rollout in found.answer.rollouts:
            assert largest_difference(plain.model, plain.read(one), (), rollout, POLICY) < 1e-5


@pytest.mark.skipif(
    INT8_KERNELS not in torch.backends.quantized.supported_engines, reason="this processor has no 8-bit kernels of torch"
)
def test_the_exact_models_log_probabilities_see_the_media(base: Path, checkpoint: Path):
    """Catches a second pass, over what a quantised model wrote, without the series or with those of one position only."""
    plain = PlainFlamingo(base, flamingo_state(base))
    engine = HFEngine(checkpoint, base_model=base, max_batch_size=8, device="cpu", quantization="rq8", exact_logprobs=True)
    prompts = [prompt(*LENGTHS[index], shift=index, pre="a" * index) for index in range(5)]
    jobs = [RolloutJob(engine.open(one, POLICY), (), ((index, 0), (index, 1))) for index, one in enumerate(prompts)]
    for one, found in zip(prompts, answers(engine, jobs), strict=True):
        for rollout in found.answer.rollouts:
            assert largest_difference(plain.model, plain.read(one), (), rollout, POLICY) < 1e-5


def test_series_reach_the_answer_and_the_two_rules_differ(base: Path, checkpoint: Path):
    """Catches gates that are shut, or a switch that changes nothing: then the comparisons above would test little."""
    seen = {}
    for compat in ("upstream", "fixed"):
        engine = HFEngine(checkpoint, base_model=base, device="cpu", compat=compat)
        jobs = [RolloutJob(engine.open(prompt(16, 9, shift=shift), POLICY), (), ((0, 0),)) for shift in (0.0, 2.0)]
        seen[compat] = [found.answer.rollouts[0].logprobs[0] for found in answers(engine, jobs)]
    assert abs(seen["fixed"][0] - seen["fixed"][1]) > 1e-4
    assert abs(seen["upstream"][0] - seen["upstream"][1]) > 1e-4
    assert abs(seen["upstream"][0] - seen["fixed"][0]) > 1e-4


def test_a_stream_gives_the_same_bits_alone_and_among_others(llama_base: Path, tmp_path: Path):
    """Catches cross-attention whose products depend on the number of rows, which the engine would have to own up to."""
    path = save_flamingo(tmp_path / "model_checkpoint.pt", flamingo_content(llama_base))
    engine = HFEngine(path, base_model=llama_base, max_batch_size=24, device="cpu")
    assert engine.capabilities.deterministic
    alone = answers(engine, [RolloutJob(engine.open(prompt(9, 30), POLICY), (), ((7, 0),))])[0].answer.rollouts
    others = [RolloutJob(engine.open(prompt(16, shift=index), POLICY), (), ((index, 0), (index, 1))) for index in range(11)]
    among = answers(engine, [*others, RolloutJob(engine.open(prompt(9, 30), POLICY), (), ((7, 0),))])[-1].answer.rollouts
    assert among == alone


def test_a_prompt_with_other_series_is_another_prompt(base: Path, checkpoint: Path):
    """Catches a cache that knows a prompt by its tokens alone: the series are not among them."""
    engine = HFEngine(checkpoint, base_model=base, device="cpu")
    segments = [(SeriesSegment("wave", wave(16, shift)),) for shift in (0.0, 2.0, 0.0)]
    contexts = [engine.open(TimeSeriesPrompt("look", one, "now"), POLICY) for one in segments]
    first, second, again = answers(engine, [RolloutJob(context, (), ((0, 0),)) for context in contexts])
    assert first.answer.rollouts[0].logprobs != second.answer.rollouts[0].logprobs
    assert first.answer.rollouts == again.answer.rollouts
    assert engine.stats.prefills == 2


def test_text_alone_sees_no_media(base: Path, checkpoint: Path):
    """Catches media of an earlier prompt that are still set when a prompt has none."""
    engine = HFEngine(checkpoint, base_model=base, device="cpu")
    answers(engine, [RolloutJob(engine.open(prompt(16), POLICY), (), ((0, 0),))])
    (after,) = answers(engine, [RolloutJob(engine.open("a b c", POLICY), (), ((0, 0),))])
    fresh = HFEngine(checkpoint, base_model=base, device="cpu")
    (alone,) = answers(fresh, [RolloutJob(fresh.open("a b c", POLICY), (), ((0, 0),))])
    assert after.answer == alone.answer
    with pytest.raises(PromptError, match="stands for a series"):
        engine.open(TimeSeriesPrompt("an <image> here", (SeriesSegment("wave", wave(8)),), "now"), POLICY)
    with pytest.raises(PromptError, match="1 to 160 points"):
        engine.open(prompt(161), POLICY)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_checkpoint_answers_as_the_checkpoint_did(base: Path, checkpoint: Path, tmp_path: Path, dtype: str):
    """Catches a tensor that is lost on the way, and media tokens that the tokenizer forgets."""
    written = convert(checkpoint, tmp_path / "out", base_model=base)
    found = []
    for engine in (
        HFEngine(checkpoint, base_model=base, device="cpu", dtype=dtype),
        HFEngine(written, device="cpu", dtype=dtype),
    ):
        jobs = [RolloutJob(engine.open(prompt(9, 30, shift=index), POLICY), (), ((index, 0), (index, 1))) for index in range(3)]
        found.append([one.answer.rollouts for one in answers(engine, jobs)])
    assert found[0] == found[1]
    with pytest.raises(SettingError, match="compat must be upstream or fixed"):
        HFEngine(written, device="cpu", compat="gemma-leftpad")


def test_every_layout_that_upstream_writes_is_read(base: Path, checkpoint: Path, tmp_path: Path):
    """Catches a loader of one of the layouts only: `store_to_file`, and open_flamingo 0.0.2, which keeps no old blocks."""
    whole = load_series_model(checkpoint, dtype=torch.float32, device=torch.device("cpu"), base_model=base)
    assert whole is not None
    state = flamingo_state(base)
    for content in (
        {"llm": state},
        {"llm": {name: tensor for name, tensor in state.items() if "old_decoder_blocks" not in name}},
        {"model_state": {f"model.{name}": tensor for name, tensor in state.items()}},
    ):
        path = save_flamingo(tmp_path / "other.pt", content)
        model = load_series_model(path, dtype=torch.float32, device=torch.device("cpu"), base_model=base)
        assert model is not None
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[name]), name


LAYER = "lang_encoder.model.layers.1"
GATE = f"{LAYER}.gated_cross_attn_layer.attn_gate"
MLP = f"{LAYER}.decoder_layer.mlp.up_proj.weight"
State = dict[str, Any]


def everywhere(name: str, value: Any) -> Callable[[State], None]:
    """Change a tensor and all its copies, or drop them."""

    def change(state: State) -> None:
        copies = (name, name.replace("model.layers.1.decoder_layer", "old_decoder_blocks.1"))
        copies += (name.replace("model.layers.1.gated_cross_attn_layer", "gated_cross_attn_layers.1"),)
        for place in {f"{prefix}.{copy}" for prefix in ("model", "llm") for copy in copies}:
            if value is None:
                state.pop(place, None)
            elif place in state:
                state[place] = value

    return change


DAMAGES: dict[str, tuple[Callable[[State], Any], list[str]]] = {
    "a missing gate": (everywhere(GATE, None), [f"lacks tensor model_state/model.{GATE}"]),
    "a missing weight": (everywhere(MLP, None), [f"lacks tensor model_state/model.{MLP}"]),
    "a missing latent": (everywhere("perceiver.latents", None), ["lacks tensor model_state/model.perceiver.latents"]),
    "no positions": (everywhere("vision_encoder.pos_embed", None), ["vision_encoder.pos_embed", "3 axes"]),
    "a wrong shape": (everywhere(MLP, torch.zeros(3, 3)), [MLP, "[48, 32]", "[3, 3]"]),
    "a number that is not finite": (everywhere(GATE, torch.tensor([float("nan")])), [GATE]),
    "whole numbers": (everywhere(MLP, torch.zeros(48, 32, dtype=torch.int64)), [MLP, "int64"]),
    "an original lost": (lambda state: state.pop(f"model.{MLP}"), [f"lacks tensor model.{MLP}", f"llm.{MLP}"]),
    "a copy lost": (lambda state: state.pop(f"llm.{MLP}"), ["lacks the one of", MLP]),
    "a copy that differs": (
        lambda state: state.update({f"llm.{MLP}": torch.zeros(48, 32)}),
        [f"llm.{MLP} should equal model.{MLP}"],
    ),
    "an old block that differs": (
        lambda state: [
            state.update({f"{prefix}.lang_encoder.old_decoder_blocks.1.mlp.up_proj.weight": torch.zeros(48, 32)})
            for prefix in ("model", "llm")
        ],
        ["old_decoder_blocks.1.mlp.up_proj.weight should equal"],
    ),
    "a stray tensor": (
        lambda state: state.update({"model.stray": torch.zeros(1), "llm.stray": torch.zeros(1)}),
        ["unexpected tensor model_state/model.stray"],
    ),
    "a tensor of no half": (lambda state: state.update(stray=torch.zeros(1)), ["unexpected tensor model_state/stray"]),
    "another vocabulary": (
        everywhere("lang_encoder.model.embed_tokens.weight", torch.zeros(40, 64)),
        ["width 64 with 40 tokens", "width 32 and 34 tokens", "--base-model"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_in_a_checkpoint_is_named(llama_base: Path, tmp_path: Path, damage: str):
    """Catches upstream's way to load what fits and print the rest: such a model answers nothing, and says so nowhere."""
    change, words = DAMAGES[damage]
    content = flamingo_content(llama_base)
    change(content["model_state"])
    path = save_flamingo(tmp_path / "model_checkpoint.pt", content)
    with pytest.raises(ModelError) as caught:
        load_series_model(path, dtype=torch.float32, device=torch.device("cpu"), base_model=llama_base)
    for word in (str(path), *words):
        assert word in str(caught.value)
