# `make help` lists the targets. Everything runs in .venv, which `make setup` makes.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
PORT ?= 8000
TEST_WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed
PEERS := benchmarks/peers/.venv/.installed
CODE := $(foreach folder,src tests experiments benchmarks examples,$(if $(wildcard $(folder)/*.py $(folder)/*/*.py),$(folder)))

# One thread a process: with two busy cores more threads cost up to ten times, and waiting ones must not spin.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test check format bench bench-full peers for-tests build clean clean-all

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(INSTALLED): requirements/lock.txt requirements/install.sh pyproject.toml
	PYTHON="$(PYTHON)" requirements/install.sh

setup: $(INSTALLED)  ## make .venv from the lock file (once; again when the lock or pyproject.toml changes)

demo: $(INSTALLED)  ## prepare, train and evaluate end to end in a few minutes; ISTHMUS_DATA=DIR adds public data, SERVE=1 a page
	$(BIN)/isthmus demo $(if $(ISTHMUS_DATA),--data "$(ISTHMUS_DATA)") $(if $(SERVE),--serve $(PORT))

test: $(INSTALLED) for-tests  ## run the tests
	$(BIN)/pytest -n $(TEST_WORKERS) -q

for-tests:  # a browser and a Redis server; where they cannot be installed, tests of them skip and say so
	@requirements/for_tests.sh

check: $(INSTALLED)  ## everything that must hold before a change lands: format, lint, types, tests
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(MAKE) --no-print-directory test

format: $(INSTALLED)  ## rewrite the code in the one format, and repair what the linter can
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(INSTALLED)  ## measure speed and memory (a quarter of an hour)
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.ranking_speed
	$(BIN)/python -m benchmarks.ranking_cost
	$(BIN)/python -m benchmarks.ranking_domains

bench-full: $(INSTALLED) $(PEERS)  ## measure at full size, and a peer beside it (long)
	$(BIN)/python -m benchmarks.retrieval --full
	$(BIN)/python -m benchmarks.ranking_speed --full --peers
	$(BIN)/python -m benchmarks.ranking_cost
	$(BIN)/python -m benchmarks.ranking_domains --full

peers: $(PEERS)  ## install the peers that benchmarks measure, in an environment of their own

$(PEERS): requirements/peers.txt | $(INSTALLED)
	$(PYTHON) -m venv benchmarks/peers/.venv
	benchmarks/peers/.venv/bin/pip install -qq --no-deps $$(grep '^torch==' requirements/lock.txt)
	benchmarks/peers/.venv/bin/pip install -qq --no-deps -r requirements/peers.txt
	touch $@

build: $(INSTALLED)  ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## remove what tools leave behind; .venv, runs/ and demo/ stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .venv-bootstrap
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean  ## remove .venv too
	rm -rf .venv
