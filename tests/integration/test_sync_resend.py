# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL acknowledged and lost comes home from the journal, in its order and once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.outbox import ledger
from edgepaas.sync.audit.box import read_box
from tests.support.backups import Backups
from tests.support.forwarding import TestHub
from tests.support.primary_box import PrimaryBox
from tests.support.weaken import weakened


@pytest.fixture(autouse=True)
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    raised: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda message, *, fingerprint, severity, **_: raised.append((fingerprint, severity)),
    )
    return raised


@pytest.fixture
def backups(hub: TestHub) -> Iterator[Backups]:
    yield Backups(hub)
    hub.server.drop_database(f"{hub.name}_b")


@pytest.fixture
def primary(hub: TestHub, tmp_path: Path) -> Iterator[PrimaryBox]:
    found = PrimaryBox(tmp_path / "home", hub)
    yield found
    found.close()


def notes(hub: TestHub) -> dict[str, str]:
    """The notes of the hub's places by their names."""
    return {str(name): str(note) for name, note in hub.ask("SELECT name, note FROM places")}


def nothing_for_a_person(box: PrimaryBox, hub: TestHub) -> None:
    """Check that no value was overwritten, nothing refused, and that all of it adds up."""
    assert hub.ask("SELECT tbl, reason, hub, box FROM sync_conflicts") == []
    assert hub.one("SELECT count(*) FROM sync_dead_letters") == 0
    found = ledger.read(box.file.file)
    assert found["pending"] == 0
    assert found["accepted"] == found["delivered"] + found["shed"]
    assert read_box(box.file.file).discrepancies() == []


def restore(box: PrimaryBox, backups: Backups) -> None:
    """Restore the hub, with the service connected anew and the loss found by it."""
    box.disconnect()
    backups.restore()


def live_through_an_outage(box: PrimaryBox, backups: Backups) -> None:
    """Rows of PostgreSQL's time, of an outage, and of PostgreSQL's time again; then a restore."""
    box.place("hall", "0")
    box.samples(0)
    box.settle()
    box.disconnect()
    backups.take()
    box.describe("hall", "0", "1")
    box.place("attic", "1")
    box.samples(1, 2)
    box.settle()
    box.switch()
    box.file_samples(3)
    box.file.write("UPDATE places SET note = '2' WHERE name = 'hall'")
    box.settle()
    box.switch()
    box.describe("hall", "2", "3")
    box.samples(4)
    restore(box, backups)


def test_a_restored_hub_gets_all_of_it_again_in_its_order(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    live_through_an_outage(primary, backups)
    assert primary.missing() == 4
    primary.settle()
    assert primary.missing() == 0
    assert hub.one("SELECT count(*) FROM samples") == 5
    assert notes(hub) == {"hall": "3", "attic": "1"}
    assert primary.lost.rows == 0
    nothing_for_a_person(primary, hub)
    accepted = ledger.read(primary.file.file)["accepted"]
    primary.settle()
    assert ledger.read(primary.file.file)["accepted"] == accepted, "once"


def test_increments_that_a_restored_hub_lost_are_added_to_what_others_count_since(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    """The journal has them, and the marks say that the hub does not: none is in doubt."""
    primary.place("hall", "0")
    primary.count("hall", 0)
    primary.settle()
    primary.disconnect()
    backups.take()
    for before in (1, 2, 3):
        primary.count("hall", before)
    restore(primary, backups)
    hub.ask("UPDATE places SET visits = visits + 10 RETURNING 1")
    assert hub.one("SELECT visits FROM places") == 11
    primary.settle()
    assert hub.ask("SELECT visits, note FROM places") == [[14, "0"]]
    nothing_for_a_person(primary, hub)


def test_a_recovery_that_queues_nothing_is_found_out(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    with weakened("lost-stays-lost"):
        live_through_an_outage(primary, backups)
        primary.settle()
    assert primary.missing() == 3


def test_sending_it_behind_all_that_waits_is_found_out(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    with weakened("resent-behind"):
        live_through_an_outage(primary, backups)
        primary.settle()
    assert notes(hub)["hall"] != "3" or hub.ask("SELECT 1 FROM sync_conflicts")


def test_the_service_may_find_the_loss_first(
    primary: PrimaryBox, hub: TestHub, backups: Backups, alerts: list[tuple[str, str]]
) -> None:
    """It writes the loss down, and expects less of the hub from then on."""
    primary.samples(1)
    primary.settle()
    primary.disconnect()
    backups.take()
    primary.samples(2, 3)
    primary.settle()
    restore(primary, backups)
    primary.connect()
    assert primary.lost.rows == 2
    primary.samples(4)
    primary.settle()
    assert primary.missing() == 0
    assert primary.lost.rows == 0
    nothing_for_a_person(primary, hub)
    assert alerts == [("acknowledged-rows-lost", "warning")]


def test_what_the_journal_no_longer_has_is_lost_and_counted_exactly(
    primary: PrimaryBox, hub: TestHub, backups: Backups, alerts: list[tuple[str, str]]
) -> None:
    primary.samples(0)
    primary.settle()
    primary.disconnect()
    backups.take()
    gone = primary.samples(1, 2, 3)
    primary.samples(4, 5)
    primary.look()
    primary.settle()
    with primary.journal._writer.changing() as connection:
        connection.execute(
            "DELETE FROM journal WHERE number < (SELECT max(number) - 1 FROM journal)"
        )
    restore(primary, backups)
    primary.settle()
    assert primary.missing() == len(gone) == primary.lost.rows
    assert alerts[-1] == ("acknowledged-rows-lost", "critical")
    primary.settle()
    assert primary.lost.rows == len(gone)


def test_streams_that_were_joined_are_sent_again_as_well(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    """The hub has one sum of several ended connections; a restore brings some of them back."""
    primary.samples(0)
    primary.connect()
    primary.samples(1)
    primary.settle()
    primary.disconnect()
    backups.take()
    primary.connect()
    primary.look()
    primary.samples(2)
    primary.connect()
    primary.samples(3)
    primary.connect()
    primary.look()
    assert hub.one("SELECT count(*) FROM sync_connections") == 1
    restore(primary, backups)
    primary.connect()
    primary.settle()
    assert primary.missing() == 0
    assert primary.lost.rows == 0
    nothing_for_a_person(primary, hub)


def test_a_kill_between_the_two_files_sends_nothing_twice(
    primary: PrimaryBox, hub: TestHub, backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are in the outbox, and the journal does not know of it."""
    live_through_an_outage(primary, backups)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for step in (
        "edgepaas.outbox.journal.journal.Journal.note_resent",
        "edgepaas.outbox.resending.resent.set_noted",
        "edgepaas.sync.delivery.drain._send_next",
    ):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(step, die)
            primary.settle()
    primary.settle()
    assert primary.missing() == 0
    assert notes(hub) == {"hall": "3", "attic": "1"}
    assert primary.lost.rows == 0
    nothing_for_a_person(primary, hub)


def test_a_process_killed_before_it_wrote_its_marks_down_loses_nothing(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    """Box and server lose power together: the record of the marks lags, the journal does not."""
    primary.samples(0)
    primary.settle()
    primary.disconnect()
    backups.take()
    primary.samples(1, 2)
    primary.journal.flush()
    restore(primary, backups)
    assert primary.lost.rows == 0, "the record knows of nothing"
    primary.settle()
    assert primary.missing() == 0
    nothing_for_a_person(primary, hub)
