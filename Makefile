# Every target installs what it needs: Debian packages when root or sudo, the rest into .venv.
# `make demo` and `make test` are all a fresh clone on a fresh Debian needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

export PATH := $(CURDIR)/.venv/bin:$(PATH)

PYTHON ?= python3
PY := .venv/bin/python
SEED ?= 1
SECONDS ?= 60

NATIVE := $(wildcard native/*.pyx native/*.pxd edgesync/_native/*.pxd)
COMPILED = $(patsubst native/%.pyx,edgesync._native.%,$(wildcard native/*.pyx))

.PHONY: build demo chaos test check bench sim dev assets features clean

# Debian packages: package:command that tells whether it is there ("-" asks Python's headers).
PACKAGES := gcc:gcc make:make strace:strace spin:spin e2fsprogs:mke2fs pkg-config:pkg-config \
            nodejs:node npm:npm chromium:chromium
.cache/packages: Makefile
	@mkdir -p .cache
	@missing=""; \
	for one in $(PACKAGES); do \
	  command -v "$${one##*:}" >/dev/null || missing="$$missing $${one%%:*}"; \
	done; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import sysconfig,os,sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
	  || missing="$$missing python3-dev"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then run=""; elif command -v sudo >/dev/null; then run="sudo"; else run="none"; fi; \
	  if [ "$$run" = none ] || ! command -v apt-get >/dev/null; then \
	    echo "not installed, and no way to do it from here:$$missing"; \
	  else \
	    echo "installing:$$missing"; \
	    $$run env DEBIAN_FRONTEND=noninteractive apt-get -qq update; \
	    $$run env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; \
	  fi; \
	fi
	@touch $@

.venv/bin/python: | .cache/packages
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip

# The project's own build requirements first: the extensions are built in place, without isolation.
.venv/.ready: pyproject.toml | .venv/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check \
	  "setuptools>=77" "cython>=3.1,<4" "patch-ng>=1.17" "wheel"
	EDGESYNC_SKIP_NATIVE=1 flock .cache/build.lock $(PY) -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation -e '.[dev]'
	@touch $@

build/.built: .venv/.ready setup.py $(NATIVE)
	@mkdir -p build
	flock .cache/build.lock $(PY) setup.py --quiet build_ext --inplace --parallel 2
	@touch $@

build: build/.built assets

# Scripts and fonts of the dashboard, fetched once from the npm registry.
assets: .venv/.ready
	@if [ -f hubd/web/assets.py ]; then $(PY) -m hubd.web.assets; fi

dev: build
	@echo "ready: . .venv/bin/activate"

demo: build
	.venv/bin/edgesync demo

chaos: build
	.venv/bin/edgesync demo --chaos --seconds $(SECONDS)

# Two workers: many tests wait for a disk or a peer. No colours and no bars, for logs.
test: build
	$(PY) -m pytest -n 2 -q --color=no --no-header

features: build
	$(PY) -m pytest --features

sim: build
	$(PY) -m tests.sim --seed $(SEED)

bench: build
	cd bench && ../.venv/bin/asv machine --yes && ../.venv/bin/asv run --python=same --show-stderr

check: build
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m mypy.stubtest --concise --allowlist native/stubtest.txt $(COMPILED)
	.venv/bin/lint-imports
	.venv/bin/cython-lint native edgesync/_native
	.venv/bin/codespell edgesync hubd transport native tests bench docs *.md setup.py

clean:
	rm -rf build .cache/packages
	find edgesync/_native -name '*.so' -delete
