"""DVC stage prepare: `python -m pipeline.prepare`."""

from pathlib import Path

from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.prepare import prepare
from fithubert.workspace import Workspace

if __name__ == "__main__":
    with exit_on_user_error():
        prepare(load_params(), Workspace(Path()))
