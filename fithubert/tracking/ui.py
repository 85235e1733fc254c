"""MLflow's own page on this machine."""

import os
import sys
from pathlib import Path

from fithubert.errors import UserError
from fithubert.tracking.runs import complete_from_lock
from fithubert.tracking.sender import mlflow_installed, tracking_uri
from fithubert.tracking.summary import compare_url


def serve_ui(workspace: Path, port: int = 5000) -> None:
    """Print where to look and become the MLflow UI on 127.0.0.1, until interrupted.

    Raises UserError where MLflow is not installed. With MLFLOW_TRACKING_URI at a server, only prints the address.
    """
    if not mlflow_installed():
        raise UserError("the UI needs MLflow: pip install fithubert[tracking]")
    complete_from_lock(workspace)
    uri = tracking_uri()
    remote = uri.startswith(("http://", "https://"))
    server = uri.rstrip("/") if remote else f"http://127.0.0.1:{port}"
    print(f"MLflow:  {server}")
    print(
        f"compare: {compare_url(workspace, server) or 'nothing yet; `dvc repro` writes the summary runs'}", flush=True
    )
    if not remote:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", uri]
        os.execv(sys.executable, [sys.executable, *command])
