# Everything a fresh machine needs: `make demo` compares both losses, `make test` checks the package.
# For OneFormer3D: `make mmdet3d` builds an environment with mmdetection3d, `make test-mmdet3d` checks what runs in it.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
MMDET3D_VENV ?= .venv-mmdet3d
MMDET3D_BIN = $(MMDET3D_VENV)/bin
TORCH = torch==2.13.0

.PHONY: demo test lint fuzz install mmdet3d test-mmdet3d oneformer3d-cpu docs external-links

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt $(TORCH)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/influencerformer compare --config configs/scenes/base.yaml --out runs/demo --seeds 0 --jobs 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

# The site, strict about links, anchors and equations; nothing in it needs a network. To read: site/index.html
# (--quiet would drop the warnings that --strict counts)
docs: $(VENV)/installed-docs
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Asks every address that the site links to; needs the network, so CI does not run it.
external-links: docs
	$(BIN)/pip install --quiet linkchecker
	$(BIN)/linkchecker --check-extern --no-warnings site/index.html

mmdet3d: $(MMDET3D_VENV)/installed

$(MMDET3D_VENV)/installed: requirements/mmdet3d.txt requirements/mmdet3d-nodeps.txt pyproject.toml
	$(PYTHON) -m venv $(MMDET3D_VENV)
	$(MMDET3D_BIN)/pip install --quiet --upgrade pip
	$(MMDET3D_BIN)/pip install --quiet $(TORCH) -r requirements/mmdet3d.txt
	$(MMDET3D_BIN)/pip install --quiet --no-deps -r requirements/mmdet3d-nodeps.txt -e .
	$(MMDET3D_BIN)/pip install --quiet -c constraints.txt pytest pytest-xdist
	touch $@

test-mmdet3d: mmdet3d
	OMP_NUM_THREADS=1 $(MMDET3D_BIN)/pytest -n 2 tests/openmmlab

# Tens of thousands of spoilt files, odd options and odd tensors; an hour or more.
fuzz: install
	HYPOTHESIS_PROFILE=nightly OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/fuzz

# What the real OneFormer3D needs on top, on a CPU; needs Python 3.11 and a C++ compiler, and takes about seven minutes.
oneformer3d-cpu: mmdet3d
	$(MMDET3D_BIN)/pip install --quiet -r requirements/oneformer3d-cpu.txt
	$(MMDET3D_BIN)/pip install --quiet --no-build-isolation torch-scatter==2.1.2
