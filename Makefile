# Two entry points on a machine with nothing but Python 3.11 or 3.12: `make smoke` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
EXPERIMENT ?= smoke
# Another detector for every row, for example mmdet/tiny_mask_rcnn or detectron2/tiny_mask_rcnn
DETECTOR ?=
# A folder of COCO that `make prepare` links to
COCO ?=

BACKEND = $(filter mmdet detectron2,$(firstword $(subst /, ,$(DETECTOR))))
INSTALLED = $(VENV)/installed$(addprefix _,$(BACKEND))
TABLES = results/experiments/$(basename $(notdir $(EXPERIMENT)))$(if $(DETECTOR),_$(subst /,_,$(DETECTOR)))
# Numbers that come with the project; smoke is compared with those of smoke_seeds. Numbers outside of their noise stop nothing
REFERENCE = results/reference/$(notdir $(TABLES)).csv
CONFIG = experiment=$(EXPERIMENT) $(if $(DETECTOR),detector=$(DETECTOR)) $(if $(COCO),coco=$(abspath $(COCO)))
OPTIONS = --workflow-profile workflows/profiles/local --cores $(CORES) --config $(CONFIG)
SNAKEMAKE = $(BIN)/snakemake $(OPTIONS)
# Files in the order of tests/conftest.py, each in one process
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: smoke experiment prepare dry-run unlock test test-fast coverage mutation agreement faults canary performance gpu wheel architecture docs lint format shown clean

smoke: EXPERIMENT := smoke
smoke: experiment
	@$(if $(or $(filter smoke,$(EXPERIMENT)$(DETECTOR)),$(wildcard $(REFERENCE))),$(BIN)/longtail verify $(EXPERIMENT) --summary || true)

# make experiment EXPERIMENT=bags, or EXPERIMENT=path/of/mine.yaml
experiment: $(INSTALLED)
	$(SNAKEMAKE)
	@cat $(TABLES)/table.md

# make prepare EXPERIMENT=bags: download, link, draw or rebuild its datasets and weights, and check them
prepare: $(INSTALLED)
	$(BIN)/snakemake prepare $(OPTIONS)

dry-run: $(INSTALLED)
	$(SNAKEMAKE) --dry-run

# After Snakemake itself was killed: remove its lock
unlock: $(INSTALLED)
	$(SNAKEMAKE) --unlock

test: $(VENV)/installed_mmdet
	$(PYTEST)

# Tests that take two seconds at most
test-fast: $(VENV)/installed_mmdet
	$(PYTEST) -m "not slow"

# Coverage of the fast tests, and the files below 70 %
coverage: $(VENV)/installed_mmdet
	$(PYTEST) -m "not slow" --cov=benchmark --cov=methods --cov-report=
	@$(BIN)/coverage report --skip-empty --sort=cover | awk 'NR < 3 || $$4 + 0 < 70 || /^TOTAL/'

# Mutation testing: do the tests notice small mistakes in a sample of places that compute numbers? Eight minutes of one core
mutation: $(VENV)/installed_mmdet
	$(BIN)/python -m tests.mutation

# Compare the detectors of published rows between all installed back ends; twenty minutes
agreement: $(VENV)/installed_mmdet
	$(BIN)/python -m tests.agreement

# Kills, damage, full disks and hostile input, two hundred times and more: a quarter of an hour on two cores
faults: $(VENV)/installed
	$(BIN)/python -m tests.faults

# Check that the code still computes the numbers of its versions (benchmark/numerics.json). After an intended change of
# numbers: make canary RAISE="training bags"
canary: $(VENV)/installed_mmdet
	$(BIN)/python -m tests.canary $(if $(RAISE),--raise $(RAISE))

# Measure results/performance.md; TOPICS="balms retraining" for some of its sections
performance: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint envs/constraints.txt --editable '.[performance]'
	$(BIN)/python -m tests.performance $(TOPICS)

# What only a GPU can show, in nine minutes on one, into results/gpu/DEVICE.md; TOPICS="training" for some of it, DRY=1
# for all of it on the CPU at tiny size
gpu: $(VENV)/installed
	$(BIN)/python -m tests.gpu $(if $(DRY),--dry) $(TOPICS)

# A wheel that works without a checkout, in dist/
wheel: $(VENV)/installed
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# ARCHITECTURE.md, after imports or docstrings of packages have changed
architecture: $(VENV)/installed
	$(BIN)/python docs/architecture.py

# The documentation in site/: open site/index.html
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint envs/constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
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

# MMDetection, which only its own recipes and tests need
$(VENV)/installed_mmdet: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint envs/constraints.txt --editable '.[dev,mmdet]'
	touch $@

# detectron2, built from source unless it is installed; needs minutes, a C++ compiler and GitHub
$(VENV)/installed_detectron2: $(VENV)/installed
	$(BIN)/python -c 'import detectron2' || \
	  PATH=$(abspath $(BIN)):$$PATH PIP_CONSTRAINT=envs/constraints.txt PIP_QUIET=1 envs/detectron2.post-deploy.sh
	touch $@

# The content that the README shows: the rules, and results of smoke_seeds, of smoke with another DETECTOR, and of ablations
shown: $(VENV)/installed
	mkdir -p results/smoke
	cp results/experiments/smoke_seeds/table.md results/experiments/smoke_seeds/plots/ap_by_*.png results/smoke/
	$(foreach table,$(wildcard results/experiments/smoke_*_rcnn/table.md $(addprefix results/experiments/,$(addsuffix /table.md,ablations benchmark))),cp $(table) results/smoke/$(notdir $(table:/table.md=)).md;)
	$(BIN)/longtail reference smoke_seeds
	$(BIN)/python -m tests.workflow.rule_graph
	$(BIN)/python -m tests.reporting.screenshot results/experiments/smoke_seeds/report.html results/smoke/report_light.png

# Remove everything generated; keep what comes with the project (results/reference, results/reported, results/smoke,
# results/performance.md)
clean:
	rm -rf $(VENV) .coverage .snakemake build dist site $(addprefix results/,data experiments logs reproduced runs store work)
