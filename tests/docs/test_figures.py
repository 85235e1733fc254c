"""Figures in README and docs are those of committed metrics files."""

import csv

import pytest

from fithubert.records import Summary, load_summary
from tests.docs.fences import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
README = " ".join(TEXT.split())
#: First cell -> the others of its row in a table of README.
_CELLS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.startswith("|")]
ROWS = {first.split("`")[1] if "`" in first else first: others for first, *others in _CELLS}


@pytest.fixture(scope="module")
def summary() -> Summary:
    return load_summary(ROOT / "reports" / "summary.json")


@pytest.mark.parametrize("name", ["fithubert", "fithubert_heads", "fithubert_notr", "fithubert_lite", "distilhubert"])
def test_the_table_of_results_is_the_recorded_summary(name: str, summary: Summary) -> None:
    model, (parameters, time, kept, per) = summary.models[name], ROWS[name]
    assert model.params is not None
    assert parameters == f"{model.params.total / 1e6:.2f}M"
    assert time == f"{100 * (model.latency_ratio or 0):.0f} %"
    assert kept == f"{100 * (model.kept or 0):.0f} %"
    assert per == f"{model.superb['pr']['per']:.1f}"


def test_the_times_at_full_size_are_the_recorded_ones(summary: Summary) -> None:
    full = {name: f"{100 * (cost.latency_ratio or 0):.1f} %" for name, cost in summary.paper_size.items()}
    assert f"FitHuBERT takes {full['fithubert']} of HuBERT Base's time" in README
    assert f"`fithubert_lite` {full['fithubert_lite']}, DistilHuBERT {full['distilhubert']}." in README


def test_the_students_of_a_teacher_with_depth_are_the_recorded_ones() -> None:
    rows = list(csv.DictReader((ROOT / "experiments/budget/mini_deep.csv").open(encoding="utf-8")))
    of = {row["model"]: row for row in rows}
    per = {name: f"{float(row['test_per']):.1f}" for name, row in of.items()}
    macs = {name: f"{float(row['mmacs_per_second'] or 0):.0f}" for name, row in of.items()}
    assert f"`fithubert` has a PER of {per['fithubert']} for {macs['fithubert']} MMAC/s" in README
    assert f"`distilhubert` {per['distilhubert']} for {macs['distilhubert']}" in README
    assert f"cut off after its second layer {per['teacher_cut2']}" in README


def test_the_depth_gate_in_the_docs_is_the_recorded_one() -> None:
    rows = list(csv.DictReader((ROOT / "experiments/pretrain/mini.csv").open(encoding="utf-8")))
    per = {row["layers"]: float(row["dev"]) for row in rows if row["model"] == "teacher" and row["task"] == "pr"}
    evidence, teachers = (
        (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("evidence", "teachers")
    )
    assert f"has {per['0 1 2'] - per['all']:.1f} points on dev" in evidence
    assert f"is {per['all']:.1f} from all states and {per['0 1 2']:.1f}" in " ".join(teachers.split())
