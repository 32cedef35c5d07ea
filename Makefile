# Each target installs what it needs first; a second call does not install again.
export DS_ACCELERATOR ?= $(if $(wildcard /dev/nvidia0),cuda,cpu)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: install demo test gpu lint clean

install:
	@tools/install.sh

demo: install
	@rm -rf runs/demo
	@fastlt demo --out runs/demo

test: install
	@pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# On a machine with a GPU: the tests for it, then the benchmarks of kernels and trainer; results go to bench/results.
gpu: install
	@.venv/bin/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	@pytest -m "gpu or gpu_too"
	@python bench/run.py kernels --device cuda
	@python bench/run.py train --device cuda

# mypy sees the package as it is installed: kernels/ and data_prep/ inside fastlt/.
lint: install
	@ruff check .
	@ruff format --check .
	@rm -rf build/lint && mkdir -p build/lint/fastlt
	@ln -s $(CURDIR)/fastlt/* $(CURDIR)/kernels $(CURDIR)/data_prep build/lint/fastlt/
	@cd build/lint && mypy --config-file $(CURDIR)/pyproject.toml -p fastlt

clean:
	rm -rf .venv build runs
