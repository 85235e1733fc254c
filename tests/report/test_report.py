"""The report says what was measured, names what was not, and needs no network."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fithubert.errors import UserError
from fithubert.records import Lead, load_summary
from fithubert.report.page import markdown_table, write_report
from fithubert.report.summary import ReportPlan, build_summary, compare_rows, gather
from fithubert.report.table import format_count, format_macs, format_seconds, format_share, print_table
from tests.report.pages import PageReader, page_of
from tests.report.sample import MODELS, PLAN, STUDENTS, superb, write_metrics, write_score


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_metrics(folder)
    write_report(folder, PLAN)
    return folder


def test_summary_has_the_agreed_schema(reports: Path) -> None:
    summary = json.loads((reports / "summary.json").read_text())
    assert set(summary) >= {"models", "paper_size", "teacher", "corpus", "versions", "seconds"}
    assert list(summary["models"]) == sorted(MODELS)
    student = summary["models"]["fithubert"]
    assert set(student["params"]) >= {"trunk", "readout", "total"}
    assert student["params"]["total"] == student["params"]["trunk"] + student["params"]["readout"]
    for key in ("macs_per_second", "rtf", "size_ratio", "latency_ratio"):
        assert isinstance(student[key], float)
    assert student["superb"] == {"pr": {"per": 36.8}, "ks": {"acc": 88.4}, "sid": {"acc": 79.2}}
    assert student["ci"]["pr"]["per"] == pytest.approx([35.5, 38.2])
    assert (student["init"], student["readout"]) == ("cut_teacher", "last")
    assert set(summary["paper_size"]) == {"hubert_base", "fithubert", "distilhubert"}
    assert summary["teacher"] == "teacher"
    assert summary["corpus"]["source"] == "synthetic"
    assert "torch" in summary["versions"]
    assert summary["seconds"]["superb@fithubert_notr"] == pytest.approx(3 * 14.2)
    assert summary["seconds"]["distill@distilhubert"] == 214.0


def test_the_recommended_student_is_named_and_compared_with_every_other_one(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    plan = replace(PLAN, best_recipe="fithubert_notr")
    summary = build_summary(gather(tmp_path, plan), plan)
    assert summary.best_recipe == "fithubert_notr"
    against = {
        name: {of.model for of in summary.paired if of.against == name} for name in ("fithubert", "fithubert_notr")
    }
    assert against["fithubert_notr"] == against["fithubert"] - {"fithubert_notr"} | {"fithubert"}


def test_a_task_that_the_report_does_not_know_has_its_column(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    write_score(tmp_path, "teacher", "rate", **superb("teacher", "ks") | {"task": "rate"})
    plan = replace(PLAN, tasks=(*PLAN.tasks, "rate"))
    summary = build_summary(gather(tmp_path, plan), plan)
    assert "RATE Acc ↑" in markdown_table(summary)
    assert "RATE<br>Acc ↑" in page_of(tmp_path, plan)


def test_a_lead_that_is_no_more_than_noise_is_in_no_mean(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    write_score(tmp_path, "teacher", "ks", metrics={"acc": 61.4}, intervals={"acc": [58.0, 66.0]})
    summary = build_summary(gather(tmp_path, PLAN), PLAN)
    assert summary.lead == Lead(("pr", "sid"), ("ks",))
    shares = [(55.9 - 36.8) / (55.9 - 22.7), (79.2 - 41.0) / (93.4 - 41.0)]
    assert summary.models["fithubert"].kept == pytest.approx(sum(shares) / 2)
    note = "mean over PR, SID; no clear lead on KS"
    assert note in markdown_table(summary)
    assert note in page_of(tmp_path)


def test_what_has_not_run_is_absent_and_in_no_mean(reports: Path) -> None:
    models = json.loads((reports / "summary.json").read_text())["models"]
    assert "sid" not in models["distilhubert"]["superb"] | models["distilhubert"]["unscored"]
    assert "ic" not in models["teacher"]["superb"]
    assert models["teacher"]["unscored"]["ic"] == "no utterance with an intent in the train split"
    shares = [(55.9 - 36.8) / (55.9 - 22.7), (88.4 - 61.2) / (95.1 - 61.2), (79.2 - 41.0) / (93.4 - 41.0)]
    assert models["fithubert"]["kept"] == pytest.approx(sum(shares) / 3)
    assert (models["fbank"]["kept"], models["teacher"]["kept"]) == (0.0, 1.0)
    assert "kept" not in models["distilhubert"]
    assert set(models["distilhubert"]["kept_by_task"]) == {"pr", "ks"}


def test_writing_again_changes_nothing(reports: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in reports.rglob("*") if p.is_file()}

    before = contents()
    write_report(reports, PLAN)
    assert contents() == before


def test_names_from_metrics_are_escaped(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    path = tmp_path / "metrics" / "prepare.json"
    skipped = [{"path": "<img src=x>.wav", "reason": "</script>"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "skipped": skipped}))
    page = page_of(tmp_path)
    assert "<img src=x>" not in page
    assert page.count("<script") == page.count("</script>") == 3
    summary = build_summary(gather(tmp_path, PLAN), PLAN)
    odd = replace(summary, models={"a|<b>": summary.models["fithubert"]}, order=())
    assert "| a\\|&lt;b> |" in markdown_table(odd)


def test_figures_are_drawn_only_from_data(reports: Path, tmp_path: Path) -> None:
    names = {"quality_cost", "scores", "probe", "depth", "layer_weights", "sweep_front"}
    names |= {f"{kind}_{student}" for kind in ("loss", "heads") for student in STUDENTS}
    drawn = sorted((reports / "figures").iterdir())
    assert {p.name for p in drawn} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert all(p.read_bytes().startswith(b"\x89PNG" if p.suffix == ".png" else b"<?xml") for p in drawn)
    assert write_report(tmp_path, PLAN).figures == ()


def test_an_empty_workspace_is_a_page_without_figures(tmp_path: Path) -> None:
    files = write_report(tmp_path, PLAN)
    text = " ".join(" ".join(PageReader(files.page.read_text()).text).split())
    assert "fithubert has not been measured yet." in text
    rows = compare_rows(load_summary(files.summary))
    assert {row["model"] for row in rows} == set(MODELS)
    assert all(value is None for row in rows for key, value in row.items() if key != "model")
    assert "| fithubert | not run |" in files.table.read_text()
    assert "0 %" not in files.table.read_text()


def test_a_broken_metrics_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "metrics" / "profile.json"
    broken.parent.mkdir()
    broken.write_text("[]")
    with pytest.raises(UserError, match=r"profile\.json: must hold one JSON object"):
        write_report(tmp_path, PLAN)
    broken.write_text("{")
    with pytest.raises(UserError, match=r"profile\.json: not readable"):
        write_report(tmp_path, PLAN)
    assert not (tmp_path / "summary.json").exists()


def test_rows_to_compare_have_the_same_columns(reports: Path) -> None:
    rows = compare_rows(load_summary(reports / "summary.json"))
    assert [row["model"] for row in rows] == list(MODELS)
    assert len({tuple(row) for row in rows}) == 1
    assert rows[2]["pr per"] == 36.8
    assert rows[2]["ic acc"] is None


def test_a_narrow_terminal_gets_every_column(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compare_rows(load_summary(reports / "summary.json"))
    print_table(rows)
    whole = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    print_table(rows)
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, whole.splitlines())) > 60 >= max(map(len, narrow.splitlines()))
    assert narrow.count("fbank") > whole.count("fbank")
    assert set(whole.replace("─", "").split()) <= set(narrow.split())
    assert "…" not in narrow


def test_a_missing_summary_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; `fithubert report` .or `dvc repro`. writes it"):
        load_summary(tmp_path / "summary.json")


def test_markdown_table_is_rectangular(reports: Path) -> None:
    table = (reports / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cost, tasks = lines[: 2 + len(MODELS)], lines[2 + len(MODELS) :]
    assert len(tasks) == len(cost) + 1  # chance
    assert all(len({line.count("|") for line in part}) == 1 for part in (cost, tasks))
    assert table == markdown_table(build_summary(gather(reports, PLAN), PLAN))


def test_the_task_table_ends_with_chance_where_results_say_it(tmp_path: Path) -> None:
    write_score(tmp_path, "small", "er", metrics={"acc": 31.0}, intervals={"acc": [25.5, 36.5]}, chance={"acc": 12.5})
    plan = ReportPlan(models=("small", "other"), tasks=("er", "sd"), students=())
    table = markdown_table(build_summary(gather(tmp_path, plan), plan)).splitlines()
    assert "| small | 31.00 (25.5-36.5) | not run |" in table
    assert "| other | not run | not run |" in table
    assert "| chance | 12.5 | - |" in table


def test_numbers_read_well() -> None:
    counts = {0: "0", 43_000: "43,000", 704_000: "0.70M", 5_212_000: "5.21M", 94_370_816: "94.4M", None: "not run"}
    assert {n: format_count(n) for n in counts} == counts
    assert [format_macs(n) for n in (2e6, 121e6, 7.41e9, None)] == ["2.0 M", "121 M", "7.41 G", "not run"]
    assert [format_share(x) for x in (0.0, 0.135, 1.0, 1.043, None)] == ["0 %", "13.5 %", "100 %", "104 %", "not run"]
    assert [format_seconds(s) for s in (8.26, 245, 7380)] == ["8.3 s", "4 min 5 s", "2 h 3 min"]


def test_a_task_of_the_official_protocol_is_named_with_what_departs_from_it(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    mini = page_of(tmp_path)
    assert "Mini-SUPERB score" in mini
    assert "official protocol" not in mini
    departures = {"teacher": [], "fbank": ["steps 4 instead of 200000"]}
    for model, departed in departures.items():
        write_score(tmp_path, model, "ks", protocol="official", departures=departed)
    summary, page = build_summary(gather(tmp_path, PLAN), PLAN), page_of(tmp_path)
    assert {name: summary.models[name].official for name in departures} == {
        name: {"ks": tuple(departed)} for name, departed in departures.items()
    }
    note = "Keyword spotting: SUPERB's official protocol, but steps 4 instead of 200000."
    assert note in markdown_table(summary)
    assert note.replace("'", "&#39;") in page
    assert "Lead kept" in page
    assert "Mini-SUPERB" not in page
