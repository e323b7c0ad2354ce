# Five commands, the same by hand and in CI: setup, fix, check, test, test-all. And: quickstart.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup quickstart check fix test test-all clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

quickstart: setup
	$(BIN)/edgeseg quickstart

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup
	$(BIN)/python -m pytest -m "not chain and not gpu"

test-all: setup
	$(BIN)/python -m pytest -m "not gpu"

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
