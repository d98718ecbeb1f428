# Every target makes .venv by itself when it is missing or pyproject.toml has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs
UV := $(BIN)/uv
# What computes: other machines and numbers of threads add in another order there.
NUMERIC := tests/functional tests/affinity tests/checkpoints tests/test_blocks.py tests/test_conversion.py \
	tests/test_export.py tests/test_fusion.py tests/test_insertion.py tests/test_models.py tests/test_resnet.py \
	tests/fuzz tests/train/test_recompute.py tests/train/test_initial_weights.py
ELSEWHERE := $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(NUMERIC)
MUTANTS_READY := $(VENV)/.ready-mutants

# Tests start some hundred processes of the package: each would compile it anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-all test-elsewhere test-oldest test-newest lint docs bench mutants coverage browser clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(READY) ## train and evaluate on the embedded digits, draw what each position attends to
	$(BIN)/python examples/demo.py

test: lint ## run the linters and the tests, without those that take long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: lint ## run the linters and all tests, also those of other libraries where they are installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Compiled code that was kept for one instruction set does not fit another.
test-elsewhere: $(READY) ## the numeric tests with 1 and 2 threads, and as on processors without wide instructions
	TEST_THREADS=1 $(ELSEWHERE)
	TEST_THREADS=2 $(ELSEWHERE)
	TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/.cache/avx2 ATEN_CPU_CAPABILITY=avx2 $(ELSEWHERE)
	TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/.cache/sse ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 $(ELSEWHERE)

# Some 3 GB of downloads each. uv alone can ask for the lowest versions.
test-oldest: $(UV) ## the tests with the lowest version of every dependency that pyproject.toml allows
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-oldest
	VIRTUAL_ENV=.venv-oldest $(UV) pip install --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

test-newest: $(UV) ## the tests with the newest release of every dependency
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-newest
	VIRTUAL_ENV=.venv-newest $(UV) pip install --resolution highest --upgrade --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(READY) ## ruff, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DOCS_READY) ## build the documentation site into site/
	$(BIN)/zensical build --strict

bench: $(READY) ## time the engines against the reference
	$(BIN)/python -m benchmarks ops

mutants: $(MUTANTS_READY) ## break a sample of the library on purpose, count what the tests notice
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants/run_mutants.py --output docs/results/mutants.json

coverage: $(MUTANTS_READY) ## run the tests, count the branches that they take
	$(BIN)/python tests/run_coverage.py --output docs/results/coverage.json -n 2 --dist worksteal -m "not slow"

browser: ## install Debian's Chromium for the tests of pages, which are skipped without one
	command -v chromium || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

clean: ## remove the environment and everything generated
	rm -rf $(VENV) .venv-oldest .venv-newest site runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(UV): $(READY)
	$(BIN)/python -m pip install --quiet uv

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(MUTANTS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[mutants]'
	touch $@
