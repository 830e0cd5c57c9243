# `make demo` and `make test` need Python 3.11 or newer, git and make; everything else they install into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test quick lint lock bench clean system
.DEFAULT_GOAL := help

help:  ## Show what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Nissl needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

demo: $(VENV)/.ready  ## Ingest real tissue, serve it, print where to look (DEMO="--port 9000" and the like)
	$(BIN)/python examples/demo.py $(DEMO)

test: $(VENV)/.ready system  ## Run all tests
	$(BIN)/python -m pytest $(TESTS)

quick: $(VENV)/.ready  ## Run the quick tests, under 3 minutes
	$(BIN)/python -m pytest -n auto -m 'not slow' $(TESTS)

lint: $(VENV)/.ready  ## Style, types, and which floor imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p nissl
	$(BIN)/mypy tests bench examples
	$(BIN)/lint-imports

lock: $(VENV)/.ready  ## Write constraints.txt anew from pyproject.toml
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --no-header --no-annotate --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --output-file constraints.txt pyproject.toml

bench: $(VENV)/.ready  ## Measure against the peers; minutes
	$(BIN)/python -m bench.write_level
	$(BIN)/python -m bench.whole_job
	$(BIN)/python -m bench.inodes
	$(BIN)/python -m bench.ingest_memory
	$(BIN)/python -m bench.patches

# Tests look at the viewer in Chromium, and ingest in jobs of a Slurm of their own. Without them they are skipped, and
# say so.
apt = { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(1) >/dev/null; }

system:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(call apt,chromium) \
		|| echo "no Chromium here: tests that look at the viewer will be skipped"
	@PATH="$$PATH:/usr/sbin:/sbin"; { command -v slurmctld && command -v munged; } >/dev/null \
		|| $(call apt,--no-install-recommends slurm-wlm munge) \
		|| echo "no Slurm here: tests that submit jobs will be skipped"

clean:  ## Remove what make made, but not data
	rm -rf $(VENV) build dist *.egg-info test-artefacts .mypy_cache .ruff_cache .pytest_cache .hypothesis
