# `make demo` and `make test` each stand alone on a fresh clone with Python 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types imports smoke check bench

demo: .venv/ready
	$(BIN)/python experiments/ioi.py

test: .venv/ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/ready
	$(BIN)/basedpyright

imports: .venv/ready
	$(BIN)/lint-imports

smoke: .venv/ready
	$(BIN)/python experiments/ioi.py --size smoke --out runs/smoke

check: test lint types imports smoke

bench: .venv/ready
	$(BIN)/python benchmarks/sweeps.py --json benchmarks/sweeps.json
	$(BIN)/python benchmarks/capture.py --json benchmarks/sweeps.json
	$(BIN)/python benchmarks/growth.py --json benchmarks/growth.json --figure docs/growth.pdf
