"""DVC stage distill@STUDENT: `python -m pipeline.distill STUDENT`."""

from fithubert.stages.distill import distill
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(distill)
