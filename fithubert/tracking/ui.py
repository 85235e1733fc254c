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
from fithubert.tracking.local import RECORDS, complete_runs
from fithubert.tracking.models import compare_url, experiment_url
from fithubert.tracking.sender import mlflow_installed, tracking_uri

HOST = "127.0.0.1"
#: The ports that are tried if none is given.
PORTS = range(5000, 5100)
_START_SECONDS, _END_SECONDS = 120.0, 10.0
_NOTHING = "nothing yet; `dvc repro` writes the summary runs"
#: Telemetry and the unused job worker are off.
_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve_ui(workspace: Path, port: int | None = None) -> None:
    """Run MLflow's server on 127.0.0.1 until interrupted, and print its addresses once it answers.

    `port` None takes the first free port from 5000 up. Raises UserError if MLflow is not installed, the port is taken
    or the server does not start. If MLFLOW_TRACKING_URI names a server, only its addresses are printed.
    """
    if not mlflow_installed():
        raise UserError("the UI needs MLflow: pip install fithubert[tracking]")
    complete_runs(workspace)
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print_addresses(workspace, uri.rstrip("/"))
        return
    chosen = choose_port(port)
    log = workspace / RECORDS / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _ends_as_interrupt(), _run_server(uri, chosen, log) as server:
            _wait_until_up(server, chosen, log)
            print_addresses(workspace, f"http://{HOST}:{chosen}")
            print(f"Ctrl-C ends it; its output is in {log}", flush=True)
            server.wait()
            raise UserError(f"MLflow's server ended by itself; see {log}")
    except KeyboardInterrupt:
        print("MLflow's server has ended")


def print_addresses(workspace: Path, server: str) -> None:
    """Print the addresses of MLflow's pages on `server`: all runs, and the comparison of the last report."""
    print(f"MLflow:   {server}/#/?workflowType=machine_learning")
    print(f"runs:     {experiment_url(workspace, server) or _NOTHING}")
    every, compressed = compare_url(workspace, server), compare_url(workspace, server, compressed=True)
    print(f"compare:  {every or _NOTHING}")
    if compressed not in (None, every):
        print(f"by compression ratio (without filter banks):\n          {compressed}")
    sys.stdout.flush()


def choose_port(port: int | None, ports: range = PORTS) -> int:
    """`port` if it is free, or for None the first free one of `ports`. Raises UserError if it is taken."""
    if port is not None:
        if not _is_free(port):
            raise UserError(f"port {port} on {HOST} is taken; name another one with --port, or leave --port out")
        return port
    found = next((number for number in ports if _is_free(number)), None)
    if found is None:
        raise UserError(f"ports {ports[0]} to {ports[-1]} on {HOST} are taken; name one with --port")
    return found


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        # As the server does: a port with nothing but closing connections is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def _run_server(uri: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a process group of its own; the whole group is ended at the end, workers included."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            # Not an argument: everyone on the machine sees arguments, and the address may hold a password.
            env=os.environ | _SETTINGS | {"MLFLOW_BACKEND_STORE_URI": uri},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        _end_group(server)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end; kill it if it does not end in time or the user interrupts again."""
    with suppress(ProcessLookupError):
        try:
            os.killpg(server.pid, signal.SIGTERM)
            until = time.monotonic() + _END_SECONDS
            while time.monotonic() < until:
                server.poll()  # A process that nobody waited for still belongs to the group.
                os.killpg(server.pid, 0)
                time.sleep(0.05)
        except KeyboardInterrupt:
            pass
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextmanager
def _ends_as_interrupt() -> Iterator[None]:
    """A closed terminal and `kill` end the body as Ctrl-C does, even if the shell made this process ignore Ctrl-C."""

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
            raise UserError(f"MLflow's server did not start; see {log}")
        with closing(HTTPConnection(HOST, port, timeout=5)) as asked, suppress(OSError, HTTPException):
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise UserError(f"MLflow's server has not answered within {_START_SECONDS:g} s; see {log}")
