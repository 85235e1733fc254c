"""DVC stage cache: `python -m pipeline.cache`."""

from pathlib import Path

from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.cache import cache
from fithubert.workspace import Workspace

if __name__ == "__main__":
    with exit_on_user_error():
        cache(load_params(), Workspace(Path()))
