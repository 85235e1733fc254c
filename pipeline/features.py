"""DVC stages features@MODEL and student_features@MODEL: `python -m pipeline.features MODEL`."""

import sys
from pathlib import Path

from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.features import features
from fithubert.stages.workspace import Workspace

if __name__ == "__main__":
    [model] = sys.argv[1:]
    with exit_on_user_error():
        features(load_params(), Workspace(Path()), model)
