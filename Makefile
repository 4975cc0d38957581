# `make demo` and `make test` each stand alone on a fresh clone with Python 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types imports smoke notebooks gpu support check bench

EXPERIMENTS := ioi pos homographs number relations coreference induction recall qk_ov attention_is \
	ground_truth ioi_circuit agreement_circuit greater_than adapters translation vision

demo: .venv/ready
	$(BIN)/python -m experiments.ioi

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
CHECKS := --jaxtyping-packages=interp,beartype.beartype

# types and shapes are checked in the first case of each test; all others run as users do
test: .venv/ready
	$(PYTEST) --cases others
	$(PYTEST) --cases first $(CHECKS)

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
	$(BIN)/python -m experiments.$* --size smoke --out runs/smoke

AS_PY := $(BIN)/jupytext -q --opt notebook_metadata_filter=-all --to py:percent --output -

# the executed notebook is of its source, and the source runs from a clean kernel
notebooks: SHELL := /bin/bash
notebooks: .venv/ready
	set -e; for f in notebooks/*.py; do diff <($(AS_PY) $$f) <($(AS_PY) $${f%.py}.ipynb); done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=900 notebooks

# what needs CUDA
gpu: .venv/ready
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu.py --json benchmarks/gpu.json

# the page of what is supported, anew
support: .venv/ready
	PYTHONPATH=tests:tests/engine $(BIN)/python -c "import pathlib, tempfile, test_families; \
		test_families.write(pathlib.Path(tempfile.mkdtemp()))"

check: test lint types imports smoke notebooks

bench: .venv/ready
	$(BIN)/python benchmarks/sweeps.py --json benchmarks/sweeps.json
	$(BIN)/python benchmarks/capture.py --json benchmarks/sweeps.json
	$(BIN)/python benchmarks/probes.py --json benchmarks/probes.json
	$(BIN)/python benchmarks/coverage.py --json benchmarks/coverage.json
	$(BIN)/python benchmarks/circuits.py --json benchmarks/circuits.json
	$(BIN)/python benchmarks/growth.py --json benchmarks/growth.json --figure docs/growth.pdf
