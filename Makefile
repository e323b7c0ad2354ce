# Five commands, the same by hand and in CI: setup, fix, check, test, test-all. And: quickstart, perf.
# Each sets up .venv by itself. Another Python: make setup PYTHON=python3.12. Some tests only:
# make test ARGS='-k frame'
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
RTX := .venv/.tensorrt-rtx
# As many processes as CPUs; the tests of one module stay together and share its fixtures.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile
NATIVE := $(wildcard hatch_build.py edgeseg/runtime/*.c edgeseg/runtime/*.h)

.PHONY: setup quickstart check fix test test-all perf gpu-check wheels test-aarch64 clean

setup: $(STAMP)

# The stamp is written last: an environment without it is half-made and is made anew.
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit("edgeseg needs Python 3.10 or later, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ..." if sys.version_info < (3, 10) else 0)'
	@echo "installing edgeseg and its tools into .venv (a few minutes the first time)"
	@test -e $@ || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev]' \
	    || { test -e $@ || rm -rf .venv; exit 1; }
	@$(BIN)/python -c 'from edgeseg.runtime.decode import describe; print(describe())'
	@touch $@

# Tests build with TensorRT for RTX, which needs no GPU. The rest does without its 230 MB.
$(RTX): $(STAMP)
	@$(BIN)/python -m pip install -qq --constraint constraints.txt 'edgeseg[tensorrt-rtx]'
	@touch $@

quickstart: setup
	@$(BIN)/edgeseg quickstart

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup $(RTX)
	$(PYTEST) -m "not chain and not gpu and not long" $(ARGS)

test-all: setup $(RTX)
	$(PYTEST) -m "not gpu" $(ARGS)

# Ratios and counts against benchmarks/perf.json, on a quiet machine; make perf WRITE=1 makes it anew.
perf: setup
	@$(BIN)/edgeseg race espnet_q3 --size 256x512 --out runs/perf \
	    --only 'edgeseg fp16' --only 'engine alone int8' --only 'engine alone fp32' --only 'usual script' --only 'openvino f32'
	@$(BIN)/python -m edgeseg.benchmarks.guard benchmarks/perf.json runs/perf/race.json $(if $(WRITE),--write)

# On a machine with an NVIDIA GPU, TensorRT and PyCUDA (docs/tensorrt.md); by the Python of .venv if
# there is one: on a Jetson make it with --system-site-packages.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_RESULT ?= benchmarks/results/gpu/$(shell uname -n).json
gpu-check:
	EDGESEG_GPU_RESULT=$(GPU_RESULT) $(GPU_PYTHON) -m pytest -m gpu tests/gpu $(ARGS)
	@echo "written: $(GPU_RESULT)"

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# For x86-64 and Arm Linux from glibc 2.28 on, into dist/, and what each needs. On Debian: gcc-aarch64-linux-gnu.
wheels: setup
	@$(BIN)/python scripts/build_wheels.py

# The runtime on an emulated arm64 Debian (root; 15 minutes the first time, then a few): docs/arm.md
test-aarch64: setup
	@scripts/test_aarch64.sh
