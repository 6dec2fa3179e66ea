# `make demo` and `make test` do all set-up themselves and are quick the second time.
# Settings: make test PYTHON=python3.12 VENV=.venv-py312 WORKERS=4 MIRAGE_BUILD=cpu

VENV ?= .venv
WORKERS ?= 2
PYTHON312 ?= python3.12
export VENV

python := $(VENV)/bin/python

.PHONY: help setup setup-dev demo test suite coverage smoke test-py312 test-aot test-cluster \
  test-gpu docs format lint types clean

help:
	@echo "make demo        restyle the embedded clip"
	@echo "make test        format, lint and type checks, then the whole test suite"
	@echo "make coverage    the test suite, and which lines of the packages it runs"
	@echo "make smoke       imports and the frame stream only"
	@echo "make test-py312  the same with Python 3.12, in an environment of its own"
	@echo "make test-aot    compile the kernels for GPUs that are not there (Python 3.12)"
	@echo "make test-cluster  what runs on Ray, in an environment of its own"
	@echo "make test-gpu    the tests that need an NVIDIA GPU"
	@echo "make docs        build the site of the documentation into site/"
	@echo "make format      rewrite the sources in the project's format"
	@echo "make lint, make types, make suite: the parts of make test"
	@echo "make clean       remove environments, caches and outputs"

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh --dev

demo: setup
	$(python) main.py --config configs/demo.py

test: lint types suite

report :=

# A worker takes whole files, whose tests share compiled programs, in their order.
suite: setup-dev
	$(python) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q $(report)

coverage: report := --cov --cov-report=term
coverage: suite

# Compiled as users get it, which the suite is not.
smoke: setup-dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(python) -m pytest -m smoke -q

test-py312:
	$(MAKE) smoke VENV=.venv-py312 PYTHON=$(PYTHON312)

# In an environment of its own: with the CUDA plugin installed, JAX looks for a GPU.
AOT_VENV ?= .venv-aot
test-aot:
	VENV=$(AOT_VENV) scripts/setup.sh --aot
	JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=0 \
	  $(AOT_VENV)/bin/python -m pytest -m aot -n $(WORKERS) -q

# In an environment of its own: Ray brings some forty packages.
CLUSTER_VENV ?= .venv-cluster
test-cluster:
	VENV=$(CLUSTER_VENV) scripts/setup.sh --cluster
	$(CLUSTER_VENV)/bin/python -m pytest -m cluster -q

test-gpu: setup-dev
	JAX_PLATFORMS=cuda,cpu $(python) -m pytest -m gpu -q

# Without JAX; `$(DOCS_VENV)/bin/mkdocs serve` shows the site while it is written.
DOCS_VENV ?= .venv-docs
docs:
	@VENV=$(DOCS_VENV) scripts/setup.sh --docs
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

format: setup-dev
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

lint: setup-dev
	$(python) -m ruff format --check .
	$(python) -m ruff check .

types: setup-dev
	$(python) -m mypy

clean:
	rm -rf .venv .venv-py312 .venv-aot .venv-cluster .venv-docs .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis outputs site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
