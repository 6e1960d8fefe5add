# SPDX-License-Identifier: Apache-2.0
"""The box of a drill: folders, settings and processes of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgepaas.drill.interrupts import interrupts_deferred
from edgepaas.files.atomic import write_atomic
from edgepaas.files.contract import render_contract
from edgepaas.files.paths import Paths, find_paths
from edgepaas.http_client import HttpFailure, fetch
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.own_url import url_at
from edgepaas.settings.urls import Address
from edgepaas.sync import status as sync_status

#: The variables that a scratch box inherits: enough to run Python, and no settings.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "USER", "LOGNAME", "TZ")
_POLL_INTERVAL = 0.1
_REQUEST_TIMEOUT = 3.0
_STOP_TIMEOUT = 40.0
_LAST_LINES = 3
#: Of an answer: the largest page that a drill asks for.
_MOST_BYTES = 64 * 1024 * 1024

#: Settings of the scratch box with which everything takes seconds instead of minutes.
FAST_SETTINGS = {
    "ENV": "development",
    "HOST": "127.0.0.1",
    "EDGEPAAS_APP": "edgepaas.drill.hosted:application",
    "STOP_TIMEOUT": "5",
    "DB_CONNECT_TIMEOUT": "2",
    "DECISION_DEADLINE": "3",
    "MAX_RETRIES": "2",
    "RETRY_INTERVAL": "0.2",
    "POSTGRES_HOLD": "1",
    "HANDBACK_AFTER": "1",
    "HANDBACK_ROWS": "1000",
    "HANDBACK_PER_HOUR": "3600",
    "FENCE_DEADLINE": "5",
    "MIRROR_INTERVAL": "1",
    "HEARTBEAT_INTERVAL": "1",
    "SYNC_BATCH": "500",
    "RETENTION": "2",
    "BALLAST": "1M",
}


class DrillFailed(Exception):
    """A step failed or was not finished in time; the message says which."""


class ScratchBox:
    """One box below *home*, run by ``edgepaas up``; *program* is the command line for edgepaas."""

    def __init__(self, home: Path, *, program: Sequence[str], environ: Mapping[str, str]) -> None:
        self.home = home
        self._program = tuple(program)
        inherited = {
            name: value
            for name, value in environ.items()
            if name in _INHERITED or name.startswith("PYTHON")
        }
        self._environ = inherited | {"EDGEPAAS_HOME": str(home)}
        self.paths: Paths = find_paths(self._environ)
        self.port = 0
        self._up: subprocess.Popen[bytes] | None = None

    def configure(self, address: Address, tls: TLSPolicy, relay_port: int, **settings: str) -> None:
        """Write the settings of the box; it connects to *address* through *relay_port*.

        The relay forwards TLS unchanged. The certificate names the server and not the relay,
        so ``verify-full`` becomes ``verify-ca``.
        """
        self.port = _free_port()
        params = {name: value for name, value in address.params.items() if name != "hostaddr"}
        through_relay = replace(address, host="127.0.0.1", port=relay_port, params=params)
        values = {
            **FAST_SETTINGS,
            "PORT": str(self.port),
            "DATABASE_URL": through_relay.url(),
            "DB_SSLMODE": "verify-ca" if tls.mode == "verify-full" else tls.mode,
            **({"DB_SSLROOTCERT": tls.root_certificate} if tls.root_certificate else {}),
            **settings,
        }
        write_atomic(self.home / "edgepaas.env", render_contract(values))

    def start(self) -> None:
        """Start ``edgepaas up``."""
        with interrupts_deferred(), (self.home / "output.log").open("ab") as output:
            self._up = subprocess.Popen(
                [*self._program, "up"],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the drill alone, which stops the box
            )

    def stop(self) -> None:
        """Stop ``edgepaas up``; it is killed if it does not exit in time."""
        if self._up is None:
            return
        for number, patience in ((signal.SIGTERM, _STOP_TIMEOUT), (signal.SIGKILL, 5.0)):
            if self._up.poll() is None:
                self._up.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._up.wait(patience)
        self._up = None

    def run(self, *arguments: str, timeout: float = 120.0) -> tuple[int, str]:
        """Run a sub-command on the box; returns its exit status and what it printed."""
        done = subprocess.run(
            [*self._program, *arguments],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, (done.stdout or done.stderr).decode("utf-8", "replace")

    def kill(self, what: Literal["service", "sync"]) -> int:
        """Kill (SIGKILL) the service or the drainer of the box; return its process id.

        Raises DrillFailed where it does not run.
        """

        def killed() -> int:
            pid = self._pid(what)
            if not pid or not _is_ours(pid, self.home):
                return 0
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return pid
            return 0

        return int(self.until(f"a {what} that runs", 20.0, killed))

    def _pid(self, what: Literal["service", "sync"]) -> int:
        if what == "sync":
            status = sync_status.read(self.paths)
            return status.pid if status is not None and status.fresh else 0
        with contextlib.suppress(OSError, ValueError):
            return int(self.paths.serving_lock.read_text(encoding="ascii"))
        return 0

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str = "",
        timeout: float = _REQUEST_TIMEOUT,
    ) -> tuple[int, Any]:
        """Send a request; return the status (0: no answer) and the JSON body (None: empty).

        *key* is the Idempotency-Key.
        """
        sent = None if body is None else json.dumps(body).encode("utf-8")
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        url = f"{url_at('127.0.0.1', self.port)}{path}"
        try:
            answer = fetch(
                method, url, deadline=timeout, headers=headers, body=sent, most_bytes=_MOST_BYTES
            )
            return answer.status, json.loads(answer.body) if answer.body else None
        except (HttpFailure, ValueError):
            return 0, None

    def mode(self) -> str:
        """Return the mode of the box while it is ready, "" while it is not."""
        status, document = self.request("GET", "/health/ready")
        return str(document["mode"]) if status == 200 and isinstance(document, dict) else ""

    def until(self, what: str, limit: float, found: Callable[[], Any]) -> Any:
        """Return the first true result of *found*; DrillFailed after *limit* seconds."""
        deadline = time.monotonic() + limit
        while not (answer := found()):
            if self._up is not None and self._up.poll() is not None:
                raise DrillFailed(
                    f"'edgepaas up' of the scratch box ended with status {self._up.returncode} "
                    f"while waiting for {what}: {self.last_output()}"
                )
            if time.monotonic() >= deadline:
                raise DrillFailed(f"waited {limit:g} s in vain for {what}: {self.last_output()}")
            time.sleep(_POLL_INTERVAL)
        return answer

    def last_output(self) -> str:
        """Return the last lines that the box printed."""
        with contextlib.suppress(OSError):
            lines = (self.home / "output.log").read_text("utf-8", "replace").split("\n")
            return " | ".join([line for line in lines if line.strip()][-_LAST_LINES:])
        return "it printed nothing"


def end_leftover(home: Path) -> None:
    """Stop the ``edgepaas up`` in *home* that a killed drill left behind."""
    paths = find_paths({"EDGEPAAS_HOME": str(home)})
    with contextlib.suppress(OSError, ValueError):
        pid = int(paths.up_lock.read_text(encoding="ascii"))
        if not _is_ours(pid, home):
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while _is_ours(pid, home) and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL)


def _is_ours(pid: int, home: Path) -> bool:
    """Whether process *pid* runs on *home*: the number may have been reused."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"EDGEPAAS_HOME={home}".encode() in environ


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
