# Everything here starts from Python 3.11+ with venv and the package index, nothing else.
# PYTHON=python3.12 takes that one, with an environment of its own beside .venv: .venv-3.12.
ifdef PYTHON
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(VERSION),,$(error PYTHON=$(PYTHON) does not run; name another Python))
VENV := .venv-$(VERSION)
else
PYTHON := $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
endif
BIN := $(VENV)/bin

# How many processes run the tests. Most of a test's time is waiting for other processes, but these need processors, too.
PYTEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PYTEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

# What is installed, and so what an attacker would find; tests and test beds stay with the developer.
PRODUCT := archelon_core bundles occi_service archelon_api service_manager cloud_controller sdk orchestrators portal archelon

.PHONY: demo test test-all lint audit bench crash fuzz fresh clean

demo: $(VENV)/installed
	$(BIN)/python -m archelon demo $(DEMO_ARGS)

# What shows within minutes, on any machine, whether something is broken. It leaves out test beds and what is marked slow; what tests
# do many times, it does fewer times: of the moments at which processes are killed it takes every fourth, and so on.
test: export ARCHELON_TEST_CRASH_STRIDE ?= 4
test: export ARCHELON_TEST_KILLS ?= 20
test: export ARCHELON_TEST_FUZZ ?= 2000
test: $(VENV)/installed
	$(PYTEST) --quick $(PYTEST_ARGS)

# Everything, with the test beds. A test that fails runs once more at the end, alone.
test-all: $(VENV)/installed
	$(PYTEST) --rerun-failed $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(PRODUCT)

# Asks PyPI (PIP_AUDIT_ARGS="--vulnerability-service osv": OSV) for known vulnerabilities of every version that is pinned. Strict:
# where the service is away, or does not know a package, it fails and says so.
audit: $(VENV)/installed
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(PRODUCT)
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip $(PIP_AUDIT_ARGS)

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

crash: $(VENV)/installed
	ARCHELON_CRASH_ROUNDS=5 $(BIN)/python -m pytest -m crash -s $(PYTEST_ARGS)

# Requests that are nearly right, to every service: FUZZ_ARGS="--requests 10000 --seed 7 --start 2500 --database sqlite".
fuzz: $(VENV)/installed
	$(BIN)/python -m tests.attack.fuzzing $(FUZZ_ARGS)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The README's commands in a new Debian root, where nothing of this machine helps.
fresh:
	.ci/fresh $(FRESH_ARGS)

clean:
	rm -rf .venv .venv-* build dist
