# Every target installs what it needs: Debian packages when root or sudo, the rest into .venv.
# `make demo` and `make test` are all a fresh clone on a fresh Debian needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

export PATH := $(CURDIR)/.venv/bin:$(PATH)

# Modules are compiled once, not by each of a thousand processes that tests start.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PY := .venv/bin/python
SEED ?= 1
SECONDS ?= 60

NATIVE := $(wildcard native/*.pyx native/*.pxd native/*.patch edgesync/_native/*.pxd)
COMPILED = $(patsubst native/%.pyx,edgesync._native.%,$(wildcard native/*.pyx))

.PHONY: build demo screenshots chaos quick test long compat check bench sim converge fuzz crash dev assets features clean

# Debian packages, each with the command that tells whether it is there. The headers of C's own
# library are only recommended by gcc; Python's venv and headers are packages of their own.
BUILD_PACKAGES := gcc:gcc make:make pkg-config:pkg-config
TEST_PACKAGES := iproute2:ip strace:strace spin:spin e2fsprogs:mke2fs chromium:chromium \
	redis-server:redis-server redis-tools:redis-benchmark curl:curl \
	mosquitto-clients:mosquitto_pub openssl:openssl \
	postgresql:/usr/lib/postgresql/15/bin/postgres

define install
@mkdir -p .cache
@missing=""; export PATH="$$PATH:/usr/sbin:/sbin"; \
for one in $(1); do \
  command -v "$${one##*:}" >/dev/null || missing="$$missing $${one%%:*}"; \
done; \
case "$$missing" in *gcc*) missing="$$missing libc6-dev";; esac; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null \
  || missing="$$missing python3-dev"; \
run=""; [ "$$(id -u)" = 0 ] || run="sudo"; \
if [ -z "$$missing" ]; then :; \
elif ! command -v apt-get >/dev/null || { [ -n "$$run" ] && ! command -v sudo >/dev/null; }; then \
  echo "not root and no sudo: please install$$missing, then try again" >&2; exit 1; \
else \
  echo "installing:$$missing"; \
  get="$$run env DEBIAN_FRONTEND=noninteractive apt-get -qq"; \
  $$get update; \
  $$get install -y --no-install-recommends $$missing \
    || for one in $$missing; do \
         $$get install -y --no-install-recommends $$one || echo "could not install $$one"; \
       done; \
fi
@touch $@
endef

.cache/packages: Makefile
	$(call install,$(BUILD_PACKAGES))

.cache/test-packages: Makefile
	$(call install,$(TEST_PACKAGES))

# Only one program of a package that would start a service.
.cache/promtool: Makefile | .cache/test-packages
	rm -rf .cache/prometheus && mkdir -p .cache/prometheus
	cd .cache/prometheus && { apt-get -qq download prometheus \
	  || { $$([ "$$(id -u)" = 0 ] || echo sudo) apt-get -qq update && apt-get -qq download prometheus; }; } \
	  && dpkg -x *.deb . && mv usr/bin/promtool ../promtool
	rm -rf .cache/prometheus && touch $@

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
# A class whose layout changed is compiled anew with all that use it, however far away they are.
	@if [ -e $@ ] && [ -n "$$(find edgesync/_native -name '*.pxd' -newer $@)" ]; then \
	  rm -f build/cython/native/*.c; fi
	flock .cache/build.lock $(PY) setup.py --quiet build_ext --inplace --parallel 2
	@touch $@

build: build/.built assets

# Scripts of the dashboard, fetched once from the package index.
assets: .venv/.ready
	@if [ -f hubd/web/assets.py ]; then $(PY) -m hubd.web.assets; fi

dev: build
	@echo "ready: . .venv/bin/activate"

demo: build
	.venv/bin/edgesync demo

chaos: build
	.venv/bin/edgesync demo --chaos --seconds $(SECONDS)

# The pictures of docs/dashboard.md, of the demonstration in a real browser.
screenshots: build .cache/test-packages
	$(PY) -m tests.browser.screenshots

# Three tiers; tests/conftest.py says what is `slow` and what is `long`.
# No colours and no bars, for logs.
PYTEST = $(PY) -m pytest -q --color=no --no-header

# While you work (a minute): style, import rules, and what is neither slow nor long.
quick: build .cache/test-packages .cache/promtool
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports
	$(PYTEST) -n 2 -m "not slow and not long"

# Before a change lands. Four workers for two cores: these tests wait for disks and peers.
test: build .cache/test-packages .cache/promtool
	$(PYTEST) -n 4 -m "not long"

# Before a release, and each night: hours on two cores.
long: build .cache/test-packages .cache/promtool .cache/model
	$(PYTEST) -n 2 -m "long and not model" --ignore tests/compat
	$(PYTEST) -n 2 -p tests.ignored -m setting --ignore tests/compat
	$(PY) -m tests.sim --seeds 500
	$(MAKE) compat crash fuzz converge

# Locks, limiters and queues, devices and gateways of PyPI and npm against an edge.
compat: build .cache/compat/.ready
	$(PYTEST) tests/compat

.cache/compat-packages: Makefile
	$(call install,nodejs:node npm:npm mosquitto:mosquitto)

# Two environments: tb-mqtt-client brings a paho of its own, in the place of the other.
.cache/compat/.ready: tests/compat/requirements.txt tests/compat/thingsboard.txt tests/compat/package.json | .cache/compat-packages
	@mkdir -p .cache/compat/node
	$(PYTHON) -m venv .cache/compat/venv
	$(PYTHON) -m venv .cache/compat/thingsboard
	.cache/compat/venv/bin/pip install --quiet --disable-pip-version-check -r tests/compat/requirements.txt
	.cache/compat/thingsboard/bin/pip install --quiet --disable-pip-version-check -r tests/compat/thingsboard.txt
	cp tests/compat/package.json .cache/compat/node/
	cd .cache/compat/node && npm install --silent --no-audit --no-fund --legacy-peer-deps
	@touch $@

# The search of every state does not depend on Python: made again when the model or what it speaks of was.
MODELLED := \
	$(patsubst %,transport/edgesync_transport/%.py,sender receiver messages lanes/events lanes/sender \
	  lanes/receiver lanes/window) \
	edgesync/sync/driver.py edgesync/sync/inbound.py \
	hubd/downlink/delivery.py hubd/downlink/journal.py hubd/link/sessions.py hubd/log/book.py

.cache/model: tests/model/test_model.py $(wildcard tests/model/*.pml) $(MODELLED) \
		| build .cache/test-packages
	$(PYTEST) -n 2 tests/model
	@touch $@

features: build
	$(PY) -m pytest --features

# Every decoder of bytes from outside, a million inputs each (some minutes).
fuzz: build
	$(PY) -m tests.fuzz.fuzz --inputs 1000000

# A real edge and a real hub, each killed with SIGKILL 200 times: alone, and with devices connected
# while the hub calls and edits (half an hour).
crash: build
	EDGESYNC_KILLS=200 $(PY) -m pytest -q -s --color=no --no-header tests/crash/test_kill_[cd]*.py

# Random schedules of three edges and a hub against the full history (about 14 minutes on 2 cores).
converge: build
	$(PY) -m tests.cells --schedules 50000
	$(PY) -m tests.hubd.cells.readers --schedules 10000
	$(PY) -m tests.hubd.cells.readers --wider 2000

sim: build
	$(PY) -m tests.sim --seed $(SEED)

bench: build
	cd bench && asv machine --yes >/dev/null && ASV_PYTHONPATH=$(CURDIR) asv run --python=same --show-stderr

# What `make test` does not see: types, stubs, style, import rules, spelling.
check: build
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m mypy.stubtest --concise --mypy-config-file pyproject.toml --allowlist native/stubtest.txt $(COMPILED)
	.venv/bin/lint-imports
	.venv/bin/cython-lint native edgesync/_native
	.venv/bin/codespell edgesync hubd transport native tests bench docs *.md setup.py

clean:
	rm -rf build .cache/packages
	find edgesync/_native -name '*.so' -delete
