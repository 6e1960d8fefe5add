# SPDX-License-Identifier: Apache-2.0
"""Processes that write at once and processes that are killed: the file is never in between."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import capture, fence, ledger, stream, tables
from edgepaas.outbox.space import retention
from edgepaas.outbox.stream import Counts
from tests.support.outbox import (
    NODE,
    captured_file,
    changes,
    contents,
    create_file,
    document,
    replay,
)

WRITE = """
import sys
from pathlib import Path
from edgepaas.database.sqlite.connection import open_sqlite
connection = open_sqlite(Path(sys.argv[1]), busy_timeout=30)
name, number = sys.argv[2], 0
while number < int(sys.argv[3]):
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        connection.execute("INSERT INTO facts (id, count) VALUES (?, 1)", (f"{name}-{number}",))
        number += 1
    connection.execute("UPDATE facts SET count = count + 1 WHERE id = ?", (f"{name}-0",))
    if number % 2:
        connection.execute("COMMIT")
    else:
        connection.execute("ROLLBACK")
    print(number, flush=True)
"""


def start(path: Path, name: str, rows: int) -> subprocess.Popen[str]:
    """Start a process that writes *rows* facts, every second transaction undone."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path), name, str(rows)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_leave_one_order_without_gaps(tmp_path: Path) -> None:
    with captured_file(tmp_path / "edgepaas.db") as file:
        writers = [start(tmp_path / "edgepaas.db", name, 150) for name in ("a", "b")]
        outputs = [writer.communicate(timeout=60)[0] for writer in writers]
        assert [writer.returncode for writer in writers] == [0, 0]
        assert all(len(output.split()) == 50 for output in outputs)
        found = changes(file)
        assert [change.seq for change in found] == list(range(1, tables.last_seq(file) + 1))
        assert replay(found, tmp_path / "copy.db") == contents(file)


def test_a_killed_writer_leaves_whole_transactions(tmp_path: Path) -> None:
    """Killed at random moments, what it captured is exactly what the tables hold."""
    path = tmp_path / "edgepaas.db"
    generator = random.Random(4)
    with captured_file(path) as file:
        for round_number in range(5):
            writer = start(path, f"r{round_number}", 10**9)
            assert writer.stdout
            for _ in range(generator.randrange(1, 12)):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            writer.communicate(timeout=30)
        found = changes(file)
        assert [change.seq for change in found] == list(range(1, tables.last_seq(file) + 1))
        assert replay(found, tmp_path / "copy.db") == contents(file)


# Each step with what must hold once it is repeated after a crash in the midst of it.
def install(file: sqlite3.Connection) -> None:
    capture.install(file, document(), node_id=NODE)


def confirm(file: sqlite3.Connection) -> None:
    install(file)
    stream.confirm(file, "b1", 3, Counts(3))


def fork(file: sqlite3.Connection) -> None:
    confirm(file)
    if (found := stream.read_stream(file)) and not found.forked_from:
        stream.fork(file, "for a test")


def rewind(file: sqlite3.Connection) -> None:
    install(file)
    if ledger.read(file)["conflicts"] == 0:
        stream.confirm(file, "b1", 4, Counts(4, conflicts=1))
    stream.rewind(file, 2, "b0")


def reclaim(file: sqlite3.Connection) -> None:
    confirm(file)
    retention.reclaim(file, older_than=-1)


def fences(file: sqlite3.Connection) -> None:
    install(file)
    fence.put(file, 3)
    fence.lift(file)


def remove(file: sqlite3.Connection) -> None:
    install(file)
    capture.remove(file)


STEPS = {
    function.__name__: function
    for function in (install, confirm, fork, rewind, reclaim, fences, remove)
}


def killed_at(path: Path, step: str, statement: int) -> bool:
    """Run *step* in a child that dies before its statement number *statement*; False: it ended."""
    child = os.fork()
    if child == 0:
        with contextlib.closing(open_sqlite(path)) as connection:
            left = [statement]

            def trace(_: str) -> None:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            connection.set_trace_callback(trace)
            STEPS[step](connection)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_between_any_two_statements_is_made_good_by_doing_it_again(
    step: str, tmp_path: Path
) -> None:
    """The same step run to its end leaves what it would have left without a crash."""

    template = tmp_path / "template.db"
    create_file(template)
    with contextlib.closing(open_sqlite(template)) as connection:
        for number in range(5):
            connection.execute("INSERT INTO facts (id) VALUES (?)", (f"f{number}",))

    def prepared(path: Path) -> Path:
        shutil.copy(template, path)
        return path

    def outcome(path: Path) -> object:
        with contextlib.closing(open_sqlite(path)) as connection:
            STEPS[step](connection)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            counted = ledger.read(connection)
            assert counted["accepted"] == counted["delivered"] + counted["pending"]
            left = [(c.seq, c.key_text, c.resent) for c in changes(connection)]
            return counted, left, contents(connection), capture.is_installed(connection)

    expected = outcome(prepared(tmp_path / "whole.db"))
    statement = 0
    while killed_at(prepared(tmp_path / f"{statement}.db"), step, statement):
        assert outcome(tmp_path / f"{statement}.db") == expected, f"killed at {statement}"
        (tmp_path / f"{statement}.db").unlink()
        statement += 4 if statement > 40 else 2
    assert statement > 5
