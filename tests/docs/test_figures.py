"""Figures in README and docs are those of committed metrics files."""

import json

import pytest

from fithubert.config.params import load_params
from fithubert.records import AblationMetrics, Summary, load_summary
from tests.docs.fences import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SUMMARY = ROOT / "reports" / "summary.json"
README = " ".join(TEXT.split())
#: First cell -> the others of its row in a table of README.
_CELLS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.startswith("|")]
ROWS = {first.split("`")[1] if "`" in first else first: others for first, *others in _CELLS}


@pytest.fixture(scope="module")
def summary() -> Summary:
    return load_summary(SUMMARY)


@pytest.mark.parametrize("name", [name for name in ROWS if name in load_summary(SUMMARY).models])
def test_the_table_of_results_is_the_recorded_one(summary: Summary, name: str) -> None:
    model, (parameters, macs, per, kept) = summary.models[name], ROWS[name]
    assert parameters == (f"{model.params.total / 1e6:.2f}M" if model.params and model.params.total else "")
    assert macs == (f"{(model.macs_per_second or 0) / 1e6:.0f}" if model.macs_per_second else "")
    assert per == f"{model.score('pr', 'per'):.1f} ({' to '.join(f'{end:.1f}' for end in model.ci['pr']['per'])})"
    share = summary.kept.get(name)
    assert kept == (f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})" if share else "")


def test_the_table_names_controls_and_students(summary: Summary) -> None:
    students = load_params(ROOT / "params.yaml").students
    assert {*summary.controls, "teacher", "fbank", *students} <= set(ROWS)


def test_the_card_of_the_packaged_student_has_the_recorded_scores(summary: Summary) -> None:
    card = (ROOT / "fithubert/pretrained/fithubert/MODEL_CARD.md").read_text(encoding="utf-8")
    scores = summary.models["fithubert"].superb
    per, ks, sid = (f"{scores[task][name]:.1f} %" for task, name in (("pr", "per"), ("ks", "acc"), ("sid", "acc")))
    wanted = f"PR {per} PER, KS {ks} accuracy, SID {sid} accuracy"
    assert wanted in " ".join(card.split())


@pytest.mark.parametrize("name", ["distilhubert", "teacher_cut2"])
def test_the_differences_are_the_recorded_ones(summary: Summary, name: str) -> None:
    """Of PER and of the share kept, with their intervals and p values, in points."""
    for task in ("pr", "all"):
        (pair,) = [of for of in summary.paired if (of.task, of.model, of.against) == (task, name, "fithubert")]
        p = "p < 0.001" if pair.p_holm < 0.001 else f"p = {pair.p_holm:.2g}"
        assert f"{pair.difference:+.1f} ({pair.low:.1f} to {pair.high:.1f}, {p})" in README


def test_the_figures_of_the_recommended_student_are_the_recorded_ones() -> None:
    record = load_summary(ROOT / "reports" / "record" / "embedded" / "summary.json")

    def describe(name: str) -> tuple[str, str]:
        share = record.kept[name]
        kept = f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"
        return f"{record.models[name].superb['pr']['per']:.1f}", kept

    per, kept = describe("fithubert_late")
    assert f"its PER is {per} and it keeps {kept}" in README
    pairs = {of.task: of for of in record.paired if (of.model, of.against) == ("fithubert", "fithubert_late")}
    per_pair, kept_pair = pairs["pr"], pairs["all"]
    assert f"its PER is {per_pair.difference:.1f} ({per_pair.low:.1f} to {per_pair.high:.1f}) lower" in README
    assert f"kept {-kept_pair.difference:.1f} ({-kept_pair.high:.1f} to {-kept_pair.low:.1f}) higher" in README
    others = {name: describe(name) for name in ("dphubert", "half_width", "armhubert_s", "starhubert")}
    assert "has a PER of {} and keeps {},".format(*others["dphubert"]) in README
    for name in ("half_width", "armhubert_s", "starhubert"):
        assert "{} and {}".format(*others[name]) in README
    students = " ".join((ROOT / "docs" / "students.md").read_text(encoding="utf-8").split())
    assert (
        f"a PER that is {per_pair.difference:.1f} points lower, and keeps {-kept_pair.difference:.0f} points"
        in students
    )
    beside = {of.model: of for of in record.paired if (of.against, of.task) == ("fithubert_late", "all")}
    assert min(beside[name].p_holm for name in others) >= 0.05


def test_the_ablation_of_the_parts_is_the_recorded_one() -> None:
    found = AblationMetrics.read(ROOT / "experiments" / "recipe" / "parts.json")
    per, sid = (found.comparisons[name].means for name in ("pr_per", "sid_acc"))
    page = " ".join((ROOT / "docs" / "students.md").read_text(encoding="utf-8").split())
    late, heads = per["first_layer"] - per["whole"], per["last_head"] - per["whole"]
    assert f"the late time reduction costs {late:.1f} points of PER, the three heads {heads:.1f} of PER" in page
    assert f"and {sid['whole'] - sid['last_head']:.0f} of SID accuracy" in page
    assert f"in their place are {sid['convolutions'] - sid['whole']:.1f} points better in SID" in page


def test_the_tasks_that_do_not_count_are_the_recorded_ones(summary: Summary) -> None:
    skipped = " and ".join(sorted(task.upper() for task in summary.lead.skipped))
    assert (skipped or "the mean over all ten tasks") in README


def test_the_ablation_of_time_reduction_is_the_recorded_one() -> None:
    metrics = AblationMetrics.read(ROOT / "reports" / "metrics" / "ablation" / "time_reduction.json")
    per = {name: f"{value:.1f}" for name, value in metrics.comparisons["pr_per"].means.items()}
    middle, x2, mean, x4 = (per[name] for name in ("conv1d_x2_middle", "conv1d_x2", "mean_x2", "conv1d_x4"))
    assert (
        f"none {per['none']}, convolution by 2 before layer 6 {middle}, before the first layer (the paper) {x2}"
        in README
    )
    assert f"averaging by 2 {mean}, convolution by 4 {x4}" in README
    page = " ".join((ROOT / "docs" / "students.md").read_text(encoding="utf-8").split())
    assert f"the mean PER is {per['none']} without time reduction, {middle} with the convolution before layer 6" in page
    assert f"{x2} before the first layer (the paper), and {x4} with a factor of 4" in page


def test_the_times_at_full_size_are_the_recorded_ones(summary: Summary) -> None:
    full = {name: f"{100 * (cost.latency_ratio or 0):.1f} %" for name, cost in summary.paper_size.items()}
    assert f"FitHuBERT takes {full['fithubert']} of HuBERT Base's time" in README
    for name in ("fithubert_lite", "fithubert_mel"):
        assert f"`{name}` {full[name]}" in README
    assert f"DistilHuBERT {full['distilhubert']}." in README


def test_the_depth_gate_in_the_docs_is_the_recorded_one(summary: Summary) -> None:
    gate = summary.depth_gate
    assert gate is not None
    evidence, teachers, card = (
        " ".join((ROOT / path).read_text(encoding="utf-8").split())
        for path in ("docs/evidence.md", "docs/teachers.md", "fithubert/pretrained/mini/MODEL_CARD.md")
    )
    assert f"has {gate.points:.1f} points on test" in evidence
    for page in (teachers, card):
        assert f"is {gate.per_all:.1f} from all states and {gate.per_first_two:.1f} from the first three" in page
    sid = {name: f"{summary.models[name].superb['sid']['acc']:.1f} %" for name in ("teacher", "fbank")}
    assert f"names {sid['teacher']} of 48 speakers, filter banks {sid['fbank']}" in card


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
