# Two commands matter: `make run` and `make test`. Both install what they need, once; when nothing
# changed they don't touch the network.

# What is compiled is kept: else each process of a node would compile the program anew, and each run of the tests the tests.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -qq
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
# Beside it, with apsw-sqlite3mc in the place of apsw: both provide the same module.
ENCRYPTION := .venv-encryption
ENCRYPTION_STAMP := $(ENCRYPTION)/.installed
ENCRYPTED := tests/powercut/test_power_cut.py \
  tests/shard/test_keyring.py tests/shard/test_encryption.py tests/shard/test_encrypt.py \
  tests/shard/test_archive_backup.py \
  tests/e2e/test_encryption.py \
  tests/node/test_owner.py::test_a_master_key_of_roots_opens_the_data_of_another_user

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench bench-sync loadtest screenshots lock clean debian

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN_STAMP) ## start a node on 127.0.0.1:8080, data in ./data
	@exec $(BIN)/pobox serve

test: debian $(DEV_STAMP) $(ENCRYPTION_STAMP) ## everything: all tests, with PostgreSQL and real processes
	@sh .ci/debian chromium prometheus systemd
	$(BIN)/python -m pytest
	$(ENCRYPTION)/bin/python -m pytest --encrypted $(ENCRYPTED)

check: $(DEV_STAMP) ## about a minute: lint, format, types, the quick tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow"

bench: debian $(DEV_STAMP) ## measure against the peers, write docs/benchmarks.md
	@sh .ci/debian nginx-light
	$(BIN)/python -m loadtest.bench --write docs/benchmarks.md

bench-sync: debian $(DEV_STAMP) ## the same for what devices ask for, beside nginx and sqlite3_rsync
	@sh .ci/debian nginx-light
	$(BIN)/python -m loadtest.bench --write docs/benchmarks.md \
	  --only check --only download --only delta --only snapshot --only crowd

loadtest: $(DEV_STAMP) ## load a node as SCENARIO says (steady, peak, fanout, ... ), with a verdict and a report
	$(BIN)/python -m loadtest.scenario $(or $(SCENARIO),steady) $(ARGS)

screenshots: debian $(DEV_STAMP) ## the pictures of docs/screenshots anew
	@sh .ci/debian chromium
	$(BIN)/python -m pytest --numprocesses=0 tests/web/test_screenshots.py --screenshots docs/screenshots

lock: ## pin again what pyproject.toml asks for (needs uv)
	uv pip compile pyproject.toml requirements-build.in --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock
	uv pip compile pyproject.toml requirements-build.in --extra dev --constraint requirements.lock \
	  --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url --no-header --quiet \
	  --output-file requirements-dev.lock
	uv pip compile requirements-encryption.in --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-header --quiet --output-file requirements-encryption.lock

clean: ## remove what was built; the data stays
	rm -rf $(VENV) $(ENCRYPTION) *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's packages that tests and benchmarks use: only as root, and only those that are missing.
debian:
	@sh .ci/debian postgresql wrk sqlite3

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pobox needs Python 3.11 or later; say which with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh .ci/debian --needed python3-venv
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing pobox into $(VENV) ..."
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): requirements-dev.lock $(RUN_STAMP) | $(BIN)/python
	@echo "installing what tests and benchmarks need into $(VENV) ..."
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@touch $@

# Its own packages come first; all others are those of the first venv, and pobox is this directory.
$(ENCRYPTION_STAMP): requirements-encryption.lock $(DEV_STAMP) | $(BIN)/python
	@echo "installing apsw-sqlite3mc into $(ENCRYPTION) ..."
	@$(BIN)/python -m venv --without-pip $(ENCRYPTION)
	@place=$$($(ENCRYPTION)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  $(PIP) install --no-deps --require-hashes --upgrade --target $$place --requirement requirements-encryption.lock && \
	  $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"), "$(CURDIR)", sep="\n")' > $$place/others.pth
	@touch $@
