"""The connection to a Ray cluster, and how much room it has."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from maxent_ts.config import RunConfig
from maxent_ts.errors import MissingExtraError, SettingError

__all__ = ["connected", "num_places", "resources_of_cluster"]

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a cluster that is started here. Records are small: see docs/scaling.md."""

SECONDS_TO_ANSWER = 10.0


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the module `ray`, connected; a connection that was there before is used and stays.

    Raises:
        MissingExtraError: if Ray is not installed.
        SettingError: if no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    # Ray tells of lost nodes on standard output, where nothing but data belongs.
    with contextlib.redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield ray
            return
        try:
            _connect(ray, address)
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address != "auto":
        _check_address(address)
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        if address != "auto":
            raise SettingError(_no_answer(address)) from error
        # Ray's own default would let any other program go before the workers, which are the run itself.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)


def _check_address(address: str) -> None:
    """Find out in seconds what Ray says after minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise SettingError(
            f"--ray takes auto or the address of a cluster's head, such as 10.0.0.1:6379, but got '{address}'. Ray's client "
            "protocol is not used: run the command on a node of the cluster, for example with ray job submit."
        )
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise SettingError(_no_answer(address)) from error


def _no_answer(address: str) -> str:
    return (
        f"No Ray cluster answers at '{address}'. Start one with: ray start --head; or give --ray auto, which starts one on this "
        "machine."
    )


def resources_of_cluster(ray: Any) -> list[dict[str, float]]:
    """Return the resources of every living node."""
    return [dict(node.get("Resources", {})) for node in ray.nodes() if node["Alive"]]


def num_places(ray: Any, config: RunConfig) -> int:
    """Return how many workers the living nodes could hold if they had nothing else to do."""
    needs = {"CPU": config.ray_num_cpus, "GPU": config.ray_num_gpus}
    needs = {name: amount for name, amount in needs.items() if amount > 0} or {"CPU": 1.0}
    nodes = resources_of_cluster(ray)
    return sum(min(math.floor(node.get(name, 0.0) / amount + 1e-6) for name, amount in needs.items()) for node in nodes)
