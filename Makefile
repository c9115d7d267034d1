# Every target works on a fresh clone: the first one makes $(VENV) and installs from the package index.
# Another interpreter, beside the first:  make test PYTHON=~/.pyenv/versions/3.13.0/bin/python VENV=.venv313
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
BENCH_STAMP := $(VENV)/.installed-bench
export JAX_PLATFORMS ?= cpu

.PHONY: help demo test slow lint format types layers docs bench bench-mcmc bench-smc clean

help:
	@echo "targets: demo test slow lint format types layers docs bench bench-mcmc bench-smc clean"

# The stamp is written last, so an interrupted install is taken up again. It depends on pyproject.toml alone:
# the package is installed in editable mode, so changed sources need no new install.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quasiborel needs Python 3.11 or newer: make PYTHON=...")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/eight_schools.py
	$(BIN)/python examples/hierarchical_regression.py
	$(BIN)/python examples/mixture.py
	$(BIN)/python examples/regression.py

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS)

slow: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(STAMP)
	$(BIN)/lint-imports

docs: $(DOCS_STAMP)
	$(BIN)/mkdocs build --strict

bench: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks

# POSTERIORDB is a folder laid out as https://github.com/stan-dev/posteriordb. Takes about two hours for three rounds.
POSTERIORDB ?= ../shared/posteriordb
ROUNDS ?= 3
bench-mcmc: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks.mcmc --folder $(POSTERIORDB) --rounds $(ROUNDS) --out output/mcmc.json

# The peers live in environments of their own: PARTICLES_PYTHON and CUTHBERT_PYTHON name their interpreters, and the
# module's docstring says how to make them. Without them ours runs beside hand-written JAX alone.
bench-smc: $(STAMP)
	$(BIN)/python -m benchmarks.bootstrap_filter

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
