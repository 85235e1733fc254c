"""DVC stage depth: `python -m pipeline.depth`."""

from fithubert.stages.depth import depth
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(depth)
