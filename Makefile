PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/installed   ## train, prune, export, verify and inspect on a small generated set
	$(BIN)/python -m benchmarks.demo

# Three files at a time, also on two cores, the long ones first, each with one thread for arithmetic: most tests wait for
# programs, brokers and cameras. One that fails beside the others gets a second chance and is named under RERUN in the summary.
FILES := --numprocesses 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: check             ## linters and the whole suite; real pictures too where DSKD_DATA is set
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(FILES) --reruns 1 -m 'not alone' --durations 25
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --reruns 1 -m alone

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

clean:
	rm -rf .venv build dist *.egg-info
