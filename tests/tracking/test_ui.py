"""`fithubert ui`: one line for a mistake, a page that shows the figures of summary.json, and nothing left behind."""

import re
import signal
import socket
import subprocess
from itertools import takewhile
from pathlib import Path

import pytest

pytest.importorskip("mlflow")

from mlflow import MlflowClient

from fithubert.errors import UserError
from fithubert.records import Summary, load_summary
from fithubert.report.page import write_report
from fithubert.tracking import ui
from fithubert.tracking.models import ModelShape, log_summary
from tests.browser import NAMES, Page, find_chromium, open_browser
from tests.report.sample import PLAN, write_metrics
from tests.tracking.live import run_ui, start_ui

SHAPES = {name: ModelShape(12, 120, "conv1d_x2") for name in ("fithubert", "teacher")}


@pytest.fixture
def summary(store: MlflowClient, tmp_path: Path) -> Summary:
    """A summary, logged to the store of `tmp_path`."""
    write_metrics(tmp_path / "reports")
    made = load_summary(write_report(tmp_path / "reports", PLAN).summary)
    log_summary(made, tmp_path, SHAPES, flush_seconds=60.0)
    return made


def read_metrics(text: str) -> dict[str, list[str]]:
    """The compare page's table of metrics: name -> a cell for each run."""
    table = text.partition("\nMetrics\nShow diff only\n")[2].partition("\nArtifacts\n")[0].split("\n")
    names = list(takewhile(lambda line: re.fullmatch(r"[a-z]\w*", line), table))
    cells = table[len(names) :]
    assert names
    assert len(cells) % len(names) == 0
    runs = len(cells) // len(names)
    return {name: cells[place * runs : (place + 1) * runs] for place, name in enumerate(names)}


def agrees(shown: str, value: float | None) -> bool:
    """Whether a cell says `value`, to the digits that it has."""
    if value is None or shown == "NaN":
        return value is None and shown == "NaN"
    mantissa, _, exponent = shown.partition("e")
    digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return abs(float(shown) - value) <= 0.5000001 * 10.0**-digits


def expect_metrics(summary: Summary) -> dict[str, list[float | None]]:
    """The values that the table must have, straight from the summary."""
    models = list(summary.ordered.values())
    return {
        "compression_ratio": [1 / m.size_ratio if m.size_ratio else None for m in models],
        "kept": [m.kept for m in models],
        "ks_acc": [m.score("ks", "acc") for m in models],
        "latency_ratio": [m.latency_ratio for m in models],
        "macs_ratio": [m.macs_ratio for m in models],
        "params_millions": [m.params.total / 1e6 if m.params else None for m in models],
        "per": [m.score("pr", "per") for m in models],
        "sid_acc": [m.score("sid", "acc") for m in models],
    }


def list_descendants(pid: int) -> set[int]:
    """Every process below `pid`."""
    found, parents = set(), [pid]
    while parents:
        children = Path(f"/proc/{parents[0]}/task/{parents.pop(0)}/children").read_text().split()
        parents += [int(child) for child in children]
        found |= {int(child) for child in children}
    return found


def check_compare_page(page: Page, summary: Summary, address: str) -> None:
    page.open(address, "document.body.innerText.includes('sid_acc') && document.querySelector('.parcoords')")
    text = page.text()
    shown, expected = read_metrics(text), expect_metrics(summary)
    assert list(shown) == sorted(expected)
    for name, values in expected.items():
        assert len(shown[name]) == len(values)
        assert all(map(agrees, shown[name], values)), (name, shown[name], values)
    assert all(f"\n{name}\n" in text for name in summary.order)
    assert "\nModel registry\n" in text  # the sidebar of the training view; that of GenAI has prompts in its place
    assert "\nPrompts\n" not in text


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason=f"none of {', '.join(NAMES)} is installed")
def test_the_compare_page_shows_the_figures_of_the_summary(
    summary: Summary, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with run_ui(tmp_path) as live:
        home, runs, compare, compressed = live.addresses
        with open_browser(tmp_path_factory.mktemp("browser")) as page:
            page.resize(3000, 2500)
            check_compare_page(page, summary, compare)
            page.open("about:blank", "document.body")
            page.open(compressed, "document.querySelector('.parcoords')")
            axes = page.evaluate("[...document.querySelectorAll('.axis-title')].map(title => title.textContent)")
            assert axes == ["depth", "time_reduction", "width", "compression_ratio"]
            page.open(runs, "document.body.innerText.includes('fithubert_notr')")
            server = home.partition("/#")[0]
            assert all(asked.startswith((f"{server}/", "data:", "blob:")) for asked in page.asked)
            # MLflow's pages ask every server who is logged in; one without accounts has no such address (MLflow 3.17).
            assert [error for error in page.errors if "users/current" not in error] == []
        below = list_descendants(live.process.pid)
        assert len(below) >= 2
        live.process.send_signal(signal.SIGINT)
        assert live.process.wait(30) == 0
        assert live.process.stdout is not None
        assert live.process.stdout.read() == "MLflow's server has ended\n"
        assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []


def test_a_taken_port_is_one_line(store: MlflowClient, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start_ui(tmp_path, "--port", str(port)) as process:
            said = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert said == f"error: port {port} on 127.0.0.1 is taken; name another one with --port, or leave --port out\n"


def test_without_a_port_the_first_free_one_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert ui.choose_port(None, range(port, port + 100)) > port
        with pytest.raises(UserError, match="are taken; name one with --port"):
            ui.choose_port(None, range(port, port + 1))


def test_a_server_that_does_not_start_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuchscheme://me:s3cret@store")
    commands, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: commands.append(command) or popen(command, **how))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(UserError, match=r"did not start; see .*server\.log") as error:
        ui.serve_ui(tmp_path)
    # Everyone on the machine sees the arguments of a process.
    assert commands
    assert "s3cret" not in f"{commands} {error.value}"
    assert "nosuchscheme" in (tmp_path / ".tracking" / "server.log").read_text()
    assert {number: signal.getsignal(number) for number in before} == before
    assert capfd.readouterr().out == ""


def test_a_server_elsewhere_is_only_named(
    summary: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org:8080/")
    ui.serve_ui(tmp_path)
    said = capfd.readouterr().out
    assert "runs:     http://mlflow.example.org:8080/#/experiments/1/runs?workflowType=machine_learning\n" in said
    assert said.count("http://mlflow.example.org:8080/#/compare-runs?runs=") == 2


def test_before_the_first_report_the_way_to_one_is_named(
    store: MlflowClient, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ui.print_addresses(tmp_path, "http://127.0.0.1:5000")
    assert capfd.readouterr().out.count("nothing yet; `dvc repro` writes the summary runs") == 2
