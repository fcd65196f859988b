"""Maximum-entropy tree search over language models.

    from maxent_ts import generate
    generate(model, prompt, reward=reward).text

Names are looked up on use: importing the package imports neither torch nor transformers nor scipy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxent_ts.engines.hf import HFEngine
    from maxent_ts.engines.table import TableEngine
    from maxent_ts.errors import MaxentError
    from maxent_ts.generation import Generation, generate
    from maxent_ts.rewards.combine import WeightedSum
    from maxent_ts.search.run import SearchJob, SearchResult, run_searches
    from maxent_ts.tree import Tree
    from maxent_ts.types import (
        Budget,
        Completion,
        Embeddings,
        Outcome,
        Policy,
        SeriesSegment,
        Target,
        TimeSeriesPrompt,
        Usage,
    )

__version__ = "0.1.0"

_HOMES = {
    "Budget": "maxent_ts.types",
    "Completion": "maxent_ts.types",
    "Embeddings": "maxent_ts.types",
    "Generation": "maxent_ts.generation",
    "HFEngine": "maxent_ts.engines.hf",
    "MaxentError": "maxent_ts.errors",
    "Outcome": "maxent_ts.types",
    "Policy": "maxent_ts.types",
    "SearchJob": "maxent_ts.search.run",
    "SearchResult": "maxent_ts.search.run",
    "SeriesSegment": "maxent_ts.types",
    "TableEngine": "maxent_ts.engines.table",
    "Target": "maxent_ts.types",
    "TimeSeriesPrompt": "maxent_ts.types",
    "Tree": "maxent_ts.tree",
    "Usage": "maxent_ts.types",
    "WeightedSum": "maxent_ts.rewards.combine",
    "generate": "maxent_ts.generation",
    "run_searches": "maxent_ts.search.run",
}

__all__ = [
    "Budget",
    "Completion",
    "Embeddings",
    "Generation",
    "HFEngine",
    "MaxentError",
    "Outcome",
    "Policy",
    "SearchJob",
    "SearchResult",
    "SeriesSegment",
    "TableEngine",
    "Target",
    "TimeSeriesPrompt",
    "Tree",
    "Usage",
    "WeightedSum",
    "__version__",
    "generate",
    "run_searches",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maxent_ts' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
