"""Lines on a log, one line on a terminal: short, never silent for long, no estimate before enough is measured."""

import io
from collections.abc import Iterator

import pytest

from fithubert.models.weights import ParameterCounts
from fithubert.records import Head
from fithubert.training.events import CutAdvanced, Evaluated, StepDone, TrainingEnded, TrainingStarted
from fithubert.training.progress import ProgressLines, progress_line

HEADS = {Head(1, 1): 0.25, Head(2, 12): 0.5}


def step(update: int, seconds: float = 2.0) -> StepDone:
    return StepDone(update, 0, 0.5, HEADS, 1e-3, 1.0, 40.0, 10 * seconds, seconds, seconds / 4)


def show(listener: ProgressLines, updates: Iterator[int] | range, heads: dict[Head, float] = HEADS) -> None:
    """A training of 200 updates from `updates` on; the first is slow."""
    counts = ParameterCounts(1_000_000, 300_000, 200_000, 0)
    listener.on_start(TrainingStarted(200, 100, counts, 10, 3600.0, 2, 90.0, "cpu", "32-true", 1, 7))
    listener.on_evaluation(Evaluated(0, 0.0, 0.0, None, 2.0, {Head(2, 12): 2.0}, True))
    for update in updates:
        listener.on_step(step(update, 60.0 if update == 101 else 2.0))
    listener.on_evaluation(Evaluated(110, 40.0, 4.0, 0.5, 0.25, heads, True))
    listener.on_end(TrainingEnded("early_stop", 110, 110, 0.25, 0.5, 66.0, 0.25, ()))


def test_progress_lines_show_the_training_and_its_end() -> None:
    stream = io.StringIO()
    show(ProgressLines("thin", stream, lines=100), range(101, 111))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "thin: 1.00 M trunk + 0.30 M read-out + 0.20 M training-only parameters"
    assert lines[1] == "thin: 200 updates on 1.00 h, dev 1.5 min, 1 x cpu, 32-true, seed 7"
    assert lines[2] == "thin: resumed at update 100"
    assert lines[3:5] == ["thin: update 0 dev loss 2 (best)", "thin: heads 2-12:2"]
    # No estimate from the slow first updates.
    assert lines[5] == "thin: update 102/200 loss 0.5 dev 2, 10.0 s audio/s, 25% waiting"
    assert lines[-6] == "thin: update 108/200 loss 0.5 dev 2, 10.0 s audio/s, 25% waiting, 3:04 left"
    assert lines[-4:] == [
        "thin: update 110 dev loss 0.25 (best), train loss 0.5",
        "thin: heads 1-1:0.25 2-12:0.5",
        "thin: early stop after 110 updates, 0.50 h of audio, 1:06 (25.0% waiting)",
        "thin: best dev loss 0.25 at update 110",
    ]


def test_a_cut_has_a_line_at_once_and_then_one_for_each_part_that_is_slow() -> None:
    stream, now = io.StringIO(), [0.0]
    listener = ProgressLines("distill student", stream, clock=lambda: now[0])
    for done in range(21):
        listener.on_cut(CutAdvanced(done, 20))
        now[0] += 12.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "distill student: cut from the teacher:   0% (0:00)  part 0 of 20"
    assert lines[1] == "distill student: cut from the teacher:   5% (0:12)  part 1 of 20"
    assert lines[-1] == "distill student: cut from the teacher: 100% (4:00)  part 20 of 20"
    assert len(lines) == 21
    assert max(map(len, lines)) <= 100


def test_many_heads_are_the_lowest_and_the_highest_and_no_line_is_long() -> None:
    stream = io.StringIO()
    heads = {Head(layer, layer): layer / 70 for layer in range(1, 25)}
    show(ProgressLines("distill fithubert_notr", stream, lines=1000), range(101, 111), heads)
    lines = stream.getvalue().splitlines()
    assert "distill fithubert_notr: 24 heads, from 1-1:0.0143 (lowest) to 24-24:0.343 (highest)" in lines
    assert max(map(len, lines)) <= 100


def test_slow_updates_print_a_line_each() -> None:
    times = iter(range(0, 100_000, 11))
    stream = io.StringIO()
    show(ProgressLines("thin", stream, lines=1, clock=lambda: next(times)), range(101, 111))
    assert sum("/200" in line for line in stream.getvalue().splitlines()) == 10


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_keeps_evaluations_and_rewrites_one_line_of_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = _Terminal()
    show(ProgressLines("thin", terminal), range(101, 111))
    rewritten = [line for line in terminal.getvalue().split("\r\x1b[K") if line and not line.endswith("\n")]
    assert [line[:21] for line in rewritten] == [f"thin: update {update}/200 " for update in range(101, 111)]
    assert all(len(line) == 39 for line in rewritten)
    for text in ("thin: early stop after 110 updates", "dev loss 0.25", "heads 1-1:0.25 2-12:0.5"):
        assert text in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.5, ["x:   1% (0:00)", "x:  50% (0:01)", "x: 100% (0:02)"]),
        (12.0, ["x:   1% (0:12)", "x:  20% (0:24, 1:36 left)", "x:  50% (0:36, 0:36 left)", "x: 100% (0:48)"]),
    ],
)
def test_a_line_of_work_estimates_only_what_was_measured(seconds: float, expected: list[str]) -> None:
    stream, now = io.StringIO(), [0.0]
    line = progress_line("x", stream, clock=lambda: now[0])
    for done in (0.01, 0.2, 0.5, 1.0) if seconds > 1 else (0.01, 0.5, 1.0):
        now[0] += seconds
        line(done, 1.0)
    assert stream.getvalue().splitlines() == expected
