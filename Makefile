# Every target does its own set-up: it makes .venv, installs what it needs, and installs again only when the files that decide
# about the installation have changed. PYTHON chooses the interpreter, JOBS the number of test processes, ARCHS the GPUs of
# cuda-report.
PYTHON ?= python3
JOBS ?= $(shell nproc)
TORCH ?= 2.14.1
TORCHVISION ?=
ARCHS ?= 90

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := -c requirements/test.txt
BUILD_TOOLS := "setuptools>=77" "pybind11>=2.12" "ninja>=1.11"
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')
DECIDES := pyproject.toml setup.py requirements/test.txt $(NATIVE)
WHEEL := build/wheel
SECOND := .venv-torch
RENDERER_TESTS := $(patsubst %,tests/test_%.py,checks cameras gaussians reference render fragments convert io io_arrays io_meshes io_ply \
	install)

.PHONY: demo test test-torch bench lint format docs cuda-report cuda-coverage clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python -m examples.demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

bench: $(VENV)/.test
	$(PIP) install -q $(PINS) -r requirements/bench.txt || echo "No Mitsuba for this Python: the comparison leaves it out."
	$(BIN)/python -m benchmarks.renderer
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.rays
	$(BIN)/python -m benchmarks.tables

docs: $(VENV)/.test
	$(BIN)/mkdocs build --strict

# Registers, shared memory and spills of every CUDA kernel; needs no GPU.
cuda-report: $(VENV)/.test
	$(BIN)/python tools/cuda_report.py $(addprefix sm_,$(ARCHS))

# Lines of the CUDA kernels (gcov) and of the Python around them (coverage.py) that the emulated tests run.
cuda-coverage: $(VENV)/.test
	$(PIP) install -q "coverage>=7.10"
	$(BIN)/python -m tests.cuda_emulation.coverage 95

# The tests of the renderer under another torch, with a wheel that is built once and knows of none.
test-torch: $(SECOND)/.torch-$(TORCH)
	@sha256sum $(WHEEL)/*.whl
	@$(SECOND)/bin/python -c "import torch, voge; print('torch', torch.__version__, 'with', voge.__file__)"
	rm -rf $(SECOND)/run && mkdir $(SECOND)/run && cp -r tests pyproject.toml $(SECOND)/run
	cd $(SECOND)/run && ../bin/python -m pytest -n $(JOBS) $(RENDERER_TESTS)

# --- environments ---------------------------------------------------------------------------------------------------------

# Names the Debian or Ubuntu packages that are missing, all at once.
define check_tools
@command -v $(PYTHON) >/dev/null || { echo "Missing: $(PYTHON). Install with: sudo apt-get install $(notdir $(PYTHON)) $(notdir $(PYTHON))-venv $(notdir $(PYTHON))-dev g++"; exit 1; }
@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { echo "voge needs Python 3.10 or later; choose one: make PYTHON=python3.12 ..."; exit 1; }
@missing=; \
command -v $(CXX) >/dev/null || missing="$$missing g++"; \
$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || missing="$$missing $(notdir $(PYTHON))-venv"; \
$(PYTHON) -c "import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path('include') + '/Python.h'))" || missing="$$missing $(notdir $(PYTHON))-dev"; \
[ -z "$$missing" ] || { echo "Missing on this machine. Install with: sudo apt-get install$$missing"; exit 1; }
endef

$(VENV)/.created:
	$(check_tools)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Without build isolation, so that a second build compiles only what changed.
$(VENV)/.demo: $(VENV)/.created $(DECIDES)
	$(PIP) install -q $(PINS) $(BUILD_TOOLS)
	$(PIP) install -q $(PINS) --no-build-isolation -e ".[io,fit]" opencv-python-headless
	@touch $@

$(VENV)/.test: $(VENV)/.created $(DECIDES)
	$(PIP) install -q $(PINS) $(BUILD_TOOLS)
	$(PIP) install -q $(PINS) --no-build-isolation -e ".[dev]"
	$(PIP) install -q $(PINS) --no-deps easypytorch3d || echo "No PyTorch3D for this Python: the tests that compare with it will be skipped."
	@touch $@

$(WHEEL)/.built: $(VENV)/.created $(DECIDES) $(shell find voge -name '*.py')
	rm -rf $(WHEEL) build/lib*
	$(PIP) wheel -q --no-deps -w $(WHEEL) .
	@touch $@

$(SECOND)/.torch-$(TORCH): $(WHEEL)/.built
	$(BIN)/python -m venv $(SECOND)
	rm -f $(SECOND)/.torch-*
	$(SECOND)/bin/python -m pip install -q torch==$(TORCH) $(if $(TORCHVISION),torchvision==$(TORCHVISION)) \
		pytest pytest-xdist hypothesis opencv-python-headless "voge[io] @ file://$(CURDIR)/$$(ls $(WHEEL)/*.whl)"
	$(SECOND)/bin/python -m pip install -q --no-deps --force-reinstall $(WHEEL)/*.whl
	@touch $@

clean:
	rm -rf build dist site *.egg-info voge/_cpu*.so voge/cubins .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(VENV)/.demo $(VENV)/.test
