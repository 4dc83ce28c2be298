# Every target is complete in itself: it makes the environment it needs first.
# make PYTHON=python3.12 ...           choose the Python (3.11 to 3.13) the environment is made with
# make TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu ...   choose where PyTorch comes from

SHELL := /bin/bash
VENV ?= .venv
WORKERS ?= 2
EXTRAS ?= dev
DEMO_ARGS ?=
TEST_ARGS ?=
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3; do \
  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; \
  then echo "$$candidate"; break; fi; done)
export TORCH_INDEX_URL

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench docs clean

help: ## show this table
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

$(STAMP): pyproject.toml constraints.txt scripts/install.py
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 to 3.13 is needed; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(BIN)/python scripts/install.py $(EXTRAS)
	@touch $(STAMP)

setup: $(STAMP) ## make .venv with the project and pinned versions

demo: $(STAMP) ## train LLM-Fusion on QM9 (4 minutes on 2 cores) and compare it with baselines
	@$(BIN)/python train.py experiment=quickstart $(DEMO_ARGS)

test: $(STAMP) ## run the tests
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) $(TEST_ARGS)

check: $(STAMP) ## lint, types, direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## measure what the documentation claims about speed
	@for script in benchmarks/*.py; do $(BIN)/python "$$script" || exit 1; done

docs: $(STAMP) ## write the table of keys and run every command on the pages, made small
	@$(BIN)/python scripts/key_table.py
	@$(BIN)/python -m pytest -q tests/docs

clean: ## remove the environment and everything built; runs/ stays
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
