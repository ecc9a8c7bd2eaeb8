# Two entry points on a machine with nothing but Python 3.11 or 3.12: `make smoke` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
EXPERIMENT ?= smoke

.PHONY: smoke experiment test lint format dry-run performance clean

smoke: EXPERIMENT := smoke
smoke: experiment

# make experiment EXPERIMENT=bags
experiment: $(VENV)/installed
	$(BIN)/snakemake --profile workflows/profiles/local --cores $(CORES) --config experiment=$(EXPERIMENT)
	@cat results/experiments/$(EXPERIMENT)/table.md

dry-run: $(VENV)/installed
	$(BIN)/snakemake --profile workflows/profiles/local --config experiment=$(EXPERIMENT) --dry-run

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflows
	$(BIN)/snakemake --lint

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflows

$(VENV)/installed: pyproject.toml envs/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint envs/constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .snakemake results/data results/runs results/experiments results/work
