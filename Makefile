# `make help` lists what there is to make.

# The first of these that runs, is new enough and can make an environment; PYTHON=/path/to/python overrides.
PYTHON ?= $(shell for p in python3.11 python3 python3.14 python3.13 python3.12; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

# ArviZ 1.x wants Python 3.12 or later; NEWER=/path/to/python overrides.
NEWER ?= $(shell for p in python3.12 python3.13 python3.14 python3 $(wildcard $(HOME)/.pyenv/versions/3.1[234]*/bin/python); do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)
# What of the tests meets ArviZ: what it is given, what judges draws, the pictures, the documents.
ARVIZ := tests/test_inference_data.py tests/test_pyro_samples.py tests/test_posterior.py tests/test_plots.py \
	tests/test_priors.py tests/test_documents.py src/neglog \
	tests/test_cli_options.py::test_draws_of_a_posterior_are_written_for_arviz

# Another release of torch, for `make torch`: the oldest that is supported, or any other.
TORCH ?= 2.4.1
# What of the tests meets torch's own interpreter: graphs of all models, and all models run by Pyro alone.
GRAPHS := tests/test_rowwise.py tests/test_small.py

# The middle of the code, without Pyro's own loops, chains or other processes: within a minute.
FAST := $(patsubst %,tests/test_%.py,likelihood losses structure choice formula wellformed signatures basis \
	arguments data tables predict compounds least_squares handlers hypotheses) \
	$(addprefix tests/test_fit.py::test_,a_shift_of_a_column_moves_the_intercept_alone the_guide_stands_at_the_optimum \
	prediction_is_a_distribution_of_each_row one_design_is_the_same_as_that_design_for_each_predictor information_criteria) \
	tests/test_architecture.py::test_imports_go_one_way tests/test_architecture.py::test_the_map_has_every_package \
	tests/test_figures.py

.PHONY: help demo lint style types test pytest test-fast arviz torch uci bench tables format clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 11

demo: .venv/installed  ## fit several likelihoods to the shipped data set and compare them
	@mkdir -p demo-output
	$(BIN)/neglog compare src/neglog/datasets/engel.csv "food_expenditure ~ income" --plot demo-output/engel.png

lint: style types  ## style, types, layers of imports

style: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: .venv/installed-dev
	$(BIN)/mypy

# mypy runs beside the tests: alone it leaves one of two cores idle.
test: style  ## lint, types, tests, doctests, examples
	@$(MAKE) --no-print-directory -j 2 types pytest

# Bytecode is kept, whatever the environment says: tests that start Python anew do not compile the project again.
pytest: .venv/installed-dev
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-fast: .venv/installed-dev  ## style and the central tests, within a minute, for the inner loop
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal $(FAST)

arviz:  ## the tests that meet ArviZ, with ArviZ 1.x, where there is a Python 3.12 or later
ifeq ($(NEWER),)
	@echo "ArviZ 1.x needs Python 3.12 or later, and there is none here: nothing was tested. If there is one"
	@echo "elsewhere, say make arviz NEWER=/path/to/python"
else
	@$(MAKE) --no-print-directory .venv-arviz/installed
	@.venv-arviz/bin/python -c 'import platform, arviz; print("Python", platform.python_version(), "ArviZ", arviz.__version__); assert arviz.__version__ >= "1"'
	OMP_NUM_THREADS=1 .venv-arviz/bin/python -m pytest $(ARVIZ)
	OMP_NUM_THREADS=1 .venv-arviz/bin/python -m pytest tests/test_examples.py -k "21_ or 22_ or 23_"
endif

torch:  ## the tests of graphs with another release of torch: make torch TORCH=2.4.1
	@echo "Installing into .venv-torch: some minutes and gigabytes, the first time."
	test -x .venv-torch/bin/python || $(or $(PYTHON),$(error neglog needs Python 3.11 or later: say make PYTHON=/path/to/python)) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet "torch==$(TORCH)" pytest hypothesis mpmath scikit-learn -e .
	OMP_NUM_THREADS=1 .venv-torch/bin/python -m pytest $(GRAPHS)

uci: .venv/installed-dev  ## networks that learn their noise on seven tables, written to docs/uci.md: 40 minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/uci.py $(UCI)

bench: .venv-bench/installed  ## time neglog beside its peers and write docs/benchmarks.md: hours
	.venv-bench/bin/python tests/benchmarks/bench.py $(BENCH)

tables: .venv/installed-dev  ## write the tables of models in the documents, from what the models declare
	$(BIN)/python tests/loss_tables.py

format: .venv/installed-dev  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove all that make made
	rm -rf .venv .venv-arviz .venv-bench .venv-torch .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo-output examples/output

$(BIN)/pip:
	$(or $(PYTHON),$(error neglog needs Python 3.11 or later: say make PYTHON=/path/to/python)) -m venv .venv

# The stamps say when the environment was last brought up to date.
.venv/installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing into .venv: some minutes, the first time."
	$(INSTALL) -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing into .venv: some minutes, the first time."
	$(INSTALL) -e ".[dev]"
	@touch .venv/installed $@

.venv-arviz/installed: pyproject.toml constraints-arviz.txt
	@echo "Installing into .venv-arviz: some minutes and gigabytes, the first time."
	test -x .venv-arviz/bin/python || $(NEWER) -m venv .venv-arviz
	.venv-arviz/bin/python -m pip install --quiet -c constraints-arviz.txt -e ".[dev]" "arviz>=1"
	@touch $@

.venv-bench/installed: pyproject.toml constraints.txt tests/benchmarks/requirements.txt
	$(or $(PYTHON),$(error neglog needs Python 3.11 or later: say make PYTHON=/path/to/python)) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]" -r tests/benchmarks/requirements.txt
	@touch $@
