# The commands of the README. Each one installs what it needs first, and a second run finds that done.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# So that tests do not take ten times as long beside other work; zoo itself does the same (docs/speed.md).
export GOMP_SPINCOUNT ?= 3000

PLUGINS   := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
INSTALLED := $(VENV)/installed
LINTERS   := $(VENV)/linters

.DEFAULT_GOAL := help
.PHONY: help install demo test test-packages fuzz determinism bench lint clean

help: ## print this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) \
	  | while IFS='|' read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done
	@echo "ARGS=... goes to the command itself; PYTHON=python3.12 chooses the interpreter."

install: $(INSTALLED) ## make .venv with the core and all plugins, editable
	@echo "zoo is installed: $(BIN)/zoo --help"

demo: $(INSTALLED) ## compress a real photo and draw it beside JPEG (PHOTO=file for your own)
	$(BIN)/zoo demo $(if $(PHOTO),"$(PHOTO)") $(ARGS)

test: $(INSTALLED) ## run the whole test suite
	$(BIN)/python -m pytest $(ARGS)

test-packages: $(INSTALLED) ## build the wheels and try them in a clean environment, one plugin at a time
	$(BIN)/python tests/check_packages.py $(ARGS)

fuzz: $(VENV)/fuzz ## decode a million damaged files, then fuzz guided by coverage (ARGS="--containers N --seed N")
	$(BIN)/python -m tests.fuzz $(ARGS)

determinism: $(INSTALLED) ## encode under each setting, decode under each other (ARGS="METHOD --pictures DIR")
	$(BIN)/python tests/check_determinism.py $(ARGS)

bench: $(INSTALLED) ## measure where the time of encoding and decoding goes
	$(BIN)/zoo bench $(ARGS)

lint: $(LINTERS) ## check style and types
	$(BIN)/ruff check $(ARGS)
	$(BIN)/ruff format --check
	$(BIN)/mypy zoo_core $(dir $(wildcard plugins/*/zoo_*/__init__.py))

clean: ## remove .venv and everything else that make has made
	rm -rf $(VENV) build dist plugins/*/build plugins/*/dist demo fuzz-failures
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info plugins/*/*.egg-info
	find zoo_core plugins tests -name __pycache__ -prune -exec rm -rf {} +

# Build isolation would fetch setuptools once more for every package, so the environment gets it first.
$(INSTALLED): pyproject.toml constraints.txt $(PLUGINS:=/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or later is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "no virtual environment; on Debian and Ubuntu first: apt install python3-venv" >&2; exit 1; }
	@echo "==> installing zoo-core, $(notdir $(PLUGINS)) and what they need; torch takes a few minutes"
	$(PIP) install "setuptools>=70.1"
	$(PIP) install --no-build-isolation -c constraints.txt \
	  -e ".[plot,test]" $(foreach plugin,$(PLUGINS),-e $(plugin))
	@touch $@

$(LINTERS): $(INSTALLED)
	$(PIP) install ruff mypy
	@touch $@

# Not every Python has a wheel of it; the run says so and does without.
$(VENV)/fuzz: $(INSTALLED)
	-$(PIP) install --only-binary :all: atheris
	@touch $@
