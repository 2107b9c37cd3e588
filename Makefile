# The verbs of the project; `make` lists them. Each first sets up what it needs in .venv, once: again
# only after pyproject.toml or constraints.txt has changed.
#
#   make compare ARGS="--k 8,32"      options for the command behind the verb
#   make test PYTHON=python3.12       another interpreter, for a new .venv

VENV := .venv
RUN := $(VENV)/bin/python -m
ARGS ?=
WORKERS ?= auto

# The first of these that is new enough.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$python && break; done)

# The constraints hold for build backends too, which pip takes from a variable of its own since 25.3.
# The path is relative because pip splits these variables at blanks. Python compiles what it imports, which is a
# part of what pip would compile, one file after the other.
INSTALL := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(RUN) pip --disable-pip-version-check install --quiet --no-input --no-compile

CPP := $(wildcard mojd/kernels/cuda/*.cu mojd/kernels/cuda/*.cuh tests/cuda/host/*.cpp tests/cuda/host/*.hpp)

.PHONY: help compare test check doctest docs properties bench test-gpu sanitize-gpu bench-gpu format lowest \
	constraints clean
.DELETE_ON_ERROR:

help:
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

compare: $(VENV)/.compare  ## compare QP solvers on recorded Gramians
	@$(VENV)/bin/mojd compare $(ARGS)

test: $(VENV)/.all  ## run all tests
	$(RUN) pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal $(ARGS)

check: $(VENV)/.all  ## lint, check the formatting, check types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)
	$(RUN) mypy --num-workers auto $(ARGS)

doctest: $(VENV)/.all  ## run the examples in docstrings, README.md and docs/
	$(RUN) pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile \
		--doctest-modules --ignore docs/conf.py mojd README.md docs $(ARGS)

docs: $(VENV)/.all  ## build docs/_build/html; a warning is an error
	$(RUN) sphinx --fail-on-warning --keep-going --quiet --no-color -d docs/_build/doctrees docs docs/_build/html $(ARGS)
	@echo "Built docs/_build/html/index.html"

properties: $(VENV)/.all  ## check all methods for all properties, for the tables in docs/
	$(RUN:-m=) docs/check_properties.py $(ARGS)

bench: $(VENV)/.all  ## time mojd and its peers side by side
	$(RUN:-m=) benchmarks/run.py $(ARGS)

test-gpu: $(VENV)/.gpu  ## on a machine with a GPU: run the tests that need one
	PYTHON=$(VENV)/bin/python benchmarks/on_gpu.sh compile test

sanitize-gpu: $(VENV)/.gpu  ## on a machine with a GPU: watch all kernels with compute-sanitizer
	PYTHON=$(VENV)/bin/python benchmarks/on_gpu.sh sanitize

bench-gpu: $(VENV)/.gpu  ## on a machine with a GPU: time solver 'cuda'
	$(RUN:-m=) benchmarks/run_gpu.py $(ARGS)

format: $(VENV)/.all  ## repair what check complains about, where a tool can
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

lowest: $(VENV)/.python  ## run all tests with the oldest versions that pyproject.toml allows
	rm -rf $(VENV)/lowest && $(VENV)/bin/python -m venv $(VENV)/lowest
	grep -oE '"[a-z0-9-]+>=[0-9.]+' pyproject.toml | sed -e 's/"//' -e 's/>=/==/' >$(VENV)/lowest/constraints.txt
	PIP_CONSTRAINT=$(VENV)/lowest/constraints.txt $(VENV)/lowest/bin/python -m pip \
		--disable-pip-version-check install --quiet '.[cli,jax,solvers,test]'
	$(VENV)/lowest/bin/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 \
		--override-ini filterwarnings=default $(ARGS)

# From an environment with nothing but the extras, and what the builds of packages need. The pin of torch
# stays as it is: on Linux its newest version brings gigabytes of CUDA along, which is left out here.
constraints: $(VENV)/.python  ## pin today's newest versions in constraints.txt
	rm -rf $(VENV)/pins && $(VENV)/bin/python -m venv $(VENV)/pins
	grep '^torch==' constraints.txt >$(VENV)/pins/torch.txt
	PIP_CONSTRAINT=$(VENV)/pins/torch.txt $(VENV)/pins/bin/python -m pip install --quiet '.[all]' hatchling
	grep '^#' constraints.txt >$(VENV)/pins/constraints.txt
	$(VENV)/pins/bin/python -m pip freeze --all --exclude pip --exclude mojd | sed -E 's/\+[a-z0-9.]+$$//' \
		| grep -vE '^(nvidia-|cuda-|triton==)' >>$(VENV)/pins/constraints.txt
	mv $(VENV)/pins/constraints.txt constraints.txt
	rm -rf $(VENV)/pins

clean:  ## delete everything that make has made
	rm -rf $(VENV) docs/_build gpu-results .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@test -n "$(PYTHON)" || { \
		echo "mojd needs Python 3.11 or newer and finds none: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
		echo "mojd needs Python 3.11 or newer, $(PYTHON) is not: make PYTHON=/path/to/python" >&2; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Two sizes: a first look at the solvers needs neither PyTorch nor JAX.
$(VENV)/.compare: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for the comparison; this happens once..."
	@$(INSTALL) --editable '.[cli,solvers]'
	@touch $@

$(VENV)/.all: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for development; this happens once and takes a few minutes..."
	@$(INSTALL) --editable '.[all]'
	@touch $@ $(VENV)/.compare

# CuPy beside all else, for the CUDA of PyTorch's own wheels.
$(VENV)/.gpu: $(VENV)/.all
	@$(INSTALL) --editable '.[all,cuda]'
	@touch $@
