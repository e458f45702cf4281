# `make demo` and `make test` set themselves up on a fresh machine.
# Needs: python3.11+ with venv, make, a Python package index; `make test` also an npm registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := .tools
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 3
PYTEST := -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

.PHONY: setup tools demo test chaos check lint audit coverage bench docs lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "claude-jobs needs Python 3.11 or newer; $(PYTHON) is older or missing. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: install the package python3-venv (Debian, Ubuntu), then run make again."; exit 1; }
	@echo "Setting up $(VENV) (once; a minute or two) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# The MCP Inspector, with the node that the lock brings.
tools: setup
	@sh tests/inspector/setup.sh $(BIN)/python $(TOOLS)

demo: setup
	@$(BIN)/claude-jobs demo

# What fails is run once more, alone, if it is little; what passes then is named as FLAKY.
test: setup tools
	@$(BIN)/python .ci/test.py $(PYTEST)

# Ten minutes of kill -9, frozen workers, jumping clocks and full disks; CHAOS_ARGS="--seed 7" plays one storm again.
chaos: setup
	@cd tests && ../$(BIN)/python -m chaos $(CHAOS_ARGS)

check: lint audit coverage

lint: setup
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/bandit --quiet --recursive src --configfile pyproject.toml

audit: setup
	@$(BIN)/python .ci/audit.py requirements.lock

coverage: setup tools
	@$(BIN)/python .ci/measure.py $(PYTEST)

bench: setup
	@$(BIN)/python -m bench $(BENCH_ARGS)

# What is generated in the README, and .env.example.
docs: setup
	@$(BIN)/python docs/generate.py

# Pins what is new and drops what is gone; LOCK_ARGS=--upgrade takes newer versions.
lock: setup
	@$(PIP) install --quiet 'uv>=0.9,<1'
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --no-header --no-annotate $(LOCK_ARGS) pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(TOOLS) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
