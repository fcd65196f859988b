"""Shared by the tests of single parts: the command line, run in this process."""

from __future__ import annotations

import pytest

from maxent_ts.cli import main


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns exit code, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call
