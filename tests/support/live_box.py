# SPDX-License-Identifier: Apache-2.0
"""A whole box ('edgepaas up' and what runs beside the service), and clients with a history."""

import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edgepaas.files.paths import Paths, find_paths
from tests.support.history import History, Write
from tests.support.service_process import Process, edgepaas, free_port, get, until
from tests.support.weaken import weak_environ

#: The words of a box that is ready.
STATES = ("full", "degraded", "draining", "fallback", "local-first", "primary", "standalone")


class LiveBox:
    """Runs ``edgepaas up`` in *folder* with these settings; a context manager."""

    def __init__(
        self, folder: Path, *, weak: tuple[str, ...] = (), environ: dict[str, str] | None = None,
        **settings: str,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        home = folder / "home"
        self._environ = (
            {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
            | {"EDGEPAAS_HOME": str(home), "HOME": str(folder), "PORT": str(self.port)}
            | {"RATE_LIMIT": "0", "LOG_FILE": "none", "STOP_TIMEOUT": "5"}
            | {"HEARTBEAT_INTERVAL": "1", "MIRROR_INTERVAL": "0.5", "HANDBACK_AFTER": "1"}
            | {"HANDBACK_PER_HOUR": "3600", "BALLAST": "1MiB"}
            | weak_environ("quick", *weak)
            | (environ or {})
            | settings
        )
        self.process: Process | None = None

    @property
    def paths(self) -> Paths:
        """Where its files are."""
        return find_paths(self._environ)

    def __enter__(self) -> "LiveBox":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it is ready."""
        self.process = Process(edgepaas("up"), self.folder, self._environ)
        if wait:
            self.wait_state(*STATES)

    def close(self) -> None:
        """End it in order, or else."""
        if self.process is not None and self.process.running:
            self.process.signal(signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                self.process.wait(20)
        self.kill_everything()

    def kill_everything(self) -> None:
        """End every process of the box at once."""
        if self.process is None:
            return
        family = [self.process.pid, *descendants(self.process.pid)]
        for pid in family:  # the parent first: it starts nobody again
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.close()
        for pid in family:
            until(partial(_is_gone, pid), f"the end of process {pid}")

    def state(self) -> str:
        """The state's word when it is ready, else empty."""
        status, body = get(self.port, "/health/ready", timeout=5)
        return str(json.loads(body)["state"]) if status == 200 else ""

    def wait_state(self, *words: str, limit: float = 60.0) -> None:
        """Wait until it is ready in one of these states."""
        deadline = time.monotonic() + limit
        while (state := self.state()) not in words:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"it is {state or 'not ready'} and not {words}:\n{self.output()[-6000:]}"
                )
            time.sleep(0.05)

    def pid_of(self, name: str) -> int:
        """The process id of ``serve`` or ``sync``; 0 while it does not run."""
        for pid in descendants(self.process.pid) if self.process else ():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"edgepaas" in b" ".join(words[:3]) and name.encode() in words:
                    return pid
        return 0

    def kill(self, name: str) -> bool:
        """Send SIGKILL to ``serve`` or ``sync``; whether it was there."""
        pid = self.pid_of(name)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pid)

    def waiting(self) -> int:
        """How many rows wait for the hub, read from the file itself."""
        from edgepaas.outbox.stream import pending

        if not self.paths.sqlite.exists():
            return 0
        with contextlib.closing(sqlite3.connect(self.paths.sqlite, timeout=10)) as connection:
            return pending(connection)

    def wait_drained(self, limit: float = 60.0) -> None:
        """Wait until the queue has reached zero."""
        until(
            lambda: self.waiting() == 0,
            f"an empty queue; it printed:\n{self.output()[-4000:]}",
            limit,
        )

    def output(self) -> str:
        """What every run of it printed so far."""
        files = sorted(self.folder.glob("output-*"), key=lambda file: file.stat().st_mtime)
        return "".join(file.read_text(errors="replace") for file in files)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a sub-command on this box; returns its exit status and what it printed."""
        import subprocess

        done = subprocess.run(
            edgepaas(*arguments), env=self._environ, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


class Clients:
    """Devices that write one thing after another, and repeat what was not acknowledged.

    Each has a key of its own: readings one by one and in small batches (facts), and the
    description of its device (a shared row). Every write has its id from the beginning.
    """

    def __init__(
        self, port: int, history: History, *, count: int = 3, seed: int = 1, pause: float = 0.0,
        name: str = "device",
    ) -> None:  # fmt: skip
        self._port, self._history, self._pause = port, history, pause
        self._over = threading.Event()
        self.surprises: list[str] = []
        self.refused = 0
        #: The longest time without any answer that acknowledged something, in seconds.
        self.longest_gap = 0.0
        self._last = time.monotonic()
        self._threads = [
            threading.Thread(target=self._work, args=(f"{name}-{n}", random.Random(f"{seed}-{n}")))
            for n in range(count)
        ]

    @contextlib.contextmanager
    def writing(self) -> Iterator["Clients"]:
        """Write during the block; what is under way at its end is brought to its end."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, count: int, limit: float = 60.0) -> None:
        """Wait until *count* more writes are acknowledged."""
        wanted = self._history.count("acknowledged") + count
        until(
            lambda: self._history.count("acknowledged") >= wanted,
            f"{count} more writes; surprises: {self.surprises[-3:]}",
            limit,
        )

    def _work(self, key: str, chance: random.Random) -> None:
        number = 0
        while not self._over.is_set():
            kind = chance.random()
            size = 1 if kind < 0.5 else chance.randint(2, 9)
            if kind < 0.8 or number == 0:
                numbers = range(number + 1, number + 1 + size)
                ids = [str(uuid.uuid4()) for _ in numbers]
                self._facts(key, list(numbers), ids)
                number += size
            else:
                number += 1
                self._set(key, number)
            if self._pause:
                self._over.wait(self._pause * chance.random())

    def _facts(self, key: str, numbers: list[int], ids: list[str]) -> None:
        group = ids[0] if len(ids) > 1 else ""
        writes = [
            self._history.begin("fact", key, number, identity, group)
            for number, identity in zip(numbers, ids, strict=True)
        ]
        body = [
            {"id": i, "device": key, "metric": "m", "value": n, "recorded_at": _moment(n)}
            for i, n in zip(ids, numbers, strict=True)
        ]
        content = body[0] if len(body) == 1 else body
        self._repeat(writes, "POST", "/api/v1/readings", content)

    def _set(self, key: str, number: int) -> None:
        write = self._history.begin("set", key, number)
        from edgepaas.telemetry.intake import device_id

        place = f"/api/v1/devices/{device_id(key)}"
        self._repeat([write], "PATCH", place, {"description": str(number)})

    def _repeat(self, writes: list[Write], method: str, path: str, content: Any) -> None:
        while True:
            status, body = request(self._port, method, path, content)
            if status in (200, 201):
                for write in writes:
                    self._history.end(write, "acknowledged")
                now = time.monotonic()
                self.longest_gap = max(self.longest_gap, now - self._last)
                self._last = now
                return
            if status == 404 and method == "PATCH":  # the mirror had not seen it yet
                name = writes[0].key
                request(self._port, "POST", "/api/v1/devices", {"name": name})
            elif status not in (0, 503):
                self.surprises.append(f"{method} {path}: {status} {body[:300]!r}")
                if status != 507:
                    return
            self.refused += 1
            if self._over.is_set():
                return  # its outcome stays unknown
            time.sleep(0.05)


def request(
    port: int, method: str, path: str, content: Any, timeout: float = 15.0
) -> tuple[int, bytes]:
    """Send one request; status 0 when there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        body = json.dumps(content)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def descendants(pid: int) -> list[int]:
    """Every process below *pid*, parents first."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def _is_gone(pid: int) -> bool:
    return not _lives(pid)


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def _moment(number: int) -> str:
    minutes, seconds = divmod(number, 60)
    hours, minutes = divmod(minutes, 60)
    return f"2026-01-{1 + hours // 24:02d}T{hours % 24:02d}:{minutes:02d}:{seconds:02d}Z"
