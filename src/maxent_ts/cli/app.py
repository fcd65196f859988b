"""The commands and their options. Bodies import what they need, so that help, version and lists stay quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from maxent_ts.cli import models, options, runs, serving
from maxent_ts.cli.completion import complete_method
from maxent_ts.cli.shared import EXIT_INTERRUPTED, ComparisonFormat, Format, explained, note

__all__ = ["app", "main"]

app = typer.Typer(
    name="maxent-ts",
    help="Maximum-entropy tree search over language models: samples from, or the best of, p(x)·exp(λ r(x)).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves through `SystemExit`."""
    # Torch's threads spin while they wait for each other. On cores that other processes use as well that makes a small model
    # three times slower or worse; on idle cores sleeping costs little. It counts only if it is set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=None if arguments is None else list(arguments))
    except KeyboardInterrupt:
        note("Stopped.")
        sys.exit(EXIT_INTERRUPTED)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Show versions and exit.", is_eager=True)] = False) -> None:
    if version:
        from maxent_ts.fingerprint import versions

        found = versions()
        ours = found.pop("maxent-ts")
        others = ", ".join(f"{name} {number or 'not installed'}" for name, number in found.items())
        typer.echo(f"maxent-ts {ours} ({others})")
        raise typer.Exit


@app.command("eval")
def _eval(
    tasks: Annotated[list[str] | None, options.TASKS] = None,
    series: options.Series = None,
    question: options.Question = None,
    labels: options.Labels = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Method name; repeatable.",
            show_default="all",
            rich_help_panel="Search",
            autocompletion=complete_method,
        ),
    ] = None,
    settings: options.Set = None,
    tilt: options.Tilt = None,
    reward: options.Reward = None,
    reward_weights: options.RewardWeights = None,
    preset: options.PresetName = None,
    num_rollouts: options.NumRollouts = None,
    max_new_tokens: options.MaxNewTokens = None,
    max_generated_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-generated-tokens",
            min=1,
            help="Budget of one search.",
            show_default="num_rollouts × max_new_tokens",
            rich_help_panel="Search",
        ),
    ] = None,
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
    seed: options.Seed = 0,
    data_dir: options.DataDir = None,
    scorer: options.Scorer = None,
    shard: options.Shard = None,
    ray: options.Ray = None,
    ray_workers: options.RayWorkers = None,
    ray_num_cpus: options.RayNumCpus = None,
    ray_num_gpus: options.RayNumGpus = None,
    ray_timeout: options.RayTimeout = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", help="Run directory.", show_default="runs/<name of the run>")
    ] = None,
    overwrite: options.Overwrite = False,
    max_failures: options.MaxFailures = 0,
    max_total_tokens: options.MaxTotalTokens = None,
    max_seconds: options.MaxSeconds = None,
    save_trees: Annotated[int, typer.Option("--save-trees", min=0, help="Search trees kept per task and method.")] = 1,
    output_format: options.OutputFormat = Format.TABLE,
    track: options.Track = None,
    quiet: options.Quiet = False,
    _config: options.Config = None,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    """Compare methods on tasks at equal generated tokens. The same command again continues where it stopped."""
    from maxent_ts.cli.evaluation import own_series, parse_shard, run_eval

    with explained(debug=debug):
        names, own = own_series(tasks or (), series, question, labels, data_dir)
        run_eval(
            tasks=names,
            methods=method,
            settings=settings or [],
            values={
                "tilt": tilt,
                "rewards": reward,
                "preset": preset,
                "num_rollouts": num_rollouts,
                "max_new_tokens": max_new_tokens,
                "generated_tokens": max_generated_tokens,
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
                "seed": seed,
                "scorer": scorer,
                "shard": None if shard is None else parse_shard(shard),
                "ray": ray,
                "ray_workers": ray_workers,
                "ray_num_cpus": ray_num_cpus,
                "ray_num_gpus": ray_num_gpus,
                "ray_timeout": ray_timeout,
                "output_dir": output_dir,
                "save_trees": save_trees,
                "max_total_tokens": max_total_tokens,
                "max_seconds": max_seconds,
                **own,
            },
            reward_weights=reward_weights,
            overwrite=overwrite,
            max_failures=max_failures,
            output_format=output_format,
            quiet=quiet,
            track=track or [],
            dry_run=dry_run,
        )


app.command("sweep")(runs.sweep)
app.command("rescore")(runs.rescore)
app.command("merge")(runs.merge)
app.command("export")(runs.export)
app.command("convert")(models.convert)
app.command("serve")(serving.serve)


@app.command("generate")
def _generate(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="A text prompt. Or use --task and --item.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Take the prompt from this task.")] = None,
    item: Annotated[str | None, typer.Option("--item", help="Which item of the task.", show_default="the first")] = None,
    series: options.Series = None,
    question: options.Question = None,
    labels: options.Labels = None,
    method: options.Method = "maxent",
    settings: options.Set = None,
    tilt: options.Tilt = None,
    reward: options.Reward = None,
    reward_weights: options.RewardWeights = None,
    preset: options.PresetName = None,
    num_rollouts: options.NumRollouts = None,
    max_new_tokens: options.MaxNewTokens = None,
    num_return_sequences: Annotated[int, typer.Option("--num-return-sequences", min=1, help="Completions shown.")] = 3,
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
    seed: options.Seed = 0,
    data_dir: options.DataDir = None,
    output_format: options.OutputFormat = Format.TABLE,
    quiet: options.Quiet = False,
    _config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Search for one prompt; show completions with weights, rewards and log p, the bracket of log Z, and the tokens used."""
    from maxent_ts.cli.evaluation import own_series
    from maxent_ts.cli.generation import run_generate

    with explained(debug=debug):
        names, own = own_series((task,) if task else (), series, question, labels, data_dir)
        run_generate(
            prompt=prompt,
            task_name=names[0] if names else None,
            item=item,
            method=method,
            settings=settings or [],
            values={
                "tilt": tilt,
                "rewards": reward,
                "preset": preset,
                "num_rollouts": num_rollouts,
                "max_new_tokens": max_new_tokens,
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
                "seed": seed,
                **own,
            },
            reward_weights=reward_weights,
            num_return_sequences=num_return_sequences,
            output_format=output_format,
            quiet=quiet,
        )


@app.command("compare")
def _compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN_A RUN_B...", help="Run directories; RUN:METHOD takes one method of a run.")
    ],
    metric: Annotated[
        str | None, typer.Option("--metric", help="reward, accuracy, or a measure of the task.", show_default="reward and accuracy")
    ] = None,
    method: Annotated[list[str] | None, typer.Option("--method", help="Only this method; repeatable.", show_default="all")] = None,
    cluster_by: Annotated[str, typer.Option("--cluster-by", help="What is resampled together: example or stratum.")] = "example",
    allow_unequal: Annotated[
        bool, typer.Option("--allow-unequal", help="Compare on shared items where items, budgets or rewards differ.")
    ] = False,
    output_format: Annotated[
        ComparisonFormat, typer.Option("--format", help="csv and json have full precision.")
    ] = ComparisonFormat.TABLE,
    debug: options.Debug = False,
) -> None:
    """Compare the later runs with the first, item by item: intervals, permutation tests, what could have been detected."""
    from maxent_ts.cli.comparison import run_compare

    with explained(debug=debug):
        run_compare(
            runs=runs,
            metric=metric,
            methods=method or [],
            cluster_by=cluster_by,
            allow_unequal=allow_unequal,
            output_format=output_format,
        )


@app.command("report")
def _report(
    run_dir: options.RunDirectory,
    output: Annotated[Path | None, typer.Option("--output", help="The page.", show_default="RUN_DIR/report.html")] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Also write each figure as SVG and PDF, each table as CSV, Markdown and LaTeX, there."),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Write one self-contained HTML page about a run."""
    with explained(debug=debug):
        from maxent_ts.report.html import write_report

        typer.echo(str(write_report(run_dir, output, export=export)))


@app.command("tree")
def _tree(
    run_dir: options.RunDirectory,
    item: Annotated[
        str | None,
        typer.Option(
            "--item",
            help="An item's id, or its number in its task: 1 is the first in the run's order.",
            show_default="the first stored",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="The item's task.", show_default="the first with a stored tree")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Whose tree.", show_default="the first method that stored one")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the tree here instead of writing a page.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="The page.", show_default="RUN_DIR/tree-TASK-METHOD-NUMBER.html")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Write one search tree as a page to explore, offline and in one file. Trees are stored by eval --save-trees."""
    from maxent_ts.cli.tree import run_tree

    with explained(debug=debug):
        run_tree(run_dir, item=item, task=task, method=method, output=output, as_text=text)


@app.command("list")
def _list(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="methods, tasks, rewards, engines, trackers or schema.", show_default="all but schema"),
    ] = None,
    output_format: options.OutputFormat = Format.TABLE,
    debug: options.Debug = False,
) -> None:
    """List methods with their settings, tasks, rewards and engines."""
    from maxent_ts.cli.listing import run_list

    with explained(debug=debug):
        run_list(kind, output_format)


@app.command("doctor")
def _doctor(output_format: options.OutputFormat = Format.TABLE, debug: options.Debug = False) -> None:
    """Check this installation: packages, devices, memory, the embedded model and data, and five generated tokens."""
    from maxent_ts.cli.doctor import run_doctor

    with explained(debug=debug):
        run_doctor(output_format)
