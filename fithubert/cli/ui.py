from typing import Annotated

import typer

from fithubert.cli.options import no_stage, options


def ui(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; default: the first free one from 5000.")
    ] = None,
) -> None:
    """Run MLflow's server on 127.0.0.1 until Ctrl-C, and print the addresses of the runs and of their comparison.

    Nothing leaves this machine. If MLFLOW_TRACKING_URI names another server, only the addresses there are printed.

    Example: `fithubert ui --workspace demo`
    """
    with no_stage():
        from fithubert.tracking.ui import serve_ui

        serve_ui(options.workspace, port)
