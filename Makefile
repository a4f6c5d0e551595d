# The doors, for people and for CI alike. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
NPM    := $(shell command -v npm 2>/dev/null)
VENDOR := client_demo/vendor/.installed
# What `make bench-peers` compares with.
PEERS  := $(foreach peer,langgraph chainlit ag_ui,build/bench-$(peer)/.installed)

.DEFAULT_GOAL := help
.PHONY: help install weights serve test torture check audit fix bench bench-peers bench-modules bench-profile bench-all bench-storage wheel clean \
	screenshots

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: $(VENV)/.installed $(VENDOR) ## Make .venv with threadwire and everything to work on it

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[speed,dev]'
	@touch $@

# What the page shows Markdown and code with, copied out of npm's folder so that the server and the wheel find it.
$(VENDOR): package-lock.json
ifneq ($(NPM),)
	npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	@mkdir -p $(@D)
	@cp node_modules/marked/lib/marked.esm.js $(@D)/marked.js
	@cp node_modules/marked/LICENSE $(@D)/marked.LICENSE.txt
	@cp node_modules/dompurify/dist/purify.es.mjs $(@D)/dompurify.js
	@cp node_modules/dompurify/LICENSE $(@D)/dompurify.LICENSE.txt
	@cp node_modules/@highlightjs/cdn-assets/es/highlight.min.js $(@D)/highlight.js
	@cp node_modules/@highlightjs/cdn-assets/LICENSE $(@D)/highlight.LICENSE.txt
	@touch $@
else ifneq ($(CI),)
	$(error npm is missing: CI checks the browser client)
else
	@echo "*** npm is missing: the page will show answers as plain text, and 'make check' will not check the browser client."
	@echo "*** Install Node 20 or newer, and run 'make install' again."
endif

weights: install ## Fetch the local model (98 MB); without it the server talks with a simulated one
	-$(BIN)/threadwire models fetch smollm2-135m

serve: weights ## Serve on http://127.0.0.1:8000 (ARGS="--port 9000")
	$(BIN)/threadwire serve $(ARGS)

test: weights ## All tests (ARGS="-k name")
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not torture" $(ARGS)

torture: install ## Hundreds of crashes, ten minutes of soak, fuzz (TORTURE_SEED, TORTURE_ROUNDS, TORTURE_SECONDS)
	$(BIN)/python -m pytest -m torture -s $(ARGS)

check: install ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
ifneq ($(NPM),)
	node_modules/.bin/tsc
	node_modules/.bin/prettier --check --log-level=warn client_demo tests/js
else
	@echo "*** npm is missing: the browser client has not been checked."
endif

audit: install ## Ask the internet for known vulnerabilities of what is installed
	$(BIN)/python -m pip install --quiet 'pip-audit>=2.9,<3'
	$(BIN)/pip-audit --skip-editable --progress-spinner off

fix: install ## Mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
ifneq ($(NPM),)
	node_modules/.bin/prettier --write --log-level=warn client_demo tests/js
endif

bench: install ## Side by side with what the tutorials have, ten minutes (ARGS="crowd single --rounds 1")
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: install $(PEERS) ## The same with langgraph dev, Chainlit and AG-UI, in environments of their own
	$(BIN)/python -m benchmarks --peers $(ARGS)

build/bench-%/.installed: benchmarks/servers/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	@touch $@

bench-modules: install ## The codec, the log and the events, each alone (ARGS="--fast -o build/modules.json")
	$(BIN)/python benchmarks/modules.py $(ARGS)

bench-profile: install ## Where the time goes at 100 sessions (ARGS="--servers threadwire")
	$(BIN)/python -m benchmarks.profiling $(ARGS)

bench-all: install $(PEERS) ## All of these, half an hour, into benchmarks/results, the pictures and docs/performance.md
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks --peers
	$(BIN)/python -m benchmarks.profiling --save benchmarks/results/profile.json
	rm -f benchmarks/results/modules.json
	$(BIN)/python benchmarks/modules.py -o benchmarks/results/modules.json
	$(BIN)/python -m benchmarks.publish

bench-storage: install ## A thread as it grows (ARGS="--turns 200"); 1,000 turns take minutes and 1.5 GB of disk
	$(BIN)/python benchmarks/storage.py $(ARGS)

screenshots: install ## Take the pictures of the page that the docs show (needs a Chromium)
	PYTHONPATH=tests $(BIN)/python -m e2e.screenshots

clean: ## Remove what was made
	rm -rf $(VENV) dist build node_modules client_demo/vendor .mypy_cache .ruff_cache .pytest_cache .hypothesis

wheel: install ## Build the wheel, install it alone, and talk to it from an empty folder
	rm -rf dist build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet dist/*.whl
	build/wheel/bin/python .ci/wheel.py
