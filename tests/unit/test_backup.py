# SPDX-License-Identifier: Apache-2.0
"""``edgepaas backup`` and ``restore``: consistent while others write, verified, losing nothing."""

import contextlib
import errno
import gzip
import io
import json
import os
import random
import shutil
import sqlite3
import tarfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.backup import archive, contents
from edgepaas.backup.archive import DamagedBackup, Manifest
from edgepaas.backup.make import make_backup
from edgepaas.backup.restore import NotRestored, Restored, restore
from edgepaas.cli import main
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.locks import held
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths, find_paths
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.stream import read_stream
from edgepaas.sync.losses import lost_state
from edgepaas.web.access.tokens import TokenStore
from tests.support.outbox import captured_file


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return machine_id(tmp_path / "machine-id", "a")


def machine_id(path: Path, letter: str) -> Path:
    path.write_text(letter * 32 + "\n")
    return path


@pytest.fixture
def box(paths: Paths, machine: Path) -> Iterator[Paths]:
    """A stopped box with an identity, a token, rules, a journal, and five facts that wait."""
    node = node_identity(paths, machine_id=machine)
    TokenStore(paths.tokens).create("laptop", read_only=False)
    folder = paths.state / "rules"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "rules.db")) as rules:
        rules.execute("PRAGMA journal_mode=WAL")
        rules.execute("CREATE TABLE kept (n)")
        rules.execute("INSERT INTO kept VALUES (1)")
        rules.commit()
    Journal(journal_path(paths.sqlite), node.node_id).close()
    paths.env_file.parent.mkdir(parents=True, exist_ok=True)
    paths.env_file.write_text("NODE_NAME=press\n")
    with captured_file(paths.sqlite) as file:
        add_facts(file, 5)
    yield paths


def add_facts(file: sqlite3.Connection, count: int) -> None:
    file.execute("BEGIN IMMEDIATE")
    file.executemany(
        "INSERT INTO facts (id, text) VALUES (?, 'x')",
        [(str(uuid.uuid4()),) for _ in range(count)],
    )
    file.execute("COMMIT")


def send_home(paths: Paths) -> None:
    """Have nothing wait: as if the hub had confirmed all of it."""
    with contextlib.closing(open_sqlite(paths.sqlite)) as file:
        file.execute(
            "UPDATE outbox_state SET confirmed_seq = (SELECT max(seq) FROM outbox), "
            "confirmed_batch = 'b'"
        )


def facts(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as file:
        return int(file.execute("SELECT count(*) FROM facts").fetchone()[0])


def backed_up(paths: Paths) -> tuple[bytes, Manifest]:
    target = io.BytesIO()
    manifest = make_backup(paths, paths.sqlite, "press", target)
    return target.getvalue(), manifest


def restored(data: bytes, paths: Paths, machine: Path, **options: bool) -> Restored:
    return restore(io.BytesIO(data), paths, paths.sqlite, machine_id=machine, **options)


def new_machine(folder: Path) -> Paths:
    paths = find_paths({"EDGEPAAS_HOME": str(folder)})
    paths.create()
    return paths


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.endswith((".lock", "-shm", "-wal"))
    }


def test_a_backup_holds_the_box_and_none_of_what_is_made_anew(box: Paths) -> None:
    box.ballast.write_bytes(b"b")
    box.backups.mkdir()
    (box.backups / "old").write_bytes(b"o")
    (box.state / "pages").mkdir()
    (box.state / "pages" / "index.html").write_text("an application's own")
    (box.state / "link").symlink_to("/etc/hostname")
    _, manifest = backed_up(box)
    assert {one.name for one in manifest.members} == {
        "database.db",
        "journal.db",
        "edgepaas.env",
        "state/node.json",
        "state/tokens.json",
        "state/rules/rules.db",
        "state/pages/index.html",
    }
    assert manifest.rows_waiting == 5
    assert not list(box.state.glob(".backup-*"))


def test_a_backup_of_a_file_that_is_written_is_of_one_moment(box: Paths) -> None:
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(open_sqlite(box.sqlite)) as file:
            while not stop.is_set():
                add_facts(file, 3)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        data, _ = backed_up(box)
    finally:
        stop.set()
        writer.join(60)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        copy = box.state / "copy.db"
        found = tar.extractfile("database.db")
        assert found is not None
        copy.write_bytes(found.read())
    with contextlib.closing(sqlite3.connect(copy)) as file:
        rows = file.execute("SELECT count(*) FROM facts").fetchone()[0]
        queued = file.execute("SELECT count(*) FROM outbox WHERE op = 'I'").fetchone()[0]
        assert rows == queued
        assert rows % 3 == 5 % 3, "whole transactions"
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_whatever_is_changed_in_a_backup_is_found(box: Paths) -> None:
    data, manifest = backed_up(box)
    assert archive.verify(io.BytesIO(data)) == manifest
    chance = random.Random(13)
    found = 0
    for _ in range(60):
        place = chance.randrange(10, len(data))  # behind gzip's header, which holds nothing
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        try:
            same = archive.verify(io.BytesIO(changed)) == manifest
        except DamagedBackup:
            found += 1
        else:
            assert same, "a bit that only fills up: every byte was compared all the same"
    assert found > 50
    for _ in range(30):
        with pytest.raises(DamagedBackup):
            archive.verify(io.BytesIO(data[: chance.randrange(len(data))]))
    for other in (b"", b"SQLite format 3\0", gzip.compress(b"no tar")):
        with pytest.raises(DamagedBackup):
            archive.verify(io.BytesIO(other))


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "state/../../x", ""])
def test_a_backup_that_names_files_outside_of_the_box_is_refused(name: str) -> None:
    target = io.BytesIO()
    fields = {"made_at": "", "build": "", "name": "", "node": None, "rows_waiting": 0}
    member = {"name": name, "role": "state", "size": 0, "sha256": ""}
    text = archive.RECORD.render({**fields, "members": [member]}).encode()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    with pytest.raises(DamagedBackup, match="outside"):
        archive.verify(io.BytesIO(target.getvalue()))


def test_a_damaged_file_is_not_backed_up(box: Paths) -> None:
    with contextlib.closing(open_sqlite(box.sqlite)) as file:
        add_facts(file, 2000)
    with box.sqlite.open("r+b") as file:
        file.seek(40 * 4096 + 100)
        file.write(b"\xff" * 3000)
    with pytest.raises(contents.NotBackedUp, match=r"damaged|cannot be copied"):
        backed_up(box)
    assert not list(box.state.glob(".backup-*"))


def test_a_restore_sets_back_the_data_and_leaves_what_knows_more(box: Paths, machine: Path) -> None:
    data, _ = backed_up(box)
    send_home(box)
    with contextlib.closing(open_sqlite(box.sqlite)) as file:
        send = read_stream(file)
    (box.state / "acknowledged.json").write_text("later")
    store = TokenStore(box.tokens)
    store.revoke("laptop")
    identity, journal = box.node.read_bytes(), journal_path(box.sqlite).read_bytes()
    with contextlib.closing(sqlite3.connect(box.state / "rules" / "rules.db")) as rules:
        rules.execute("INSERT INTO kept VALUES (2)")
        rules.commit()
    done = restored(data, box, machine)
    assert done.identity
    assert box.node.read_bytes() == identity
    assert journal_path(box.sqlite).read_bytes() == journal
    assert store.read() == (), "a revoked token is worth nothing afterwards"
    assert (box.state / "acknowledged.json").read_text() == "later"
    with contextlib.closing(sqlite3.connect(box.state / "rules" / "rules.db")) as rules:
        assert rules.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    with contextlib.closing(open_sqlite(box.sqlite)) as file:
        stream = read_stream(file)
    assert stream is not None
    assert send is not None
    assert (stream.stream_id, stream.confirmed_seq) == (send.stream_id, 0)
    assert done.kept is not None
    assert facts(done.kept) == 5


def test_rows_that_wait_are_not_given_up_unasked(box: Paths, machine: Path) -> None:
    data, _ = backed_up(box)
    with contextlib.closing(open_sqlite(box.sqlite)) as file:
        add_facts(file, 2)
    before = tree(box.state)
    with pytest.raises(NotRestored, match="7 rows of this box wait"):
        restored(data, box, machine)
    assert tree(box.state) == before
    done = restored(data, box, machine, discard_waiting=True)
    assert facts(box.sqlite) == 5
    assert done.kept is not None
    assert facts(done.kept) == 7, "kept all the same"


def test_a_box_that_runs_is_not_restored(box: Paths, machine: Path) -> None:
    data, _ = backed_up(box)
    send_home(box)
    before = tree(box.state)
    for lock in (box.database_lock, box.serving_lock, box.sync_lock, box.state_lock):
        running = held(lock, shared=lock == box.database_lock)
        with running, pytest.raises(NotRestored, match="stop it first"):
            restored(data, box, machine)
    assert tree(box.state) == before
    restored(data, box, machine)


def test_a_damaged_backup_changes_nothing(box: Paths, machine: Path) -> None:
    data, _ = backed_up(box)
    send_home(box)
    before = tree(box.state)
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    with pytest.raises(DamagedBackup):
        restored(bytes(changed), box, machine)
    assert tree(box.state) == before


def test_another_machine_gets_the_data_under_its_own_identity(box: Paths, tmp_path: Path) -> None:
    data, _ = backed_up(box)
    other = new_machine(tmp_path / "other")
    its_machine = machine_id(tmp_path / "other-id", "b")
    own = node_identity(other, machine_id=its_machine)
    done = restored(data, other, its_machine)
    assert not done.identity
    assert node_identity(other, machine_id=its_machine) == own
    assert facts(other.sqlite) == 5
    assert not journal_path(other.sqlite).exists()
    assert [one.name for one in TokenStore(other.tokens).read()] == ["laptop"]


@pytest.mark.parametrize("began", [True, False])
def test_a_machine_takes_the_place_of_a_box_that_is_gone(
    box: Paths, tmp_path: Path, machine: Path, began: bool
) -> None:
    data, _ = backed_up(box)
    gone = node_identity(box, machine_id=machine)
    other = new_machine(tmp_path / "other")
    its_machine = machine_id(tmp_path / "other-id", "b")
    if began:
        own = node_identity(other, machine_id=its_machine)
        Journal(journal_path(other.sqlite), own.node_id).close()
    done = restored(data, other, its_machine, same_box=True)
    assert done.identity
    assert node_identity(other, machine_id=its_machine).node_id == gone.node_id
    said: list[str] = []
    Journal(journal_path(other.sqlite), gone.node_id, set_aside=said.append).close()
    assert said == [], "the journal of the backup goes on"


@pytest.mark.parametrize("same_box", [True, False])
def test_a_restore_is_no_state_folder_that_was_lost(
    box: Paths, tmp_path: Path, same_box: bool
) -> None:
    """A new machine has served before: its spool knew another box and file, and raised an alert."""
    data, _ = backed_up(box)
    other = new_machine(tmp_path / "other")
    its_machine = machine_id(tmp_path / "other-id", "b")
    with captured_file(other.sqlite) as file:
        its_stream = read_stream(file)
    its_node = node_identity(other, machine_id=its_machine)
    lost_state.look(other, its_node, its_stream, before=(), replaced=False)
    assert other.last_known.exists()
    restored(data, other, its_machine, same_box=same_box)
    with contextlib.closing(open_sqlite(other.sqlite)) as file:
        stream = read_stream(file)
    node = node_identity(other, machine_id=its_machine)
    lost_state.look(other, node, stream, before=(), replaced=False)
    assert lost_state.lost_sentences(other) == []
    # And it is one where the folder is deleted afterwards.
    other.node.unlink()
    node = node_identity(other, machine_id=its_machine)
    lost_state.look(other, node, its_stream, before=(), replaced=False)
    assert len(lost_state.lost_sentences(other)) == 1


def test_a_folder_that_cannot_be_renamed_is_copied(
    box: Paths, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overlay, as of a read-only root with its changes in memory, renames no lower folder."""
    data, _ = backed_up(box)
    lower = {box.state / "rules"}
    rename = os.rename

    def of_an_overlay(source: str | Path, target: str | Path) -> None:
        if Path(source) in lower:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", of_an_overlay)
    (box.state / "rules" / "mark").write_text("before")
    real, lower_once = shutil.rmtree, lower.clear

    def gone(*given: Any, **options: Any) -> None:
        real(*given, **options)
        lower_once()  # what takes its place is of the upper layer

    monkeypatch.setattr(shutil, "rmtree", gone)
    restored(data, box, machine, discard_waiting=True)
    assert (box.state / contents.REPLACED / "rules" / "mark").read_text() == "before"
    assert not (box.state / "rules" / "mark").exists()
    with contextlib.closing(sqlite3.connect(box.state / "rules" / "rules.db")) as rules:
        assert rules.execute("SELECT count(*) FROM kept").fetchone() == (1,)


def test_a_machine_whose_state_was_deleted_is_the_same_box(
    box: Paths, tmp_path: Path, machine: Path
) -> None:
    data, _ = backed_up(box)
    gone = node_identity(box, machine_id=machine)
    again = new_machine(tmp_path / "again")
    node_identity(again, machine_id=machine)
    assert restored(data, again, machine).identity
    assert node_identity(again, machine_id=machine).node_id == gone.node_id


def test_a_file_that_cannot_be_read_is_set_aside_on_demand(box: Paths, machine: Path) -> None:
    data, _ = backed_up(box)
    for beside in box.state.glob("edgepaas.db-*"):
        beside.unlink()
    box.sqlite.write_bytes(b"no database at all" * 500)
    with pytest.raises(NotRestored, match="--discard-waiting"):
        restored(data, box, machine)
    restored(data, box, machine, discard_waiting=True)
    assert facts(box.sqlite) == 5
    assert len(list(box.quarantine.iterdir())) == 1


def test_the_commands(box: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    capsys.readouterr()
    file = tmp_path / "box.backup"
    assert main(["backup", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["name"], said["rows_waiting"]) == (True, "press", 5)
    assert file.stat().st_mode & 0o777 == 0o600
    assert main(["backup", str(file)]) == 2, "never over a file that is there"
    assert main(["backup", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("edgepaas-*.backup"))) == 1
    assert main(["backup", "--verify", str(file)]) == 0
    assert main(["restore", str(file), "--yes"]) == 1, "rows wait"
    assert main(["restore", str(file), "--yes", "--discard-waiting"]) == 0
    capsys.readouterr()
    assert main(["restore", str(file), "--print-settings"]) == 0
    assert capsys.readouterr().out == "NODE_NAME=press\n"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert main(["backup", "--verify", str(file)]) == 1
    assert main(["restore", str(file), "--yes"]) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.new"))
