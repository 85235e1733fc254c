"""DVC stage superb@MODEL-TASK: `python -m pipeline.superb MODEL TASK`."""

from fithubert.stages.superb import describe_scores, superb
from pipeline import run_stage

if __name__ == "__main__":
    print(describe_scores(run_stage(superb)), flush=True)
