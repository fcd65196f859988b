"""The commands about runs beyond a single comparison: sweeps, scoring again, joining shards, and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maxent_ts.cli import options
from maxent_ts.cli.completion import complete_method, complete_setting
from maxent_ts.cli.shared import Format, explained, note

__all__ = ["export", "merge", "rescore", "sweep"]

_GRID = "Grid: values with commas between them"


def _axis(flag: str, text: str, *, show_default: str | bool = False) -> typer.models.OptionInfo:
    return typer.Option(flag, metavar="VALUES", help=text, show_default=show_default, rich_help_panel=_GRID)


def sweep(
    tasks: Annotated[list[str], options.TASKS],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Method name; repeatable.",
            show_default="all",
            rich_help_panel=_GRID,
            autocompletion=complete_method,
        ),
    ] = None,
    num_rollouts: Annotated[str | None, _axis("--num-rollouts", "Such as 5,10,20.", show_default="the preset's")] = None,
    max_new_tokens: Annotated[str | None, _axis("--max-new-tokens", "Such as 30,50.", show_default="the preset's")] = None,
    tilt: Annotated[str | None, _axis("--tilt", "λ, such as 0.5,1,2.", show_default="1")] = None,
    num_parallel: Annotated[str | None, _axis("--num-parallel", "Rollouts per round, for methods that have rounds.")] = None,
    seed: Annotated[str | None, _axis("--seed", "Such as 0,1,2; the items are the same for all.", show_default="0")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="METHOD.KEY=VALUES",
            help="Values of a method's setting; repeatable.",
            rich_help_panel=_GRID,
            autocompletion=complete_setting,
        ),
    ] = None,
    reward: options.Reward = None,
    reward_weights: options.RewardWeights = None,
    preset: options.PresetName = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    no_repeat_ngram_size: options.NoRepeatNgramSize = None,
    stop_string: options.StopString = None,
    model: options.Model = None,
    base_model: options.BaseModel = None,
    compat: options.Compat = None,
    engine: options.Engine = None,
    base_url: options.BaseUrl = None,
    embedder: options.Embedder = None,
    api_key_variable: options.ApiKeyVariable = None,
    dtype: options.DType = None,
    quantization: options.Quantization = None,
    exact_logprobs: options.ExactLogprobs = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    kv_cache_gib: options.KvCacheGib = None,
    limit: options.Limit = None,
    data_dir: options.DataDir = None,
    scorer: options.Scorer = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", help="Run directory.", show_default="runs/sweep-<name of the run>")
    ] = None,
    overwrite: options.Overwrite = False,
    max_failures: options.MaxFailures = 0,
    max_total_tokens: options.MaxTotalTokens = None,
    max_seconds: options.MaxSeconds = None,
    save_trees: Annotated[int, typer.Option("--save-trees", min=0, help="Search trees kept per task and variant.")] = 0,
    output_format: options.OutputFormat = Format.TABLE,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    """Compare methods over a grid of settings, budgets, λ and seeds, as one run that can be stopped and continued."""
    from maxent_ts.cli.sweep import run_sweep

    with explained(debug=debug):
        run_sweep(
            tasks=tasks,
            methods=method,
            settings=settings or [],
            axes={"num_rollouts": num_rollouts, "max_new_tokens": max_new_tokens, "tilt": tilt, "seed": seed},
            num_parallel=num_parallel,
            values={
                "rewards": reward,
                "preset": preset,
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "repetition_penalty": repetition_penalty,
                "no_repeat_ngram_size": no_repeat_ngram_size,
                "stop_strings": stop_string,
                "model": model,
                "base_model": base_model,
                "compat": compat,
                "engine": engine,
                "base_url": base_url,
                "embedder": embedder,
                "api_key_variable": api_key_variable,
                "dtype": dtype,
                "quantization": quantization,
                "exact_logprobs": exact_logprobs,
                "device": device,
                "batch_size": batch_size,
                "kv_cache_gib": kv_cache_gib,
                "limit": limit,
                "data_dir": data_dir,
                "scorer": scorer,
                "output_dir": output_dir,
                "save_trees": save_trees,
                "max_total_tokens": max_total_tokens,
                "max_seconds": max_seconds,
            },
            reward_weights=reward_weights,
            overwrite=overwrite,
            max_failures=max_failures,
            output_format=output_format,
            quiet=quiet,
            dry_run=dry_run,
        )


def rescore(
    run_dir: options.RunDirectory,
    reward: options.RewardOfRun = None,
    reward_weights: options.RewardWeights = None,
    scorer: options.ScorerOfRun = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", help="Directory of the scored run.", show_default="RUN_DIR-rescored")
    ] = None,
    overwrite: options.Overwrite = False,
    output_format: options.OutputFormat = Format.TABLE,
    debug: options.Debug = False,
) -> None:
    """Compute rewards, evidence, answers and metrics of a run again from its completions, without the model."""
    with explained(debug=debug):
        from maxent_ts.cli.evaluation import parse_weights, print_run
        from maxent_ts.rescore import rescore as score_again

        place = output_dir or run_dir.with_name(run_dir.resolve().name + "-rescored")
        run = score_again(
            run_dir,
            place,
            rewards=reward or (),
            reward_weights=parse_weights(reward_weights) or (),
            scorer=scorer,
            overwrite=overwrite,
        )
        print_run(run, output_format)


def merge(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR", help="The run directories of all shards.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Directory of the whole run.")],
    overwrite: options.Overwrite = False,
    output_format: options.OutputFormat = Format.TABLE,
    debug: options.Debug = False,
) -> None:
    """Join the shards of a run (eval --shard) into the run directory that one process would have written."""
    with explained(debug=debug):
        from maxent_ts.cli.evaluation import print_run
        from maxent_ts.merging import merge as join

        print_run(join(run_dirs, output_dir, overwrite=overwrite), output_format)


def export(
    run_dir: options.RunDirectory,
    output: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="The file; replaced if it is there.")],
    debug: options.Debug = False,
) -> None:
    """Write the records of a run as one Parquet file, a row for each."""
    with explained(debug=debug):
        from maxent_ts.export import export_parquet

        note(f"{export_parquet(run_dir, output)} records: {output}")
