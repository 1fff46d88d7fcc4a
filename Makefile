# Everything a contributor or a reader runs. Each target sets up what it needs: a virtual
# environment in .venv, the pinned packages of constraints.txt, and the compiled module. What is set
# up is remembered by stamp files in .venv named after the content of the files they depend on, so a
# second call reuses it and a changed pin or source file renews it.
#
#   make demo      train a network in float32 and in 4 bits, print the table, write the report
#   make test      lint, types, the C++ tests with sanitizers, tests
#   make sanitize  the C++ tests and the kernels' Python tests with sanitizers
#   make arm       the C++ tests cross-compiled for AArch64, on an emulated processor
#   make golden    renew the golden vectors of the C++ tests
#   make format    rewrite sources in the project's style
#   make mutation  break the code in many small ways and count what the tests notice
#   make docs      build the documentation as a site in build/site
#   make peers     compare formats with torchao and gfloat, the hardware model with SCALE-Sim and
#                  ZigZag as well (their packages are large)
#   make fallback  install without a compiler into a throw-away environment and check it
#
# PYTHON=python3.12 make test   chooses the interpreter (3.11 or newer) for a new .venv.
# PIP_FLAGS                     is passed to every pip install, for example an index of your own.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types unit csrc sanitize arm golden format mutation peers \
	fallback docs clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2

# The newest tested Python comes first; a shim that exists but does not run is passed over.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

# Where there is a compiler, a failed build is an error and not a reason to install without it.
COMPILER := $(shell command -v $${CXX:-c++} || command -v g++ || command -v clang++)
NATIVE := $(if $(COMPILER),NYBBLE_REQUIRE_NATIVE=1,)

CXX_FILES := $(sort $(wildcard csrc/*/*.cpp csrc/*/*.hpp))
CXX_TESTS := $(sort $(wildcard tests/csrc/*.cpp tests/csrc/*.hpp))
# CMake is the system's, or pip's where there is none (the build of the module gets its own).
CMAKE := $(shell command -v cmake || echo $(BIN)/cmake)
GOLDEN := tests/csrc/golden
ARM_TOOLS := $(and $(shell command -v aarch64-linux-gnu-g++),$(shell command -v qemu-aarch64))
PINS := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
SOURCES := $(shell cat pyproject.toml CMakeLists.txt csrc/kernels.cmake $(CXX_FILES) | cksum | cut -d' ' -f1)
PACKAGES_STAMP := $(VENV)/.stamp-packages-$(PINS)
BUILD_STAMP := $(VENV)/.stamp-build-$(SOURCES)

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

setup: $(BUILD_STAMP)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer was found; name one: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Listed as an order-only prerequisite: the interpreter's date says nothing about the packages.
$(PACKAGES_STAMP): | $(BIN)/python
	$(NATIVE) $(PIP) install $(PIP_FLAGS) -c constraints.txt -e '.[dev,vision]'
	@rm -f $(VENV)/.stamp-*
	@touch $@ $(BUILD_STAMP)

$(BUILD_STAMP): | $(PACKAGES_STAMP)
	test -f $@ || $(NATIVE) $(PIP) install $(PIP_FLAGS) --no-deps -c constraints.txt -e .
	@rm -f $(VENV)/.stamp-build-*
	@touch $@

# A second call takes over the finished runs in runs/demo; `rm -r runs/demo` trains again.
demo: setup
	$(BIN)/nybble compare vision --data mnist5k --model resnet8x4 --epochs 3 \
		--recipes fp32,sun2020 --seeds 0,1,2 --best-of none --watch 10 --out runs/demo
	@echo "The report, to be opened in a browser: runs/demo/runs.html"

test: lint types csrc unit
ifneq ($(ARM_TOOLS),)
test: arm
endif

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES) $(CXX_TESTS)

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# ---- the kernels without Python: tests/csrc ----------------------------------------------------

$(BIN)/cmake: | $(PACKAGES_STAMP)
	$(PIP) install $(PIP_FLAGS) -q cmake

# Without a compiler there are no kernels to test.
csrc: $(if $(COMPILER),csrc-sanitized)

.PHONY: csrc-sanitized
csrc-sanitized: $(filter $(BIN)/cmake,$(CMAKE))
	@mkdir -p build
	@$(CMAKE) -S tests/csrc -B build/csrc-sanitized -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNYBBLE_SANITIZE=ON > build/csrc-sanitized.log 2>&1 || \
		{ cat build/csrc-sanitized.log; exit 1; }
	@$(CMAKE) --build build/csrc-sanitized --parallel 2 >> build/csrc-sanitized.log 2>&1 || \
		{ cat build/csrc-sanitized.log; exit 1; }
	build/csrc-sanitized/nybble_tests $(GOLDEN)

# Leaks are not looked for: Python and torch keep much until the process ends.
sanitize: setup csrc
	$(BIN)/python tools/sanitize.py $(SANITIZE_FLAGS)

arm: $(filter $(BIN)/cmake,$(CMAKE))
	@test -n "$(ARM_TOOLS)" || { echo "make: the AArch64 tools are missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 2; }
	@mkdir -p build
	@$(CMAKE) -S tests/csrc -B build/csrc-arm -DCMAKE_TOOLCHAIN_FILE=aarch64.cmake > build/csrc-arm.log 2>&1 || \
		{ cat build/csrc-arm.log; exit 1; }
	@$(CMAKE) --build build/csrc-arm --parallel 2 >> build/csrc-arm.log 2>&1 || \
		{ cat build/csrc-arm.log; exit 1; }
	qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max build/csrc-arm/nybble_tests $(GOLDEN)
	qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu cortex-a53 build/csrc-arm/nybble_tests $(GOLDEN)

golden: setup
	$(BIN)/python tools/golden.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES) $(CXX_TESTS)

MUTATION_FLAGS ?=
mutation: setup
	$(BIN)/python tools/mutate.py $(MUTATION_FLAGS)

peers: setup
	$(PIP) install $(PIP_FLAGS) -q -c constraints.txt -e '.[dev,vision,peers]'
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m peers

fallback: setup
	$(BIN)/python tools/check_fallback.py

docs: setup
	$(PIP) install $(PIP_FLAGS) -q -c constraints.txt mkdocs-material
	$(BIN)/mkdocs build --strict

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis
