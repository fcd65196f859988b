"""Options that several commands share. Names are transformers' where transformers has one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maxent_ts.cli.completion import (
    complete_engine,
    complete_method,
    complete_preset,
    complete_reward,
    complete_setting,
    complete_task,
    complete_tracker,
)
from maxent_ts.cli.config_file import read_config_file
from maxent_ts.cli.shared import Format

__all__ = [
    "ApiKeyVariable",
    "BaseUrl",
    "BaseModel",
    "BatchSize",
    "Compat",
    "Config",
    "DType",
    "DataDir",
    "Debug",
    "Device",
    "DryRun",
    "Embedder",
    "Engine",
    "Labels",
    "Limit",
    "MaxFailures",
    "MaxNewTokens",
    "Method",
    "MaxSeconds",
    "MaxTotalTokens",
    "Model",
    "NumRollouts",
    "OutputFormat",
    "Overwrite",
    "PresetName",
    "Question",
    "Quiet",
    "Ray",
    "RayNumCpus",
    "RayNumGpus",
    "RayTimeout",
    "RayWorkers",
    "Reward",
    "RewardOfRun",
    "RewardWeights",
    "RunDirectory",
    "Scorer",
    "ScorerOfRun",
    "Seed",
    "Series",
    "Set",
    "Shard",
    "StopString",
    "TASKS",
    "Temperature",
    "KvCacheGib",
    "MinP",
    "NoRepeatNgramSize",
    "Quantization",
    "RepetitionPenalty",
    "Tilt",
    "TopK",
    "TopP",
    "Track",
]

_MODEL = "Model"
_SEARCH = "Search"
_OWN = "Your own series"
_MANY = "Many processes and machines"
_CAPS = "Caps: the run ends there and can be continued"

TASKS = typer.Argument(metavar="TASKS", help="demo, tasks by name, or file.py:name.", autocompletion=complete_task)
"""An argument of its own type where there must be a task and where there need not."""

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/demo.")]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model directory, hub id, or checkpoint of OpenTSLM.",
        show_default="the embedded model",
        rich_help_panel=_MODEL,
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        help="Directory or hub id of an OpenTSLM checkpoint's language model.",
        show_default="what its name tells",
        rich_help_panel=_MODEL,
    ),
]
Compat = Annotated[
    str | None,
    typer.Option(
        "--compat",
        help="How a prompt is read by an OpenTSLM model: upstream, fixed (Flamingo) or gemma-leftpad (soft prompt).",
        show_default="upstream",
        rich_help_panel=_MODEL,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Engine name, or file.py:function.",
        show_default="hf",
        rich_help_panel=_MODEL,
        autocompletion=complete_engine,
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", help="Of --engine openai: the server, such as http://localhost:8000/v1.", rich_help_panel=_MODEL),
]
Embedder = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        help="Of --engine openai: the soft-prompt model whose encoder runs here; the server takes input embeddings and "
        "serves its language model.",
        rich_help_panel=_MODEL,
    ),
]
ApiKeyVariable = Annotated[
    str | None,
    typer.Option(
        "--api-key-variable",
        help="Of --engine openai: the environment variable that holds the key.",
        show_default="OPENAI_API_KEY",
        rich_help_panel=_MODEL,
    ),
]
DType = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.", show_default="float32", rich_help_panel=_MODEL)
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, mps or auto.", show_default="auto", rich_help_panel=_MODEL)
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Rollouts decoded or requests sent side by side.", rich_help_panel=_MODEL),
]

Method = Annotated[str, typer.Option("--method", help="Method name.", rich_help_panel=_SEARCH, autocompletion=complete_method)]


def _reward(show_default: str) -> typer.models.OptionInfo:
    return typer.Option(
        "--reward",
        help="Reward name, or file.py:function; repeat to add.",
        show_default=show_default,
        rich_help_panel=_SEARCH,
        autocompletion=complete_reward,
    )


def _scorer(show_default: str) -> typer.models.OptionInfo:
    return typer.Option(
        "--scorer",
        metavar="clean|upstream",
        help="Whose reading of answers counts: ours, or that of the data's authors. Records have both.",
        show_default=show_default,
    )


Reward = Annotated[list[str] | None, _reward("the task's")]
RewardOfRun = Annotated[list[str] | None, _reward("the run's")]
RewardWeights = Annotated[
    str | None,
    typer.Option(
        "--reward-weights", help="Comma-separated, one for each --reward.", show_default="1 each", rich_help_panel=_SEARCH
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="METHOD.KEY=VALUE",
        help="A method's setting; repeatable.",
        rich_help_panel=_SEARCH,
        autocompletion=complete_setting,
    ),
]
Tilt = Annotated[
    float | None, typer.Option("--tilt", min=0, help="λ in p(x)·exp(λ r(x)).", show_default="1", rich_help_panel=_SEARCH)
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="quick (5 rollouts × 30 tokens), balanced (10 × 50) or thorough (20 × 100).",
        show_default="balanced",
        rich_help_panel=_SEARCH,
        autocompletion=complete_preset,
    ),
]
NumRollouts = Annotated[int | None, typer.Option("--num-rollouts", min=1, help="Overrides the preset's.", rich_help_panel=_SEARCH)]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Overrides the preset's.", rich_help_panel=_SEARCH)
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="Of the reference policy p.", show_default="1", rich_help_panel=_SEARCH)
]
TopK = Annotated[
    int | None, typer.Option("--top-k", min=1, help="Of the reference policy p.", show_default="off", rich_help_panel=_SEARCH)
]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="Of the reference policy p.", show_default="off", rich_help_panel=_SEARCH)
]
MinP = Annotated[
    float | None,
    typer.Option(
        "--min-p", help="Of p: drop tokens below this share of the likeliest.", show_default="off", rich_help_panel=_SEARCH
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", help="Of p, as in transformers.", show_default="1", rich_help_panel=_SEARCH),
]
NoRepeatNgramSize = Annotated[
    int | None,
    typer.Option("--no-repeat-ngram-size", min=0, help="Of p, as in transformers.", show_default="off", rich_help_panel=_SEARCH),
]
Quantization = Annotated[
    str | None,
    typer.Option("--quantization", help="rq8: linear layers in 8 bits on a CPU; then p is that model.", rich_help_panel=_MODEL),
]
ExactLogprobs = Annotated[
    bool | None,
    typer.Option(
        "--exact-logprobs",
        help="With --quantization, which then only draws: p is the exact model, by one more pass over each rollout.",
        rich_help_panel=_MODEL,
    ),
]
KvCacheGib = Annotated[
    float | None,
    typer.Option(
        "--kv-cache-gib", min=0, help="Memory for keys and values to keep, in GiB.", show_default="1", rich_help_panel=_MODEL
    ),
]
StopString = Annotated[
    list[str] | None, typer.Option("--stop-string", help="Ends a completion; repeatable.", rich_help_panel=_SEARCH)
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same results.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Directory in OpenTSLM's own layout; for tsqa also a hub id.", show_default="the embedded sample"
    ),
]
Series = Annotated[
    Path | None,
    typer.Option(
        "--series",
        metavar="FILE.csv",
        help="A column for each channel, a row for each step; 'id' tells items apart, 'label' is the right answer.",
        rich_help_panel=_OWN,
    ),
]
Question = Annotated[
    str | None, typer.Option("--question", help="What is asked about each item.", show_default="a caption", rich_help_panel=_OWN)
]
Labels = Annotated[
    str | None,
    typer.Option("--labels", help="Possible answers, with commas between them.", show_default="free text", rich_help_panel=_OWN),
]
Scorer = Annotated[str | None, _scorer("clean")]
ScorerOfRun = Annotated[str | None, _scorer("the run's")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Items per task: a seeded stratified subset.")]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Every N-th item from the K-th on, for batch schedulers; join with maxent-ts merge.",
        rich_help_panel=_MANY,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|ADDRESS",
        help="Run on a Ray cluster: the running one, or else one on this machine; or that of a head, host:port.",
        rich_help_panel=_MANY,
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(
        "--ray-workers",
        min=1,
        help="Workers, each with its own engine.",
        show_default="as many as the nodes hold",
        rich_help_panel=_MANY,
    ),
]
RayNumCpus = Annotated[
    float | None, typer.Option("--ray-num-cpus", min=0, help="Cores of a worker.", show_default="1", rich_help_panel=_MANY)
]
RayNumGpus = Annotated[
    float | None, typer.Option("--ray-num-gpus", min=0, help="GPUs of a worker.", show_default="0", rich_help_panel=_MANY)
]
RayTimeout = Annotated[
    float | None,
    typer.Option(
        "--ray-timeout",
        min=1,
        help="Seconds to wait while no node can take a worker.",
        show_default="300",
        rich_help_panel=_MANY,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over in a directory that holds another run.")]
MaxFailures = Annotated[int, typer.Option("--max-failures", min=0, help="Failed items that still give exit code 0.")]
MaxTotalTokens = Annotated[
    int | None,
    typer.Option(
        "--max-total-tokens",
        min=1,
        help="Generated tokens of the whole run, earlier starts included: a search starts only if its budget still fits.",
        rich_help_panel=_CAPS,
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        "--max-seconds", min=0.001, help="Wall time of this start. What is not finished then is dropped.", rich_help_panel=_CAPS
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="json prints nothing but data on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Track = Annotated[
    list[str] | None, typer.Option("--track", help="trackio, wandb or mlflow; repeatable.", autocompletion=complete_tracker)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the resolved configuration and upper bounds; run nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing but data, and errors.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE.yaml", help="Options from a file; flags go before it.", callback=read_config_file, is_eager=True
    ),
]
