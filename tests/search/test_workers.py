"""Studies that workers share: limits, killed workers, interrupts, databases, and what is written at the end."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from fithubert.config.base import validate
from fithubert.config.students import StudentParams
from fithubert.config.sweep import SpaceParams, SweepParams
from fithubert.errors import UserError
from fithubert.records import SweepMetrics
from fithubert.search.alive import retry
from fithubert.search.front import FILES, pareto_front, write_result
from fithubert.search.run import run_workers
from fithubert.search.space import Limits
from fithubert.search.study import counts, create_study, join_study, open_storage, read_rows
from fithubert.search.worker import Plan, Worker, work
from tests.search.fakes import make_plan

pytest.importorskip("optuna")


def _study(plan: Plan):  # type: ignore[no-untyped-def]
    return join_study(plan.study, open_storage(plan.storage))


def _check_consistent(plan: Plan) -> None:
    """As many trials as asked for, all of other shapes, none left running or waiting, each run once and kept."""
    trials = _study(plan).get_trials(deepcopy=False)
    done = [t for t in trials if counts(t)]
    assert len(done) == plan.sweep.trials
    assert len({t.user_attrs["shape"] for t in done}) == len(done)
    assert not [t for t in trials if t.state.name in ("RUNNING", "WAITING")]


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    """A shell starts what it puts into the background deaf to interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_study_goes_on(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=4)
    work(plan, 0)
    first = [row.number for row in read_rows(_study(plan))]
    work(replace(plan, sweep=plan.sweep.model_copy(update={"trials": 7})), 0)
    rows = read_rows(_study(plan))
    assert [row.number for row in rows][:4] == first
    assert len(rows) == 7
    work(plan, 0)  # enough: trains nothing
    assert len(read_rows(_study(plan))) == 7


def test_two_workers_share_a_study(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=12)
    run_workers(plan, 2)
    _check_consistent(plan)
    assert len({t.user_attrs["worker"] for t in _study(plan).trials if counts(t)}) == 2


def test_a_killed_worker_loses_only_its_trial_which_is_tried_again(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=6, objective="tests.search.fakes:open_once_hanging")
    threading.Thread(target=_kill_when_it_hangs, args=(tmp_path,), daemon=True).start()
    run_workers(plan, 2)
    _check_consistent(plan)
    _check_one_was_retried(plan)


def _kill_when_it_hangs(folder: Path) -> None:
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def _check_one_was_retried(plan: Plan) -> None:
    trials = _study(plan).get_trials(deepcopy=False)
    [lost] = [t for t in trials if t.state.name == "FAIL" and "worker was killed" in t.user_attrs.get("failed", "")]
    [again] = [t for t in trials if t.user_attrs.get("retry_of") == lost.number]
    assert counts(again)
    assert again.params == lost.params


def test_a_trial_without_signs_of_life_is_tried_again_by_another_machine(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=2)
    taken = Worker(plan, 0).take()
    assert taken is not None
    taken[0].set_user_attr("worker", "elsewhere:1")
    work(plan, 1)
    _check_consistent(plan)
    assert _study(plan).trials[0].user_attrs["failed"] == "its worker gave no sign of life"
    assert not retry(_study(plan), _study(plan).trials[0], "again"), "a second finder must not queue it again"


def test_an_interrupt_keeps_what_is_done_and_queues_the_rest(tmp_path: Path, hears_interrupts: None) -> None:
    plan = make_plan(tmp_path, trials=30, objective="tests.search.fakes:open_slow")

    def interrupt() -> None:
        while len(read_rows(_study(plan))) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_workers(plan, 2)
    done = len(read_rows(_study(plan)))
    assert 2 <= done < 30
    states = [t.state.name for t in _study(plan).trials]
    assert "RUNNING" not in states
    assert "WAITING" in states
    plan = replace(
        plan, objective="tests.search.fakes:open_fast", sweep=plan.sweep.model_copy(update={"trials": done + 3})
    )
    run_workers(plan, 1)
    _check_consistent(plan)


class _Allocations(TorchDispatchMode):
    """Counts the numbers that tensors are given memory for."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type != "meta":
            self.numbers += made.numel()
        return made


def test_infeasible_trials_are_never_built_and_do_not_count(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=1, limits=Limits(params=1))
    worker = Worker(plan, 0)
    with _Allocations() as built:
        assert all(worker._propose(at_random=False)[3] == "infeasible" for _ in range(50))
    # One of them has hundreds of thousands of parameters.
    assert built.numbers < 1000
    assert read_rows(_study(plan)) == []


def test_limits_hold_and_a_space_without_a_way_out_says_so(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=8, limits=Limits(params=900_000))
    work(plan, 0)
    assert all(row.metrics["params"] <= 900_000 for row in read_rows(_study(plan)))
    one = SpaceParams(**{name: values[:1] for name, values in SpaceParams()})
    other = make_plan(tmp_path / "b", trials=2, sweep=SweepParams(trials=2, space=one))
    with pytest.raises(UserError, match="widen"):
        work(other, 0)
    assert len(read_rows(_study(other))) == 1


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "a.log"))
    create_study("a", storage, ("pr", "params"), {"seed": 1, "trials": 5}, None)
    create_study("a", storage, ("pr", "params"), {"seed": 1, "trials": 9}, None)
    with pytest.raises(UserError, match="another seed"):
        create_study("a", storage, ("pr", "params"), {"seed": 2, "trials": 5}, None)
    with pytest.raises(UserError, match="which has a"):
        join_study("b", storage)
    with pytest.raises(UserError, match="cannot be opened") as error:
        open_storage("postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(error.value)


def test_files_of_a_study(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=10)
    work(plan, 0)
    result = write_result(_study(plan), tmp_path / "out", tmp_path / "sweep.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    rows = [row for row in result.rows if row.values]
    best = {rows[i].number for i in pareto_front([(r.values["pr"], r.values["macs_per_second"]) for r in rows])}
    assert {row.number for row in result.front} == best
    for name, entry in yaml.safe_load((tmp_path / "out" / "best.yaml").read_text()).items():
        validate(StudentParams, entry, name)
    page = (tmp_path / "out" / "front.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert all(row.name in page for row in result.rows)
    table = (tmp_path / "out" / "front.csv").read_text().splitlines()
    assert len(table) == 11
    assert table[0].startswith("trial,state,front,depth,width")
    report = SweepMetrics.read(tmp_path / "sweep.json")
    assert (report.study, report.objectives) == ("s", ("pr", "macs_per_second"))
    assert {point.name for point in report.front} == {row.name for row in result.front}
    assert [dict(point.values) for point in report.points] == [row.values for row in result.rows]
    assert [point.curve for point in report.points] == [row.curve for row in result.rows]
    costs = [point.values["macs_per_second"] for point in report.front]
    assert costs == sorted(costs)


def test_a_study_without_trials_has_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished trial"):
        write_result(_study(make_plan(tmp_path)), tmp_path / "out", tmp_path / "sweep.json")


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
        data = (
            Path(subprocess.check_output(["runuser", "-u", "postgres", "--", "mktemp", "-d"], text=True).strip()) / "pg"
        )
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    initialise = [*as_user, str(binaries / "initdb"), "-D", str(data), "-U", "sweep", "-A", "trust", "--no-sync"]
    subprocess.run(initialise, check=True, capture_output=True, cwd="/")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    control = [*as_user, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run(
        [*control, "-l", str(data.parent / "log"), "-o", options, "start"], check=True, capture_output=True, cwd="/"
    )
    try:
        yield f"postgresql+psycopg://sweep@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
        if as_user:
            shutil.rmtree(data.parent)


def test_postgresql_with_a_killed_worker_ends_consistent(tmp_path: Path, postgres: str) -> None:
    plan = make_plan(tmp_path, trials=5, storage=postgres, objective="tests.search.fakes:open_once_hanging")
    threading.Thread(target=_kill_when_it_hangs, args=(tmp_path,), daemon=True).start()
    run_workers(plan, 2)
    _check_consistent(plan)
    _check_one_was_retried(plan)
