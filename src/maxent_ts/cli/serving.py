"""`maxent-ts serve`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from maxent_ts.cli import options
from maxent_ts.cli.shared import explained, hide_loading_bars, note
from maxent_ts.errors import MissingExtraError, SettingError

__all__ = ["serve"]

_DEFAULTS = "What a request gets that leaves it out"
_LIMITS = "Limits"
_SERVER = "Server"

SECONDS_TO_FINISH = 30
"""After a signal to stop: what is being answered may still be, for so long."""


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Model directory, hub id, or checkpoint of OpenTSLM.", show_default="the embedded model"
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.", rich_help_panel=_SERVER)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for one that is free.", rich_help_panel=_SERVER)] = 8000,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            "--served-model-name",
            help="What requests call the model.",
            show_default="the last part of its name",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env",
            metavar="NAME",
            help="Environment variable that holds the key which clients must send.",
            show_default="no key",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            help="Rewards that requests may name: a name, or file.py:function; repeatable.",
            show_default="all of 'list rewards'",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    tilt: Annotated[
        float | None, typer.Option("--tilt", min=0, help="λ in p(x)·exp(λ r(x)).", show_default="1", rich_help_panel=_DEFAULTS)
    ] = None,
    num_rollouts: Annotated[
        int | None, typer.Option("--num-rollouts", min=1, help="Of one search.", show_default="10", rich_help_panel=_DEFAULTS)
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Of one completion.", show_default="50", rich_help_panel=_DEFAULTS)
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", min=1, help="Searches under way at once.", rich_help_panel=_LIMITS)
    ] = 32,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=0, help="Searches that may wait; beyond, 429.", rich_help_panel=_LIMITS)
    ] = 256,
    max_body_bytes: Annotated[
        int, typer.Option("--max-body-bytes", min=1, help="Size of a request; beyond, 413.", rich_help_panel=_LIMITS)
    ] = 1 << 20,
    max_tokens_per_request: Annotated[
        int,
        typer.Option("--max-tokens-per-request", min=1, help="Generated tokens a request may ask for.", rich_help_panel=_LIMITS),
    ] = 20_000,
    request_timeout: Annotated[
        float,
        typer.Option("--request-timeout", min=0.001, help="Seconds until a request is given up.", rich_help_panel=_LIMITS),
    ] = 600.0,
    base_model: options.BaseModel = None,
    compat: options.Compat = None,
    engine: options.Engine = None,
    base_url: options.BaseUrl = None,
    embedder: options.Embedder = None,
    api_key_variable: options.ApiKeyVariable = None,
    dtype: options.DType = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    kv_cache_gib: options.KvCacheGib = None,
    quiet: options.Quiet = False,
    _config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Answer requests of OpenAI's API with searches: /v1/completions and /v1/chat/completions, /health, /metrics."""
    with explained(debug=debug):
        run_serve(
            values={
                "model": model,
                "base_model": base_model,
                "compat": compat,
                "engine": engine,
                "base_url": base_url,
                "embedder": embedder,
                "api_key_variable": api_key_variable,
                "dtype": dtype,
                "quantization": quantization,
                "device": device,
                "batch_size": batch_size,
                "kv_cache_gib": kv_cache_gib,
                "tilt": tilt,
                "num_rollouts": num_rollouts,
                "max_new_tokens": max_new_tokens,
            },
            limits={
                "max_concurrent": max_concurrent,
                "max_queue": max_queue,
                "max_body_bytes": max_body_bytes,
                "max_tokens_per_request": max_tokens_per_request,
                "request_timeout": request_timeout,
            },
            rewards=reward or [],
            name=served_model_name,
            api_key=_api_key(api_key_env),
            host=host,
            port=port,
            quiet=quiet,
        )


def run_serve(
    *,
    values: Mapping[str, Any],
    limits: Mapping[str, Any],
    rewards: Sequence[str],
    name: str | None,
    api_key: str | None,
    host: str,
    port: int,
    quiet: bool,
) -> None:
    """Load the model, then serve until a signal says to stop."""
    try:
        import uvicorn
        from uvicorn.config import LOGGING_CONFIG

        from maxent_ts.server.app import create_app
        from maxent_ts.server.rewards import RewardTable
        from maxent_ts.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("maxent_ts"):
            raise
        raise MissingExtraError(error.name, "serve") from error
    from maxent_ts.config import make_config
    from maxent_ts.loading import embedded_model_path, load_engine
    from maxent_ts.presets import EMBEDDED_MODEL

    config = make_config(tasks=("prompt",), **values)
    hide_loading_bars(config.model, quiet=quiet)
    with _bound(host, port) as listening:
        engine = load_engine(config)
        is_embedded = config.model == EMBEDDED_MODEL and config.base_url is None
        model = config.model if config.base_url is None else str(engine.identity["model"])
        settings = ServerSettings(
            model_name=name or Path(model).name,
            model_path=str(embedded_model_path() if is_embedded else model),
            num_rollouts=config.num_rollouts,
            max_new_tokens=config.max_new_tokens,
            tilt=config.tilt,
            api_key=api_key,
            **limits,
        )
        how = uvicorn.Config(
            create_app(engine, settings, RewardTable(rewards)),
            log_level="warning" if quiet else "info",
            access_log=not quiet,
            log_config=_logging(LOGGING_CONFIG),
            timeout_graceful_shutdown=SECONDS_TO_FINISH,
            server_header=False,
        )
        note(f"Serving '{settings.model_name}': http://{_address(listening)}/v1")
        uvicorn.Server(how).run(sockets=[listening])


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """Take the address before the model is loaded; nobody is listened to yet."""
    with ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = stack.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError as error:
            message = f"Nothing can listen on {host}:{port}: {error.strerror}. Choose another --host or --port; 0 is a free one."
            raise SettingError(message) from error
        yield bound


def _address(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _logging(config: Mapping[str, Any]) -> dict[str, Any]:
    """Uvicorn's own logging, all of it to standard error."""
    handlers = {name: {**handler, "stream": "ext://sys.stderr"} for name, handler in config["handlers"].items()}
    return {**config, "handlers": handlers}


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise SettingError(
            f"--api-key-env names '{variable}', but this environment variable holds no key. Set it, or leave it out."
        )
    return key
