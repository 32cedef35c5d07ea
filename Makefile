# Each target installs what it needs first; a second call does not install again.
export DS_ACCELERATOR ?= $(if $(wildcard /dev/nvidia0),cuda,cpu)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# As many as there are cores, and no more than memory has room for.
processes := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 2 ? 2 : n > 6 ? 6 : n)))
pytest := pytest --numprocesses $(processes) --dist loadfile --no-loadscope-reorder

.PHONY: install install-dev demo test test-fast test-slow fuzz gpu gpu-tests gpu-kernels gpu-shapes gpu-train lint docs clean

install:
	@tools/install.sh

install-dev:
	@tools/install.sh dev

demo: install
	@rm -rf runs/demo
	@fastlt demo --out runs/demo

# What one runs while coding: no launcher, no training, nothing that compiles for long.
test-fast: install-dev
	@$(pytest) -m "not medium and not slow"

test: install-dev
	@$(pytest) -m "not slow"

# Kills, long trainings, every ZeRO stage, builds of the package.
test-slow: install-dev
	@pytest --numprocesses $(processes) --dist worksteal -m slow

# On a machine with a GPU, where perhaps nothing can be installed: see docs/gpu.md. Results go to bench/results.
gpu_python = $(if $(PYTHON),$(PYTHON),$(if $(wildcard .venv/bin/python),.venv/bin/python,python3))
gpu_run = $(if $(WHEELS),$(gpu_python) -m pip install --quiet --no-index --no-deps --upgrade --target build/wheels $(WHEELS)/*.whl &&) \
	PYTHONPATH=$(CURDIR):$(CURDIR)/build/wheels $(gpu_python)

gpu-tests:
	@$(gpu_run) -m pytest -v -m "gpu or gpu_too" tests/kernels tests/fastlt/training/test_no_waiting.py tests/fastlt/training/test_on_gpu.py \
	  $(if $(shell $(gpu_python) -c "import xdist; print(1)" 2>/dev/null),--numprocesses auto --dist worksteal)

gpu-kernels:
	@$(gpu_run) bench/run.py kernels --device cuda --seconds 0.5

gpu-shapes:
	@$(gpu_run) bench/run.py shapes

gpu-train:
	@$(gpu_run) bench/run.py train --device cuda

gpu: gpu-tests gpu-kernels gpu-train

# mypy and import-linter see the package as it is installed: kernels/, configs/ and data_prep/ inside fastlt/.
lint: install-dev
	@ruff check .
	@ruff format --check .
	@rm -rf build/lint && mkdir -p build/lint/fastlt
	@ln -s $(CURDIR)/fastlt/* $(CURDIR)/kernels $(CURDIR)/configs $(CURDIR)/data_prep build/lint/fastlt/
	@cd build/lint && mypy --config-file $(CURDIR)/pyproject.toml -p fastlt
	@cd build/lint && PYTHONPATH=. lint-imports --no-logo $(CURDIR)/pyproject.toml

# build/site/index.html: the pages of docs/, and the API from docstrings.
docs: install-dev
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict

clean:
	rm -rf .venv build runs

# MINUTES=60 make fuzz
fuzz: install-dev
	@PYTHONPATH=. python tests/fuzz/fuzz.py $(or $(MINUTES),10) $(or $(FIRST),0)
