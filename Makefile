# Everything runs from a clean clone with Python 3.11-3.13, pip and make. On a GPU machine:
#   make train LOCK=locks/gpu.lock
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The default LOCK is that of the existing .venv. Those in locks/ are the images': they have no tools
# for tests.
INSTALLED := $(notdir $(wildcard .venv/.installed-*))
LOCK ?= $(firstword $(foreach each,$(INSTALLED:.installed-%=%),$(wildcard $(each) locks/$(each))) requirements.lock)
BIN := .venv/bin
STAMP := .venv/.installed-$(notdir $(LOCK))
# Where Python may not keep what it compiled, every start of Keras takes 15 s in place of 5.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install train test test-fast test-slow docs lint types format lock image clean reference

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: $(STAMP) ## create .venv from the lock (only after the lock or pyproject.toml changed)

# Two steps, because pip can't check a hash of a folder: first the locked packages, then boneage.
# build.lock has what builds it. A lock is complete, so pip needs to look for no dependency.
# Python compiles a module when it is first imported. Compiling all of them here takes 45 s more.
# The packages of another lock would remain, so its .venv is removed first. The stamp is written first
# with an old date: an interrupted install is then repeated.
.PRECIOUS: $(STAMP)
$(STAMP): $(LOCK) pyproject.toml
	@$(if $(filter-out $(notdir $(STAMP)),$(INSTALLED)),rm -rf .venv)
	@{ $(BIN)/python -c '$(FITS)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1 || { rm -rf .venv && $(find_python) && "$$python" -m venv .venv; }
	@touch -t 197001020000 $@
	$(BIN)/python -m pip install --no-compile --require-hashes --only-binary=:all: --no-deps \
	  -r $(LOCK) -r locks/build.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

# Sets $python to the first interpreter that really runs and has a version that TensorFlow has
# wheels for. PYTHON=/path/to/python chooses one.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
CANDIDATES = $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
define find_python
{ python=""; \
for candidate in $(CANDIDATES); do \
  if "$$candidate" -c '$(FITS)' 2>/dev/null; \
  then python="$$candidate"; break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo "make install: none of $(CANDIDATES) runs as Python 3.11, 3.12 or 3.13; TensorFlow 2.21 has wheels for these only. Install one of them, or name it: make install PYTHON=/path/to/python3.12" >&2; \
  exit 2; \
fi; }
endef

train: install ## draw the phantom cohort, check it, train, evaluate and report (minutes on a CPU)
	$(BIN)/boneage data phantom data/phantom --count 1500 --seed 0 --size 256
	$(BIN)/boneage data check data/phantom/manifest.csv
	$(BIN)/boneage train experiments/phantom/recipe.toml --data data/phantom/manifest.csv

# A test that trains uses one core, so two run at once on two. Each process needs 1.5 GB.
PARALLEL := -n logical --maxprocesses 4 --dist worksteal

test: install ## run all tests (make test ARGS="-k store")
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: install ## run the quick tests, which train nothing and start no Keras (three minutes)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-slow: install ## run the others: what trains, starts Keras or a browser, or takes seconds
	$(BIN)/python -m pytest $(PARALLEL) -m slow $(ARGS)

docs: install ## build the documentation in site/; a warning or a broken link is a failure
	$(BIN)/zensical build --strict --clean

reference: install ## write docs/reference again from the code (fast tests compare it)
	$(BIN)/python docs/make_reference.py

lint: install ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy, strict
	$(BIN)/mypy

format: install ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# For maintainers, with uv. The locks hold one version of everything for every Python ("fewest"),
# hashes, and no index address. requirements.lock is for work on the project; each target of the
# Dockerfile has its own in locks/, with the same versions; but gpu-jax has the newest JAX, which
# needs Python 3.12. An override with a marker that never
# holds (WITHOUT) leaves a package out. The CPU has tensorflow-cpu, the same module at a third of
# the size, wherever it has wheels (Linux x86_64).
# openvino asks for backports-strenum; uv overlooks that its version 1.3 refuses Python 3.11.
UV ?= uv
COMPILE = $(UV) pip compile --quiet --universal --fork-strategy fewest --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
  --constraints <(echo "backports-strenum<1.3") $(UVARGS)
COMPILE_SAME = $(COMPILE) --constraints <(grep -E '^[a-z]' requirements.lock | grep -vE '^(tensorflow|jax)' | tr -d '\\')
HAS_CPU_WHEEL := sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.14'
NO_CPU_WHEEL := (sys_platform != 'linux' or platform_machine != 'x86_64') and python_version < '3.14'
CPU_WHEEL := --override <(echo "tensorflow>=2.21,<2.22 ; $(NO_CPU_WHEEL)") \
  - <<< "tensorflow-cpu>=2.21,<2.22 ; $(HAS_CPU_WHEEL)"
# 240 MB for two formats of export that few need, and 62 MB that nothing imports.
UNUSED := openvino ai-edge-litert libclang
WITHOUT = --override <(printf "%s ; python_version < '3'\n" $(1))

lock: ## write all locks again (UVARGS="--upgrade" takes newer versions)
	$(COMPILE) -o requirements.lock pyproject.toml \
	  --extra dev --extra dicom --extra export --extra serve $(CPU_WHEEL)
	$(COMPILE_SAME) -o locks/build.lock - <<< hatchling
	$(COMPILE_SAME) -o locks/serve.lock pyproject.toml --extra serve --extra dicom
	$(COMPILE_SAME) -o locks/cpu.lock pyproject.toml --extra train --extra serve --extra dicom \
	  --extra export $(call WITHOUT,$(UNUSED)) $(CPU_WHEEL)
	$(COMPILE_SAME) -o locks/gpu.lock pyproject.toml --extra gpu --extra serve --extra dicom \
	  --extra export --extra tensorboard $(call WITHOUT,$(UNUSED))
	$(COMPILE_SAME) -o locks/gpu-jax.lock pyproject.toml --extra jax-gpu --extra serve \
	  --python-version 3.12 \
	  --extra dicom $(call WITHOUT,tensorflow)

ENGINE ?= $(shell command -v docker || command -v podman)
TARGET ?= cpu
COMMIT = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# Files and labels bear the time of the commit, so that two builds are equal. Podman's own format,
# that of OCI, has no health check.
EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
IMAGE_FLAGS = --target $(TARGET) --build-arg COMMIT=$(COMMIT) \
  --label org.opencontainers.image.version=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' boneage/__init__.py) \
  --label org.opencontainers.image.created=$(shell date -u -d @$(EPOCH) +%Y-%m-%dT%H:%M:%SZ) \
  $(if $(findstring docker,$(ENGINE)),--build-arg SOURCE_DATE_EPOCH=$(EPOCH),--timestamp $(EPOCH) --format docker) \
  $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_FLAGS)

image: ## build the Docker image (TARGET=gpu, gpu-jax or serve for the others)
	@test -n "$(ENGINE)" || { echo "make image: neither docker nor podman was found; install one, or name it: make image ENGINE=/path/to/engine" >&2; exit 2; }
	$(ENGINE) build $(IMAGE_FLAGS) -t boneage:$(TARGET) $(if $(filter cpu,$(TARGET)),-t boneage:latest) .

# For maintainers, with uv. The lists of a lock's packages tell a user what is inside.
.PHONY: release sbom audit
LOCKS := $(wildcard requirements*.lock locks/*.lock)

release: install ## check and build a release into dist/ (make release VERSION=0.1.0)
	$(BIN)/python .ci/release "$(VERSION)"
	$(MAKE) --no-print-directory sbom
	cd dist && sha256sum *.whl *.tar.gz *.json > SHA256SUMS

sbom: ## write what each lock holds, as CycloneDX, into dist/
	@mkdir -p dist
	for lock in $(LOCKS); do \
	  $(UV) tool run --from cyclonedx-bom==7.5.0 cyclonedx-py requirements "$$lock" \
	    --pyproject pyproject.toml --output-reproducible -o "dist/$$(basename "$$lock" .lock).cdx.json"; done

audit: ## ask for known vulnerabilities of every locked package; needs the network
	for lock in $(LOCKS); do \
	  $(UV) tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r "$$lock"; done

clean: ## remove .venv and every tool's cache; data/ and runs/ stay
	rm -rf .venv dist site .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find boneage tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
