# Everything a reader types. Each target sets up what it needs (.venv, pinned packages) and then does its job.
#
#   make figures                             every figure, on the simulated cohort
#   make figures PAPER=myong2023 PRESET=smoke
#   make figures DATA=cxr8 ROOT=/data/nih    on your own copy of NIH ChestX-ray14
#   make figures PAPER=myong2023 TOPIC=translate   one experiment and what it needs
#   make figures PRESET=smoke SET=seed=3     with a notebook's parameter set by hand
#   make reproduce PRESET=smoke              twice from nothing: are all figures and numbers the same bytes?
#   make test | make soak | make bench | make scale | make precision | make lab | make status | make clean

SHELL := /bin/bash
PYTHON ?= python3
PAPER ?= all
PRESET ?= demo
DATA ?= phantom
ROOT ?=
TEST_ROOT ?=
JOBS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
SET ?=
TOPIC ?=
ASKED := --paper '$(PAPER)' --preset '$(PRESET)' --data '$(DATA)' --root '$(ROOT)' --test-root '$(TEST_ROOT)' $(if $(SET),--set '$(SET)') $(foreach topic,$(TOPIC),--topic '$(topic)')

.PHONY: figures status reproduce test soak bench scale precision lab lint export setup clean

figures: $(STAMP)
	@$(BIN)/cxr figures $(ASKED)

status: $(STAMP)
	@$(BIN)/cxr status $(ASKED)

reproduce: $(STAMP)
	@$(BIN)/cxr reproduce --paper '$(PAPER)' --preset '$(PRESET)' $(foreach topic,$(TOPIC),--topic '$(topic)')

lab: $(STAMP)
	$(BIN)/jupyter lab nbs

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --ignore=tests/soak -m "not soak" -n $(JOBS) --dist loadscope --no-loadscope-reorder --cov=cxr_companion --cov-report=term:skip-covered --cov-fail-under=90
	@$(BIN)/python -m coverage report --include='cxr_companion/stats/*' --fail-under=98 --skip-covered
	@$(BIN)/python -m coverage report --include='cxr_companion/data/*' --fail-under=95 --skip-covered

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-bench.txt
	$(BIN)/python -m benchmarks.batch
	$(BIN)/python -m benchmarks.listing
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.statistics
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.stargan
	$(BIN)/python -m benchmarks.pggan
	$(BIN)/python -m benchmarks.markers
	$(BIN)/python -m benchmarks.frechet

scale: $(STAMP)  # docs/scale.md: what preset paper costs, and what films, pixels and workers cost here: about twenty minutes
	$(BIN)/python -m benchmarks.scale

precision: $(STAMP)  # bf16 against fp32, several seeds each: about half an hour
	$(BIN)/python -m benchmarks.precision

soak: $(STAMP)
	$(BIN)/python -m tests.soak.run

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

export: $(STAMP)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

setup: $(STAMP)

# A change of the pinned set or of setup makes the stamp stale. pip is asked to leave what is right alone.
$(STAMP): requirements.txt setup.py
	@command -v $(PYTHON) > /dev/null || { echo "no $(PYTHON) here: install Python 3.11, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11)' 2> /dev/null || { echo "the pinned packages are for Python 3.11, $(PYTHON) is $$($(PYTHON) -V): say make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv (once; some minutes, about 8 GB with torch)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	@if test -x $(BIN)/cxr; then $(BIN)/cxr clean; else rm -rf build; fi
