# SPDX-License-Identifier: Apache-2.0
"""A migration of the SQLite file that is killed at any step leaves a whole file, old or new."""

import itertools
import os
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepaas.files import atomic
from edgepaas.files.paths import Paths
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from tests.support.chains import (
    bring,
    connected,
    hub_contract,
    rows_in,
    sell,
    shop,
    sqlite_contract,
    version_of,
)
from tests.support.outbox import ops

#: What changes names or contents on the disk.
_STEPS: tuple[tuple[Any, str], ...] = (
    (files, "copy_database"), (files, "check_copy"), (files, "sync_file"), (files, "_settle"),
    (files, "sync_folder"), (atomic, "sync_folder"), (files, "move_durably"), (files, "_prune"),
    (files, "discard"), (os, "link"), (os, "replace"), (os, "rename"), (os, "unlink"),
    (Path, "replace"), (Path, "rename"),
)  # fmt: skip
_KILLED, _FINISHED, _FAILED = 9, 0, 1


def _migrate(paths: Paths, tmp_path: Path, step: int) -> int:
    """Migrate in a process that ends itself, as a power cut would, at the *step*-th step.

    A fork of this one: it has everything imported.
    """
    application = shop(tmp_path, "0002")
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        calls = itertools.count(1)

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(calls) == step:
                    os._exit(_KILLED)
                return function(*arguments, **options)

            return call

        for module, name in _STEPS:
            setattr(module, name, counted(getattr(module, name)))
        prepare_database(hub_contract(paths), Settings.of(EDGEPAAS_APP="shop"), paths, application)
        os._exit(_FINISHED)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(_FAILED)


def test_a_kill_at_any_step_leaves_a_whole_file_with_every_row(
    paths: Paths, tmp_path: Path
) -> None:
    """The failure point moves forward until a run gets through; the next boot mends the rest.

    What waits for the hub is there once, and capture goes on.
    """
    settings = Settings.of(EDGEPAAS_APP="shop")
    steps = 0
    finished = False
    while not finished:
        steps += 1
        assert steps < 60
        for leftover in (paths.sqlite, *paths.state.glob("edgepaas.db-*")):
            leftover.unlink(missing_ok=True)
        prepare_database(hub_contract(paths), settings, paths, shop(tmp_path, "0001"))
        sell(paths)
        ended = _migrate(paths, tmp_path, steps)
        finished = ended == _FINISHED
        assert ended in (_FINISHED, _KILLED), "its traceback is in the captured output"
        version = version_of(paths.sqlite)
        assert version in ("0001", "0002")
        price = (None,) if version == "0002" else ()
        assert rows_in(paths.sqlite, "items") == [(f"i{n}", "tea", *price) for n in range(3)]
        prepare_database(hub_contract(paths), settings, paths, shop(tmp_path, "0002"))
        assert version_of(paths.sqlite) == "0002"
        assert rows_in(paths.sqlite, "sales") == [(f"s{n}", f"i{n}") for n in range(3)]
        assert list(paths.state.glob(".edgepaas.db.*")) == []
        assert not paths.quarantine.exists()
        with connected(paths.sqlite) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            connection.execute("DELETE FROM sales WHERE id = 's0'")
            assert [op for op, _ in ops(connection)] == ["insert"] * 6 + ["delete"]
        for backup in paths.backups.iterdir():
            assert backup.stat().st_nlink == 1, "a backup shares the file that is in use"
    assert steps > 8


@pytest.mark.parametrize("number", range(1, 12))
def test_a_disk_error_at_any_statement_of_the_migration_keeps_the_rows(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The file is migrated, or in its place as it was."""
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    calls = 0

    def deny(action: int, *_: object) -> int:
        nonlocal calls
        calls += action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE)
        return sqlite3.SQLITE_DENY if calls == number else sqlite3.SQLITE_OK

    from edgepaas.schema.sqlite import copies

    original = copies._open_for_migration

    def opened(path: Path) -> sqlite3.Connection:
        connection = original(path)
        if calls < number:
            connection.set_authorizer(deny)
        return connection

    monkeypatch.setattr(copies, "_open_for_migration", opened)
    report = prepare_database(
        sqlite_contract(paths), Settings.of(EDGEPAAS_APP="shop"), paths, shop(tmp_path, "0002")
    )
    assert report.action in ("migrated", "refused")
    assert len(rows_in(paths.sqlite, "items")) == len(rows_in(paths.sqlite, "sales")) == 3
    assert version_of(paths.sqlite) == ("0002" if report.action == "migrated" else "0001")
    assert not paths.quarantine.exists()
