"""A small Ray cluster on this machine, for benchmarks and tests: a head that computes nothing, and nodes of one core."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

__all__ = ["add_node", "small_cluster"]

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other programs' memory is no reason to end a worker here
}
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextmanager
def small_cluster(num_nodes: int) -> Iterator[tuple[Any, Any]]:
    """Yield the module `ray`, connected, and its cluster of so many nodes; both end with the block."""
    with patch.dict(os.environ, RAY_SETTINGS):
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
            for _ in range(num_nodes):
                add_node(cluster)
            yield ray, cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def add_node(cluster: Any) -> None:
    """Add a node of one core."""
    cluster.add_node(num_cpus=1, **SMALL)
