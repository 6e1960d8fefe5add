# SPDX-License-Identifier: Apache-2.0
"""Files that were cloned or set back, and a hub that was restored from an older backup."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.outbox import ledger
from edgepaas.outbox.space import retention
from edgepaas.outbox.stream import fork, read_stream
from edgepaas.pgdriver.failures import is_lost
from edgepaas.sync.audit.box import read_box
from edgepaas.sync.errors import HubError
from edgepaas.sync.hub.connection import Hub
from tests.support.backups import Backups
from tests.support.forwarding import Hubs, TestBox, TestHub


@pytest.fixture(autouse=True)
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda message, *, fingerprint, **_: raised.append(fingerprint),
    )
    return raised


@pytest.fixture
def backups(hub: TestHub) -> Iterator[Backups]:
    yield Backups(hub)
    hub.server.drop_database(f"{hub.name}_b")


def drain(box: TestBox, hub: TestHub, rows: int = 1000) -> list[tuple[int, int, bool, int]]:
    """Drain over a link of its own; rows, conflicts, forked and hub_lost of each batch."""
    with hub.link() as link:
        done = box.drain_all(link, rows=rows)
    return [(one.rows, one.conflicts, one.forked, one.hub_lost) for one in done]


def test_a_cloned_file_goes_on_as_a_stream_of_its_own_and_doubles_nothing(
    box: TestBox, hub: TestHub, tmp_path: Path, alerts: list[str]
) -> None:
    box.samples(1, 2)
    drain(box, hub)
    both = box.samples(3)
    clone = box.clone(tmp_path / "clone.db")
    box.samples(4)
    assert drain(box, hub) == [(2, 0, False, 0)]
    clone.samples(5)
    assert drain(clone, hub) == [(2, 0, True, 0)]
    assert alerts == ["sync-fork"]
    assert sorted(row[0] for row in hub.ask("SELECT value FROM samples")) == [1, 2, 3, 4, 5]
    box.samples(6)
    assert drain(box, hub) == [(1, 0, False, 0)], "the first of the two goes on as it was"
    assert hub.one("SELECT count(*) FROM sync_streams WHERE forked_from IS NOT NULL") == 1
    assert hub.one(f"SELECT count(*) FROM samples WHERE id = '{both[0]}'") == 1
    for one in (box, clone):
        counters = ledger.read(one.file)
        assert counters["accepted"] == counters["delivered"] + counters["pending"]
    clone.close()


def test_a_file_that_was_set_back_sends_only_what_changes_nothing_behind_anybodys_back(
    box: TestBox, hub: TestHub, tmp_path: Path
) -> None:
    place = box.place("hall", note="1", last=1)
    gone = box.place("shed", note="1")
    drain(box, hub)
    box.write(f"UPDATE places SET note = '2', last = 2 WHERE id = '{place}'")
    old = box.clone(tmp_path / "old.db")
    box.write(f"UPDATE places SET note = '3', last = 3 WHERE id = '{place}'")
    box.write(f"DELETE FROM places WHERE id = '{gone}'")
    drain(box, hub)
    old.write(f"UPDATE places SET labels = '[1]' WHERE id = '{place}'")
    old.write(f"UPDATE places SET note = 'n' WHERE id = '{gone}'")
    old.place("shed2")
    ((rows, conflicts, forked, lost),) = drain(old, hub)
    assert (rows, conflicts, forked, lost) == (4, 2, True, 0)
    assert hub.ask("SELECT name, note, last, labels FROM places ORDER BY name") == [
        ["hall", "3", 3, [1]],
        ["shed2", None, None, None],
    ]
    old.write(f"UPDATE places SET last = 9 WHERE id = '{place}'")
    assert drain(old, hub) == [(1, 0, False, 0)]
    old.close()


def test_what_was_sent_again_and_is_there_already_is_silent(
    box: TestBox, hub: TestHub, tmp_path: Path
) -> None:
    box.samples(1)
    drain(box, hub)
    box.samples(2)
    place = box.place("hall", note="1")
    box.write(f"UPDATE places SET first = 3 WHERE id = '{place}'")
    old = box.clone(tmp_path / "old.db")
    drain(box, hub)
    assert drain(old, hub) == [(3, 0, True, 0)]
    old.close()


def test_a_resent_delete_spares_what_was_changed_since(
    box: TestBox, other: TestBox, hub: TestHub, tmp_path: Path
) -> None:
    for one in (box, other):
        one.place("a", note="1")
        one.place("b", note="1")
        drain(one, hub)
    box.write("DELETE FROM places")
    old = box.clone(tmp_path / "old.db")
    box.file.execute("DELETE FROM outbox WHERE op = 'D'")
    box.samples(1)
    drain(box, hub)
    other.write("UPDATE places SET note = '2' WHERE name = 'a'")
    drain(other, hub)
    assert drain(old, hub) == [(2, 1, True, 0)]
    assert hub.ask("SELECT name, note FROM places") == [["a", "2"]]
    assert hub.one("SELECT count(*) FROM sync_tombstones") == 1
    old.close()


def test_a_hub_restored_from_a_backup_is_sent_again_what_it_lost(
    box: TestBox, hub: TestHub, backups: Backups, alerts: list[str]
) -> None:
    place = box.place("hall", note="1")
    box.samples(1, 2)
    drain(box, hub)
    backups.take()
    box.samples(3, 4)
    box.write(f"UPDATE places SET note = '2' WHERE id = '{place}'")
    drain(box, hub)
    backups.restore()
    assert hub.one("SELECT count(*) FROM samples") == 2
    box.samples(5)
    assert drain(box, hub) == [(4, 0, False, 0)]
    assert alerts == ["sync-hub-lost"]
    assert hub.one("SELECT count(*) FROM samples") == 5
    assert hub.one("SELECT note FROM places") == "2"
    box.adds_up(hub)
    box.samples(6)
    assert drain(box, hub) == [(1, 0, False, 0)], "once"


def test_an_idle_box_notices_a_restored_hub_by_itself(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    box.samples(1)
    drain(box, hub)
    backups.take()
    box.samples(2)
    drain(box, hub)
    backups.restore()
    assert drain(box, hub) == [(1, 0, False, 0)]
    assert hub.one("SELECT count(*) FROM samples") == 2


def test_what_retention_took_is_lost_to_a_restored_hub_and_counted(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    box.samples(1)
    drain(box, hub)
    backups.take()
    box.samples(2, 3, 4)
    drain(box, hub)
    assert retention.reclaim(box.file, older_than=-60).facts == 4
    box.samples(5)
    drain(box, hub)
    backups.restore()
    assert drain(box, hub) == [(1, 0, False, 3)]
    assert hub.one("SELECT count(*) FROM samples") == 2
    assert ledger.read(box.file)["hub_lost"] == 3


def test_a_new_hub_in_the_place_of_the_old_one_gets_everything(
    box: TestBox, hub: TestHub, backups: Backups
) -> None:
    backups.take()
    box.samples(1, 2)
    drain(box, hub)
    backups.restore()
    box.samples(3)
    assert drain(box, hub) == [(3, 0, False, 0)]
    assert hub.one("SELECT count(*) FROM samples") == 3
    box.adds_up(hub)


@pytest.fixture
def new_hub(hubs: Hubs) -> Iterator[TestHub]:
    found = hubs.take()
    yield found
    hubs.give_back(found)


def audited(box: TestBox, hub: TestHub) -> dict[str, int]:
    """Return the ledger, after comparing the stream's numbers with what the hub counted."""
    side = read_box(box.file)
    assert side.stream is not None
    assert side.discrepancies() == []
    ((base, mark, rows, dead),) = hub.ask(
        "SELECT base, mark, rows::int, dead::int FROM sync_streams "
        f"WHERE stream_id = '{side.stream.stream_id}'"
    )
    assert mark == side.stream.confirmed_seq
    taken = mark - base - side.shed_between(base + 1, mark) - side.missing_between(base + 1, mark)
    assert rows + dead == taken
    return side.counters


def test_a_new_hub_after_a_fork_gets_what_was_sent_before_it(
    box: TestBox, hub: TestHub, new_hub: TestHub, alerts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    box.samples(1, 2)
    box.place("hall", note="1")
    drain(box, hub)
    box.samples(3)
    fork(box.file, "a test")
    box.samples(4)
    assert drain(box, hub) == [(2, 0, False, 0)], "the first hub knows the stream before it"
    box.samples(5)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, new_hub.link() as link:
        patch.setattr("edgepaas.sync.delivery.drain._send_next", die)
        with pytest.raises(KeyboardInterrupt):
            box.drain(link)
    ((rows, conflicts, forked, lost),) = drain(box, new_hub)
    assert (rows, conflicts, forked, lost) == (6, 0, False, 0), "each once"
    assert alerts == ["sync-hub-lost"]
    assert new_hub.ask("SELECT value FROM samples ORDER BY value") == [[n] for n in range(1, 6)]
    assert new_hub.ask("SELECT name, note FROM places") == [["hall", "1"]]
    assert audited(box, new_hub)["hub_lost"] == 0
    box.samples(6)
    assert drain(box, new_hub) == [(1, 0, False, 0)]
    assert audited(box, new_hub)["pending"] == 0


def test_what_retention_took_before_a_fork_is_lost_to_a_new_hub_and_counted(
    box: TestBox, hub: TestHub, new_hub: TestHub
) -> None:
    box.samples(1, 2, 3)
    drain(box, hub)
    assert retention.reclaim(box.file, older_than=-60).rows == 3
    box.samples(4)
    drain(box, hub)
    box.samples(5)
    fork(box.file, "a test")
    assert drain(box, new_hub) == [(2, 0, False, 3)]
    assert new_hub.ask("SELECT value FROM samples ORDER BY value") == [[4], [5]]
    assert audited(box, new_hub)["hub_lost"] == 3
    assert retention.reclaim(box.file, older_than=-60).rows == 2
    box.samples(6)
    assert drain(box, new_hub) == [(1, 0, False, 0)]
    assert audited(box, new_hub)["hub_lost"] == 3


def test_a_fork_of_what_never_went_anywhere_loses_nothing_at_its_first_hub(
    box: TestBox, hub: TestHub, alerts: list[str]
) -> None:
    box.samples(1, 2)
    box.place("hall")
    fork(box.file, "a card that was cloned before its first delivery")
    assert drain(box, hub) == [(3, 0, False, 0)]
    assert alerts == []


def test_a_crash_after_going_back_is_no_fork(
    box: TestBox, hub: TestHub, backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.samples(1)
    drain(box, hub)
    backups.take()
    box.samples(2)
    drain(box, hub)
    backups.restore()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, hub.link() as link:
        patch.setattr("edgepaas.sync.delivery.drain._send_next", die)
        with pytest.raises(KeyboardInterrupt):
            box.drain(link)
    assert drain(box, hub) == [(1, 0, False, 0)]
    box.adds_up(hub)


def test_a_file_restored_while_a_batch_was_in_flight_is_no_fork_if_that_batch_is_the_last(
    box: TestBox, hub: TestHub, tmp_path: Path
) -> None:
    box.samples(1)
    drain(box, hub)
    box.samples(2)

    def snapshot(*_: object, **__: object) -> None:
        box.file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(box.path, tmp_path / "early.db")

    class Snapping(Hub):
        def commit(self, *last):  # type: ignore[no-untyped-def]
            snapshot()
            return super().commit(*last)

    with hub.link() as link:
        link.__class__ = Snapping
        box.drain(link)
    early = TestBox(tmp_path / "early.db", node=box.node)
    assert read_stream(early.file).inflight_batch  # type: ignore[union-attr]
    assert drain(early, hub) == [(1, 0, False, 0)], "the batch is known, as the one in flight"
    early.samples(3)
    assert drain(early, hub) == [(1, 0, False, 0)]
    early.adds_up(hub)
    early.close()


def test_errors_of_the_hub_are_no_lost_connections_by_mistake(hub: TestHub) -> None:
    with hub.link() as link:
        with pytest.raises(HubError) as caught:
            link.query("SELECT 1/0")
        assert not is_lost(caught.value)
        assert link.query("SELECT 1") == [[1]], "the connection goes on"
