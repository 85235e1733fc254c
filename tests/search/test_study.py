"""Creating and joining a study; its front and its files."""

import itertools
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fithubert.config.base import validate
from fithubert.config.students import StudentParams
from fithubert.errors import UserError
from fithubert.records import SweepMetrics
from fithubert.search.front import FILES, contributions, hypervolume, write_result
from fithubert.search.study import StudyPlace, create_study
from fithubert.search.sweep import Worker
from tests.search.fakes import FakeTrials, make_search


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    place = StudyPlace("a", f"sqlite:///{tmp_path}/new/study.db")
    objectives = ("pr", "params")
    assert create_study(place, objectives, {"seed": 1, "trials": 5})[1]
    assert not create_study(place, objectives, {"seed": 1, "trials": 9})[1]
    with pytest.raises(UserError, match="another seed"):
        create_study(place, objectives, {"seed": 2, "trials": 5})
    with pytest.raises(UserError, match="which has a"):
        replace(place, name="b").join()


def test_a_study_whose_maker_was_killed_is_set_up_again(tmp_path: Path) -> None:
    place = StudyPlace("a", f"sqlite:///{tmp_path}/study.db")
    first = {"depth": 2}

    def killed() -> dict[str, float]:
        optuna.create_study(study_name="a", storage=place.open_storage(), directions=["minimize", "minimize"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_study(place, ("pr", "params"), {"seed": 1}, first, killed)
    with pytest.raises(UserError, match="other objectives"):
        create_study(place, ("ks", "params"), {"seed": 1}, wait_seconds=0)
    study, made = create_study(place, ("pr", "params"), {"seed": 1}, first, lambda: {"speed": 2.0}, wait_seconds=0)
    assert made
    assert (study.user_attrs, study.metric_names) == ({"settings": {"seed": 1}, "speed": 2.0}, ["pr", "params"])
    assert [trial.state.name for trial in study.trials] == ["WAITING"]
    assert not create_study(place, ("pr", "params"), {"seed": 1})[1]


def test_a_missing_database_is_an_error_without_its_password() -> None:
    with pytest.raises(UserError, match="cannot be opened") as error:
        StudyPlace("a", "postgresql+psycopg://me:secret@127.0.0.1:1/none").join()
    assert "secret" not in str(error.value)


pytest.importorskip("optuna")
points_of = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.tuples(*[st.integers(0, 6).map(float)] * n), min_size=1, max_size=8)
)


@given(points_of)
def test_hypervolume_is_the_number_of_dominated_unit_cells(points: list[tuple[float, ...]]) -> None:
    size = 7
    cells = itertools.product(range(size), repeat=len(points[0]))
    expected = sum(any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in points) for cell in cells)
    reference = [float(size)] * len(points[0])
    assert hypervolume(points, reference) == pytest.approx(expected)
    gains = contributions(points, reference)
    assert all(gain >= -1e-9 for gain in gains)
    assert all(gain == pytest.approx(0) for i, gain in enumerate(gains) if _is_dominated(points, i))


def _is_dominated(points: list[tuple[float, ...]], index: int) -> bool:
    """Whether another point is at least as good in everything and better in something."""
    point = points[index]
    return any(other != point and all(x <= y for x, y in zip(other, point, strict=True)) for other in points)


def test_files_of_a_study(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=10)
    Worker(search, FakeTrials(tmp_path).open).run()
    result = write_result(search.place.join(), tmp_path / "out", tmp_path / "sweep.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    points = [(point.values["pr"], point.values["macs_per_second"]) for point in result.finished]
    best = {point.name for i, point in enumerate(result.finished) if not _is_dominated(points, i)}
    entries = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert {point.name for point in result.front} == set(entries) == best
    for name, entry in entries.items():
        validate(StudentParams, entry, name)
    page = (tmp_path / "out" / "front.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert all(point.name in page for point in result.points)
    table = (tmp_path / "out" / "front.csv").read_text().splitlines()
    assert len(table) == 11
    assert table[0].startswith("trial,state,front,depth,width")
    assert SweepMetrics.read(tmp_path / "sweep.json") == result
    assert (result.study, result.objectives) == ("s", ("pr", "macs_per_second"))
    costs = [point.values["macs_per_second"] for point in result.front]
    assert costs == sorted(costs)


def test_a_study_without_trials_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished trial"):
        write_result(make_search(tmp_path).place.join(), tmp_path / "out", tmp_path / "sweep.json")
