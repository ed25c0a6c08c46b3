# make demo | eval-demo | ablations | test | test-all | load-test | test-ui | harnesses | lint | parity | docs | clean. Python 3.11 or newer and make are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo eval-demo ablations test test-all load-test test-ui harnesses lint parity docs clean

demo: $(VENV)/installed-demo
	$(BIN)/python train.py --config=configs/digits_omni.py

# Scores the demo's model on its held-out tasks and on real media, with intervals (make demo first, or it is run).
eval-demo: $(VENV)/installed-test
	test -d runs/digits_omni/data/heldout -a -n "$$(ls -d runs/digits_omni/*_omni/model 2>/dev/null)" || \
	  $(BIN)/python train.py --config=configs/digits_omni.py
	$(BIN)/python -m examples.eval_demo

# The paper's ablations in small: trains nine arms with three seeds each, and writes docs/ablations.md. What is
# finished is not run again; make ablations ABLATIONS="--ablation pooling" runs a part.
ablations: $(VENV)/installed-demo
	$(BIN)/python -m examples.ablations --docs docs $(ABLATIONS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

# With the slow ones, and what is skipped without the TPU's compiler.
test-all: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet libtpu
	$(BIN)/python -m pytest -n 2 --dist worksteal -m ""

# 64 clients of a server, for ten minutes; make load-test LOAD="--checkpoint runs/mine --seconds 60".
load-test: $(VENV)/installed-test
	$(BIN)/python benchmarks/load_test.py $(LOAD)

# The page of `ola serve --ui` in Chromium, which must be installed (apt-get install chromium).
test-ui: $(VENV)/installed-test
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { echo "make test-ui needs Chromium, for example: apt-get install chromium" >&2; exit 2; }
	$(PIP) playwright
	$(BIN)/python -m pytest tests/browser -m browser

# lmms-eval and VLMEvalKit, each in an environment of its own (about 2.4 GB each), with our adapters: their answers
# and scores on made-up questions must equal ours. TORCH: a CPU build, or an index that has it.
TORCH ?= torch==2.13.0
harnesses: $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-lmms-eval
	.venv-lmms-eval/bin/python -m pip install --quiet '$(TORCH)' 'lmms-eval[audio]==0.7.3'
	.venv-lmms-eval/bin/python -m pip uninstall --quiet --yes torchvision  # not needed; PyPI's wants CUDA's torch
	.venv-lmms-eval/bin/python -m pip install --quiet --editable '.[eval]' 'filelock<4'
	.venv-lmms-eval/bin/python -m tests.harnesses.run_lmms_eval runs/harnesses/lmms_eval
	$(PYTHON) -m venv .venv-vlmevalkit
	.venv-vlmevalkit/bin/python -m pip install --quiet '$(TORCH)' ms-vlmeval==0.0.20
	.venv-vlmevalkit/bin/python -m pip install --quiet --editable '.[eval]'
	.venv-vlmevalkit/bin/python -m tests.harnesses.run_vlmevalkit runs/harnesses/vlmevalkit

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
	rm -rf $(VENV) .venv-lmms-eval .venv-vlmevalkit build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
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
