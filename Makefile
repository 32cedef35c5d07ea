# Each target installs what it needs first; a second call does not install again.
export DS_ACCELERATOR ?= $(if $(wildcard /dev/nvidia0),cuda,cpu)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
pytest := pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: install install-dev demo test test-fast test-slow gpu lint clean

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
	@pytest --numprocesses 2 --dist worksteal -m slow

# On a machine with a GPU: the tests for it, then the benchmarks of kernels and trainer; results go to bench/results.
gpu: install-dev
	@.venv/bin/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	@pytest -m "gpu or gpu_too"
	@python bench/run.py kernels --device cuda
	@python bench/run.py train --device cuda

# mypy and import-linter see the package as it is installed: kernels/, configs/ and data_prep/ inside fastlt/.
lint: install-dev
	@ruff check .
	@ruff format --check .
	@rm -rf build/lint && mkdir -p build/lint/fastlt
	@ln -s $(CURDIR)/fastlt/* $(CURDIR)/kernels $(CURDIR)/configs $(CURDIR)/data_prep build/lint/fastlt/
	@cd build/lint && mypy --config-file $(CURDIR)/pyproject.toml -p fastlt
	@cd build/lint && PYTHONPATH=. lint-imports --no-logo $(CURDIR)/pyproject.toml

clean:
	rm -rf .venv build runs
