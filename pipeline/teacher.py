"""DVC stage teacher: `python -m pipeline.teacher`."""

from pathlib import Path

from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.teacher import teacher
from fithubert.workspace import Workspace

if __name__ == "__main__":
    with exit_on_user_error():
        teacher(load_params(), Workspace(Path()))
