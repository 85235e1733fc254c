"""`fithubert plan`: arithmetic that adds up, speeds that are measured, and sources that are told apart."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fithubert.config.teacher import HubertConfig, hubert_base
from fithubert.errors import UserError
from fithubert.files import format_bytes
from fithubert.models import recipes
from fithubert.profile import budget as throughput
from fithubert.profile import plan as stage
from fithubert.profile.budget import Job, Speeds, break_even_epochs, bytes_per_hour, cost_of_cache, cost_of_live
from fithubert.profile.plan import KnownSpeeds, Plan, PlannedRun
from fithubert.store.codec import CODECS
from tests.distill.fakes import student_params

#: Encoding as fast as the teacher; reading ten times as fast as an update.
SPEEDS = Speeds(100.0, 50.0, dict.fromkeys(CODECS, 100.0), dict.fromkeys(CODECS, 500.0), 1e12)
_SPEED = st.floats(1e-2, 1e5)
_SPEEDS = st.builds(
    lambda teacher, student, encode, read, disk: Speeds(teacher, student, {"int8": encode}, {"int8": read}, disk),
    *[_SPEED] * 4,
    st.floats(1e6, 1e10),
)
_JOBS = st.builds(Job, st.floats(0.1, 1e5), st.floats(0.1, 1000), st.integers(0, 64), st.just(12), st.just(768))


def plan_run(folder: Path, *run: Any) -> Plan:
    """`plan` of hours, teacher, student, codec, gpus, epochs and, if given, known speeds."""
    return stage.plan(PlannedRun(*run[:6], folder), *run[6:])


def test_an_hour_of_hubert_base_takes_what_its_values_take() -> None:
    waveform = 2 * 16_000 * 3600
    assert bytes_per_hour("float16", 12, 768) == 180_000 * 12 * 768 * 2 + waveform  # the known 3.32 GB
    assert bytes_per_hour("int8", 12, 768) == pytest.approx(180_000 * 12 * 768 * (1 + 8 / 600) + waveform)
    assert bytes_per_hour("pca_int8", 12, 768) < 0.8 * bytes_per_hour("int8", 12, 768)
    assert bytes_per_hour("float16", 3, 768) - waveform == (bytes_per_hour("float16", 12, 768) - waveform) / 4


def test_hours_are_hand_counted_ones() -> None:
    on_gpus, on_cpu = Job(960, 100, 8, 12, 768), Job(960, 100, 0, 12, 768)
    cached, live = cost_of_cache(on_gpus, SPEEDS, "int8"), cost_of_live(on_gpus, SPEEDS)
    assert cached.extraction_hours == pytest.approx(960 / 8 * (1 / 100 + 1 / 100))  # each device writes its part
    assert cached.epoch_hours == pytest.approx(960 / 8 / 50)  # reading goes on beside the GPU
    assert live.epoch_hours == pytest.approx(960 / 8 * (1 / 100 + 1 / 50))
    assert cached.total_hours == pytest.approx(2.4 + 100 * 2.4)
    assert break_even_epochs(cached, live) == pytest.approx(2)
    assert cost_of_cache(on_cpu, SPEEDS, "int8").epoch_hours == pytest.approx(960 * (1 / 50 + 1 / 500))


def test_a_slow_disk_or_a_slow_reader_decides() -> None:
    job = Job(960, 1, 8, 12, 768)
    slow_disk = Speeds(100.0, 50.0, SPEEDS.encode, SPEEDS.read, 1e6)
    cost = cost_of_cache(job, slow_disk, "float16")
    assert cost.slowest == "the disk"
    assert cost.extraction_hours == cost.epoch_hours == pytest.approx(cost.num_bytes / 1e6 / 3600)
    slow_reader = Speeds(100.0, 50.0, SPEEDS.encode, dict.fromkeys(CODECS, 5.0), 1e12)
    cached, live = cost_of_cache(job, slow_reader, "int8"), cost_of_live(job, slow_reader)
    assert cached.slowest == "reading"
    assert cached.epoch_hours == pytest.approx(960 / 8 / 5)
    assert break_even_epochs(cached, live) == float("inf")


@given(job=_JOBS, speeds=_SPEEDS)
def test_live_takes_less_time_exactly_below_the_break_even(job: Job, speeds: Speeds) -> None:
    cached, live = cost_of_cache(job, speeds, "int8"), cost_of_live(job, speeds)
    even = break_even_epochs(cached, live)
    assert even > 0
    if job.epochs < even * (1 - 1e-6):
        assert live.total_hours < cached.total_hours
    if job.epochs > even * (1 + 1e-6):
        assert live.total_hours > cached.total_hours


@given(job=_JOBS, speeds=_SPEEDS, factor=st.integers(2, 9))
def test_twice_the_speech_takes_twice_of_everything(job: Job, speeds: Speeds, factor: int) -> None:
    more = Job(job.hours * factor, job.epochs, job.gpus, job.layers, job.width)
    for one, other in (
        (cost_of_cache(job, speeds, "int8"), cost_of_cache(more, speeds, "int8")),
        (cost_of_live(job, speeds), cost_of_live(more, speeds)),
    ):
        assert other.total_hours == pytest.approx(factor * one.total_hours)
        assert other.num_bytes == pytest.approx(factor * one.num_bytes)


def test_what_is_measured_is_there_and_leaves_nothing(tmp_path: Path) -> None:
    encode, read = throughput.measure_codecs(2, 16)
    assert encode.keys() == read.keys() == CODECS.keys()
    assert throughput.measure_disk(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []
    student = recipes.resolve("fithubert", student_params().shape)
    shape = HubertConfig(
        conv_layers=student.conv_layers, width=6, depth=3, ffn_width=8, attention_heads=2, pos_conv_groups=2
    )
    speeds = throughput.measure_models(shape, student)
    assert min(*encode.values(), *read.values(), *speeds) > 0


def test_a_clock_that_moves_on_in_steps_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.thread_time
    monkeypatch.setattr(time, "thread_time", lambda: clock() // 0.01 * 0.01)
    encode, read = throughput.measure_codecs(2, 16)
    assert min(*encode.values(), *read.values()) > 0
    assert max(*encode.values(), *read.values()) < float("inf")


def test_an_update_is_three_passes_of_two_operations_with_all_heads() -> None:
    teacher, student = throughput.count_operations(hubert_base(), recipes.fithubert())
    assert teacher == pytest.approx(2 * 7.4e9, rel=0.01)
    # The trunk alone has 1.43 GMAC, eleven more heads and their upsampling the rest.
    assert 2 * 3 * 1.43e9 < student < 2 * 3 * 2.2e9


@pytest.fixture
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "measure_codecs", lambda *_: (SPEEDS.encode, SPEEDS.read))
    monkeypatch.setattr(stage, "measure_disk", lambda _: 1e9)
    monkeypatch.setattr(stage, "measure_models", lambda *_: (100.0, 50.0))


@pytest.mark.usefixtures("_measured")
def test_what_was_measured_given_and_assumed_is_told_apart(tmp_path: Path) -> None:
    measured = plan_run(tmp_path, 960, "hubert_base", "fithubert", "int8", 0, 100)
    assert measured.sources[0].endswith("100 x real time a device (measured on this CPU, random weights)")
    assumed = plan_run(tmp_path, 960, "hubert_base", "fithubert", "int8", 8, 100, KnownSpeeds(student=700.0))
    assert "assumed, not measured: a GPU that sustains 20 TFLOP/s" in assumed.sources[0]
    assert assumed.sources[1].endswith("700 x real time a device (given)")
    assert "8 GPU(s) share the extraction and an epoch" in assumed.sources[-1]
    given = plan_run(tmp_path, 960, "hubert_base", "fithubert", "int8", 8, 100, KnownSpeeds(1e3, 1e3, 2e3))
    assert not any("assumed" in line for line in given.sources)
    assert "2,000 MB/s, shared by all ranks (given)" in given.sources[3]


@pytest.mark.usefixtures("_measured")
def test_the_verdict_follows_the_number_of_epochs(tmp_path: Path) -> None:
    known = KnownSpeeds(100.0, 50.0, 1e6)
    many = plan_run(tmp_path, 1, "hubert_base", "fithubert", "int8", 1, 100, known)
    assert many.verdict.startswith("int8 beats live from 2 epochs on: 2.02 h against 3 h for 100, for 1.8")
    few = plan_run(tmp_path, 1, "hubert_base", "fithubert", "int8", 1, 1, known)
    assert few.verdict == "live beats int8 below 2 epochs: 1.8 min against 2.4 min for 1"
    free = plan_run(tmp_path, 1, "hubert_base", "fithubert", None, 1, 100, known)
    job, speeds = Job(1, 100, 1, 12, 768), Speeds(100.0, 50.0, SPEEDS.encode, SPEEDS.read, 1e12)
    fastest = min(CODECS, key=lambda codec: cost_of_cache(job, speeds, codec).total_hours)
    assert free.verdict.startswith(f"{fastest} beats live from ")
    assert free.sources[2].startswith(f"{fastest}, 12 layers: ")
    assert [row["targets"] for row in few.rows] == [*CODECS, "live"]
    assert few.rows[1] == {
        "targets": "int8",
        "on disk": "1.8 GB",
        "extraction": "1.2 min",
        "an epoch": "1.2 min",
        "waits for": "updates",
        "1 epochs": "1.2 min",
        "in all": "2.4 min",
        "pays off after": "2 epochs",
    }


@pytest.mark.usefixtures("_measured")
def test_only_the_layers_that_the_student_learns_from_are_counted(tmp_path: Path) -> None:
    done = plan_run(tmp_path, 1, "mini", "distilhubert", "float16", 0, 1)
    assert done.rows[0]["on disk"] == format_bytes(180_000 * 3 * 192 * 2 + 2 * 16_000 * 3600)
    assert "cache.layers: [4, 8, 12]" in done.sources[4]


@pytest.mark.usefixtures("_measured")
def test_live_targets_win_wherever_reading_is_slower_than_the_teacher(tmp_path: Path) -> None:
    done = plan_run(tmp_path, 960, "hubert_base", "fithubert", "int8", 8, 100, KnownSpeeds(1e4, 1e4, 1e6))
    assert done.verdict.startswith("live beats int8 at any number of epochs, as one on int8 waits for reading: ")
    assert done.rows[1]["pays off after"] == "never"


def test_bytes_and_hours_have_the_unit_that_suits_them() -> None:
    assert [format_bytes(n) for n in (3.3e12, 1.26e9, 5e6)] == ["3.3 TB", "1.26 GB", "5 MB"]
    assert [stage.show_hours(h) for h in (60, 10, 0.5, 0.01)] == ["2.5 days", "10 h", "30 min", "36 s"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hours": -1.0}, "--hours: must be above 0"),
        ({"gpus": -1}, "--gpus: must be 0, for the CPU, or more"),
        ({"disk_speed": 0.0}, "--disk-speed: must be above 0"),
        ({"codec": "int4"}, "codec: unknown name 'int4'"),
        ({"student": "nobody"}, "recipe 'nobody'"),
        ({"teacher": "fbank"}, "fbank is no HuBERT-family teacher"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: dict, said: str) -> None:
    values = {"hours": 1.0, "teacher": "hubert_base", "student": "fithubert", "codec": "int8", "gpus": 1, "epochs": 1.0}
    values = {**values, **change}
    known = KnownSpeeds(disk=values.pop("disk_speed", None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said):
        stage.plan(PlannedRun(**values, folder=tmp_path), known)  # type: ignore[arg-type]


def test_updates_fill_four_fifths_of_a_budget_after_the_extraction_and_100_epochs_at_most() -> None:
    job = Job(10, 1, 1, 12, 768)
    live, cached = cost_of_live(job, SPEEDS), cost_of_cache(job, SPEEDS, "int8")
    # An update of 32 s takes 32 s / 100 of the teacher and 32 s / 50 of the student.
    assert throughput.fit_updates(live, 10, 1.0, 32.0) == int(0.8 * 3600 / 0.96)
    assert throughput.fit_updates(cached, 10, 1.0, 32.0) == int((0.8 - 0.2) * 3600 / 0.64)
    assert throughput.fit_updates(cached, 10, 0.2, 32.0) == 0
    assert throughput.fit_updates(live, 10, 1e4, 32.0) == 100 * 10 * 3600 / 32
