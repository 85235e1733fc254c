"""The stages of `dvc repro`: one file each, which calls the same function in fithubert/stages as the command does."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fithubert.workers import wait_without_spinning

wait_without_spinning()

Result = TypeVar("Result")


def run_stage(stage: Callable[..., Result]) -> Result:
    """Run `stage` in the current folder on the items of the command line (`fithubert pr`), and return its result.

    Prints first which stage of how many it is. A mistake of the user ends the process with one line.
    """
    from fithubert.errors import exit_on_user_error
    from fithubert.stages import list_stages
    from fithubert.workspace import Workspace, load_checked

    name, items = stage.__name__, sys.argv[1:]
    with exit_on_user_error():
        params = load_checked()
        stages = [entry.replace("_student@", "@").replace("_control@", "@") for entry in list_stages(params)]
        full_name = f"{name}@{'-'.join(items)}" if items else name
        if full_name in stages:
            position = f"stage {stages.index(full_name) + 1} of {len(stages)}"
            print(f"{position}: {' '.join([name, *items])}", file=sys.stderr, flush=True)
        return stage(params, Workspace(Path()), *items)
