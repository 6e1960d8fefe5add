# SPDX-License-Identifier: Apache-2.0
"""A client of a box: requests from inside its network namespace, and writers that keep count.

A writer knows which readings were acknowledged; whatever happens to the box, each of them
must be there afterwards, once.
"""

import contextlib
import http.client
import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.system.network import Namespace


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: dict[str, str]
    seconds: float


@dataclass
class Client:
    """Talks to *host* from within *namespace*; the token, where there is one, goes with it."""

    namespace: Namespace
    token: str = ""
    host: str = "127.0.0.1"
    port: int = 8080

    def request(
        self, method: str, path: str, body: object = None, *, timeout: float = 30.0
    ) -> Answer:
        """Send one request on a connection of its own; raises OSError or HTTPException."""
        return self.namespace.call(lambda: self.request_here(method, path, body, timeout=timeout))

    def get(self, path: str, *, timeout: float = 30.0) -> Answer:
        """Send a GET."""
        return self.request("GET", path, timeout=timeout)

    def request_here(
        self, method: str, path: str, body: object = None, *, timeout: float = 30.0
    ) -> Answer:
        """The same for a thread that lives in the namespace already."""
        began = time.monotonic()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            if self.token:
                headers["Authorization"] = f"Bearer {self.token}"
            connection.request(
                method, path, json.dumps(body) if body is not None else None, headers
            )
            response = connection.getresponse()
            text = response.read()
            with contextlib.suppress(ValueError):
                text = json.loads(text)
            took = time.monotonic() - began
            return Answer(response.status, text, dict(response.getheaders()), took)
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        """Return /health/ready's body; {} while nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = self.get("/health/ready", timeout=10)
            if isinstance(answer.body, dict):
                return {**answer.body, "status": answer.status}
        return {}

    def wait_ready(self, limit: float = 60.0, *, word: str = "") -> dict[str, Any]:
        """Wait for /health/ready to be 200 (in the state *word*); returns its body."""
        deadline = time.monotonic() + limit
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            state = self.state()
            if state.get("status") == 200 and word in ("", state.get("state")):
                return state
            time.sleep(0.1)
        raise TimeoutError(f"not ready{f' as {word}' if word else ''} after {limit:g} s: {state}")

    def write(self, device: str, value: float, *, timeout: float = 30.0) -> str:
        """Store one reading; returns its id. Raises RuntimeError when it is not accepted."""
        reading = reading_of(device, value)
        answer = self.request("POST", "/api/v1/readings", reading, timeout=timeout)
        if answer.status != 201:
            raise RuntimeError(f"{answer.status}: {answer.body}")
        return str(reading["id"])

    def stored(self, device: str) -> list[str]:
        """Return the id of every reading of *device* that is there."""
        found: list[str] = []
        path = f"/api/v1/readings?device={device}&limit=1000"
        cursor = ""
        while True:
            page = self.get(path + (f"&cursor={cursor}" if cursor else ""))
            if page.status != 200:
                raise RuntimeError(f"{page.status}: {page.body}")
            found += [item["id"] for item in page.body["items"]]
            cursor = page.body["next_cursor"] or ""
            if not cursor:
                return found


@dataclass
class Writers:
    """Threads that write one reading after another until told to stop.

    *patient*: a request that got no answer, or 503, is repeated with the same id, as a
    device would do it; else each counts as failed.
    """

    client: Client
    device: str = "load"
    threads: int = 4
    patient: bool = False
    pause: float = 0.0
    acknowledged: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0

    def __enter__(self) -> "Writers":
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._running = [threading.Thread(target=self._work) for _ in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(60)

    def wait_for(self, count: int, limit: float = 60.0) -> None:
        """Wait until *count* further readings are acknowledged."""
        wanted = len(self.acknowledged) + count
        deadline = time.monotonic() + limit
        while len(self.acknowledged) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"no {count} writes in {limit:g} s; failures: {self.failures[-3:]}"
                )
            time.sleep(0.05)

    def _work(self) -> None:
        self.client.namespace.enter()
        number = 0.0
        while not self._stop.is_set():
            number += 1
            self._write(reading_of(self.device, number))
            if self.pause:
                self._stop.wait(self.pause)

    def _write(self, reading: dict[str, object]) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = self.client.request_here("POST", "/api/v1/readings", reading)
                problem = "" if answer.status == 201 else f"{answer.status} {answer.body}"
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            with self._lock:
                self.longest = max(self.longest, time.monotonic() - began)
                if problem:
                    self.failures.append(problem)
                else:
                    self.acknowledged.append(str(reading["id"]))
            if not problem or not self.patient:
                return
            self._stop.wait(0.1)


def reading_of(device: str, value: float) -> dict[str, object]:
    """Return a reading with an id of its own."""
    return {"id": str(uuid.uuid4()), "device": device, "metric": "load", "value": value}
