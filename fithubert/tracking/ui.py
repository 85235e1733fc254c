"""MLflow's own pages on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from fithubert.errors import UserError
from fithubert.tracking.runs import RECORDS, complete_runs
from fithubert.tracking.sender import mlflow_installed, tracking_uri
from fithubert.tracking.summary import compare_url, experiment_url

HOST = "127.0.0.1"
_FIRST_PORT, _PORTS = 5000, 100
_START_SECONDS, _END_SECONDS = 120.0, 10.0
_NOTHING = "nothing yet; `dvc repro` writes the summary runs"
#: Nothing is told to MLflow's makers, and no worker waits for jobs that nobody gives.
_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve_ui(workspace: Path, port: int | None = None) -> None:
    """Run MLflow's server on 127.0.0.1 until interrupted, and print where to look once it answers.

    `port` None takes the first free one from 5000 up. Raises UserError where MLflow is not installed, the port is taken
    or the server does not start. With MLFLOW_TRACKING_URI at a server, only prints the addresses.
    """
    if not mlflow_installed():
        raise UserError("the UI needs MLflow: pip install fithubert[tracking]")
    complete_runs(workspace)
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _print_addresses(workspace, uri.rstrip("/"))
        return
    chosen = _choose_port(port)
    log = workspace / RECORDS / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _ends_as_interrupt(), _run_server(uri, chosen, log) as server:
            _wait_until_up(server, chosen, log)
            _print_addresses(workspace, f"http://{HOST}:{chosen}")
            print(f"Ctrl-C ends it; what it says goes to {log}", flush=True)
            server.wait()
            raise UserError(f"MLflow's server ended by itself; {log} says why")
    except KeyboardInterrupt:
        print("MLflow's server has ended")


def _print_addresses(workspace: Path, server: str) -> None:
    print(f"MLflow:   {server}/#/?workflowType=machine_learning")
    print(f"runs:     {experiment_url(workspace, server) or _NOTHING}")
    every, compressed = compare_url(workspace, server), compare_url(workspace, server, compressed=True)
    print(f"compare:  {every or _NOTHING}")
    if compressed not in (None, every):
        print(f"by compression ratio (without filter banks):\n          {compressed}")
    sys.stdout.flush()


def _choose_port(port: int | None) -> int:
    if port is not None:
        if not _is_free(port):
            raise UserError(f"port {port} on {HOST} is taken; name another with --port, or none for a free one")
        return port
    found = next((number for number in range(_FIRST_PORT, _FIRST_PORT + _PORTS) if _is_free(number)), None)
    if found is None:
        raise UserError(f"ports {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} on {HOST} are taken; name one with --port")
    return found


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        # As the server does it: a port on which only old connections linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def _run_server(uri: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a process group of its own, which is gone at the end, workers included."""
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "fithubert", "--workers", "1"]
    with log.open("wb") as said:
        server = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port), "--backend-store-uri", uri],
            env=os.environ | _SETTINGS,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        _end_group(server)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, and end it where it does not in time or the user asks again."""
    with suppress(ProcessLookupError):
        try:
            os.killpg(server.pid, signal.SIGTERM)
            until = time.monotonic() + _END_SECONDS
            while time.monotonic() < until:
                server.poll()  # a process that nobody has waited for still belongs to the group
                os.killpg(server.pid, 0)
                time.sleep(0.05)
        except KeyboardInterrupt:
            pass
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextmanager
def _ends_as_interrupt() -> Iterator[None]:
    """A closed terminal and `kill` end the body as Ctrl-C does, also where a shell has made us ignore Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until_up(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise UserError(f"MLflow's server did not start; {log} says why")
        with closing(HTTPConnection(HOST, port, timeout=5)) as asked, suppress(OSError, HTTPException):
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise UserError(f"MLflow's server has not answered within {_START_SECONDS:g} s; {log} says how far it came")
