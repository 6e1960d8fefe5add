# SPDX-License-Identifier: Apache-2.0
"""A journal that cannot be read, is torn, or gets shorter, when PostgreSQL lost what it has."""

import sqlite3
from typing import Any

import pytest

from edgepaas.files.locks import LockHeld
from edgepaas.outbox.journal.access import JournalUnreadable
from edgepaas.outbox.journal.opening import JournalUnusable
from edgepaas.outbox.resending import insertion
from edgepaas.outbox.resending.recovery_state import read_history
from edgepaas.sync.audit.box import read_box
from edgepaas.sync.resend import journaled
from edgepaas.sync.resend.journal_trouble import JournalTrouble
from edgepaas.sync.resend.recovery import AGAIN_AFTER
from tests.integration.test_sync_resend import (
    alerts,
    backups,
    notes,
    nothing_for_a_person,
    primary,
    restore,
)
from tests.support.backups import Backups
from tests.support.forwarding import TestHub
from tests.support.primary_box import PrimaryBox
from tests.support.weaken import weakened

__all__ = ["alerts", "backups", "primary"]

# -- a journal that cannot be read --


def lose_rows_of_both(box: PrimaryBox, backups: Backups) -> None:
    """A restored hub lacks two rows of the journal and a place; a row of an outage waits."""
    box.samples(0)
    box.settle()
    box.disconnect()
    backups.take()
    box.place("hall", "0")
    box.samples(1, 2)
    box.settle()
    box.look()
    box.disconnect()
    box.switch()
    restore(box, backups)
    box.file_samples(3)
    box.file.write("UPDATE places SET note = '1' WHERE name = 'hall'")


UNREADABLE = [
    LockHeld("it is locked by another process"),
    JournalUnusable("another process has it open"),
    sqlite3.OperationalError("disk I/O error"),
    PermissionError(13, "Permission denied"),
]


@pytest.mark.parametrize("why", UNREADABLE, ids=lambda one: type(one).__name__)
def test_what_waits_is_delivered_while_the_journal_cannot_be_read(
    primary: PrimaryBox, hub: TestHub, backups: Backups, alerts: list[Any], why: Exception
) -> None:
    """With an alert; what the journal has is sent when it can be read."""
    lose_rows_of_both(primary, backups)
    now = [0.0]
    primary.recovery.clock = lambda: now[0]
    primary.recovery.trouble = JournalTrouble(patience=30, clock=lambda: now[0])

    def refuse(*_: object, **__: object) -> None:
        raise why

    with hub.link() as link, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journaled, "Journal", refuse)
        with pytest.raises(JournalUnreadable):
            primary.turn(link)  # it is waited for, since what was lost is older
        now[0] += 31
        assert not primary.turn(link)
        assert primary.missing() == 2, "what waited is there"
        assert notes(hub) == {"hall": "1"}
        assert ("journal-unread", "critical") in alerts
        assert read_history(primary.file.file).broken
        primary.file_samples(4)
        assert not primary.turn(link)
        assert primary.missing() == 2
    now[0] += AGAIN_AFTER
    primary.settle()
    assert primary.missing() == 0
    assert hub.one("SELECT count(*) FROM samples") == 5
    assert notes(hub) == {"hall": "1"}
    assert primary.lost.rows == 0 and not read_history(primary.file.file).broken


def test_a_build_that_waits_for_the_journal_for_ever_is_found_out(
    primary: PrimaryBox, hub: TestHub, backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_rows_of_both(primary, backups)
    now = [0.0]
    primary.recovery.clock = lambda: now[0]
    primary.recovery.trouble = JournalTrouble(patience=30, clock=lambda: now[0])

    def refuse(*_: object, **__: object) -> None:
        raise LockHeld("in use")

    monkeypatch.setattr(journaled, "Journal", refuse)
    with weakened("waits-for-journal"), hub.link() as link:
        for _ in range(3):
            with pytest.raises(JournalUnreadable):
                primary.turn(link)
            now[0] += 31
    assert primary.missing() == 3


def test_a_journal_with_a_torn_page_is_set_aside_and_counted(
    primary: PrimaryBox, hub: TestHub, backups: Backups, alerts: list[tuple[str, str]]
) -> None:
    """What it had is lost, and no row that waits is kept back for it."""
    primary.samples(0)
    primary.settle()
    primary.disconnect()
    backups.take()
    primary.samples(*map(float, range(1, 200)))
    primary.keeper._persist()
    primary.settle()
    primary.disconnect()
    primary.switch()
    primary.journal.close()
    restore(primary, backups)
    primary.file_samples(300)
    path = primary.journal.path
    with path.open("r+b") as file:  # its first pages are as they were
        file.seek(6 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 6 * 4096))
    primary.recovery.trouble = JournalTrouble(patience=0.0)
    now = [0.0]
    primary.recovery.clock = lambda: now[0]
    with hub.link() as link:
        primary.connections.look_closely()
        for _ in range(4):
            now[0] += AGAIN_AFTER
            primary.compare_without_journal(link)
            primary.file.drain_all(link)
    assert hub.one("SELECT count(*) FROM samples WHERE value = 300") == 1
    assert list(path.parent.glob(f"{path.name}.[0-9]*"))
    assert ("journal-unusable", "critical") in alerts
    assert not read_history(primary.file.file).broken
    assert primary.missing() == primary.lost.rows == 199
    assert ("acknowledged-rows-lost", "critical") in alerts


# -- what leaves the journal meanwhile --


def lose_the_journal_in_between(box: PrimaryBox, patch: pytest.MonkeyPatch) -> None:
    """Have the oldest entries leave, for the disk budget, while they are put into the outbox."""
    original = insertion._make_room

    def make_room(*arguments: Any) -> None:
        while box.journal.prune(budget=0, limit=1):
            pass
        original(*arguments)

    patch.setattr(insertion, "_make_room", make_room)


def test_the_budget_may_take_what_is_being_sent_again(
    primary: PrimaryBox, hub: TestHub, backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is read twice: for how many rows there are, and for the rows."""
    lose_rows_of_both(primary, backups)
    with monkeypatch.context() as patch:
        lose_the_journal_in_between(primary, patch)
        primary.settle()
    assert primary.missing() == 0
    nothing_for_a_person(primary, hub)


def test_a_build_that_reads_the_journal_at_two_moments_is_found_out(
    primary: PrimaryBox, hub: TestHub, backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_rows_of_both(primary, backups)
    with weakened("journal-moves"), monkeypatch.context() as patch:
        lose_the_journal_in_between(primary, patch)
        primary.settle()
    assert primary.missing() > 0 or read_box(primary.file.file).discrepancies()
