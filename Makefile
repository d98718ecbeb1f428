# Every target makes .venv by itself when it is missing or pyproject.toml has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs
MUTANTS_READY := $(VENV)/.ready-mutants

.PHONY: help demo test lint docs bench mutants coverage browser clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

demo: $(READY) ## train and evaluate on the embedded digits, draw what each position attends to
	$(BIN)/python examples/demo.py

test: lint ## run the linters and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY) ## ruff, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DOCS_READY) ## build the documentation site into site/
	$(BIN)/zensical build --strict

bench: $(READY) ## time the engines against the reference
	$(BIN)/python -m nonlocalnn bench ops

mutants: $(MUTANTS_READY) ## break a sample of the library on purpose, count what the tests notice
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants/run_mutants.py --output docs/results/mutants.json

coverage: $(MUTANTS_READY) ## run all tests, count the branches that they take
	$(BIN)/python tests/run_coverage.py --output docs/results/coverage.json -n 2 --dist worksteal

browser: ## install Debian's Chromium for the tests of pages, which are skipped without one
	command -v chromium || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

clean: ## remove the environment and everything generated
	rm -rf $(VENV) site runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(MUTANTS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[mutants]'
	touch $@
