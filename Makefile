# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
# cpu, or gpu (downloads CUDA packages: ask for it)
ACCELERATOR ?= cpu
# TORCH=0 leaves torch out; its tests then skip with a word
TORCH ?= 1
# one more than there are processors: tests of processes wait a good part of their time
WORKERS ?= $(shell expr $$(nproc) + 1)
# one environment each: the wheels of cpu and gpu own one module
VENV := .venv$(if $(filter gpu,$(ACCELERATOR)),-gpu)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# which set of packages: with a GPU its compute capability says, read by NVML; CAPABILITY=6.1 stands for another card
CONSTRAINTS = $(if $(findstring gpu,$*),$$(CAPABILITY=$(CAPABILITY) $(BIN)/python -m orchestrator.cards),constraints.txt)
CAPABILITY ?=
ifeq ($(TORCH),0)
TEST_EXTRAS := $(ACCELERATOR),dev,ui
else
TEST_EXTRAS := $(ACCELERATOR),dev,ui,torch,openvino
endif

.PHONY: demo test lint unit soak bench clean

demo: $(VENV)/.$(ACCELERATOR)  ## virtual environment, install, main job, report
	$(BIN)/python -m tests.demo

test: lint unit  ## every check that fits this machine

lint: $(VENV)/.$(TEST_EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(VENV)/.$(TEST_EXTRAS)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not soak and not gpu" $(PYTEST_ARGS)

soak: $(VENV)/.$(TEST_EXTRAS)  ## many minutes
	$(BIN)/python -m pytest -m soak --timeout 0 $(PYTEST_ARGS)

bench: $(VENV)/.$(TEST_EXTRAS)  ## prints ratios against named opponents
	$(BIN)/python -m tests.benchmarks

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("halve needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml constraints.txt constraints-cuda12.txt | $(VENV)/bin/python
	$(if $(findstring gpu,$*),$(PIP) -c constraints.txt nvidia-ml-py)
	$(PIP) -c "$(CONSTRAINTS)" -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV)
