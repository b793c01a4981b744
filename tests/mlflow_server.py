"""A real MLflow server on the loopback interface, and the runs in a store."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.entities import Run


def runs_of(client: MlflowClient) -> list[Run]:
    """All runs of the product's experiment, ordered by start time."""
    experiment = client.get_experiment_by_name("nst_exp")
    if experiment is None:  # no run has created it yet
        return []
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@dataclass
class Server:
    """A server with a store of its own, which remains when the server is killed."""

    folder: Path
    port: int
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restart(self) -> None:
        """Start the server on its port and store, and wait until it answers."""
        store = (
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        )
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # would start a dozen unused processes
        with (self.folder / "log").open("a") as log:
            self._processes.append(
                subprocess.Popen(
                    [*command, "--workers", "1", *store], stdout=log, stderr=log, start_new_session=True, env=quiet
                )
            )
        wait_for(self._answers)

    def kill(self) -> None:
        """Kill the server and its processes at once."""
        while self._processes:
            process = self._processes.pop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.uri}/health", timeout=5).ok
        return False


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Start a server that stores everything in `folder`."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(folder, probe.getsockname()[1])
    try:
        server.restart()
        yield server
    finally:
        server.kill()
