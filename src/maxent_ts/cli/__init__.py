"""The command line."""

from maxent_ts.cli.app import main

__all__ = ["main"]
