PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check docs clean

demo: .venv/installed   ## train, prune, export, verify and inspect on a small generated set
	$(BIN)/python -m benchmarks.demo

# Several files at a time, also on two cores, the long ones first, each with one thread for arithmetic: most tests wait
# for programs, brokers and cameras. Nothing runs a second time: a test that fails is a fault to be found.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
AT_ONCE := --numprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: check             ## linters and what protects the product's promises
	$(PYTEST) $(AT_ONCE) --hypothesis-profile quick -m 'not thorough and not alone' --durations 10

# What measures time runs by itself. Tests marked budget run again, with all their cases.
test-all: test          ## that, then all of it: every method, every case, drills, machines, real pictures where there are some
	$(PYTEST) -m alone
	$(PYTEST) $(AT_ONCE) -m '(thorough or budget) and not alone' --durations 25

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

docs: .venv/installed    ## the documentation as a site, in build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html -d build/doctrees docs build/docs

clean:
	rm -rf .venv build dist *.egg-info
