# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL acknowledged and lost comes home from the journal, in its order and once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.outbox import ledger
from edgepaas.sync.audit.box import read_box
from edgepaas.sync.resend import journaled
from tests.support.backups import Backups
from tests.support.forwarding import TestHub
from tests.support.primary_box import NODE, PrimaryBox
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


_WRITTEN = ("places", "samples", "sync_connections")


def keep(hub: TestHub) -> None:
    """Keep the hub's tables as they are now."""
    for table in _WRITTEN:
        hub.ask(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")


def fail_over(hub: TestHub) -> None:
    """Take back what was committed since then, behind an open session, as a pooler does."""
    for table in _WRITTEN:
        hub.ask(f"DELETE FROM {table}")
        hub.ask(f"INSERT INTO {table} SELECT * FROM kept_{table}")
        hub.ask(f"DROP TABLE kept_{table}")


# -- box and server die together: whether the client was answered is not written anywhere --


def test_the_last_transaction_of_a_killed_box_comes_home_where_the_hub_lost_it_alone(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    """No other mark shows that the hub went back; the clients know what they were told."""
    primary.place("hall", "0")
    primary.samples(0)
    primary.settle()
    primary.disconnect()
    backups.take()
    primary.samples(1, 2)
    primary.kill()
    restore(primary, backups)
    primary.connect()
    assert primary.missing() == 2
    primary.settle()
    assert primary.missing() == 0
    assert hub.one("SELECT count(*) FROM samples") == 3
    assert primary.lost.rows == 0
    nothing_for_a_person(primary, hub)


@pytest.mark.parametrize("noted", [False, True])
def test_a_stream_is_not_joined_before_what_the_hub_lacks_of_it_is_sent(
    primary: PrimaryBox, hub: TestHub, *, noted: bool
) -> None:
    """A killed process had not recorded its marks; the drainer comes later than the joining."""
    primary.samples(0)
    primary.settle()
    keep(hub)
    primary.samples(1)
    if noted:
        primary.journal.flush()
    primary.kill()
    fail_over(hub)
    for _ in range(3):
        primary.look()
    assert primary.missing() == 1
    primary.settle()
    assert primary.missing() == 0
    nothing_for_a_person(primary, hub)
    for _ in range(3):
        primary.look()
    assert hub.one("SELECT count(*) FROM sync_connections") <= 2


def test_a_build_that_forgets_what_is_in_flight_is_found_out(
    primary: PrimaryBox, hub: TestHub, backups: Backups
) -> None:
    primary.samples(0)
    primary.settle()
    primary.disconnect()
    backups.take()
    primary.samples(1, 2)
    primary.kill()
    restore(primary, backups)
    with weakened("in-flight-goes"):
        primary.settle()
    assert primary.missing() == 2


def test_what_the_client_repeated_is_not_done_twice(primary: PrimaryBox, hub: TestHub) -> None:
    """Killed before anything was sent: the client repeats, and what it repeated is in doubt."""
    primary.place("hall", "0")
    primary.count("hall", 0)
    primary.place("attic", "0")
    primary.settle()
    primary.write_ahead_of_a_kill(
        primary.counting("hall", 1), primary.placing("cellar", "0"), primary.placing("attic", "0")
    )
    primary.count("hall", 1)
    primary.place("cellar", "0")
    primary.remove("cellar", "0")
    primary.settle()
    assert hub.ask("SELECT visits FROM places WHERE name = 'hall'") == [[2]]
    assert notes(hub) == {"hall": "0", "attic": "0"}
    assert primary.file.file.execute("SELECT count(*) FROM places").fetchone() == (2,)
    nothing_for_a_person(primary, hub)


def test_what_the_client_did_not_repeat_is_done_once(primary: PrimaryBox, hub: TestHub) -> None:
    """Nobody knows whether it was told; a counter is added to what it was seen to be, or kept."""
    primary.place("hall", "0")
    primary.count("hall", 0)
    primary.settle()
    primary.write_ahead_of_a_kill(primary.counting("hall", 1), primary.placing("attic", "0"))
    primary.settle()
    assert hub.ask("SELECT visits FROM places WHERE name = 'hall'") == [[2]]
    assert notes(hub) == {"hall": "0", "attic": "0"}
    nothing_for_a_person(primary, hub)
    primary.write_ahead_of_a_kill(primary.counting("hall", 2))
    hub.ask("UPDATE places SET visits = 7 WHERE name = 'hall'")
    primary.settle()
    assert hub.ask("SELECT visits FROM places WHERE name = 'hall'") == [[7]]
    assert hub.ask("SELECT hub->>'visits', box->>'visits' FROM sync_conflicts") == [["7", "3"]]


# -- a comparison while another process writes, and ends --


def commit_and_die(primary: PrimaryBox) -> None:
    """Commit, be answered, and die before that is written."""
    primary.samples(1)
    primary.kill()


def in_the_journal(primary: PrimaryBox) -> tuple[list[str], int]:
    """The samples that the hub is known to have had, and how many entries are in doubt."""
    kept = [primary.journal.with_changes(one) for one in primary.journal.lacking({})]
    keys = [str(change.key[0]) for one in kept for change in one.changes]
    return sorted(keys), len(primary.journal.doubtful({}))


@pytest.mark.parametrize("who", ["service", "drainer"])
def test_what_commits_while_the_marks_are_read_is_not_given_up(
    primary: PrimaryBox, hub: TestHub, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    primary.samples(0)
    died: list[bool] = []

    def meanwhile() -> None:
        if not died:
            died.append(True)
            commit_and_die(primary)

    with hub.link() as link, primary.another_process(after_asking=meanwhile) as compare:
        if who == "service":
            compare()
        else:
            original = journaled._marks

            def marks(*arguments: Any) -> Any:
                found = original(*arguments)
                meanwhile()
                return found

            monkeypatch.setattr(journaled, "_marks", marks)
            with journaled.opened_journal(primary.journal.path, NODE) as journal:
                assert journal is not None
                journaled.lost_entries(journal, link, NODE, primary._is_alive)
        assert died and in_the_journal(primary) == (sorted(primary.acknowledged[:1]), 0)
        compare()
        assert in_the_journal(primary) == (sorted(primary.acknowledged), 0)


def test_asking_who_writes_after_the_marks_is_found_out(primary: PrimaryBox) -> None:
    primary.samples(0)
    turns = iter([commit_and_die])

    def meanwhile() -> None:
        for act in turns:
            act(primary)

    with weakened("asked-too-late"), primary.another_process(after_asking=meanwhile) as compare:
        compare()
    assert in_the_journal(primary)[1] == 1, "what the hub has is in doubt"


# -- a failover under an open session --


def count_around_a_failover(primary: PrimaryBox, hub: TestHub, after: int, captured: bool) -> int:
    """Count 5 + *after* visits, of which the server loses 2; returns how many it then has."""
    primary.place("hall", "0")
    for before in range(3):
        primary.count("hall", before, captured=captured)
    keep(hub)
    for before in range(3, 5):
        primary.count("hall", before, captured=captured)
    fail_over(hub)
    for before in range(after):  # the server has 3 of them
        primary.count("hall", 3 + before, captured=captured)
    primary.settle()
    return int(hub.one("SELECT visits FROM places"))


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("after", [1, 2])
def test_increments_after_a_failover_under_an_open_session_are_counted_once(
    primary: PrimaryBox, hub: TestHub, after: int, *, captured: bool
) -> None:
    """The sum is the client's own: each that was acknowledged, once."""
    assert count_around_a_failover(primary, hub, after, captured) == 5 + after
    assert primary.lost.rows == 0
    primary.settle()
    assert hub.one("SELECT visits FROM places") == 5 + after
    assert hub.ask("SELECT reason FROM sync_conflicts") == []


def test_a_transaction_without_a_mark_is_found_out(primary: PrimaryBox, hub: TestHub) -> None:
    with weakened("no-mark-after-a-failover"):
        assert count_around_a_failover(primary, hub, 1, captured=True) != 6
