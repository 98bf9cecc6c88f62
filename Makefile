# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
# Any torch from 2.11 on. A machine that already has one in an activated environment does not need
# this file: `pip install -e .` builds against the torch that it finds.
TORCH ?= torch==2.13.0
# The version that torch 2.14 brings; beside `.venv`, which needs no Triton.
TRITON ?= 3.8.0
# timm and the torchvision of TORCH's release, beside `.venv`, which needs neither.
TIMM ?= timm==1.0.31 torchvision==0.28.0
PYTEST_ARGS ?=
FUZZ ?= 10000
BENCH_ARGS ?=
MUTANTS_ARGS ?=
# Torch versions that `make wheel` tries its wheel with: "requirements", or folders of site-packages.
WHEEL_TORCH ?= "$(TORCH)"

# Two processes share the tests, as most of a test is one thread of the interpreter. Threads that
# spin while they wait would take the cores from each other.
export OMP_WAIT_POLICY ?= passive

VENV := .venv
BIN := $(VENV)/bin
CXX_FILES = $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cuh' 'csrc/*.cu')
TRITON_SITE := build/triton/$(TRITON)
WITH_TRITON := PYTHONPATH=$(CURDIR)/$(TRITON_SITE) TRITON_CACHE_DIR=$(CURDIR)/build/triton/cache
TIMM_SITE := build/timm
BUILD_INPUTS := pyproject.toml setup.py build_backend.py ggnet/_build.py $(shell find csrc kernels -type f 2>/dev/null)

.PHONY: help setup demo test test-slow test-simt test-simt-checked test-asan test-viewer test-timm fuzz test-triton triton-budget simt-budget test-cuda-build mutants gpu-check wheel bench bench-eval lint format clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## .venv with the dependencies and the compiled package

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("ggnet needs Python 3.11 or newer; " + sys.executable + " is " + sys.version.split()[0] + ". Say which to use: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	@touch $@

$(VENV)/.ready: $(VENV)/.torch $(BUILD_INPUTS)
	$(BIN)/python -m pip install --quiet 'setuptools>=77' wheel ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[test,dev]'
	@touch $@

demo: setup  ## build, generate the bundled dataset, train, evaluate, draw (under 10 minutes on 2 cores)
	$(BIN)/ggnet demo

test: setup  ## every test that runs without a GPU (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

test-slow: setup  ## the tests that `make test` leaves out
	$(BIN)/python -m pytest -n 2 -m slow $(PYTEST_ARGS)

# The C++ library comes with the sanitizer, which looks for its way to throw exceptions once.
test-simt: setup test-simt-checked  ## the device kernels on the CPU: plain, with sanitizers, traced
	$(BIN)/python -m pytest -n 2 tests/simt -m "slow or not slow" $(PYTEST_ARGS)

test-simt-checked: setup
	GGNET_SIMT_VARIANT=traced $(BIN)/python -m pytest -n 2 tests/simt -k "not planted" -m "slow or not slow" $(PYTEST_ARGS)
	GGNET_SIMT_VARIANT=asan ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		$(BIN)/python -m pytest -n 2 tests/simt -k kernels -m "slow or not slow" $(PYTEST_ARGS)

test-asan: setup  ## the CPU kernels with the address and undefined-behavior sanitizers
	tests/sanitize.sh $(PYTEST_ARGS)

test-viewer: setup  ## the HTML page in headless Chromium, which apt-get installs where it is missing
	PYTHON=$(BIN)/python tests/report/browser.sh $(PYTEST_ARGS)

$(TIMM_SITE)/.ready: $(VENV)/.torch Makefile
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(TIMM_SITE) $(TIMM)
	@touch $@

test-timm: setup $(TIMM_SITE)/.ready  ## timm's networks as backbones
	PYTHONPATH=$(CURDIR)/$(TIMM_SITE) $(BIN)/python -m pytest -q -n 2 tests/models/test_timm_backbone.py $(PYTEST_ARGS)

fuzz: setup  ## FUZZ broken files of each format (10,000; hours), from the seed FUZZ_SEED
	FUZZ=$(FUZZ) $(BIN)/python -m pytest -n 2 tests/fuzz $(PYTEST_ARGS)

$(TRITON_SITE)/.ready: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(TRITON_SITE) triton==$(TRITON)
	@touch $@

test-triton: setup $(TRITON_SITE)/.ready  ## the Triton kernels: interpreted, compiled for GPUs, traced
	$(WITH_TRITON) GGNET_BACKEND=triton TRITON_INTERPRET=1 \
		$(BIN)/python -m pytest -q -n 2 tests/ops -m "slow or not slow" $(PYTEST_ARGS)
	$(WITH_TRITON) $(BIN)/python -m pytest -q -n 2 tests/triton_kernels tests/budget -m "slow or not slow" $(PYTEST_ARGS)

triton-budget: setup $(TRITON_SITE)/.ready  ## after a deliberate change: tests/budget/triton.json and the table
	$(WITH_TRITON) $(BIN)/python tests/triton_kernels/budget.py
	$(BIN)/python tests/budget/table.py

simt-budget: setup  ## after a deliberate change: tests/budget/emulated.json, docs/roofline.md, the table
	PYTHONPATH=tests $(BIN)/python tests/simt/footprint.py
	PYTHONPATH=tests $(BIN)/python tests/simt/roofline.py
	$(BIN)/python tests/budget/table.py

test-cuda-build:  ## compile everything with nvcc, check the kernels' registers, memory, instructions
	PYTHON=$(PYTHON) tests/cuda/build.sh

mutants: setup $(TRITON_SITE)/.ready $(TIMM_SITE)/.ready  ## do the tests notice a wrong line? 120 mutants, hours; MUTANTS_ARGS=--report
	$(WITH_TRITON) PYTHONPATH=$(CURDIR)/$(TRITON_SITE):$(CURDIR)/$(TIMM_SITE) nice -n 10 $(BIN)/python tests/mutants/run.py $(MUTANTS_ARGS)

gpu-check:  ## on a machine with a GPU: tests, compute-sanitizer, benchmarks with peers (10 minutes)
	tests/device/check.sh

wheel: setup  ## dist/ggnet-*-manylinux_*.whl, tried in a clean environment for each WHEEL_TORCH
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON=$(CURDIR)/$(BIN)/python tests/install/wheel.sh dist $(WHEEL_TORCH)

bench: setup  ## operators and the peers that are installed, as a pytest-benchmark suite
	$(BIN)/python -m pytest bench --benchmark-sort=name $(BENCH_ARGS)

bench-eval: setup  ## time of the metrics at the size of HICO-DET's and V-COCO's test sets
	$(BIN)/python bench/eval.py

lint: setup  ## ruff and clang-format, checks only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: setup  ## apply ruff's and clang-format's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info ggnet/*.so ggnet/_build_info.json
