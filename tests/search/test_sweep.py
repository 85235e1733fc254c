"""Studies that workers share: limits, killed workers, interrupts, databases."""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fithubert.config.students import StudentParams
from fithubert.config.sweep import SpaceParams, SweepParams
from fithubert.errors import UserError
from fithubert.search.space import Limits
from fithubert.search.study import Search, counts, first_number, read_curve, read_rows
from fithubert.search.sweep import Pool, Worker, run_workers
from fithubert.search.trial import StoppingRule
from tests.search.fakes import FakeTrials, make_search, wait_for, with_trials

pytest.importorskip("optuna")
POOL = Pool(workers=2, threads=1, poll_seconds=0.1)


def work(search: Search, **options: Any) -> None:
    Worker(search, FakeTrials(search.folder).open, poll_seconds=0.1, **options).run()


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
    first = [row.number for row in read_rows(search.place.join())]
    work(with_trials(search, 7))
    numbers = [row.number for row in read_rows(search.place.join())]
    assert numbers[:4] == first
    assert len(numbers) == 7
    work(search)  # there are enough
    assert len(read_rows(search.place.join())) == 7


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
        wait_for(lambda: len(read_rows(search.place.join())) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_workers(search, FakeTrials(tmp_path, seconds=1.0).open, POOL)
    done = len(read_rows(search.place.join()))
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


def test_infeasible_trials_are_never_built_and_do_not_count(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=1, limits=Limits(params=1))
    with _Allocations() as built, pytest.raises(UserError, match="above the limits"):
        Worker(search, lambda: pytest.fail("opened"), exhausted=40).run()
    # One of them has hundreds of thousands of parameters.
    assert built.numbers < 1000
    assert read_rows(search.place.join()) == []
    assert len(search.place.join().trials) == 40


def test_limits_hold_and_an_exhausted_space_is_an_error(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=8, limits=Limits(params=900_000))
    work(search)
    assert all(row.metrics["params"] <= 900_000 for row in read_rows(search.place.join()))
    one = SpaceParams(**{name: values[:1] for name, values in SpaceParams()})
    other = make_search(tmp_path / "b", trials=2, settings=SweepParams(trials=2, space=one))
    with pytest.raises(UserError, match="widen"):
        work(other, exhausted=20)
    assert len(read_rows(other.place.join())) == 1


def test_failed_trials_in_a_row_end_a_worker(tmp_path: Path) -> None:
    def fail(name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
        raise UserError("diverged")

    search = make_search(tmp_path, trials=5)
    with pytest.raises(UserError, match="3 trials in a row failed, the last with: diverged"):
        Worker(search, lambda: fail).run()


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
