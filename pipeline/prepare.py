"""DVC stage prepare: `python -m pipeline.prepare`."""

from fithubert.stages.prepare import prepare
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(prepare)
