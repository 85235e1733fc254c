"""DVC stage sweep: `python -m pipeline.sweep`."""

from fithubert.stages.sweep import sweep
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(sweep)
