"""DVC stages extract@MODEL and extract_student@MODEL: `python -m pipeline.extract MODEL`."""

from fithubert.stages.extract import extract
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(extract)
