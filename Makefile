# Two commands: `make demo` and `make test`. Both set up .venv first; `make setup` does only that.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
PORT   ?= 8501
SERVE  ?= 1

# idle OpenMP threads that spin slow a busy two-core machine five times
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT  := 0

.PHONY: setup setup-dev demo test lint types unit contract adversarial pipelines browser bench clean

setup: $(VENV)/.base
setup-dev: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("VMoER needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# Without an NVIDIA GPU on Linux the CPU build is taken, first from the package sources pip is configured with, then
# from PyTorch's own CPU index (which uv knows); the multi-gigabyte CUDA build is the last resort.
$(VENV)/.torch: $(BIN)/python constraints.txt
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
	  echo "No NVIDIA GPU found: installing the CPU build of torch $(TORCH)"; \
	  $(BIN)/pip install --quiet --disable-pip-version-check "torch==$(TORCH)+cpu" 2>/dev/null \
	  || { $(BIN)/pip install --quiet --disable-pip-version-check uv \
	       && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu "torch==$(TORCH)"; } \
	  || { echo "No CPU build of torch $(TORCH) can be reached; installing the default build instead (large)."; \
	       $(BIN)/pip install --quiet --disable-pip-version-check "torch==$(TORCH)"; }; \
	else \
	  $(BIN)/pip install --quiet --disable-pip-version-check "torch==$(TORCH)"; \
	fi
	@touch $@

$(VENV)/.base: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[product]"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[product,dev]"
	@touch $@

demo: setup
	$(BIN)/vmoer demo --port $(PORT) $(if $(filter 0,$(SERVE)),--no-serve)

ROWS := lint types unit contract adversarial pipelines browser
test: setup-dev
	@set -e; for row in $(ROWS); do \
	  start=$$(date +%s); echo "== $$row"; \
	  $(MAKE) --no-print-directory $$row; \
	  echo "== $$row: ok, $$(( $$(date +%s) - start )) s"; \
	done

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup-dev
	$(BIN)/mypy

unit: setup-dev
	$(BIN)/pytest -n 2 tests/vmoer tests/store tests/app tests/tools

contract: setup-dev
	$(BIN)/pytest -n 2 tests/contract

adversarial: setup-dev
	$(BIN)/pytest -n 2 tests/adversarial

# jobs, kill -9, the whole demo: few and heavy, and the tests of a file share what its first one computed; the longest
# files come first, where xdist would start with those of the most tests
pipelines: setup-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/pipelines

browser: setup-dev
	$(BIN)/pytest -n 2 --dist loadfile tests/e2e

bench: setup-dev
	$(BIN)/vmoer bench all

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache artifacts
