"""DVC stage cache: `python -m pipeline.cache`."""

from fithubert.stages.cache import cache
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(cache)
