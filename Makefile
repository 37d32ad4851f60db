# Two commands do everything on a bare Linux machine with Python 3.11+: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Two workers, a file to a worker; in the order of collection, which begins with what takes long.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

# Nothing phones home, and no thread pool fights another.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
export OMP_NUM_THREADS := 1

.PHONY: help demo test check test-all lint clean

help:
	@echo "make demo      set up, compare the methods on real images, write runs/demo/report.html"
	@echo "make test      set up, run every quick test and the linters"
	@echo "make check     the core alone, in about three minutes: config, data, models, method, privacy"
	@echo "make test-all  the same with the long fault, kill and audit runs"
	@echo "make lint      ruff, its formatter and mypy"
	@echo "make clean     remove the virtual environment and caches (runs stay)"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found on the PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.base

demo: $(VENV)/.base
	$(BIN)/mpssl-fed study demo --output runs/demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest $(TWO) --durations 25

check: $(VENV)/.dev
	$(BIN)/python -m pytest $(TWO) tests/config tests/data tests/models tests/method tests/privacy

test-all: $(VENV)/.dev lint
	$(BIN)/python -m pytest $(TWO) --durations 25 -m "slow or not slow"

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -exec rm -rf {} +
