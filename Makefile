# Two entry points on a machine with nothing but Python 3.11 or 3.12: `make smoke` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
EXPERIMENT ?= smoke

TABLES = results/experiments/$(basename $(notdir $(EXPERIMENT)))
SNAKEMAKE = $(BIN)/snakemake --workflow-profile workflows/profiles/local --cores $(CORES) --config experiment=$(EXPERIMENT)

.PHONY: smoke experiment dry-run unlock test faults lint format shown clean

smoke: EXPERIMENT := smoke
smoke: experiment

# make experiment EXPERIMENT=bags, or EXPERIMENT=path/of/mine.yaml
experiment: $(VENV)/installed
	$(SNAKEMAKE)
	@cat $(TABLES)/table.md

dry-run: $(VENV)/installed
	$(SNAKEMAKE) --dry-run

# After Snakemake itself was killed: take its lock away
unlock: $(VENV)/installed
	$(SNAKEMAKE) --unlock

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Kills, damage, full disks and hostile input, two hundred times and more: half an hour on two cores
faults: $(VENV)/installed
	$(BIN)/python -m tests.faults

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

# What the README shows, from the last `make smoke` and `make experiment EXPERIMENT=headline`
shown:
	mkdir -p results/smoke
	cp results/experiments/smoke/table.md results/experiments/smoke/plots/ap_by_*.png results/smoke/
	cp results/experiments/headline/table.md results/smoke/headline.md

clean:
	rm -rf $(VENV) .snakemake results/data results/runs results/experiments results/work
