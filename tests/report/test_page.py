"""The page: sound, readable by everyone, alone on its machine, and honest about what has not run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fithubert.files import write_json
from fithubert.report.page import write_report
from tests.report.pages import PageReader, page_of, section_of
from tests.report.sample import PLAN, ablation, profile, superb, write_metrics, write_score

ROOT = Path(__file__).parents[2]
COMPARISON = {"means": {"none": 55.3, "half": 57.4}, "half_width": 1.4, "seed_deviation": 0.7, "f": 2.1, "p": 0.1}


def write_everything(reports: Path) -> None:
    write_metrics(reports)
    values = ablation({"none": 1.08, "half": 0.44}, {"pr_per": COMPARISON}, [1, 2])
    write_json(reports / "metrics" / "ablation" / "time_reduction.json", values)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_everything(folder)
    write_report(folder, PLAN)
    return folder


def test_page_needs_no_network(reports: Path) -> None:
    page = (reports / "index.html").read_text()
    reader = PageReader(page)
    assert all(target.startswith("data:") for target in reader.loads)
    assert all(target.startswith("#") for target in reader.links)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page)
    assert set(re.findall(r"https?://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert len(page) < 300_000


def test_a_teacher_of_synthetic_speech_has_a_note_on_other_corpora(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    note = "trained on synthetic speech alone: on recordings of people filter banks may score better"
    assert note not in page_of(tmp_path)
    path = tmp_path / "metrics" / "prepare.json"
    write_json(path, {**json.loads(path.read_text()), "source": "folder", "notes": ["2 recordings of 8 kHz"]})
    assert note in page_of(tmp_path)
    assert "2 recordings of 8 kHz" in section_of(page_of(tmp_path), "corpus")


def test_page_is_sound(reports: Path) -> None:
    reader = PageReader((reports / "index.html").read_text())
    assert len(set(reader.ids)) == len(reader.ids)
    assert {target.removeprefix("#") for target in reader.links} <= set(reader.ids)
    assert reader.unnamed == []
    assert reader.headings[0] == 1
    assert reader.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(reader.headings, reader.headings[1:], strict=False))


def test_page_shows_the_figures(reports: Path) -> None:
    text = " ".join(" ".join(PageReader((reports / "index.html").read_text()).text).split())
    assert "start cut teacher, reads last" in text
    assert "fithubert keeps 70 % of its teacher's lead over filter banks, with 13.5 % of the parameters" in text
    for shown in (
        "36.80",
        "35.5 to 38.2",
        "not run",
        "not scored",
        "session3/notes.wav",
        "7.41 GMAC/s",
        "Time reduction",
        "chance 100.0 8.3",
        "sweep_000 44 90.0 M 0.90M 4 96",
    ):
        assert shown in text
    assert "Intent classification is not scored: no utterance with an intent in the train split." in text


def test_every_figure_has_a_command_that_dvc_knows(reports: Path) -> None:
    page = (reports / "index.html").read_text()
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    commands = re.findall(r"Made by <code>(.*?)</code>", page)
    for command in commands:
        targets = [word.strip("'") for word in command.replace("&#39;", "'").split() if word != "--glob"]
        assert targets[:2] == ["dvc", "repro"]
        for target in targets[2:]:
            assert (ROOT / target).is_file() if "/" in target else target.partition("@")[0] in pipeline
    for section in re.findall(r"<section .*?</section>", page, re.DOTALL):
        for part in re.split(r"<h[23]>", section)[2:] if "<h3>" in section else [section]:
            drawn = re.search(r'class="(?:explorer|bars|wide)"|<figure', part)
            assert not drawn or "Made by" in part, part[:80]
    pictures = re.findall(r"<code>figures/(.*?)</code>", page)
    assert set(pictures) == {path.name for path in (reports / "figures").glob("*.png")}


def test_pictures_are_small_and_carry_no_date(reports: Path) -> None:
    for path in (reports / "figures").glob("*.png"):
        content = path.read_bytes()
        assert len(content) < 120_000
        assert not re.search(rb"tEXt|iTXt|zTXt|tIME|eXIf", content)


@pytest.mark.parametrize(
    ("stage", "sections"),
    [
        ("prepare", ("corpus",)),
        ("teacher", ("layers",)),
        ("cache", ("corpus",)),
        ("profile", ("quality-cost", "cost")),
        ("distill", ("training",)),
        ("superb", ("quality-cost", "scores", "layers")),
        ("ablation", ("ablation",)),
        ("sweep", ("sweep",)),
    ],
)
def test_a_stage_that_has_not_run_is_said_to_be_missing(stage: str, sections: tuple[str, ...], tmp_path: Path) -> None:
    write_everything(tmp_path)
    before = page_of(tmp_path)
    for path in [tmp_path / f"metrics/{stage}.json", *(tmp_path / "metrics" / stage).glob("*.json")]:
        path.unlink(missing_ok=True)
    page = page_of(tmp_path)
    for name in sections:
        text = section_of(page, name)
        assert text.count("not run") > section_of(before, name).count("not run")
        assert "dvc repro" in text
        assert not re.search(r"(?<![\d.])0(?:\.0+)? ?[%M]|nan|None", text.replace("0 % are", ""))


@pytest.mark.parametrize(
    ("file", "section", "row"),
    [
        ("distill/fithubert.json", "training", "fithubert not run : dvc repro distill@fithubert"),
        ("ablation/time_reduction.json", "ablation", "not run : dvc repro ablation@time_reduction"),
        ("sweep.json", "sweep", "not run : dvc repro experiments/width_depth/dvc.yaml"),
        (None, "scores", "teacher 22.70 21.4\N{EN DASH}24.1 95.10 93.8\N{EN DASH}96.5 not run"),
    ],
)
def test_one_missing_file_or_score_leaves_one_gap(file: str | None, section: str, row: str, tmp_path: Path) -> None:
    write_everything(tmp_path)
    assert row not in section_of(page_of(tmp_path), section)
    if file is None:
        write_score(tmp_path, "teacher", "sid")
    else:
        (tmp_path / "metrics" / file).unlink()
    assert row in section_of(page_of(tmp_path), section)


def test_text_stands_out_from_its_ground_in_both_schemes() -> None:
    """WCAG 2.1, contrast of at least 4.5 to 1."""
    style = (ROOT / "fithubert/report/assets/page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\n\s*\}", style, re.DOTALL)
    for scheme in (light, light + dark):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for text in ("ink", "soft", "quiet", "accent", *(f"hue-{index}" for index in range(6))):
            for ground in ("ground", "card"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(text: str, ground: str) -> float:
    darker, lighter = sorted(luminance(colour) for colour in (text, ground))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def change(path: Path, **values: object) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


def test_a_student_that_was_hardly_trained_is_not_judged(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    change(tmp_path / "metrics" / "distill" / "fithubert.json", updates=30)
    text = " ".join(" ".join(PageReader(page_of(tmp_path)).text).split())
    assert "The budgets of this run are too small to judge: fithubert was trained for 30 updates." in text
    assert "Mini-SUPERB score too few updates to judge" in text
    assert "fithubert keeps" not in text


def test_a_missing_figure_has_its_true_reason(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    for task in ("pr", "ks", "sid"):
        write_score(tmp_path, "teacher", task, **(superb("fbank", task) | {"model": "teacher"}))
    change(tmp_path / "metrics" / "teacher.json", probe=None)
    change(tmp_path / "metrics" / "profile.json", paper_size=None)
    page = page_of(tmp_path)
    assert "no clear lead to keep" in page
    assert "the teacher is not better: filter banks" in page
    assert "The corpus has no phones, so the teacher was not probed." in section_of(page, "layers")
    assert "Not requested: profile.paper_size is false." in section_of(page, "cost")
    assert "not run" not in section_of(page, "layers")


def test_the_headline_compares_with_the_best_control(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    plan = replace(PLAN, controls=("teacher_cut2", "teacher_last"))
    for name, per in (("teacher_cut2", 39.0), ("teacher_last", 48.0)):
        write_score(tmp_path, name, "pr", **superb("fbank", "pr") | {"metrics": {"per": per}})
    page = page_of(tmp_path, plan)
    sentence = r"Its PER is 2\.2 points better \(1\.\d to 3\.\d\) than that of teacher_cut2, which needs no training\."
    assert re.search(sentence, page)
    gate = "The teacher's first states (0 to 2) have a phone error rate of 39.0".replace("The", "the")
    assert gate in section_of(page, "layers").replace("\N{NO-BREAK SPACE}", " ")
    assert "a gate of 16.3 points" in section_of(page, "layers")
    scores = section_of(page, "scores")
    assert "Differences to teacher" in scores
    assert "Differences to fithubert" in scores
    assert "▼ +2.2" in scores
    write_score(tmp_path, "teacher_cut2", "pr", metrics={"per": 30.0})
    assert re.search(
        r"Its PER is 6\.8 points worse \(\d\.\d to \d\.\d\) than that of teacher_cut2", page_of(tmp_path, plan)
    )


def test_a_control_that_costs_as_much_as_the_teacher_is_not_the_shallow_one(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    costs = profile()
    for name, share in (("teacher_cut2", 0.3), ("teacher_last", 1.0)):
        macs = share * costs["models"]["teacher"]["macs_per_second"]
        costs["models"][name] = costs["models"]["teacher"] | {"macs_per_second": macs}
        per = {"teacher_cut2": 39.0, "teacher_last": 20.0}[name]
        write_score(tmp_path, name, "pr", **superb("fbank", "pr") | {"metrics": {"per": per}})
    write_json(tmp_path / "metrics" / "profile.json", costs)
    page = page_of(tmp_path, replace(PLAN, controls=("teacher_cut2", "teacher_last")))
    assert re.search(r"than that of teacher_cut2, which needs no training\.", page)


def test_without_dvc_the_page_names_commands_of_fithubert(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    for file in ("distill/fithubert.json", "sweep.json"):
        (tmp_path / "metrics" / file).unlink()
    page = page_of(tmp_path, replace(PLAN, dvc=False)).split('<section id="reproduce">')[0]
    commands = set(re.findall(r"<code>(\w[^<]*)</code>", page))
    assert {"fithubert report", "fithubert distill fithubert", "fithubert superb MODEL"} <= commands
    assert {"fithubert profile", "fithubert sweep", "fithubert ablation time_reduction"} <= commands
    assert "dvc" not in page.split("</style>")[1]
