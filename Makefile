# Two commands do everything on a bare Linux machine with Python 3.11+: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# TORCH=cpu takes a torch without CUDA and Triton, which are 4 GB, where PyTorch's index of such can be reached.
TORCH ?=
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH=$(TORCH): want cpu, or leave it out)
endif

# Three workers, since what takes long waits for other processes too; a file to a worker, in the order of collection, longest first.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder

# Nothing phones home, and no thread pool fights another.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export OMP_NUM_THREADS := 1

.PHONY: help demo test check test-extras test-all lint clean

help:
	@echo "make demo      set up, compare the methods on real images, write runs/demo/report.html (TORCH=cpu: set up without CUDA)"
	@echo "make test      set up, run every quick test and the linters"
	@echo "make check     the core alone, in about three minutes: config, data, models, method, privacy"
	@echo "make test-extras  the tests of what comes by an extra: diffusers, hf, imagenet, medical, mlflow, onnx, tensorboard, timm"
	@echo "make test-all  make test with the long fault, kill and audit runs"
	@echo "make lint      ruff, its formatter and mypy"
	@echo "make clean     remove the virtual environment and caches (runs stay)"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found on the PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(BIN)/python
ifeq ($(TORCH),cpu)
	@{ $(PIP) install uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=cpu -c constraints.txt torch torchvision; } \
		&& $(BIN)/python -c "from importlib.metadata import version; print('torch', version('torch'))" \
		|| echo "TORCH=cpu: PyTorch's index of such cannot be had, so torch comes as elsewhere, with CUDA"
endif
	@touch $@

$(VENV)/.base: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.base

$(VENV)/.extras: $(VENV)/.dev
	$(PIP) install -c constraints.txt -e ".[dev,diffusers,hf,imagenet,medical,mlflow,onnx,tensorboard,timm]"
	@touch $@

demo: $(VENV)/.base
	$(BIN)/mpssl-fed study demo --output runs/demo

LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lint: $(VENV)/.dev
	$(LINT)

test: CHOICE :=
test-all: CHOICE := -m "slow or not slow"

# The linters run beside the tests and speak after them.
test test-all: $(VENV)/.dev
	@( $(LINT) ) > $(VENV)/lint.log 2>&1 & lint=$$!; \
	$(BIN)/python -m pytest $(WORKERS) --durations 25 $(CHOICE); tests=$$?; \
	wait $$lint; linters=$$?; cat $(VENV)/lint.log; exit $$(( tests || linters ))

check: $(VENV)/.dev
	$(BIN)/python -m pytest $(WORKERS) tests/config tests/data tests/models tests/method tests/privacy

test-extras: $(VENV)/.extras
	$(BIN)/python -m pytest tests/extras --durations 10

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -exec rm -rf {} +
