# The doors, for people and for CI alike. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install weights serve test torture check fix bench wheel clean

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(VENV)/.installed ## Make .venv with threadwire and everything to work on it

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[speed,dev]'
	@touch $@

weights: install ## Fetch the local model (98 MB); without it the server talks with a simulated one
	-$(BIN)/threadwire models fetch smollm2-135m

serve: weights ## Serve on http://127.0.0.1:8000 (ARGS="--port 9000")
	$(BIN)/threadwire serve $(ARGS)

test: weights ## All tests (ARGS="-k name")
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not torture" $(ARGS)

torture: install ## Hundreds of crashes, ten minutes of soak (TORTURE_SEED, TORTURE_ROUNDS)
	$(BIN)/python -m pytest -m torture -s $(ARGS)

check: install ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: install ## Mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Measure a thread as it grows (ARGS="--turns 200"); 1,000 turns take minutes and 1.5 GB of disk
	$(BIN)/python benchmarks/storage.py $(ARGS)

clean: ## Remove what was made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

wheel: install ## Build the wheel, install it alone, and talk to it from an empty folder
	rm -rf dist build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet dist/*.whl
	build/wheel/bin/python .ci/wheel.py
