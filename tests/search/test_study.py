"""Creating and joining a study."""

from dataclasses import replace
from pathlib import Path

import pytest

from fithubert.errors import UserError

pytest.importorskip("optuna")

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


def test_a_missing_database_is_an_error_without_its_password() -> None:
    with pytest.raises(UserError, match="cannot be opened") as error:
        StudyPlace("a", "postgresql+psycopg://me:secret@127.0.0.1:1/none").join()
    assert "secret" not in str(error.value)
