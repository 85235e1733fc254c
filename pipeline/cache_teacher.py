"""DVC stage cache_teacher: `python -m pipeline.cache_teacher`."""

from pathlib import Path

from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.cache_teacher import cache_teacher
from fithubert.stages.workspace import Workspace

if __name__ == "__main__":
    with exit_on_user_error():
        cache_teacher(load_params(), Workspace(Path()))
