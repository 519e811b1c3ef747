# What a person does with this repository. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The marker makes set-up run once, and again when what it installs has changed.
READY := $(VENV)/.ready
# The peers have their own environment: nothing of theirs is needed for anything else.
BENCHMARKS := .venv-benchmarks
# Test files side by side, one core each.
PARALLEL := -n auto --dist loadfile
ZOO := .venv-zoo
# Another PyTorch: `make test-torch TORCH=2.6.0`. A CUDA build of several gigabytes, unless PyTorch's
# own index of CPU builds is given: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= 2.5.1
TORCH_INDEX ?=
OTHER := .venv-torch-$(TORCH)

.DEFAULT_GOAL := help
.PHONY: help setup report reports first-light overview claims ablation any-model diagnosis papers trainability benchmarks zoo-check wheels quick test test-torch lint types format vendor clean

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

COMPARE := $(BIN)/sigprop compare plain batchnorm rescale --depth 32 --width 64 --seeds 3 --steps 200

report: $(READY)  ## Compare plain, batchnorm and rescale on real digits: reports/latest/
	rm -rf reports/latest
	$(COMPARE) --output reports/latest

# What is committed under reports/; `make report` writes beside it, so that a clone stays clean.
reports: first-light overview claims ablation any-model diagnosis papers trainability  ## Make every committed report again (benchmarks apart)

first-light: $(READY)  ## The committed report of `make report`: reports/first-light/
	rm -rf reports/first-light
	$(COMPARE) --output reports/first-light

overview: $(READY)  ## The picture at the top of the README: reports/overview/
	$(BIN)/python examples/06_draw_overview.py reports/overview

claims: $(READY)  ## Measure every claim of the literature that fits a CPU: reports/claims/
	OMP_NUM_THREADS=1 $(BIN)/sigprop claims --jobs 2 --output reports/claims

ablation: $(READY)  ## What each part of RescaleNet is good for: reports/ablation/
	$(BIN)/python examples/05_ablate_rescalenet.py reports/ablation

diagnosis: $(READY)  ## How often `sigprop diagnose` errs: reports/diagnosis/
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.diagnosis_rates

any-model: $(READY)  ## Transformers read without touching their source: reports/any-model/
	$(BIN)/python examples/04_read_transformers.py reports/any-model

papers: $(READY)  ## The figures of papers at the size of a CPU, a page each: reports/papers/
	for script in 07_follow_santurkar 08_follow_bjorck 09_follow_hoffer 10_find_edge_of_stability; do \
		OMP_NUM_THREADS=1 $(BIN)/python examples/$$script.py || exit 1; done

trainability: $(READY)  ## A sweep over depth and the variance of weights: reports/trainability/
	OMP_NUM_THREADS=1 $(BIN)/python examples/12_map_trainability.py reports/trainability --jobs

benchmarks: $(BENCHMARKS)/.ready  ## What a probe costs, beside its peers: reports/benchmarks/
	OMP_NUM_THREADS=1 $(BENCHMARKS)/bin/python -m benchmarks

$(BENCHMARKS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCHMARKS)
	$(BENCHMARKS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BENCHMARKS)/bin/python -m pip install --quiet -c constraints.txt -e . --group benchmarks
	# These ask for torchvision or spacy as well, which their hooks do not import.
	$(BENCHMARKS)/bin/python -m pip install --quiet --no-deps -c constraints.txt delve fastai mup
	touch $@

zoo-check: $(ZOO)/.ready  ## Score the blocks chosen in 85 published architectures
	OMP_NUM_THREADS=1 $(ZOO)/bin/python -m benchmarks.zoo

$(ZOO)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(ZOO)/bin/python -m pip install --quiet -c constraints.txt -e . --group zoo
	# They ask for other builds of PyTorch and for what downloads weights; neither is needed here.
	$(ZOO)/bin/python -m pip install --quiet --no-deps -c constraints.txt torchvision timm diffusers
	touch $@

wheels: $(READY)  ## Build what a package index accepts: an sdist, and a manylinux wheel: dist/
	rm -rf dist build/wheel
	$(BIN)/python -m build --sdist --outdir dist
	$(BIN)/python -m build --wheel --outdir build/wheel
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --wheel-dir dist build/wheel/*.whl

test-torch: $(OTHER)/.ready  ## The test suite with another PyTorch: make test-torch TORCH=2.6.0
	OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest $(PARALLEL) $(TESTS)

$(OTHER)/.ready: pyproject.toml constraints.txt hatch_build.py $(wildcard sigprop/signals/native/*.[ch])
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	{ grep -v '^torch==' constraints.txt; echo 'torch==$(TORCH)'; } > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
		'torch==$(TORCH)' -c $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet -c $(OTHER)/constraints.txt -e . --group test --group build
	$(OTHER)/bin/python -m pip install --quiet --no-deps -c constraints.txt Resemblyzer
	touch $@

test: lint types $(READY)  ## Lint, types, doctests and the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

quick: lint  ## Style, doctests and the half of the tests that takes less than two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --quick

lint: $(READY)  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Check types
	$(BIN)/mypy

format: $(READY)  ## Put the style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

vendor:  ## Fetch the scripts of others that are kept here (Plotly, axe), checked by checksum
	$(PYTHON) vendor.py

clean:  ## Remove the virtual environment and everything generated but reports
	rm -rf $(VENV) $(BENCHMARKS) $(ZOO) .venv-torch-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
