# SPDX-License-Identifier: Apache-2.0
"""Two processes of one box write at once, as in a release's overlap, and are killed in turn.

A client that has no answer repeats its request at the other process. Its own record says which
readings were acknowledged.
"""

import contextlib
import queue
import random
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgepaas.files.paths import Paths
from edgepaas.marks.record import lost_rows
from tests.support.hub_database import HubDatabase
from tests.support.journaled_box import journaled_box, prepare
from tests.support.search import SOAK

#: How often a process is killed, and how many requests are acknowledged in between.
KILLS = 40 if SOAK else 4
REQUESTS = 40
LIMIT = 90.0


class Serving:
    """One process, and those that wait for its answers."""

    def __init__(self, url: str, log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.overlapping_process", url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._waiting: dict[str, queue.Queue[str]] = {"0": queue.Queue()}
        self._numbers = iter(range(1, 10**9))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._waiting["0"].get(timeout=LIMIT) == "ready"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, _, said = line.strip().partition(" ")
            with self._lock:
                waiting = self._waiting.pop(number)
            waiting.put(said)
        with self._lock:
            left, self._waiting = self._waiting, {}
        for one in left.values():
            one.put("gone")

    def post(self, ids: list[str]) -> bool:
        """Whether *ids* were acknowledged."""
        answer: queue.Queue[str] = queue.Queue()
        with self._lock, contextlib.suppress(OSError, ValueError):
            if not self._reader.is_alive():
                return False
            number = str(next(self._numbers))
            self._waiting[number] = answer
            assert self._process.stdin is not None
            print(number, *ids, file=self._process.stdin, flush=True)
        try:
            return answer.get(timeout=LIMIT) == "ok"
        except queue.Empty:
            return False

    def end(self, *, kill: bool = False) -> None:
        """End it in order, or at once."""
        if kill:
            self._process.kill()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        status = self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        self._log.close()
        assert kill or status == 0


class Overlap:
    """Two processes; clients of either, which keep a record."""

    def __init__(self, url: str, log: Path) -> None:
        self._url, self._log = url, log
        self.processes = [Serving(url, log), Serving(url, log)]
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: list[str] = []
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(4)]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write during the block; every request is brought to its end."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(2 * LIMIT)
            for process in self.processes:
                process.end()
            assert not any(thread.is_alive() for thread in self._threads)

    def wait_for(self, more: int) -> None:
        """Wait until *more* requests are acknowledged."""
        wanted = len(self.acknowledged) + more
        for _ in range(int(LIMIT * 50)):
            if len(self.acknowledged) >= wanted:
                return
            self._over.wait(0.02)
        raise AssertionError(self._log.read_text(errors="replace")[-3000:])

    def replace(self, place: int) -> None:
        """Kill one, and start another one in its place while the second serves."""
        old = self.processes[place]
        old.end(kill=True)
        self.processes[place] = Serving(self._url, self._log)

    def _write(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._over.is_set():
            ids = [str(uuid.uuid4()) for _ in range(chance.choice((1, 1, 3)))]
            for turn in range(1000):
                if self.processes[(seed + turn) % 2].post(ids):
                    break
            else:
                raise AssertionError("never acknowledged")
            with self._lock:
                self.acknowledged += ids


def test_two_processes_that_are_killed_in_turn_double_lose_and_fear_nothing(
    paths: Paths, hub_database: HubDatabase, tmp_path: Path
) -> None:
    prepare(paths, hub_database.url)
    overlap = Overlap(hub_database.url, tmp_path / "processes.log")
    with overlap.writing():
        for kill in range(KILLS):
            overlap.wait_for(REQUESTS)
            overlap.replace(kill % 2)
        overlap.wait_for(REQUESTS)
    acknowledged = Counter(overlap.acknowledged)
    stored = Counter(str(row[0]) for row in hub_database.execute("SELECT id::text FROM readings"))
    assert stored == acknowledged, "every request was repeated until it was acknowledged"
    with journaled_box(paths, hub_database.url) as box:
        for _ in range(3):
            box.look()
        assert box.journal.unsettled() == []
        assert box.journal.lacking(box.hub_marks()) == []
        assert set(box.kept_keys()) == set(acknowledged)
    assert lost_rows(paths) == 0
    assert "went back" not in (tmp_path / "processes.log").read_text(errors="replace")
