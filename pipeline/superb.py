"""DVC stages superb@MODEL and superb_control@CONTROL: `python -m pipeline.superb MODEL`."""

from fithubert.stages.superb import superb
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(superb)
