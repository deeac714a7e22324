# One environment for everything, built from constraints.txt. `make help` lists the commands.
# Only relative paths: the checkout may lie in a folder whose name contains spaces.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist worksteal
DEMO_ARGS ?=
MATRIX ?=

# Plugins and contrib packages are found by folder; nothing here names one.
PROJECTS := . $(patsubst %/pyproject.toml,%,$(sort $(wildcard plugins/*/pyproject.toml contrib/*/pyproject.toml)))
PACKAGES := foldcore $(filter-out %/tests %/examples,$(patsubst %/__init__.py,%,$(sort \
	$(wildcard $(foreach project,$(filter-out .,$(PROJECTS)),$(project)/*/__init__.py)))))
TESTS := tests $(wildcard $(addsuffix /tests,$(filter-out .,$(PROJECTS))))

# The environment is rebuilt when a version, a dependency, a package or the checkout's place changes.
FINGERPRINT := $(shell { pwd; echo $(PROJECTS); cat constraints.txt $(addsuffix /pyproject.toml,$(PROJECTS)); } \
	| cksum | tr -s ' ' -)
VENV := .venv
READY := $(VENV)/ready-$(FINGERPRINT)
BIN := $(VENV)/bin

# Two test processes with two threads each would fight over the cores.
test test-fast docs-test: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help test test-fast matrix demo lint types docs docs-test template format clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

test: lint types docs $(READY) ## Lint, type-check, build the docs, run every test of core, plugins and contrib
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(TESTS)

# What takes minutes or minutes' worth of processes is left to `make test`: the matrix of combinations, the
# plugins' own tests, planted plugins, clusters, fresh interpreters by the dozen.
FAST_TESTS := $(filter-out tests/test_workers.py tests/test_cli.py tests/test_import.py tests/test_scaffold.py \
	tests/test_docs_snippets.py,$(wildcard tests/test_*.py))

test-fast: lint $(READY) ## Lint, type-check the core, run the core's own tests: while working, under two minutes
	$(BIN)/python -m mypy foldcore
	$(BIN)/python -m pytest $(PYTEST_ARGS) -k "not hang" $(FAST_TESTS)

# tox has an environment of its own: it makes those of the matrix and is part of none.
matrix: ## Run the whole test matrix of tox.ini, or MATRIX="-m ci" or MATRIX="-e core" of it
	test -x .venv-tox/bin/tox || { $(PYTHON) -m venv .venv-tox && .venv-tox/bin/python -m pip install --quiet \
		--disable-pip-version-check -c constraints.txt tox tox-uv; }
	.venv-tox/bin/python -m tox run $(MATRIX) -- $(PYTEST_ARGS)

demo: $(READY) ## Train a small network through a folded layer; results go to demo-output/
	$(BIN)/python -m foldcore_digits $(DEMO_ARGS)

lint: $(READY) ## ruff (check and format) and import-linter
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## mypy --strict on the core and every package
	$(BIN)/python -m mypy $(PACKAGES)

docs: $(READY) ## Build the documentation site into docs-output/, warnings as errors
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs-output

docs-test: $(READY) ## Run every Python block of the README files and docs/
	$(BIN)/python -m pytest tests/test_docs_snippets.py

template: $(READY) ## Copy contrib/example-plugin into the template of `foldcore new-plugin`
	$(BIN)/python contrib/take_template.py

format: $(READY) ## Rewrite the sources as ruff wants them
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean: ## Remove the environment, caches and demo output
	rm -rf $(VENV) .venv-tox .tox demo-output docs-output docs/generated paper-output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf *.egg-info plugins/*/*.egg-info contrib/*/*.egg-info
	find foldcore plugins contrib tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY):
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[dev]' $(addprefix -e ./,$(filter-out .,$(PROJECTS)))
	touch $@
