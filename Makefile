PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint deep benchmarks docs clean

demo: .venv/installed  ## measure the bundled model; leaves results/bias.h5 and results/bias.png
	$(BIN)/gradlab bias --tf 1.6 --tb 1.3 --out results/bias.h5

test: .venv/installed lint  ## everything CI runs
	$(BIN)/pytest -n auto --maxprocesses 8

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy gradlab cli analyses

deep: .venv/installed  ## long statistical runs
	$(BIN)/pytest -n auto --maxprocesses 8 -m deep

benchmarks: .venv/installed
	$(BIN)/python -m tests.benchmarks

docs: .venv/installed  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/installed: pyproject.toml constraints.txt  # the name before gradlab-fidelity is uninstalled
	$(PYTHON) -m venv .venv
	$(BIN)/pip uninstall -qq --yes gradlab
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info results site
