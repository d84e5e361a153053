# Two commands for newcomers, each doing its own set-up: `make sweep` and `make test`.
#
#   make sweep ARGS="search.num_trials=2 run.name=try"     settings on top of the sweep file's
#   make test ARGS="tests/config -x"                       arguments of pytest
#   make install PYTHON=python3.12                         another interpreter, 3.10 or newer
#   make install TORCH=torch==2.9.1                        another torch

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
SWEEP ?= sweeps/lora.yaml
ARGS ?=
# With a GPU, the build that the package registry gives by default; without, a version whose wheel
# is known to come without the gigabytes of CUDA's libraries.
TORCH ?= $(shell nvidia-smi > /dev/null 2>&1 && echo 'torch>=2.8,<3' || echo 'torch==2.13.0')

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install sweep test check

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## make the virtual environment, once; again when pyproject.toml changes

sweep: install ## run sweeps/lora.yaml, or SWEEP, to its leaderboard
	$(BIN)/python -m raytune_glm.sweep $(SWEEP) $(ARGS)

test: install ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

check: install ## formatting, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "raytune_glm needs Python 3.10 or newer, but $(PYTHON) is %d.%d: name another by PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	@# torch first: without it pip would take whatever build fits the range, CUDA's included.
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
