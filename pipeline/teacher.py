"""DVC stage teacher: `python -m pipeline.teacher`."""

from fithubert.stages.teacher import teacher
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(teacher)
