# make demo · make test · make lab · make bench      (make help lists the rest)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Newest first. The oldest is requires-python in pyproject.toml.
SUPPORTED := 3.13 3.12 3.11 3.10

# python3 if it is one of these, else the newest one found. Looked up only when a venv is made.
PYTHON ?= $(shell scripts/find-python $(SUPPORTED))
export VENV ?= .venv
BIN := $(VENV)/bin

# An extra is installed once, and again when what an editable install copies has changed.
INSTALLED := $(VENV)/.installed

.PHONY: help demo test test-kernel test-all lint lab bench bench-state bench-pool acceptance docs clean distclean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(INSTALLED)-demo ## run the demo notebook headless, input() answered from a file
	$(BIN)/jupyter savepoint run docs/demo/demo.ipynb --answers docs/demo/answers.txt

test: $(INSTALLED)-test ## lint, then every test, real front ends included
	scripts/system-packages
	$(MAKE) lint
	CHROME="$$(scripts/system-packages --browser)" $(BIN)/python -m pytest -n 2 $(TESTS)

test-kernel: $(INSTALLED)-test ## the kernel tests only
	$(BIN)/python -m pytest -n 2 $(or $(TESTS),tests/kernel)

test-all: ## the kernel tests on every supported Python found here, each in its own venv
	@passed=; failed=; missing=; \
	for version in $(SUPPORTED); do \
	    if ! python=$$(scripts/find-python --exactly $$version); then \
	        missing+=" $$version"; \
	    elif echo "== Python $$version: $$python" && \
	            $(MAKE) test-kernel VENV=.venv-$$version PYTHON="$$python"; then \
	        passed+=" $$version"; \
	    else \
	        failed+=" $$version"; \
	    fi; \
	done; \
	echo "passed:$${passed:- none}; failed:$${failed:- none}; not found here:$${missing:- none}"; \
	[ -n "$$passed" ] && [ -z "$$failed" ]

lint: $(INSTALLED)-test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(INSTALLED)-lab $(INSTALLED)-demo ## open the demo notebook in JupyterLab
	$(BIN)/jupyter lab $(LAB_ARGS) docs/demo/demo.ipynb

bench: $(INSTALLED)-bench ## measure against stock ipykernel and async-kernel
	$(BIN)/python benchmarks/kernel.py $(BENCH_ARGS)

bench-state: $(INSTALLED)-bench ## measure commits, rollback and undo in a session of a gigabyte
	$(BIN)/python benchmarks/state.py $(BENCH_ARGS)

# An environment of its own: plugins that those suites bring would take part in our tests.
acceptance: ## the suites of jupyter_client, nbclient and jupyter_server on our parts; takes an hour
	$(MAKE) run-acceptance VENV=.acceptance/venv

.PHONY: run-acceptance
run-acceptance: $(INSTALLED)-acceptance
	$(BIN)/python scripts/acceptance $(ACCEPTANCE_ARGS)

bench-pool: $(INSTALLED)-bench $(INSTALLED)-demo ## measure how soon a kernel is there
	$(BIN)/python benchmarks/pool.py $(BENCH_ARGS)

docs: $(INSTALLED)-docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove what was built and cached; the environments stay
	rm -rf dist site .mypy_cache .ruff_cache .hypothesis
	rm -f .venv/.installed-* .venv-3.*/.installed-*
	find kernel manager tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	rm -rf .venv .venv-3.* .acceptance

$(INSTALLED)-%: pyproject.toml kernel/savepoint_kernel/launch.py $(wildcard kernelspec/*) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(BIN)/python:
	scripts/make-venv "$(PYTHON)" "$(VENV)"
