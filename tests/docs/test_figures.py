"""Figures in README and docs are those of committed metrics files."""

import csv
import json
from dataclasses import astuple

import pytest

from fithubert.records import AblationMetrics, Summary, load_summary
from tests.docs.fences import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
README = " ".join(TEXT.split())
#: First cell -> the others of its row in a table of README.
_CELLS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.startswith("|")]
ROWS = {first.split("`")[1] if "`" in first else first: others for first, *others in _CELLS}


@pytest.fixture(scope="module")
def summary() -> Summary:
    return load_summary(ROOT / "reports" / "summary.json")


def read_rows(name: str) -> dict[str, dict[str, str]]:
    """model -> its row of experiments/budget/NAME.csv."""
    path = ROOT / "experiments" / "budget" / f"{name}.csv"
    return {row["model"]: row for row in csv.DictReader(path.open(encoding="utf-8"))}


def shorten(row: dict[str, str], value: str, low: str, high: str) -> str:
    """`VALUE (LOW to HIGH)`, or nothing without a value."""
    return f"{float(row[value]):.1f} ({float(row[low]):.1f} to {float(row[high]):.1f})" if row[value] else ""


@pytest.mark.parametrize("name", [name for name in read_rows("students") if name != "teacher_last"])
def test_the_table_of_results_is_the_recorded_one(name: str) -> None:
    row, (parameters, macs, per, difference) = read_rows("students")[name], ROWS[name]
    assert parameters == (f"{int(row['params']) / 1e6:.2f}M" if row["params"] else "")
    assert macs == (f"{float(row['mmacs_per_second']):.0f}" if row["mmacs_per_second"] else "")
    assert per == shorten(row, "test_per", "test_low", "test_high")
    assert difference == shorten(row, "difference_to_fithubert", "low", "high")


def test_the_start_of_training_is_the_recorded_one() -> None:
    per = {name: f"{float(row['test_per']):.1f}" for name, row in read_rows("start").items()}
    wanted = f"`fithubert` has {per['fithubert_start']} and `distilhubert` {per['distilhubert_start']} (experiments"
    assert wanted in README


def test_the_share_of_quality_kept_is_the_recorded_one(summary: Summary) -> None:
    for name in ("fithubert", "distilhubert", "teacher_cut2"):
        value, low, high = (f"{100 * bound:.0f}" for bound in astuple(summary.kept[name])[:3])
        assert f"`{name}` {'keeps ' if name == 'fithubert' else ''}{value} % ({low} to {high})" in README
    assert {task.upper() for task in summary.lead.skipped} == {"ASV", "SD", "SID"}


def test_the_ablation_of_time_reduction_is_the_recorded_one() -> None:
    metrics = AblationMetrics.read(ROOT / "reports" / "metrics" / "ablation" / "time_reduction.json")
    per = {name: f"{value:.1f}" for name, value in metrics.comparisons["pr_per"].means.items()}
    middle, x2, mean, x4 = (per[name] for name in ("conv1d_x2_middle", "conv1d_x2", "mean_x2", "conv1d_x4"))
    assert (
        f"none {per['none']}, convolution by 2 before layer 6 {middle}, before the first layer (the paper) {x2}"
        in README
    )
    assert f"averaging by 2 {mean}, convolution by 4 {x4}" in README


def test_the_times_at_full_size_are_the_recorded_ones(summary: Summary) -> None:
    full = {name: f"{100 * (cost.latency_ratio or 0):.1f} %" for name, cost in summary.paper_size.items()}
    assert f"FitHuBERT takes {full['fithubert']} of HuBERT Base's time" in README
    assert f"`fithubert_lite` {full['fithubert_lite']}, DistilHuBERT {full['distilhubert']}." in README


def test_the_depth_gate_in_the_docs_is_the_recorded_one() -> None:
    rows = list(csv.DictReader((ROOT / "experiments/pretrain/mini.csv").open(encoding="utf-8")))
    per = {row["layers"]: float(row["dev"]) for row in rows if row["model"] == "teacher" and row["task"] == "pr"}
    evidence, teachers = (
        (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("evidence", "teachers")
    )
    assert f"has {per['0 1 2'] - per['all']:.1f} points on dev" in evidence
    assert f"is {per['all']:.1f} from all states and {per['0 1 2']:.1f}" in " ".join(teachers.split())


def test_the_figures_of_recordings_in_windows_are_the_measured_ones() -> None:
    sections = json.loads((ROOT / "reports/benchmarks/windows.json").read_text(encoding="utf-8"))["sections"]
    tables = {
        name: next(rows for rows in sections.values() if name in rows[0]) for name in ("layer", "peak MB", "chunk s")
    }
    text = (ROOT / "docs" / "recordings.md").read_text(encoding="utf-8")
    page, lines = " ".join(text.split()), text.splitlines()
    contexts = list(tables["layer"][0])[1:]
    assert f"| layer | {' | '.join(contexts)} |" in lines
    for row in (tables["layer"][layer] for layer in (0, 6, 12)):
        assert f"| {row['layer']} | {' | '.join(f'{row[context]:.2f}' for context in contexts)} |" in lines
    for row in tables["peak MB"]:
        used = f"{row['peak MB']:,.0f} MB"
        assert f"| `{row['model']}` | `{row['command']}` | {row['hours']:g} h | {used} |" in lines
        assert row["peak MB"] < 2000, "two hours are to fit in 2 GB"
    for name in ("mini", "fithubert", "limited"):
        short, middle, long = (f"{row['computing ms']:.0f}" for row in tables["chunk s"] if row["model"] == name)
        assert f"{short}, {middle} and {long} ms" in page
