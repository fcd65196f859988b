"""Train the embedded forecast model: a small causal language model over digits.

    nice python training/forecast_model.py --shared ../shared/data --output src/maxent_ts/assets/forecast_model

A Llama of about 0.7 million parameters reads "H251,253,…", newline, and writes the horizon, every character a token. The loss is
on all numbers, context included. Training series only (see `forecast_data.py`). The seed fixes data and initial weights; where
`--max-minutes` ends the schedule before `--steps`, the weights also depend on how fast the machine is.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forecast_data import forecast_training, window_text
from maxent_ts.tasks.frequencies import FREQUENCIES

BOS, EOS, PAD, UNKNOWN = "<bos>", "<eos>", "<pad>", "<unk>"
MAX_POSITIONS = 1024
SHARES = {"Hourly": 0.4, "Weekly": 0.2, "Monthly": 0.2, "Quarterly": 0.1, "Yearly": 0.06, "Other": 0.04}
"""Of the batches."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Every character is a token; the beginning-of-sequence token is put before a text."""
    letters = "".join(one.letter for one in FREQUENCIES.values())
    vocabulary = {token: index for index, token in enumerate((BOS, EOS, PAD, UNKNOWN, *"0123456789,\n", *letters))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> LlamaForCausalLM:
    """Initialise the model."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=2 * args.hidden_size,
        num_hidden_layers=args.num_layers,
        num_attention_heads=args.hidden_size // 32,
        num_key_value_heads=args.hidden_size // 32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.02,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, **special)
    return model


def draw_batch(
    training: dict[str, list[np.ndarray]], tokenizer: PreTrainedTokenizerFast, num_tokens: int, rng: np.random.Generator
) -> torch.Tensor:
    """Draw windows of one frequency and one length, int64 [rows, length]: no padding."""
    frequency = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    facts = FREQUENCIES[frequency]
    series = training[frequency]
    longest = min(facts.max_context, int(np.quantile([len(one) for one in series], 0.6)) - facts.horizon)
    num_context = int(rng.integers(max(longest // 2, 8), longest + 1)) if rng.random() < 0.5 else longest
    eligible = [one for one in series if len(one) >= num_context + facts.horizon]
    # A long series has more windows to draw from.
    weights = np.array([len(one) - num_context - facts.horizon + 1 for one in eligible], dtype=np.float64) ** 0.5
    rows = []
    for index in rng.choice(len(eligible), max(num_tokens // (4 * (num_context + facts.horizon)), 1), p=weights / weights.sum()):
        written = window_text(eligible[index], frequency, num_context, rng)
        assert written is not None
        rows.append([*tokenizer("".join(written))["input_ids"], tokenizer.eos_token_id])
    return torch.tensor(rows)


def schedule(done: float) -> float:
    """Return the factor on the learning rate: linear warm-up over 4 % of the training, then a cosine down to 2 %."""
    if done < 0.04:
        return 0.02 + 0.98 * done / 0.04
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.04) / 0.96))


def train(args: argparse.Namespace) -> LlamaForCausalLM:
    """Run the recipe and write the model directory: weights averaged over the last steps, in bfloat16."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    training = forecast_training(args.shared)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args) if args.initial is None else LlamaForCausalLM.from_pretrained(args.initial)
    model = model.float().train()
    ends = torch.tensor(tokenizer.convert_tokens_to_ids([",", EOS]))
    (line_break,) = tokenizer.convert_tokens_to_ids(["\n"])
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.98)
    )
    averaged = {name: value.detach().clone() for name, value in model.named_parameters()}
    running, seen, started = math.nan, 0, time.process_time()
    step, done = 0, 0.0
    while done < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * schedule(done)
        ids = draw_batch(training, tokenizer, args.batch_tokens, rng)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)
        # Whether the horizon is over is decided where a separator or the end stands behind the line break.
        decides = torch.isin(ids[:, 1:], ends) & ((ids[:, :-1] == line_break).cumsum(1) > 0)
        weights = torch.where(decides, args.end_weight, 1.0)
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(0.98, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.named_parameters():
                averaged[name].lerp_(value, 1 - decay)
        seen += ids.numel()
        running = loss.item() if math.isnan(running) else 0.97 * running + 0.03 * loss.item()
        step += 1
        minutes = (time.process_time() - started) / 60
        done = max(step / args.steps, minutes / args.max_minutes)
        if step % 25 == 0:
            print(f"{step} steps, {minutes:.1f} min of CPU, {seen / 1e6:.2f} M tokens, loss {running:.3f}", flush=True)
        if step % 200 == 0 or done >= 1.0:
            save(model, averaged, tokenizer, args, {"steps_done": step, "cpu_minutes": round(minutes, 1), "tokens": seen})
    return model


def save(
    model: LlamaForCausalLM,
    averaged: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerFast,
    args: argparse.Namespace,
    facts: dict[str, float],
) -> None:
    """Write the averaged weights as bfloat16, the tokenizer, and what they were made with."""
    rounded = LlamaForCausalLM(model.config)
    rounded.generation_config = model.generation_config
    rounded.load_state_dict({**model.state_dict(), **averaged})
    rounded.to(torch.bfloat16).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    settings = {name: value for name, value in vars(args).items() if name not in ("shared", "output", "initial")}
    text = json.dumps({**settings, **facts, "torch": torch.__version__, "numpy": np.__version__}, indent=2)
    (args.output / "training.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder with the parquet files")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--initial", type=Path, help="go on from this model directory instead of starting afresh")
    parser.add_argument("--end-weight", type=float, default=1.0, help="on whether a value is the last one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--max-minutes", type=float, default=15, help="of CPU time; a slow machine ends the schedule here")
    parser.add_argument("--batch-tokens", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=4)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
