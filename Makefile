# A fresh clone needs Python 3.11 or newer, git, make and a package registry; everything else comes into .venv.
PYTHON ?= python3
JOBS ?= 2
VENV := $(CURDIR)/.venv
INSTALLED := $(VENV)/.installed
# Stages are plain `python -m pipeline.STAGE` commands: the environment's python must come first.
RUN := PATH="$(VENV)/bin:$$PATH" MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=true

.PHONY: repro demo ui test lint params docs screenshots clean distclean

repro: $(INSTALLED)  ## corpus -> report, with MLflow runs; does nothing where nothing has changed
	$(RUN) dvc repro
	$(RUN) fithubert compare

demo: $(INSTALLED)  ## the same chain with tiny budgets in demo/
	$(RUN) bash pipeline/demo.sh
	cd demo && $(RUN) fithubert compare

ui: $(INSTALLED)  ## MLflow on 127.0.0.1 with the runs of `make repro` (WORKSPACE=demo: of `make demo`)
	cd $(or $(WORKSPACE),.) && $(RUN) fithubert ui

test: $(INSTALLED) lint  ## lint, types, import rules, tests
	$(RUN) OMP_NUM_THREADS=1 pytest -n $(JOBS) --dist loadfile

lint: $(INSTALLED)  ## style, types, import rules
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

params: $(INSTALLED)  ## write params.yaml anew from experiments/presets
	$(RUN) python -m pipeline.compose

screenshots: $(INSTALLED)  ## docs/images anew from what is recorded in reports/ (needs Chromium)
	$(RUN) python -m docs.screenshots

docs: $(INSTALLED)  ## guides and API reference to build/docs; any warning is an error
	$(RUN) sphinx-build -q -W --keep-going -b html docs build/docs
	@echo build/docs/index.html

clean:  ## what the demo, tests and tools leave; results of `make repro` and the environment stay
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

distclean: clean  ## and the environment
	rm -rf $(VENV) *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("fithubert needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[all,dev]'
	@touch $@
