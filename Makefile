# Two commands: `make demo` and `make test`. Both make .venv when it is missing or its pins have changed. `make docs` writes site/,
# `make bench` docs/benchmarks.md.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: bench demo docs test venv clean

demo: .venv/demo.stamp
	$(BIN)/maxent-ts eval demo

test: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

bench: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run_all.py

docs: .venv/dev.stamp
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site

venv: .venv/dev.stamp

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[hf,report]'
	touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist site src/*.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
