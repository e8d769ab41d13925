# Every target needs only Python 3.11+ with venv and a package index.
# PYTHON=python3.12 uses that interpreter, with its own environment beside .venv: .venv-3.12.
ifdef PYTHON
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(VERSION),,$(error PYTHON=$(PYTHON) does not run; name another Python))
VENV := .venv-$(VERSION)
else
PYTHON := $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
endif
BIN := $(VENV)/bin

# Processes that run the tests, for two processors: tests mostly wait for other processes.
PYTEST_PROCESSES ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses $(PYTEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

# The installed packages, which bandit checks; tests and test beds are not installed.
PRODUCT := archelon_core bundles occi_service archelon_api service_manager cloud_controller sdk orchestrators portal archelon

.PHONY: demo test test-all lint audit bench crash fuzz fresh clean

demo: $(VENV)/installed
	$(BIN)/python -m archelon demo $(DEMO_ARGS)

# Detects breakage within minutes, on any machine. Skips test beds and slow tests, and repeats less: it kills processes at every
# eighth moment only, and so on.
test: export ARCHELON_TEST_EXAMPLES ?= 15
test: export ARCHELON_TEST_CRASH_STRIDE ?= 8
test: export ARCHELON_TEST_KILLS ?= 8
test: export ARCHELON_TEST_FUZZ ?= 2000
test: $(VENV)/installed
	$(PYTEST) --quick $(PYTEST_ARGS)

# All tests, with the test beds. Failed tests are rerun at the end, alone.
test-all: $(VENV)/installed
	$(PYTEST) --rerun-failed $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(PRODUCT)

# Queries PyPI (PIP_AUDIT_ARGS="--vulnerability-service osv": OSV) for known vulnerabilities of every pinned version. Fails if the
# service is unavailable or does not know a package.
audit: $(VENV)/installed
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(PRODUCT)
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip $(PIP_AUDIT_ARGS)

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

crash: $(VENV)/installed
	ARCHELON_TEST_CRASH_ROUNDS=5 $(BIN)/python -m pytest -m crash -s $(PYTEST_ARGS)

# Sends nearly correct requests to every service: FUZZ_ARGS="--requests 10000 --seed 7 --start 2500 --database sqlite".
fuzz: $(VENV)/installed
	$(BIN)/python -m tests.attack.fuzzing $(FUZZ_ARGS)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Runs the README's commands in a new Debian root, isolated from this machine's files.
fresh:
	.ci/fresh $(FRESH_ARGS)

clean:
	rm -rf .venv .venv-* build dist
