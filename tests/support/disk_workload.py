# SPDX-License-Identifier: Apache-2.0
"""What a box does to its file, step by step, on a disk that fails: one fork a case.

    python -m tests.support.disk_workload        # with disk_faults preloaded

Reads a line ``{"file": …, "free_at": N}`` for each case and answers with a line of what was
acknowledged. Everything is imported once; each case runs in a fork of its own, which ends
without tidying up, as a box does that loses its power.
"""

import contextlib
import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.errors import DatabaseError, DatabaseFull
from edgepaas.outbox.space.retention import reclaim
from edgepaas.outbox.stream import Counts, confirm, read_stream, set_inflight
from tests.support.databases import adding, reading

STEPS = 10


def main() -> int:
    """Serve cases until standard input ends."""
    for line in sys.stdin:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            with os.fdopen(writer, "w") as answer:
                answer.write(json.dumps(work(json.loads(line))))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        print(text or '{"died": true}', flush=True)
    return 0


def work(case: dict[str, Any]) -> dict[str, Any]:
    """Write, send, confirm and reclaim in turns; returns what was acknowledged.

    At the step ``mend_at`` the disk is well again (the faults are told so through
    *control*), and from then on everything must succeed without anybody's help.
    """
    path = Path(case["file"])
    seen: dict[str, Any] = {"acknowledged": [], "full": [], "failed": [], "confirmed": 0}
    seen["reclaimed"] = []
    try:
        database = _open(path)
    except DatabaseError as error:  # not even opened: the chain tries again until it is well
        seen["failed"].append(str(error))
        _mend(Path(case["control"]), case["mended"])
        database = _open(path)
    for step in range(STEPS):
        if step == case.get("mend_at", -1):
            _mend(Path(case["control"]), case["mended"])
        if step >= case.get("mend_at", STEPS):
            _until_written(database, step, seen)
            continue
        _write(database, step, seen)
        if step % 3 == 2:
            _send(path, step, seen)
    return seen


def _open(path: Path) -> EmbeddedDatabase:
    return EmbeddedDatabase(path, lock=path.with_name("db.lock"), readers=2, patience=5.0)


def _write(database: EmbeddedDatabase, step: int, seen: dict[str, Any]) -> bool:
    try:
        database.write(adding(reading(float(step), device=f"d{step}", unit="x" * 40)))
    except DatabaseFull:
        seen["full"].append(step)
    except DatabaseError as error:
        seen["failed"].append(f"{step}: {error}")
    else:
        seen["acknowledged"].append(step)
        return True
    return False


def _until_written(database: EmbeddedDatabase, step: int, seen: dict[str, Any]) -> None:
    deadline = time.monotonic() + 10
    while not _write(database, step, seen):
        if time.monotonic() > deadline:
            seen["stuck"] = step
            return
        with contextlib.suppress(DatabaseError):
            database.ping()
        time.sleep(0.05)


def _send(path: Path, step: int, seen: dict[str, Any]) -> None:
    """The drainer's part, with a hub that always commits."""
    try:
        connection = open_sqlite(path)
    except (sqlite3.Error, DatabaseError):
        return
    try:
        stream = read_stream(connection)
        if stream is None or stream.last_seq == stream.confirmed_seq:
            return
        last, rows = stream.last_seq, stream.last_seq - stream.confirmed_seq
        set_inflight(connection, f"batch-{step}", last)
        confirm(connection, f"batch-{step}", last, Counts(delivered=rows))
        seen["confirmed"] = last
        if step > STEPS // 2:
            reclaim(connection, older_than=0.0)
            seen["reclaimed"] = list(range(step + 1))
    except sqlite3.Error as error:
        seen["failed"].append(f"send {step}: {error}")
    finally:
        with contextlib.suppress(sqlite3.Error):
            connection.close()


def _mend(control: Path, fields: list[int]) -> None:
    """Zero these fields of the faults' shared page."""
    with control.open("r+b") as file:
        for field in fields:
            file.seek(8 * field)
            file.write(bytes(8))


if __name__ == "__main__":
    sys.exit(main())
