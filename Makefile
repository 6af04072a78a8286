# Needs only make and Python 3.11 or newer with venv and pip.
# Everything is installed in .venv; nothing outside the checkout is touched.

PYTHON ?= python3
WORKERS ?= 2
DOC_THREADS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast lint format doc bench bench-install clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## */\1\t/' \
	  | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed-plot  ## run examples/quickstart.py
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed-dev  ## run all tests and the examples in the docstrings
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n $(WORKERS)

test-fast: $(VENV)/.installed-dev  ## run the tests that are not marked slow
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

lint: $(VENV)/.installed-dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy skbayes

format: $(VENV)/.installed-dev  ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

doc: $(VENV)/.installed-doc  ## build the documentation in doc/_build/html
	OMP_NUM_THREADS=$(DOC_THREADS) $(BIN)/python -m sphinx -b html -W --keep-going \
	  -d doc/_build/doctrees doc doc/_build/html
	@echo "Open doc/_build/html/index.html"

bench:  ## list the benchmarks and how to run them
	@echo "Run 'make bench-install' once, then:"
	@for script in examples/benchmarks/*.py; do \
	  [ -e "$$script" ] || { echo "  (no benchmarks yet)"; continue; }; \
	  case "$$script" in */_*) continue;; esac; \
	  printf '\n  %s/python %s\n      ' "$(BIN)" "$$script"; \
	  $(PYTHON) -c 'import ast, sys; print((ast.get_docstring(ast.parse(open(sys.argv[1], encoding="utf-8").read())) or "(no docstring)").splitlines()[0])' "$$script"; \
	done

bench-install: $(VENV)/.installed-bench  ## install what the benchmarks need

clean:  ## remove .venv, caches and built files
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache \
	  doc/_build doc/_gallery doc/auto_examples doc/api/generated doc/sg_execution_times.rst quickstart_output
	find skbayes tests examples doc -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# One stamp for each set of extras; a change of versions installs again.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP_INSTALL) -e ".[$*]"
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "skbayes needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
