"""Records read the metrics files of all stages and write them back unchanged."""

import json
from pathlib import Path

import pytest

from fithubert.errors import UserError
from fithubert.records import (
    AblationMetrics,
    CacheMetrics,
    CurvePoint,
    DistillMetrics,
    ExtractMetrics,
    Head,
    ModelScores,
    PrepareMetrics,
    ProfileMetrics,
    Record,
    SuperbMetrics,
    SweepMetrics,
    TeacherMetrics,
    label_heads,
    parse_head,
)
from tests.report.sample import sweep

METRICS = Path(__file__).parents[1] / "reports" / "metrics"
KINDS: dict[str, type[Record]] = {
    "prepare.json": PrepareMetrics,
    "teacher.json": TeacherMetrics,
    "cache.json": CacheMetrics,
    "profile.json": ProfileMetrics,
    "extract/*.json": ExtractMetrics,
    "superb/*.json": ModelScores,
    "ablation/*.json": AblationMetrics,
}
POINT = {"update": 5, "audio_seconds": 1.0, "seconds": 2.0, "train_loss": 0.5, "dev_loss": 0.4}


@pytest.mark.parametrize(("files", "kind"), KINDS.items())
def test_a_metrics_file_is_read_and_written_unchanged(files: str, kind: type[Record], tmp_path: Path) -> None:
    found = sorted(METRICS.glob(files))
    assert found
    for path in found:
        kind.read(path).write(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_text() == path.read_text()


def test_a_sweep_is_read_and_written_unchanged() -> None:
    assert SweepMetrics.from_json(sweep()).to_json() == sweep()


def test_the_committed_students_are_read() -> None:
    for path in sorted((METRICS / "distill").glob("*.json")):
        values = json.loads(path.read_text())
        written = DistillMetrics.read(path).to_json()
        assert {k: v for k, v in written.items() if k != "curve"} == {k: v for k, v in values.items() if k != "curve"}
        assert [point["dev_loss"] for point in written["curve"]] == [point["dev_loss"] for point in values["curve"]]


def test_a_head_is_a_pair_and_old_files_name_the_teacher_layer_alone() -> None:
    point = CurvePoint.from_json({**POINT, "layer_losses": {"1-6": 0.1, "2-6": 0.2, "12": 0.3}})
    assert list(point.layer_losses) == [Head(1, 6), Head(2, 6), Head(12, 12)]
    assert point.to_json()["layer_losses"] == {"1-6": 0.1, "2-6": 0.2, "12-12": 0.3}
    labels = label_heads(point.layer_losses)
    assert list(labels.values()) == ["layer 6 from student layer 1", "layer 6 from student layer 2", "layer 12"]
    with pytest.raises(ValueError, match="invalid literal"):
        parse_head("last")


def test_a_task_that_could_not_be_scored_has_a_reason_and_nothing_else() -> None:
    values = {"task": "ic", "model": "fbank", "metrics": {}, "reason": "no intents"}
    assert SuperbMetrics.from_json(values).to_json() == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"teacher\.json: must hold one JSON object; run the stage"),
        ('{"source": "mini"}', r"teacher\.json: name: field required; run the stage that writes it again"),
        ("{", r"teacher\.json: not readable as JSON"),
    ],
)
def test_a_broken_file_is_named_with_its_field(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "teacher.json").write_text(text)
    with pytest.raises(UserError, match=message):
        TeacherMetrics.read(tmp_path / "teacher.json")
