# Thin: .ci/setup.sh makes the environment, tests/ and .ci/notebooks.py check, .ci/docs.py builds the site.
# Options go in ARGS, for instance: make demo ARGS="--port 8000"

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export GRADIO_ANALYTICS_ENABLED := False
export TOKENIZERS_PARALLELISM := false
export PYDEVD_DISABLE_FILE_VALIDATION := 1
demo test check docs bench notebooks: export HF_HUB_OFFLINE := 1
demo test check docs bench notebooks: export HF_DATASETS_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lab docs bench notebooks

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## make the environment in .venv (every target does this first; again when settings.ini changes)
	@bash .ci/setup.sh

demo: setup ## open the workbench in the browser, with the shipped model, offline
	@$(BIN)/mvl-bench demo $(ARGS)

lab: setup ## open JupyterLab at the tutorials
	@$(BIN)/mvl-bench lab $(ARGS)

PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests --ignore=tests/test_notebooks.py

test: setup ## check notebooks and library, run the notebooks and the tests, all but the slow ones
	$(BIN)/python -m pytest -q tests/test_notebooks.py
	OMP_NUM_THREADS=1 $(BIN)/python .ci/notebooks.py test --quick
	$(PYTEST) -m "not slow" $(ARGS)

check: setup ## the same with the slow ones: what CI runs
	$(BIN)/python -m pytest -q tests/test_notebooks.py
	OMP_NUM_THREADS=1 $(BIN)/python .ci/notebooks.py test
	$(PYTEST) $(ARGS)

notebooks: setup ## export, run and clean notebooks in place: make notebooks NB=nbs/masking/00_base.ipynb (default: all)
	$(BIN)/python .ci/notebooks.py run $(NB)

docs: setup ## build the site in _docs and check its links
	$(BIN)/python .ci/docs.py $(ARGS)

bench: setup ## measure speed beside references: make bench ARGS="--json bench.json"
	@$(BIN)/mvl-bench bench $(ARGS)
