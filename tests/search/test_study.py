"""Creating and joining a study."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from fithubert.errors import UserError
from fithubert.search.study import StudyPlace, create_study


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
