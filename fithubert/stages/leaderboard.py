"""The score of one model over all ten tasks, each in the workspace of its corpus."""

from collections.abc import Sequence
from pathlib import Path

from fithubert.files import read_json
from fithubert.superb.run import TASKS
from fithubert.superb.score import OfficialScore, score_official
from fithubert.workspace import Workspace


def leaderboard(model: str, workspaces: Sequence[Path]) -> OfficialScore:
    """`superb_s` of `model` from the metrics files in these workspaces; raises UserError naming what is in the way."""
    files = [Workspace(root).metrics(f"superb@{model}-{task}") for root in workspaces for task in TASKS]
    return score_official([read_json(path) for path in files if path.is_file()])
