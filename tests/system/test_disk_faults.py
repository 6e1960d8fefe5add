# SPDX-License-Identifier: Apache-2.0
"""A disk that fails at every call, fills up, and loses its power: nothing acknowledged is lost.

No booted box and no root: real processes on a disk of tests/support/disk_faults.c.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import capture, ledger
from edgepaas.schema.table_contract import describe
from edgepaas.telemetry.models import Model
from tests.support.databases import create_sqlite_file
from tests.support.disk_faults import Disk
from tests.support.disk_workload import STEPS
from tests.support.weaken import weak_environ
from tests.system.conftest import REQUIRED

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
#: Where disk_faults.c has these in its shared page.
FIELDS = {"sync_fails_from": 1, "full_from": 5}


@pytest.fixture(autouse=True)
def _compiler() -> None:
    """Skip, or fail where nothing may be skipped, without a C compiler."""
    if shutil.which("cc") is None:
        (pytest.fail if REQUIRED else pytest.skip)("cc is not installed (Debian: gcc, libc6-dev)")


class Cases:
    """A disk and a process that runs one case after another on it."""

    def __init__(self, folder: Path, *weak: str) -> None:
        self.scope = folder / "state"
        self.scope.mkdir()
        self.disk = Disk(folder / "disk", scope=self.scope)
        self._template = folder / "template.db"
        create_sqlite_file(self._template)
        connection = open_sqlite(self._template)
        document = {"revision": ["1"], "tables": describe(Model.metadata)}
        capture.install(connection, document, node_id="00000000-0000-4000-8000-000000000001")
        connection.close()
        environ = dict(os.environ) | weak_environ(*weak) | self.disk.environ()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.disk_workload"],
            env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def file(self) -> Path:
        """The database of the case."""
        return self.scope / "edgepaas.db"

    def begin(self) -> None:
        """A fresh file on a disk that is well."""
        self.disk.mend()
        self.disk.free()
        for entry in self.scope.iterdir():
            entry.unlink()
        shutil.copyfile(self._template, self.file)
        self.disk.settle()

    def run(self, **case: object) -> dict[str, Any]:
        """Run the workload; returns what it says was acknowledged."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"file": str(self.file), **case}) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


@contextlib.contextmanager
def cases(folder: Path, *weak: str) -> Iterator[Cases]:
    """The cases of one test."""
    found = Cases(folder, *weak)
    try:
        yield found
    finally:
        found.close()


def complaints_of(file: Path, seen: dict[str, Any]) -> list[str]:
    """What is wrong with the file after all; empty: nothing."""
    found = []
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            return [f"damaged: {verdict}"]
        rows = [int(r[0]) for r in connection.execute("SELECT value FROM readings")]
        caught = [
            int(row[0])
            for row in connection.execute(
                "SELECT o.v4 FROM outbox o JOIN outbox_layouts l ON l.id = o.layout "
                "WHERE l.tbl = 'readings' AND o.op = 'I'"
            )
        ]
        counts = ledger.read(connection)
        confirmed = connection.execute("SELECT confirmed_seq FROM outbox_state").fetchone()[0]
    lost = set(seen["acknowledged"]) - set(seen["reclaimed"]) - set(rows)
    if lost:
        found.append(f"lost: {sorted(lost)}")
    if set(caught) != set(rows):
        found.append(f"captured {sorted(caught)}, stored {sorted(rows)}")
    if len(set(caught)) != len(caught) or len(set(rows)) != len(rows):
        found.append("doubled")
    if set(rows) & set(seen["full"]):
        found.append(f"stored although it said that the disk is full: {seen['full']}")
    if confirmed < seen["confirmed"]:
        found.append(f"confirmed {seen['confirmed']}, but the file says {confirmed}")
    parts = sum(counts[name] for name in ("delivered", "dead", "shed", "pending"))
    if counts["accepted"] != parts:
        found.append(f"the ledger does not add up: {counts}")
    return found


def test_one_failed_sync_at_any_call_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Call 1, call 2, …; then the power goes: what a failed sync left behind is gone."""
    with cases(tmp_path) as box:
        complaints, number = [], 0
        while True:
            number += 1
            box.begin()
            before = box.disk.sync_failures
            box.disk.fail_syncs(at=number)
            seen = box.run()
            if box.disk.sync_failures == before:
                break
            complaints += [f"{number}: {c}" for c in complaints_of(box.file, seen)]
            box.disk.power_cut()
            complaints += [
                f"{number}, after a power cut: {c}" for c in complaints_of(box.file, seen)
            ]
        print(f"{number - 1} calls of fsync, each failed once")
        assert complaints == []
        assert number > STEPS


def test_a_disk_that_never_syncs_again_acknowledges_nothing_and_recovers(tmp_path: Path) -> None:
    """From call N on every sync fails; mended in mid-flight, writing goes on by itself."""
    with cases(tmp_path) as box:
        complaints = []
        number, step = 0, 3
        while True:
            number += step
            box.begin()
            before = box.disk.sync_failures
            box.disk.fail_syncs(at=number, times=None)
            seen = box.run(
                mend_at=STEPS - 2,
                control=str(box.disk.control_file),
                mended=[FIELDS["sync_fails_from"]],
            )
            if box.disk.sync_failures == before:
                break
            if "stuck" in seen:
                complaints.append(f"{number}: no write succeeded after it was mended: {seen}")
            complaints += [f"{number}: {c}" for c in complaints_of(box.file, seen)]
            box.disk.power_cut()
            complaints += [
                f"{number}, after a power cut: {c}" for c in complaints_of(box.file, seen)
            ]
        assert complaints == []
        assert number > STEPS


def test_a_full_disk_at_any_step_refuses_keeps_and_recovers(tmp_path: Path) -> None:
    """Full at growth 1, 2, …: each write is refused or kept; with space it goes on by itself."""
    with cases(tmp_path) as box:
        complaints, number, refused = [], 0, 0
        while True:
            number += 1 if SOAK or number < 20 else 4
            box.begin()
            before = box.disk.full_failures
            box.disk.fill(at=number)
            seen = box.run(
                mend_at=STEPS - 2,
                control=str(box.disk.control_file),
                mended=[FIELDS["full_from"]],
            )
            if box.disk.full_failures == before:
                break
            refused += len(seen["full"])
            if "stuck" in seen:
                complaints.append(f"{number}: no write succeeded with space again: {seen}")
            complaints += [f"{number}: {c}" for c in complaints_of(box.file, seen)]
        print(f"full at {number} growths, {refused} writes refused")
        assert complaints == []
        assert number > STEPS
        assert refused


@pytest.mark.parametrize("weak", ["synchronous-normal", "synchronous-off", "swallow-full"])
def test_a_build_that_syncs_less_or_hides_a_failure_is_found_out(tmp_path: Path, weak: str) -> None:
    """The same check complains when commits are not synced, and of a refusal that is hidden."""
    with cases(tmp_path, weak) as box:
        box.begin()
        if weak == "swallow-full":
            box.disk.fill(at=30)
        seen = box.run()
        box.disk.power_cut(torn=0.0)
        try:
            complaints = complaints_of(box.file, seen)
        except sqlite3.Error as error:
            complaints = [str(error)]
    assert complaints
