"""DVC stage ablation@NAME: `python -m pipeline.ablation NAME`."""

from fithubert.stages.ablation import ablation
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(ablation)
