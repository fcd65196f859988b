"""Train the embedded time-series language model.

    python training/train.py --shared ../shared/data --output src/maxent_ts/assets/model

Rationales for UCI HAR windows and captions for M4 and M3 series are written anew at every step by the rule-based writer, on
series that are changed at random. The loss is on the written tokens alone. Two auxiliary classifiers (on the pooled encoder
output, and on the last prompt position) help the signal into the language model; they are dropped afterwards. Only training
subjects and training series are read.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from batches import Batch, Sampler, collate
from forward import answer_states
from maxent_ts.models.softprompt import EncoderConfig, SoftPromptModel
from maxent_ts.tasks.opentslm import HAR_LABELS
from tokenizer import train_tokenizer
from warmup import warm_up_encoder

MAX_POSITIONS = 1024


def build_model(sampler: Sampler, args: argparse.Namespace) -> SoftPromptModel:
    """Train the tokenizer and initialise the model."""
    texts = []
    for sample in sampler.har_samples(2000) + [sample for _ in range(50) for sample in sampler.caption_samples(25)]:
        texts += [segment.text for segment in sample.prompt.series] + [" " + sample.text, sample.measurements]
    prompts = [sample.prompt for sample in sampler.har_samples(1) + sampler.caption_samples(1)]
    shared = [text for prompt in prompts for text in (prompt.pre_prompt, prompt.post_prompt)]
    for label in HAR_LABELS:
        texts += [f" Answer: {label}"] * 50
    tokenizer = train_tokenizer(texts + shared * 100, vocab_size=args.vocab_size, max_length=MAX_POSITIONS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size,
        num_hidden_layers=args.num_layers,
        num_attention_heads=args.hidden_size // 32,
        num_key_value_heads=args.hidden_size // 32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    language_model = LlamaForCausalLM(config)
    language_model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
    )
    encoder = EncoderConfig(
        hidden_size=args.hidden_size,
        patch_size=args.patch_size,
        embed_dim=args.embed_dim,
        num_layers=args.encoder_layers,
        num_heads=4,
        feedforward_dim=args.embed_dim * 3,
        max_patches=512 // args.patch_size,
        bos_per_fragment=False,
    )
    return SoftPromptModel(language_model, tokenizer, encoder)


class Learner(nn.Module):
    """The model with its auxiliary classifiers."""

    def __init__(self, model: SoftPromptModel) -> None:
        super().__init__()
        self.model = model
        self.from_encoder = nn.Linear(3 * model.config.embed_dim, len(HAR_LABELS))
        self.from_prompt = nn.Linear(model.config.hidden_size, len(HAR_LABELS))

    def forward(self, batch: Batch, *, auxiliary_weight: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss and its parts."""
        patches = self.model.encoder(batch.series)
        states = answer_states(self.model, batch, patches)
        logits = self.model.language_model.lm_head(states[batch.predicts[:, 0], batch.predicts[:, 1]])
        losses = functional.cross_entropy(logits, batch.targets, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        parts = {"text": losses[batch.weights == 1].mean().item()}
        if batch.labels[0] >= 0:
            is_label = batch.weights != 1
            parts["label"] = losses[is_label].mean().item()
            parts["accuracy"] = (logits[is_label].argmax(-1) == batch.targets[is_label]).float().mean().item()
            pooled = patches.mean(1).reshape(len(batch.ids), -1)
            by_encoder = functional.cross_entropy(self.from_encoder(pooled), batch.labels)
            by_prompt = functional.cross_entropy(self.from_prompt(states[:, 0]), batch.labels)
            parts |= {"encoder": by_encoder.item(), "prompt": by_prompt.item()}
            loss = loss + auxiliary_weight * (by_encoder + by_prompt)
        return loss, parts


def keep_memory() -> None:
    """Ask glibc not to hand freed memory back: every step would fault it in again, at up to half of the run time."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(parameter, value)


def train(rank: int, args: argparse.Namespace) -> None:
    """Run the recipe and write the model directory. Every worker trains on samples of its own; gradients are averaged."""
    keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    distributed.init_process_group("gloo", init_method=f"file://{args.meeting}", rank=rank, world_size=args.workers)
    started = time.monotonic()
    if args.initial is not None:
        model = SoftPromptModel.from_directory(args.initial, dtype=torch.float32, device="cpu")
    else:
        # This stream is the same for all workers, so tokenizer and initial weights come out equal everywhere.
        model = build_model(Sampler(args.shared, all_subjects=args.all_subjects, strength=args.augment, seed=args.seed), args)
    sampler = Sampler(args.shared, all_subjects=args.all_subjects, strength=args.augment, seed=[args.seed, rank])
    learner = Learner(model).train()
    if args.initial is None:
        warm_up_encoder(model, sampler, steps=args.encoder_steps, batch_size=64 // args.workers, lr=1e-3, average=average_gradients)
    if rank == 0:
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(model.tokenizer)} tokens", flush=True)
    matrices = [p for p in learner.parameters() if p.ndim >= 2]
    vectors = [p for p in learner.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.98)
    )
    averaged = {name: value.detach().clone() for name, value in model.named_parameters()}
    running: dict[str, float] = {}
    num_rows = args.batch_size // args.workers
    step, done = 0, 0.0
    while done < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * schedule(done)
        captions = step % args.caption_every == args.caption_every - 1
        samples = sampler.caption_samples(num_rows) if captions else sampler.har_samples(num_rows)
        loss, parts = learner(collate(model, samples, answer_weight=args.answer_weight), auxiliary_weight=args.auxiliary)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(list(learner.parameters()))
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        decay = min(0.99, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.named_parameters():
                averaged[name].lerp_(value, 1 - decay)
        for name, value in parts.items():
            name = f"caption {name}" if captions else name
            running[name] = value if name not in running else 0.95 * running[name] + 0.05 * value
        step += 1
        done = progress(step, args.steps, time.monotonic() - started, args.max_minutes)
        if rank == 0 and step % 25 == 0:
            shown = {name: round(value, 3) for name, value in running.items()}
            print(step, f"{time.monotonic() - started:.0f}s", shown, flush=True)
        if rank == 0 and (step % args.save_every == 0 or done >= 1.0):
            save_averaged(model, averaged, args.output)
    if rank == 0:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        settings |= {
            "steps": step,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }
        del settings["meeting"], settings["output"]
        (args.output / "training.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    distributed.destroy_process_group()


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace gradients by their mean over the workers; a parameter without one counts as zero."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)


def save_averaged(model: SoftPromptModel, averaged: dict[str, torch.Tensor], output: Path) -> None:
    """Save the running average of the weights, and go on with the weights themselves."""
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(averaged[name])
        model.save(output)
        for name, value in model.named_parameters():
            value.copy_(own[name])


def progress(step: int, num_steps: int, seconds: float, max_minutes: float) -> float:
    """Return how much of the training is done, in [0, 1], by steps or by the first worker's clock, whichever is further."""
    done = torch.tensor([max(step / num_steps, seconds / (60 * max_minutes))])
    distributed.broadcast(done, 0)
    return done.item()


def schedule(done: float) -> float:
    """Return the factor on the learning rate: linear warm-up over 5 % of the training, then a cosine down to 2 %."""
    if done < 0.05:
        return 0.02 + 0.98 * done / 0.05
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder with the parquet files")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--initial", type=Path, help="go on from this model directory instead of starting afresh")
    parser.add_argument("--all-subjects", action="store_true", help="train on the validation subjects too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each; part of what the seed decides")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--max-minutes", type=float, default=60, help="a slow machine ends the schedule here, with fewer steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--caption-every", type=int, default=4, help="one batch in so many holds captions")
    parser.add_argument("--answer-weight", type=float, default=5.0)
    parser.add_argument("--auxiliary", type=float, default=0.3)
    parser.add_argument("--augment", type=float, default=1.0)
    parser.add_argument("--vocab-size", type=int, default=1200)
    parser.add_argument("--hidden-size", type=int, default=160)
    parser.add_argument("--intermediate-size", type=int, default=448)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--encoder-steps", type=int, default=600)
    parser.add_argument("--embed-dim", type=int, default=96)
    parser.add_argument("--encoder-layers", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args.meeting = Path(folder) / "meeting"
        multiprocessing.spawn(train, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
