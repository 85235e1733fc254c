from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import no_stage


def leaderboard(
    model: Annotated[str, typer.Argument(help="A model scored on all ten tasks by the official protocol.")],
    workspaces: Annotated[
        list[Path], typer.Argument(help="The workspaces with the scores: one per corpus, for ER one per fold.")
    ],
) -> None:
    """Print superb_s and the overall score of one model, as on the leaderboard and in the compression papers.

    Example: `fithubert leaderboard fithubert work/librispeech work/voxceleb1 ...`
    """
    with no_stage():
        from fithubert.records import ModelScores
        from fithubert.superb.official import score_official
        from fithubert.workspace import Workspace

        files = [Workspace(root).metrics(f"superb@{model}") for root in workspaces]
        found = [ModelScores.read(path).tasks.values() for path in files if path.is_file()]
        scored = score_official([score for scores in found for score in scores])
        for task, metrics in scored.metrics.items():
            print(f"{task}: {', '.join(f'{name} {value:.2f}' for name, value in metrics.items())}")
        print(f"superb_s {scored.superb_s:.0f}, overall {scored.overall:.1f}")
