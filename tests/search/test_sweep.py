"""Studies that workers share: limits, killed workers, interrupts, databases."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Engine, event
from torch.utils._python_dispatch import TorchDispatchMode

from fithubert.config.search import SpaceParams, SweepParams
from fithubert.config.students import StudentParams
from fithubert.errors import UserError
from fithubert.search.front import read_result
from fithubert.search.space import Limits, count_costs
from fithubert.search.study import Search, counts, first_number, read_curve
from fithubert.search.sweep import Pool, Worker, run_workers
from fithubert.search.trial import StoppingRule
from tests.search.fakes import SPEED, STUDENT, FakeTrials, make_search, wait_for, with_trials

pytest.importorskip("optuna")
POOL = Pool(workers=2, threads=1, poll_seconds=0.1)


def work(search: Search, **options: Any) -> None:
    Worker(search, FakeTrials(search.folder).open, poll_seconds=0.1, **options).run()


def trained(search: Search) -> list[int]:
    """The numbers of the trials that count."""
    return [trial.number for trial in search.place.join().get_trials(deepcopy=False) if counts(trial)]


def check_consistent(search: Search) -> None:
    """The study has the requested number of trials, all of different shapes, and none is left running or waiting."""
    trials = search.place.join().get_trials(deepcopy=False)
    done = [t for t in trials if counts(t)]
    assert len(done) == search.settings.trials
    assert len({t.user_attrs["shape"] for t in done}) == len(done)
    assert not [t for t in trials if t.state.name in ("RUNNING", "WAITING")]


def kill_the_hanging_worker(folder: Path) -> None:
    wait_for(lambda: (folder / "pid").exists() and bool((folder / "pid").read_text()))
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def check_one_was_retried(search: Search) -> None:
    """One trial was lost and tried again with the same shape, from its checkpoint."""
    trials = search.place.join().get_trials(deepcopy=False)
    [again] = [t for t in trials if first_number(t) != t.number]
    lost = trials[first_number(again)]
    assert lost.state.name == "FAIL"
    assert counts(again)
    assert again.params == lost.params
    assert set(read_curve(lost)) == {25}
    assert read_curve(again)[25] == read_curve(lost)[25]


@pytest.fixture
def default_interrupts() -> Iterator[None]:
    """A shell starts background processes with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_study_is_continued(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=4)
    work(search)
    first = trained(search)
    work(with_trials(search, 7))
    assert trained(search)[:4] == first
    assert len(trained(search)) == 7
    work(search)  # there are enough
    assert len(trained(search)) == 7


@pytest.mark.slow
def test_two_workers_share_a_study(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=12)
    run_workers(search, FakeTrials(tmp_path, seconds=0.2).open, POOL)
    check_consistent(search)
    assert len({t.user_attrs["worker"] for t in search.place.join().trials if counts(t)}) == 2


@pytest.mark.slow
def test_a_killed_worker_loses_only_its_trial_which_is_retried(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=6)
    threading.Thread(target=kill_the_hanging_worker, args=(tmp_path,), daemon=True).start()
    run_workers(search, FakeTrials(tmp_path, hang=True).open, POOL)
    check_consistent(search)
    check_one_was_retried(search)


@pytest.mark.slow
def test_an_interrupt_keeps_finished_trials_and_queues_the_others(tmp_path: Path, default_interrupts: None) -> None:
    search = make_search(tmp_path, trials=30)

    def interrupt() -> None:
        wait_for(lambda: len(trained(search)) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_workers(search, FakeTrials(tmp_path, seconds=1.0).open, POOL)
    done = len(trained(search))
    assert 2 <= done < 30
    states = [t.state.name for t in search.place.join().trials]
    assert "RUNNING" not in states
    assert "WAITING" in states
    search = with_trials(search, done + 3)
    run_workers(search, FakeTrials(tmp_path).open, replace(POOL, workers=1))
    check_consistent(search)


def test_a_worker_whose_trial_was_given_up_continues(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=2)

    def suspended() -> Any:
        fake = FakeTrials(tmp_path).open()

        def run(name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
            study = search.place.join()
            [running] = [t for t in study.trials if t.state.name == "RUNNING"]
            if running.number == 0:
                study.tell(0, state=type(running.state).FAIL)
            return fake(name, student, folder, rule)

        return run

    Worker(search, suspended, poll_seconds=0.1).run()
    check_consistent(search)


class _Allocations(TorchDispatchMode):
    """Counts the numbers for which tensors allocate memory."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type != "meta":
            self.numbers += made.numel()
        return made


def test_a_hundred_infeasible_shapes_cost_little_and_are_neither_built_nor_stored(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=1, limits=Limits(params=1))
    worker = Worker(search, lambda: pytest.fail("opened"), attempts=100)
    count_costs(STUDENT, SPEED)  # the first count imports parts of torch
    begun = time.process_time()
    with _Allocations() as built, pytest.raises(UserError, match=r"100 shapes in a row .* above the limits"):
        worker.run()
    assert time.process_time() - begun < 20
    # One of them has hundreds of thousands of parameters.
    assert built.numbers < 1000
    assert trained(search) == []
    assert len(search.place.join().trials) == 1


def test_a_first_shape_above_a_limit_is_refused_and_the_others_are_drawn_within_it(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=3, limits=Limits(params=600_000))
    largest = {
        name: max(values) for name, values in SpaceParams().choices.items() if name not in ("time_reduction", "readout")
    }
    first = {**largest, "time_reduction": "none", "readout": "projections"}
    search.place.join().enqueue_trial(first)
    work(search)
    assert trained(search) == [1, 2, 3]
    check_consistent(search)


def test_limits_hold_and_an_exhausted_space_is_an_error(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=8, limits=Limits(params=900_000))
    work(search)
    assert all(point.metrics["params"] <= 900_000 for point in read_result(search.place.join()).points)
    one = SpaceParams(**{name: values[:1] for name, values in SpaceParams().choices.items()})
    other = make_search(tmp_path / "b", trials=2, settings=SweepParams(trials=2, space=one))
    with pytest.raises(UserError, match="widen"):
        work(other, attempts=20)
    assert len(trained(other)) == 1


def test_a_study_of_settings_keeps_the_shape(tmp_path: Path) -> None:
    keys = {
        "hints.normalise": [False, True],
        "hints.losses": [{"mse": 1.0}, {"gram": 1.0}],
        "distill.learning_rate": [1e-3],
    }
    search = make_search(tmp_path, trials=4, settings=SweepParams(trials=4, space=SpaceParams.model_validate(keys)))
    work(search)
    check_consistent(search)
    students = [trial.user_attrs["student"] for trial in search.place.join().trials]
    assert all(student["shape"] == STUDENT.shape for student in students)
    hints = [student.get("hints", {}) for student in students]
    assert sorted((each.get("normalise", False), "gram" in each.get("losses", {})) for each in hints) == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert {student["learning_rate"] for student in students} == {1e-3}


def test_a_full_disk_is_one_line_and_the_study_continues_on_a_disk_with_room(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=3)

    def fill(connection: sqlite3.Connection, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "connect", fill)
    try:
        with pytest.raises(UserError, match=r"database failed \(.*full\).* the same command continues"):
            work(replace(search, settings=search.settings.model_copy(update={"trials": 1000})))
    finally:
        event.remove(Engine, "connect", fill)
    search = with_trials(search, len(trained(search)) + 2)
    work(search)
    check_consistent(search)


def test_failed_trials_in_a_row_end_a_worker(tmp_path: Path) -> None:
    def fail(name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
        raise UserError("diverged")

    search = make_search(tmp_path, trials=5)
    with pytest.raises(UserError, match="3 trials in a row failed, the last with: diverged"):
        Worker(search, lambda: fail).run()


def test_an_objective_that_the_corpus_cannot_score_ends_the_sweep_after_one_trial(tmp_path: Path) -> None:
    names = []

    def score_nothing(name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
        names.append(name)
        return {}

    with pytest.raises(UserError, match=r"^sweep: a trial has no pr; score it with labels, or give"):
        Worker(make_search(tmp_path, trials=5), lambda: score_nothing).run()
    assert len(names) == 1


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The URL of a private PostgreSQL cluster on a local port."""
    pytest.importorskip("psycopg")
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        pytest.skip("PostgreSQL's initdb is not installed")
    binaries = Path(found).resolve().parent
    data = tmp_path / "pg"
    as_user: list[str] = []
    if os.getuid() == 0:
        # PostgreSQL refuses to run as root.
        if subprocess.run(["id", "postgres"], capture_output=True).returncode or not shutil.which("runuser"):
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres to run it")
        as_user = ["runuser", "-u", "postgres", "--"]
        data = Path(subprocess.check_output([*as_user, "mktemp", "-d"], text=True).strip()) / "pg"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    control = [*as_user, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    for command in (
        [*as_user, str(binaries / "initdb"), "-D", str(data), "-U", "sweep", "-A", "trust", "--no-sync"],
        [*control, "-l", str(data.parent / "log"), "-o", options, "start"],
    ):
        subprocess.run(command, check=True, capture_output=True, cwd="/")
    try:
        yield f"postgresql+psycopg://sweep@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
        if as_user:
            shutil.rmtree(data.parent)


@pytest.mark.slow
def test_postgresql_with_a_killed_worker_ends_consistent(tmp_path: Path, postgres: str) -> None:
    search = make_search(tmp_path, trials=5, url=postgres)
    threading.Thread(target=kill_the_hanging_worker, args=(tmp_path,), daemon=True).start()
    run_workers(search, FakeTrials(tmp_path, hang=True).open, POOL)
    check_consistent(search)
    check_one_was_retried(search)
