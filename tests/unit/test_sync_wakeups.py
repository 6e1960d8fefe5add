# SPDX-License-Identifier: Apache-2.0
"""How the drainer notices new rows: datagrams, and commits of other connections."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.sync_wakeup import Waker
from edgepaas.sync.wakeups import ForeignWriteDetector, WakeupSocket, send_wakeup

LONG = 60.0


@pytest.fixture
def wake(tmp_path: Path) -> Iterator[WakeupSocket]:
    """The wake-up socket of a drainer."""
    found = WakeupSocket(tmp_path / "sync.wake")
    yield found
    found.close()


def test_the_services_writer_wakes_it(wake: WakeupSocket, tmp_path: Path) -> None:
    waker = Waker(tmp_path / "sync.wake")
    waker()
    assert wake.sleep(LONG)
    waker.close()


def test_many_datagrams_are_one_wakeup(wake: WakeupSocket, tmp_path: Path) -> None:
    for _ in range(1000):
        assert send_wakeup(tmp_path / "sync.wake")
    assert wake.sleep(LONG)
    assert not wake.sleep(0)


def test_a_deeply_nested_folder_has_a_wakeup_socket_as_well(tmp_path: Path) -> None:
    """sun_path holds 108 bytes, a home folder's name may be longer."""
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    deep = WakeupSocket(folder / "sync.wake")
    Waker(folder / "sync.wake")()
    assert deep.sleep(LONG)
    deep.close()


def test_the_socket_of_a_killed_drainer_is_replaced_and_is_private(
    wake: WakeupSocket, tmp_path: Path
) -> None:
    again = WakeupSocket(tmp_path / "sync.wake")
    assert (tmp_path / "sync.wake").stat().st_mode & 0o077 == 0
    send_wakeup(tmp_path / "sync.wake")
    assert again.sleep(LONG)
    again.close()


def test_without_a_listener_no_wakeup_is_sent(tmp_path: Path) -> None:
    assert not send_wakeup(tmp_path / "sync.wake")


def test_ignored_wakeups_end_no_sleep_but_a_stop_does(wake: WakeupSocket, tmp_path: Path) -> None:
    """While the hub is unreachable, new rows wake nothing."""
    send_wakeup(tmp_path / "sync.wake")
    assert not wake.sleep(0.01, ignore_wakeups=True)
    wake.interrupt()
    assert not wake.sleep(LONG, ignore_wakeups=True)


def test_a_commit_of_another_connection_is_noticed_and_its_own_is_not(tmp_path: Path) -> None:
    mine = open_sqlite(tmp_path / "a.db", create=True)
    mine.execute("CREATE TABLE t (a)")
    foreign = ForeignWriteDetector(mine)
    assert not foreign.changed()
    mine.execute("INSERT INTO t VALUES (1)")
    assert not foreign.changed()
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute("INSERT INTO t VALUES (2)")
    assert foreign.changed()
    assert not foreign.changed()
    other.close()
    mine.close()
