"""Write the pictures of pages in docs/images again: `make screenshots`.

They show what is recorded in reports/; Chromium has to be installed. A new picture is a new entry of `SHOTS`.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fithubert.config.params import load_params
from fithubert.records import load_summary
from fithubert.stages.report import model_shapes
from fithubert.tracking.models import log_summary
from fithubert.workspace import Workspace
from tests.browser import open_browser
from tests.tracking.live import run_ui

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
#: What MLflow's pages keep of a visitor: that the assistant, which opens by itself at the first visit, is shut.
VISITOR = {"mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true", "mlflow.assistant.panelOpen_v1": "false"}
#: A desktop and a phone, in CSS pixels.
DESKTOP, PHONE = (1280, 1500), (390, 1500)


@dataclass(frozen=True)
class Shot:
    """A picture docs/images/NAME-WIDTH.png for each size.

    `serve` gives the page's address while it can be opened; it is whole once the JavaScript expression `ready` is true.
    `on_phone` is JavaScript that a visitor with a narrow screen would do by hand.
    """

    name: str
    serve: Callable[[], AbstractContextManager[str]]
    ready: str
    on_phone: str = "0"
    sizes: tuple[tuple[int, int], ...] = (DESKTOP, PHONE)


@contextmanager
def serve_comparison() -> Iterator[str]:
    """MLflow's compare page of the students and the teacher in reports/summary.json."""
    shapes = model_shapes(load_params(ROOT / "params.yaml"), Workspace(ROOT))
    with TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        log_summary(load_summary(ROOT / "reports" / "summary.json"), Path(folder), shapes, flush_seconds=120.0)
        with run_ui(Path(folder)) as live:
            yield live.addresses[-1]


@contextmanager
def serve_report() -> Iterator[str]:
    """The page of the report, as it is in reports/."""
    yield (ROOT / "reports" / "index.html").as_uri()


SHOTS = (
    Shot("report", serve_report, ready="document.querySelector('svg circle, svg path')"),
    Shot(
        "mlflow-compare",
        serve_comparison,
        ready="document.querySelector('.parcoords')",
        on_phone="document.querySelector('[aria-label=\"Toggle sidebar\"]').click()",
    ),
)


def take(shot: Shot) -> None:
    """Write every size of one picture."""
    with (
        shot.serve() as address,
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        open_browser(Path(profile)) as page,
    ):
        if address.startswith("http"):
            page.open(address, "true")
            page.evaluate(f"Object.assign(localStorage, {json.dumps(VISITOR)})")
        for width, height in shot.sizes:
            page.resize(width, height)
            page.open("about:blank", "true")
            page.open(address, shot.ready)
            if width == PHONE[0]:
                page.evaluate(shot.on_phone)
            page.wait_until_still()
            path = IMAGES / f"{shot.name}-{width}.png"
            page.save_screenshot(path)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for shot in SHOTS:
        if not wanted or shot.name in wanted:
            take(shot)
