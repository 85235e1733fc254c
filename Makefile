# A fresh clone needs Python 3.11 or newer, git, make and a package registry; everything else is installed in .venv.
PYTHON ?= python3
JOBS ?= 2
VENV := $(CURDIR)/.venv
INSTALLED := $(VENV)/.installed
# Stages are plain `python -m pipeline.STAGE` commands, so the environment's python must come first. Waiting OpenMP
# threads sleep: by default they spin, which slows every process on a busy machine.
OMP_WAIT_POLICY ?= PASSIVE
RUN := PATH="$(VENV)/bin:$$PATH" MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=true OMP_WAIT_POLICY=$(OMP_WAIT_POLICY)
PYTEST := $(RUN) OMP_NUM_THREADS=1 pytest -n $(JOBS) --dist loadfile

.PHONY: repro demo record ui check test torture lint params docs screenshots clean distclean

repro: $(INSTALLED)  ## from the corpus to the report, with MLflow runs; runs only stages whose inputs changed
	$(RUN) dvc repro
	$(RUN) fithubert compare

demo: $(INSTALLED)  ## the same stages with tiny budgets in demo/
	$(RUN) bash pipeline/demo.sh
	cd demo && $(RUN) fithubert compare
	@echo "page: demo/reports/index.html"
	@echo "MLflow: make ui WORKSPACE=demo"

record: $(INSTALLED)  ## the recorded results, in reports/record (WORLD=embedded or real; SEEDS="1 2 3"; WORKERS=1)
	$(RUN) WORKERS=$(WORKERS) bash pipeline/record.sh $(or $(WORLD),embedded) $(SEEDS)

ui: $(INSTALLED)  ## MLflow on 127.0.0.1 with the runs of `make repro` (WORKSPACE=demo: of `make demo`)
	cd $(or $(WORKSPACE),.) && $(RUN) fithubert ui

check: $(INSTALLED) lint  ## lint and the fast tests: for every edit
	$(PYTEST) -m "not slow"

test: $(INSTALLED) lint  ## lint and all tests
	$(PYTEST)

torture: $(INSTALLED)  ## damaged files, wrong parameters, kills, full disks: 1,500 cases in at most 10 minutes
	$(RUN) OMP_NUM_THREADS=1 python -m benchmarks.torture

lint: $(INSTALLED)  ## style, limits of size, types, import rules
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) pytest -n0 tests/test_limits.py

params: $(INSTALLED)  ## write params.yaml from experiments/presets
	$(RUN) python -m pipeline.compose

screenshots: $(INSTALLED)  ## draw docs/images from the recorded results in reports/ (needs Chromium)
	$(RUN) python -m docs.screenshots

docs: $(INSTALLED)  ## guides and API reference to build/docs; any warning is an error
	$(RUN) sphinx-build -q -W --keep-going -b html docs build/docs
	@echo build/docs/index.html

clean:  ## delete what the demo, tests and tools wrote; keep the results of `make repro` and the environment
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

distclean: clean  ## delete the environment too
	rm -rf $(VENV) *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("fithubert needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[all,dev]'
	@touch $@
