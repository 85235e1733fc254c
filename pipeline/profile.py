"""DVC stage profile: `python -m pipeline.profile`."""

from fithubert.stages.profile import profile
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(profile)
