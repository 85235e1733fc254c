"""DVC stages extract@MODEL and extract_student@MODEL: `python -m pipeline.extract MODEL`."""

import sys
from pathlib import Path

from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.extract import extract
from fithubert.workspace import Workspace

if __name__ == "__main__":
    [model] = sys.argv[1:]
    with exit_on_user_error():
        extract(load_params(), Workspace(Path()), model)
