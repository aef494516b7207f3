# Everything runs from the .venv beside this file; every target sets up what it needs, once.
PYTHON ?= python3
BIN := .venv/bin
# Pinned, because a plain "torch" would bring gigabytes of CUDA where a CPU build is at hand; for a GPU say TORCH=your version.
TORCH ?= 2.13.0
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo demo-quick demo-search ablation test lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole loop in miniature, offline: a curriculum, the search, the last stage, what came of it"
	@echo "make demo-quick   the same in two minutes, with less accuracy; make demo-search   the search alone, without torch"
	@echo "make test    all tests, after lint"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make ablation   what each part of the loop does to the answers, over three seeds (an hour or less)"
	@echo "make bench   the benchmarks of bench/README.md"
	@echo "make setup   the .venv with everything"

.venv/core.stamp: pyproject.toml
	@echo "installing into .venv (once; under a minute where packages are near)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/dev.stamp: .venv/core.stamp
	@echo "installing what tests need into .venv (once)"
	$(BIN)/python -m pip install --quiet 'torch==$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: .venv/dev.stamp

.venv/demo.stamp: .venv/core.stamp
	@echo "installing what training needs into .venv (once)"
	$(BIN)/python -m pip install --quiet 'torch==$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

demo: .venv/demo.stamp
	$(BIN)/chiron demo

demo-quick: .venv/demo.stamp
	$(BIN)/chiron demo --quick

demo-search: .venv/core.stamp
	$(BIN)/chiron demo --search-only

test: lint
	$(BIN)/python -m pytest -n 2

lint: .venv/dev.stamp
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

ablation: .venv/demo.stamp
	$(BIN)/python -m chiron.miniature.ablation --dir ablation

bench: .venv/dev.stamp
	$(BIN)/python -m bench

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist demo ablation
