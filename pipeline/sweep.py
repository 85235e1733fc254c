"""DVC stage sweep: `python -m pipeline.sweep`."""

from pathlib import Path

from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.sweep import sweep
from fithubert.workspace import Workspace

if __name__ == "__main__":
    with exit_on_user_error():
        sweep(load_params(), Workspace(Path()))
