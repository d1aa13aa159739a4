# `make check` is what CI runs (.ci/run). Everything happens in .venv; constraints.txt is the tested set of packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUFF_PATHS := agents algorithms conf envs experiments handrail tests

ifndef HANDRAIL_DATA
ifneq ($(wildcard ../shared/data),)
export HANDRAIL_DATA := $(abspath ../shared/data)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow lint format format-check types docs check bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch comes first and alone, so that the build chosen for it decides which of its companions are installed at all.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

install: $(STAMP) ## create .venv and install the tested set

run: $(STAMP) ## from nothing: a desk, its log, a copilot, selective automation, the test of three arms, report
	$(BIN)/handrail run experiment=staged

# One process a core, one thread each. A file stays with one process: its tests share what its fixtures made.
test: $(STAMP) ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -q -m 'slow and not gpu'

lint: $(STAMP) ## lint rules
	$(BIN)/ruff check $(RUFF_PATHS)

format: $(STAMP) ## rewrite files to the format
	$(BIN)/ruff check --select I --fix $(RUFF_PATHS)
	$(BIN)/ruff format $(RUFF_PATHS)

format-check: $(STAMP) ## report files that are not formatted
	$(BIN)/ruff format --check $(RUFF_PATHS)

types: $(STAMP) ## mypy, strict, on the library
	$(BIN)/mypy -p handrail

docs: $(STAMP) ## docstring rules, doctests, links
	$(BIN)/ruff check --select D --ignore D105,D107,D205 $(RUFF_PATHS)
	$(BIN)/python -m pytest -q tests/test_docs.py

check: format-check lint types docs test ## all of it, the same as CI

bench: $(STAMP) ## speed and memory as ratios against alternatives
	$(BIN)/handrail bench

clean: ## remove the environment, caches and build products; outputs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
