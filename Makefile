# voxportrait. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-requirements
DEMO ?= demo
unexport PYTHONDONTWRITEBYTECODE  # many processes start, and none compiles again what another did

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow drill fuzz check format bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make the environment .venv, again when the pins change

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "voxportrait needs Python 3.11 or 3.12: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: $(STAMP)  ## the whole chain on synthetic people, ending in demo/report/index.html
	$(BIN)/voxportrait demo $(DEMO)

test: $(STAMP)  ## the tests, on real mp4 and real weights
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

drill: $(STAMP)  ## the fault drill: 50 kills of workers, committers and drivers, and nothing is lost
	$(BIN)/python -m pytest -m faults tests/faults

fuzz: $(STAMP)  ## 500 damaged copies of a real mp4 through decoding and face finding
	$(BIN)/python -m infra.fuzz --copies 500

check: $(STAMP)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: $(STAMP)  ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## the benchmarks, each against its yardstick
	$(BIN)/voxportrait bench all

lock: $(STAMP)  ## renew the pins from pyproject.toml
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

clean:  ## remove what the demo made
	rm -rf $(DEMO)
