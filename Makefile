# `make demo` and `make test` each stand alone on a fresh clone with Python 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types imports smoke notebooks check bench

EXPERIMENTS := ioi pos homographs relations coreference

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

smoke: $(EXPERIMENTS:%=smoke-%)

smoke-%: .venv/ready
	$(BIN)/python experiments/$*.py --size smoke --out runs/smoke

notebooks: .venv/ready
	for source in notebooks/*.py; do $(BIN)/jupytext --to ipynb --test $$source || exit 1; done
	$(BIN)/python -m pytest --nbmake notebooks

check: test lint types imports smoke notebooks

bench: .venv/ready
	$(BIN)/python benchmarks/sweeps.py --json benchmarks/sweeps.json
	$(BIN)/python benchmarks/capture.py --json benchmarks/sweeps.json
	$(BIN)/python benchmarks/probes.py --json benchmarks/probes.json
	$(BIN)/python benchmarks/growth.py --json benchmarks/growth.json --figure docs/growth.pdf
