"""A study whose database was torn: a worker killed in the middle of a write, and a file that lost its end."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from optuna import Study

from fithubert.errors import UserError
from fithubert.search.study import StudyPlace, create_study

#: Overwrites all values within a transaction whose pages have reached the file already, and is killed before its end.
_KILLED_WRITER = """
import os, sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA cache_size=1")
base.execute("BEGIN IMMEDIATE")
base.execute("UPDATE trial_values SET value = -1")
base.execute("CREATE TABLE filler (x)")
base.executemany("INSERT INTO filler VALUES (?)", [("y" * 3000,)] * 200)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    """A study with ten finished trials."""
    place = StudyPlace("a", f"sqlite:///{tmp_path / 'study.db'}")
    study, _ = create_study(place, ("pr", "params"), {"seed": 1})
    for number in range(10):
        _finish_trial(study, number)
    return place


def _finish_trial(study: Study, number: float) -> None:
    trial = study.ask()
    trial.suggest_int("depth", 1, 12)
    study.tell(trial, [number, number])


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_worker_that_is_killed_in_the_middle_of_a_write_leaves_every_finished_trial(
    place: StudyPlace, tmp_path: Path
) -> None:
    path = tmp_path / "study.db"
    before = path.stat().st_size
    subprocess.run([sys.executable, "-c", _KILLED_WRITER, str(path)], check=False)
    assert path.stat().st_size > before
    assert path.with_name("study.db-journal").exists()
    study = place.join()
    assert [trial.values for trial in study.trials] == [[n, n] for n in range(10)]
    _finish_trial(study, 10)
    assert [trial.values for trial in place.join().trials] == [[n, n] for n in range(11)]


def test_a_database_that_lost_its_end_is_named(place: StudyPlace, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"study\.db: cannot be opened .*malformed") as caught:
        place.join()
    assert "\n" not in str(caught.value)
