"""DVC stage report: `python -m pipeline.report`. Also completes the MLflow runs."""

from fithubert.stages.report import report
from pipeline import run_stage

if __name__ == "__main__":
    run_stage(report)
