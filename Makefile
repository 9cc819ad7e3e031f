# make demo   one night through the real flow, on generated data (RATINGS=path-or-uri for your own)
# make serve  a whole installation on this machine: Prefect, workers, an object store, until Ctrl-C
# make image  the container image, with docker, podman or buildah (TORCH_INDEX_URL=URL for another build of torch)
# make docs   the pages of docs/ as a site, in site/
# make notebook   docs/a-look-around.ipynb executed anew, on generated ratings
# make laws   the tests that take long: every fault, each network, a Ray cluster, the runbook word by word
# make soak   an installation lived in: nights by the schedule, faults, a judge (NIGHTS=60 EVERY=60 FAULTS=27 SEED=1)
# make image-test   the image built from nothing with buildah and debootstrap, and lived in
# make test   lint, types, import contracts, tests (two at a time; WORKERS=4 for more)
# Both set up .venv from constraints.txt by themselves.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
# Python compiles what it imports; compiling all that is installed takes a third of the set-up.
INSTALL = $(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: help demo serve docs notebook image image-test soak test laws lint types imports kernels tests format clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: .venv/installed
	@$(BIN)/python -m flows.demo --ratings "$(RATINGS)"

serve: .venv/installed-dev
	@exec $(BIN)/python -m deploy.serve

docs: .venv/installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html"

notebook: .venv/installed
	@$(BIN)/python docs/run_notebook.py

image:
	@$(PYTHON) -m deploy.image --torch-index-url "$(TORCH_INDEX_URL)" -- $(ENGINE_ARGUMENTS)

NIGHTS ?= 60
EVERY ?= 60
FAULTS ?= 27
SEED ?= 1

soak: kernels
	@$(BIN)/python -m bench.soak --nights $(NIGHTS) --every $(EVERY) --faults $(FAULTS) --seed $(SEED)

image-test: .venv/installed-dev
	@$(BIN)/python -m bench.image

test: .venv/installed-dev
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs=3 kernels imports types tests

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

imports: .venv/installed-dev
	$(BIN)/lint-imports

kernels: .venv/installed
	@$(BIN)/python -m deploy.kernel_cache

tests: kernels
	$(BIN)/pytest -n $(WORKERS)

laws: kernels
	$(BIN)/pytest -n $(WORKERS) -m long

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("this needs Python 3.11 or later, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "setting up .venv, some minutes the first time"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(INSTALL) .
	@$(BIN)/python -m deploy.kernel_cache
	@touch $@

.venv/installed-dev: .venv/installed
	@$(INSTALL) '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	@$(INSTALL) '.[docs]'
	@touch $@

clean:
	rm -rf .venv .demo .serve site
