"""A study as a run, and every trial as a run nested in it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from fithubert.tracking.runs import flatten, stage_tags
from fithubert.tracking.sender import FLUSH_SECONDS, MetricPoint, Sender, Session, now_milliseconds

#: The tag by which MLflow's pages nest one run in another.
_PARENT = "mlflow.parentRunId"


def start_study(
    name: str, params: Mapping[str, object], workspace: Path, flush_seconds: float = FLUSH_SECONDS
) -> str | None:
    """Open the run of a study; its id, or None if MLflow is not installed or the server does not answer."""
    tags = stage_tags("sweep", workspace) | {"study": name, "command": f"fithubert sweep --study {name}"}
    sender = Sender(flush_seconds)
    sender.submit(lambda session: session.start(f"sweep {name}", tags, flatten(params)))
    sender.close()
    return sender.session.run_id if sender.session is not None else None


def log_trial(
    parent: str | None,
    study: str,
    name: str,
    student: Mapping[str, object],
    metrics: Mapping[str, float],
    curve: Mapping[int, float],
    stopped: str | None,
) -> None:
    """Log a trial's parameters, figures and curve as one ended run; `stopped`: why it was stopped early.

    Nothing is sent if the study has no run.
    """
    if parent is None:
        return
    tags = {_PARENT: parent, "kind": "trial", "study": study, "state": "finished" if stopped is None else "stopped"}
    tags |= {} if stopped is None else {"stopped": stopped}
    now = now_milliseconds()
    points = [MetricPoint(key, float(value), now) for key, value in metrics.items()]
    points += [MetricPoint("dev_loss_last_head", loss, now, update) for update, loss in sorted(curve.items())]

    def send(session: Session) -> None:
        session.start(f"{study} {name}", tags, flatten(student))
        session.log(points)
        session.end()

    sender = Sender()
    sender.submit(send)
    sender.close()


def end_study(
    run: str, metrics: Mapping[str, float], files: Sequence[Path], flush_seconds: float = FLUSH_SECONDS
) -> None:
    """Log the figures and files of a study in its run, and end the run."""
    sender = Sender(flush_seconds)
    now = now_milliseconds()
    sender.submit(partial(_finish, run=run, metrics=[MetricPoint(k, float(v), now) for k, v in metrics.items()]))
    sender.submit(lambda session: session.keep(run, files))
    sender.close()


def _finish(session: Session, run: str, metrics: Sequence[MetricPoint]) -> None:
    session.run_id = run
    session.log(metrics)
    session.end()
