# What a person does with this repository. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The marker makes set-up run once, and again when what it installs has changed.
READY := $(VENV)/.ready
# The peers have their own environment: nothing of theirs is needed for anything else.
BENCHMARKS := .venv-benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup report claims ablation any-model benchmarks quick test lint types format clean

help:  ## List what can be done
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Make the virtual environment and install everything

$(READY): pyproject.toml constraints.txt hatch_build.py $(wildcard sigprop/signals/native/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . --group dev
	# A trained LSTM for the tests; what its package needs to load audio is not needed here.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt Resemblyzer
	touch $@

report: $(READY)  ## Compare plain, batchnorm and rescale on real digits: reports/first-light/
	rm -rf reports/first-light
	$(BIN)/sigprop compare plain batchnorm rescale --depth 32 --width 64 --seeds 3 --steps 200 \
		--output reports/first-light

claims: $(READY)  ## Measure every claim of the literature that fits a CPU: reports/claims/
	OMP_NUM_THREADS=1 $(BIN)/sigprop claims --jobs 2 --output reports/claims

ablation: $(READY)  ## What each part of RescaleNet is good for: reports/ablation/
	$(BIN)/python examples/05_ablate_rescalenet.py reports/ablation

any-model: $(READY)  ## Transformers read without touching their source: reports/any-model/
	$(BIN)/python examples/04_read_transformers.py reports/any-model

benchmarks: $(BENCHMARKS)/.ready  ## What a probe costs, beside its peers: reports/benchmarks/
	OMP_NUM_THREADS=1 $(BENCHMARKS)/bin/python -m benchmarks

$(BENCHMARKS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCHMARKS)
	$(BENCHMARKS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BENCHMARKS)/bin/python -m pip install --quiet -c constraints.txt -e . --group benchmarks
	# These ask for torchvision or spacy as well, which their hooks do not import.
	$(BENCHMARKS)/bin/python -m pip install --quiet --no-deps -c constraints.txt delve fastai mup
	touch $@

test: lint types $(READY)  ## Lint, types, doctests and the whole test suite
	$(BIN)/python -m pytest

quick: lint  ## Style, doctests and the half of the tests that takes less than two minutes
	$(BIN)/python -m pytest --quick

lint: $(READY)  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Check types
	$(BIN)/mypy

format: $(READY)  ## Put the style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the virtual environment and everything generated but reports
	rm -rf $(VENV) $(BENCHMARKS) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
