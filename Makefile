# SPDX-License-Identifier: Apache-2.0
# EdgePaaS: 'make help' lists the targets. Nothing here needs root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := packaging/python/constraints.txt
# How many processes share the tests of 'make test', each with a PostgreSQL of its own;
# WORKERS=0 runs them one by one. More than two cores: the tests wait more than they count.
WORKERS ?= 4
# Those of the integration tests come first: what takes longest is not left for the end.
IN_PARALLEL = -n $(WORKERS) --dist loadscope
# How many workers share the system tests, each with boxes of its own; a file stays with one.
BOXES ?= 3
SIDE_BY_SIDE = -n $(BOXES) --dist loadfile
RUN_ENV := $(if $(wildcard .env),EDGEPAAS_ENV_FILE="$${EDGEPAAS_ENV_FILE:-$(CURDIR)/.env}",)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help run start lint run-dev test test-unit test-integration test-system check format docs bench \
        infra-up infra-status infra-down migration migrate settings wheel deb image image-test lock \
        clean

# A line '##@ TITLE' begins a group of targets.
help: ## list the targets
	@echo 'EdgePaaS: an edge-device appliance for one web application.'
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Settings pass through: PORT=9000 BOTH_DB=true DATABASE_URL=postgresql://… make run"

##@ Run the box

run: $(VENV)/run.stamp ## set everything up and run the box in the foreground
	@exec env $(RUN_ENV) $(BIN)/edgepaas up

start: run ## the same as run

run-dev: $(VENV)/run.stamp ## the same, restarted when a source file changes, with debug logs
	@exec env $(RUN_ENV) LOG_LEVEL="$${LOG_LEVEL:-DEBUG}" $(BIN)/edgepaas up --reload

##@ Test

test: $(VENV)/dev.stamp ## set everything up and pass the unit and integration tests
	@$(MAKE) --no-print-directory pytest TESTS="$(or $(TESTS),tests/integration tests/unit)" \
	  ARGS="$(IN_PARALLEL) $(ARGS)"

test-unit: $(VENV)/dev.stamp ## the unit tests alone
	@$(MAKE) --no-print-directory pytest TESTS=tests/unit ARGS="$(IN_PARALLEL) $(ARGS)"

test-integration: $(VENV)/dev.stamp ## the integration tests alone (real PostgreSQL, started for them)
	@$(MAKE) --no-print-directory pytest TESTS=tests/integration ARGS="$(IN_PARALLEL) $(ARGS)"

test-system: $(VENV)/dev.stamp ## the system tests: a fresh Debian (root, mmdebstrap, systemd-nspawn)
	@$(MAKE) --no-print-directory pytest TESTS="$(or $(TESTS),tests/system)" \
	  ARGS="$(SIDE_BY_SIDE) $(IMAGE_TESTS:%=--ignore=%) $(ARGS)"

.PHONY: test-system-and-image
test-system-and-image: $(VENV)/dev.stamp ## the system tests and those of the image in one go
	@$(MAKE) --no-print-directory pytest TESTS=tests/system ARGS="$(SIDE_BY_SIDE) $(ARGS)"
	@test -n "$(ARGS)" || $(BIN)/python packaging/tools/parity.py --check

# They need podman and a base image, and have a target of their own: make image-test.
IMAGE_TESTS = tests/system/test_image.py tests/system/test_image_hostile.py \
  tests/system/test_pod.py tests/system/test_compose.py tests/system/test_monitoring.py \
  tests/system/parity

# The searches that 'make test' makes short: EDGEPAAS_SOAK=1 gives each a hundred times as long.
SEARCHES = $(shell grep -l '^@given' tests/unit/*.py) tests/integration/test_openapi_contract.py \
  tests/integration/test_telemetry_import.py tests/integration/test_rules_episodes.py \
  tests/integration/test_alerts_kills.py tests/integration/test_alerts_storm.py

SOAK_TESTS = $(SEARCHES) tests/integration/test_faults_link.py \
  tests/integration/test_faults_back_in_time.py \
  tests/integration/test_faults_lost_for_good.py \
  tests/integration/test_faults_streams.py \
  tests/integration/test_faults_live.py tests/integration/test_faults_model.py \
  tests/integration/test_faults_revisions.py tests/system/test_pooler.py \
  tests/system/test_disk_faults.py tests/system/test_live_faults.py \
  tests/system/test_hand_back_faults.py tests/system/test_box_sync.py

.PHONY: soak
soak: $(VENV)/dev.stamp ## the fault tests at full length (hours): kills, power cuts, flapping links
	@EDGEPAAS_SOAK=1 $(MAKE) --no-print-directory pytest \
	  TESTS="$(SOAK_TESTS)" ARGS="--timeout=0 -rP --show-capture=stdout $(ARGS)"
	@EDGEPAAS_SOAK=1 $(MAKE) --no-print-directory pytest \
	  TESTS=tests/system/test_box_survival.py ARGS="--timeout=0 -rP -k whole_box"

# The byte-code is kept, or each worker would compile every test anew.
.PHONY: pytest
pytest:
	@set -a; if [ -f .env.test ]; then . ./.env.test; fi; set +a; \
	  unset PYTHONDONTWRITEBYTECODE; \
	  exec $(BIN)/python -m pytest $(TESTS) $(ARGS)

##@ Code and documents

check: $(VENV)/dev.stamp ## ruff, mypy and the import layers
	$(BIN)/ruff check edgepaas alembic packaging tests
	$(BIN)/ruff format --check edgepaas alembic packaging tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_import_layers.py

lint: check ## the same as check

format: $(VENV)/dev.stamp ## format the code
	$(BIN)/ruff format edgepaas alembic packaging tests
	$(BIN)/ruff check --fix edgepaas alembic packaging tests

docs: $(VENV)/dev.stamp ## write the generated documents: settings, API, alerts
	@$(BIN)/python packaging/tools/reference.py

##@ Measure

bench: $(VENV)/dev.stamp ## measure speed, start and memory, side by side with a plain application
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-forwarding
bench-forwarding: $(VENV)/dev.stamp ## measure store and forward: drain, capture, an outage, memory
	@$(BIN)/python -m tests.bench.forwarding $(ARGS)

##@ A PostgreSQL to develop with

infra-up: $(VENV)/dev.stamp ## start a local PostgreSQL and print the DATABASE_URL that points at it
	@$(BIN)/python -m tests.support.postgres_server up

infra-status: $(VENV)/dev.stamp ## say whether the local PostgreSQL runs
	@$(BIN)/python -m tests.support.postgres_server status

infra-down: $(VENV)/dev.stamp ## stop the local PostgreSQL; its data stays
	@$(BIN)/python -m tests.support.postgres_server down

##@ Schema and settings

migration: $(VENV)/run.stamp ## write a new migration from the models: make migration MSG="add a column"
	@test -n "$(MSG)" || { echo 'say what it does: make migration MSG="add a column"' >&2; exit 2; }
	@env $(RUN_ENV) $(BIN)/edgepaas schema --revision "$(MSG)"

migrate: $(VENV)/run.stamp ## bring the chosen database's schema to head
	@env $(RUN_ENV) $(BIN)/edgepaas env
	@$(BIN)/edgepaas dbdecide
	@$(BIN)/edgepaas schema

settings: $(VENV)/run.stamp ## list every setting, its value and where it came from
	@env $(RUN_ENV) $(BIN)/edgepaas settings

##@ Package

wheel: $(VENV)/bin/pip ## build the wheel into dist/
	@$(BIN)/python packaging/tools/wheels.py dist
	@ls dist/*.whl

deb: $(VENV)/bin/pip ## build the Debian package into dist/: one for every CPU, no root needed
	@$(BIN)/python packaging/tools/deb.py

# IMAGE names the result, IMAGE_TARGET=systemd builds the one with units; IMAGE_FLAGS go to the tool.
IMAGE_TOOL ?= $(shell command -v docker || command -v podman || echo docker)
IMAGE ?= edgepaas
IMAGE_TARGET ?= application
IMAGE_SOURCES := edgepaas alembic systemd packaging docs pyproject.toml README.md \
  CHANGELOG.md SECURITY.md LICENSE NOTICE
image: ## build the container image with docker or podman: IMAGE=registry/name:tag make image
	@version=$$(PYTHONPATH=packaging/tools $(PYTHON) -c 'from common import build_version; print(build_version())') && \
	  date=$$(git log -1 --format=%ct 2>/dev/null || true) && \
	  sources=$$(find $(IMAGE_SOURCES) -type f ! -path '*/__pycache__/*' -print0 | sort -z | \
	    xargs -0 sha256sum | sha256sum | cut -c1-16) && \
	  BUILDAH_FORMAT=docker $(IMAGE_TOOL) build $(IMAGE_FLAGS) --target $(IMAGE_TARGET) \
	  --build-arg BUILD_VERSION="$$version" --build-arg SOURCES="$$sources-$(IMAGE_TARGET)" \
	  $${date:+--build-arg SOURCE_DATE_EPOCH=$$date} \
	  --file packaging/docker/Dockerfile --tag $(IMAGE) .

image-test: $(VENV)/dev.stamp ## build the image and try it: read-only, killed, upgraded, without PostgreSQL and with
	@$(MAKE) --no-print-directory pytest TESTS="$(IMAGE_TESTS)" ARGS="$(SIDE_BY_SIDE) $(ARGS)"
	@test -n "$(ARGS)" || $(BIN)/python packaging/tools/parity.py --check

lock: $(VENV)/bin/pip ## pin the package's libraries by hash, from pyproject.toml and the constraints
	@$(BIN)/python packaging/tools/lock.py

##@ Clean up

clean: ## remove the virtual environment and what was built (no data)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/pip:
	@echo "setting up $(VENV) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "EdgePaaS needs Python 3.11 or newer: PYTHON=/path/to/python3 make …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "the venv module is missing: on Debian 'apt install python3-venv'" >&2; exit 1; }

# dev.stamp holds all that run.stamp does, so a tree with the one never installs the other.
$(VENV)/run.stamp: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/pip
	@echo "installing what the box needs (once) …"
	@$(PIP) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/pip
	@echo "installing what the box and its tests need (once) …"
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/run.stamp $@
