# make demo | test | test-all | load-test | test-ui | lint | parity | docs | clean. Python 3.11 or newer and make are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-all load-test test-ui lint parity docs clean

demo: $(VENV)/installed-demo
	$(BIN)/python train.py --config=configs/digits_omni.py

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2

# With the slow ones, and what is skipped without the TPU's compiler.
test-all: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet libtpu
	$(BIN)/python -m pytest -n 2 -m ""

# 64 clients of a server, for ten minutes; make load-test LOAD="--checkpoint runs/mine --seconds 60".
load-test: $(VENV)/installed-test
	$(BIN)/python benchmarks/load_test.py $(LOAD)

# The page of `ola serve --ui` in Chromium, which must be installed (apt-get install chromium).
test-ui: $(VENV)/installed-test
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { echo "make test-ui needs Chromium, for example: apt-get install chromium" >&2; exit 2; }
	$(PIP) playwright
	$(BIN)/python -m pytest tests/browser -m browser

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests that compare with the original, and with live PyTorch modules.
parity: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 tests/data tests/models tests/live \
	  tests/generate tests/training/test_parity.py

# The site, from docs/ and docstrings, into site/.
docs: $(VENV)/bin/pip
	$(PIP) mkdocs-material 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Trained models in runs/ are kept.
clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "ola_jax needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable '.[test,demo,convert]'
	@touch $@ $(VENV)/installed-demo
