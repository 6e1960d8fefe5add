# SPDX-License-Identifier: Apache-2.0
"""Removing the package, and purging it: what has not reached PostgreSQL is kept, and said."""

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture, stream
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.resending.recovery_state import note_broken
from edgepaas.outbox.stream import Counts
from tests.support.boxes import contract
from tests.unit.test_audit_box import DOCUMENT

DEBIAN = Path(__file__).resolve().parents[2] / "packaging" / "debian"
HUB = "postgresql://edge@hub.example/edge"


class Package:
    """The maintainer scripts, on folders of a test's own."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.state = state
        self.backups = root / "backups"
        self.bin = root / "bin"
        self.bin.mkdir()

    def run(self, script: str, action: str) -> subprocess.CompletedProcess[str]:
        """Run a script as dpkg does."""
        text = (DEBIAN / f"edgepaas.{script}").read_text().replace("#DEBHELPER#", "")
        for real, ours in (
            ("/var/lib/edgepaas", self.state),
            ("/var/backups", self.backups),
            ("/var/log/edgepaas", self.root / "log"),
            ("/var/spool/edgepaas", self.root / "spool"),
            ("/run/edgepaas", self.root / "run"),
        ):
            text = text.replace(real, str(ours))
        return subprocess.run(
            ["sh", "-c", text, script, action],
            env={"PATH": f"{self.bin}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def kept(self) -> list[str]:
        """What is in the backups now."""
        return sorted(path.name for path in self.backups.glob("edgepaas/*/*"))


@pytest.fixture
def package(tmp_path: Path, paths: Paths) -> Package:
    root = tmp_path / "root"
    root.mkdir()
    return Package(root, paths.state)


@pytest.fixture
def file(paths: Paths) -> Iterator[sqlite3.Connection]:
    """The box's file, with three rows that wait for PostgreSQL."""
    with contextlib.closing(sqlite3.connect(paths.sqlite, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE facts (id TEXT PRIMARY KEY, value BIGINT)")
        capture.install(connection, DOCUMENT, node_id="1b4e28ba-2fa1-41d2-883f-0016d3cca427")
        connection.executemany("INSERT INTO facts VALUES (?, ?)", [(f"f{n}", n) for n in range(3)])
        yield connection


def purge(package: Package, paths: Paths, hub_url: str = HUB) -> str:
    """Remove the package, then purge it; returns what is said."""
    contract(paths, hub_url=hub_url, db_state="fallback").write(paths.db_contract)
    main(["sync", "unsent", "--note"])  # what prerm runs
    done = package.run("postrm", "purge")
    assert done.returncode == 0, done.stderr
    assert not package.state.exists()
    return done.stdout


def test_rows_that_wait_are_kept_and_their_number_is_said(
    package: Package, paths: Paths, file: sqlite3.Connection
) -> None:
    (paths.node).write_text("{}")
    paths.tokens.write_text("{}")
    file.execute("PRAGMA journal_mode=WAL")
    said = purge(package, paths)
    assert "have not reached PostgreSQL (3)" in said
    assert {"edgepaas.db", "node.json"} <= set(package.kept())
    assert "tokens.json" not in package.kept()
    (folder,) = (package.backups / "edgepaas").iterdir()
    assert str(folder) in said
    assert folder.stat().st_mode & 0o777 == 0o700
    with contextlib.closing(sqlite3.connect(folder / "edgepaas.db")) as kept:
        assert kept.execute("SELECT count(*) FROM outbox").fetchone() == (3,)


def test_nothing_is_kept_where_all_is_at_home(
    package: Package, paths: Paths, file: sqlite3.Connection
) -> None:
    stream.confirm(file, "b1", 3, Counts(delivered=3))
    assert purge(package, paths) == ""
    assert not package.backups.exists()


def test_what_postgresql_lost_and_was_not_sent_again_yet_is_kept(
    package: Package, paths: Paths, file: sqlite3.Connection
) -> None:
    """No row of the outbox waits: those that it lost are in the journal, and in the tables."""
    stream.confirm(file, "b1", 3, Counts(delivered=3))
    note_broken(file)
    journal = journal_path(paths.sqlite)
    journal.write_bytes(b"a journal")
    assert "unknown" in purge(package, paths)
    assert {"edgepaas.db", journal.name} <= set(package.kept())


def test_a_box_without_a_postgresql_is_purged_whole(package: Package, paths: Paths) -> None:
    """Its rows have no other home: a purge is what was asked for."""
    with contextlib.closing(sqlite3.connect(paths.sqlite)) as connection:
        connection.execute("CREATE TABLE facts (id TEXT PRIMARY KEY)")
        connection.execute("INSERT INTO facts VALUES ('a')")
        connection.commit()
    assert purge(package, paths, hub_url="") == ""
    assert not package.backups.exists()


@pytest.mark.parametrize(
    "note", [None, "", "unknown\n", "0\nit cannot be read\n", "0", "\x1b[2J\n"]
)
def test_without_a_note_that_says_zero_all_is_kept(
    package: Package, paths: Paths, file: sqlite3.Connection, note: str | None
) -> None:
    """The code could not be asked, or did not know; and the note belongs to no trusted user."""
    if note is not None:
        paths.unsent_rows.write_text(note)
    done = package.run("postrm", "purge")
    assert done.returncode == 0, done.stderr
    assert "edgepaas.db" in package.kept()
    assert "\x1b" not in done.stdout
    assert not package.state.exists()


def test_a_note_that_is_a_link_is_not_followed(
    package: Package, paths: Paths, file: sqlite3.Connection, tmp_path: Path
) -> None:
    (tmp_path / "zero").write_text("0\n")
    paths.unsent_rows.symlink_to(tmp_path / "zero")
    assert package.run("postrm", "purge").returncode == 0
    assert "edgepaas.db" in package.kept()


def test_where_it_cannot_be_kept_nothing_is_deleted(
    package: Package, paths: Paths, file: sqlite3.Connection
) -> None:
    package.backups.write_text("a file where the folder should be")
    assert package.run("postrm", "purge").returncode != 0
    assert paths.sqlite.exists()


def test_a_file_in_quarantine_is_kept_too(
    package: Package, paths: Paths, file: sqlite3.Connection
) -> None:
    stream.confirm(file, "b1", 3, Counts(delivered=3))
    folder = paths.quarantine / "20260131"
    folder.mkdir(parents=True)
    (folder / "edgepaas.db").write_bytes(b"damaged")
    said = purge(package, paths)
    assert "unknown" in said
    assert {"edgepaas.db", "quarantine"} <= set(package.kept())


def test_the_removal_asks_the_code_and_forgets_an_older_note(
    package: Package, paths: Paths
) -> None:
    """One of an earlier removal would say that nothing waits."""
    paths.unsent_rows.write_text("0\n")
    asked = package.bin / "edgepaas"
    asked.write_text('#!/bin/sh\necho "$@" >>"$0.asked"\nexit 1\n')
    asked.chmod(0o755)
    assert package.run("prerm", "upgrade").returncode == 0
    assert paths.unsent_rows.exists()
    assert package.run("prerm", "remove").returncode == 0
    assert not paths.unsent_rows.exists()
    assert (package.bin / "edgepaas.asked").read_text() == "sync unsent --note\n"
