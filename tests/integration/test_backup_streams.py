# SPDX-License-Identifier: Apache-2.0
"""A box that was restored from a backup neither doubles nor loses a row on the hub."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgepaas.backup.make import make_backup
from edgepaas.backup.restore import restore
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths, find_paths
from edgepaas.outbox import ledger
from edgepaas.sync.audit.box import read_box
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
def new_hub(hubs: Hubs) -> Iterator[TestHub]:
    found = hubs.take()
    yield found
    hubs.give_back(found)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    path = tmp_path / "machine-id"
    path.write_text("a" * 32)
    return path


@contextmanager
def started(paths: Paths, machine: Path) -> Iterator[TestBox]:
    box = TestBox(paths.sqlite, node=node_identity(paths, machine_id=machine).node_id)
    try:
        yield box
    finally:
        box.file.close()


def backup(paths: Paths) -> io.BytesIO:
    target = io.BytesIO()
    make_backup(paths, paths.sqlite, "box", target)
    target.seek(0)
    return target


def drained(box: TestBox, hub: TestHub) -> tuple[int, int, bool]:
    """Rows, conflicts, and whether the stream forked."""
    with hub.link() as link:
        done = box.drain_all(link)
    counted = ledger.read(box.file)
    assert counted["accepted"] == counted["delivered"] + counted["pending"]
    assert read_box(box.file).discrepancies() == []
    return (
        sum(one.rows for one in done),
        sum(one.conflicts for one in done),
        any(one.forked for one in done),
    )


def values(hub: TestHub) -> list[float]:
    return [value for (value,) in hub.ask("SELECT value FROM samples ORDER BY value")]


def test_where_nothing_went_home_since_the_stream_goes_on(
    paths: Paths, hub: TestHub, machine: Path, alerts: list[str]
) -> None:
    with started(paths, machine) as box:
        box.samples(1, 2)
        drained(box, hub)
        box.samples(3)
        kept = backup(paths)
        box.samples(4)  # after the backup, and never sent: given up by the operator
    restore(kept, paths, paths.sqlite, machine_id=machine, discard_waiting=True)
    with started(paths, machine) as box:
        box.samples(5)
        assert drained(box, hub) == (2, 0, False)
    assert values(hub) == [1, 2, 3, 5]
    assert alerts == []


def test_what_went_home_since_is_neither_doubled_nor_lost(
    paths: Paths, hub: TestHub, machine: Path, alerts: list[str]
) -> None:
    with started(paths, machine) as box:
        box.samples(1, 2)
        place = box.place("hall", note="1")
        drained(box, hub)
        box.samples(3)
        box.write(f"UPDATE places SET note = '2' WHERE id = '{place}'")
        kept = backup(paths)
        box.samples(4, 5)
        box.write(f"UPDATE places SET note = '3' WHERE id = '{place}'")
        drained(box, hub)
    restore(kept, paths, paths.sqlite, machine_id=machine)
    with started(paths, machine) as box:
        box.samples(6)
        rows, conflicts, forked = drained(box, hub)
        assert (rows, forked) == (3, True)
        assert conflicts == 1
    assert values(hub) == [1, 2, 3, 4, 5, 6]
    assert hub.ask("SELECT note FROM places") == [["3"]], "the newer value stays"
    assert alerts == ["sync-fork", "sync-conflicts"], "the older note is on record"


@pytest.mark.parametrize("order", ["box first", "copy first"])
def test_a_copy_on_another_machine_and_the_box_itself_both_go_on(
    paths: Paths, hub: TestHub, machine: Path, tmp_path: Path, order: str
) -> None:
    other = find_paths({"EDGEPAAS_HOME": str(tmp_path / "other")})
    other.create()
    its_machine = tmp_path / "its-id"
    its_machine.write_text("b" * 32)
    with started(paths, machine) as box:
        box.samples(1)
        drained(box, hub)
        box.samples(2)
        kept = backup(paths)
        box.samples(3)
        restore(kept, other, other.sqlite, machine_id=its_machine)
        with started(other, its_machine) as copy:
            assert copy.node != box.node
            copy.samples(4)
            for one in (box, copy) if order == "box first" else (copy, box):
                drained(one, hub)
            box.samples(5)
            copy.samples(6)
            assert drained(box, hub)[0] == 1
            assert drained(copy, hub)[0] == 1
    assert values(hub) == [1, 2, 3, 4, 5, 6]


def test_the_box_that_takes_its_place_goes_on_as_it(
    paths: Paths, hub: TestHub, machine: Path, tmp_path: Path
) -> None:
    other = find_paths({"EDGEPAAS_HOME": str(tmp_path / "other")})
    other.create()
    its_machine = tmp_path / "its-id"
    its_machine.write_text("b" * 32)
    with started(paths, machine) as box:
        box.samples(1)
        drained(box, hub)
        box.samples(2)
        kept = backup(paths)
        gone = box.node
    restore(kept, other, other.sqlite, machine_id=its_machine, same_box=True)
    with started(other, its_machine) as again:
        assert again.node == gone
        again.samples(3)
        assert drained(again, hub) == (2, 0, False)
    assert values(hub) == [1, 2, 3]


def test_a_hub_that_was_emptied_as_well_gets_all_that_the_backup_holds(
    paths: Paths, hub: TestHub, new_hub: TestHub, machine: Path
) -> None:
    with started(paths, machine) as box:
        box.samples(1, 2)
        drained(box, hub)
        box.samples(3)
        kept = backup(paths)
        box.samples(4)
        drained(box, hub)
    restore(kept, paths, paths.sqlite, machine_id=machine)
    with started(paths, machine) as box:
        drained(box, new_hub)
    assert values(new_hub) == [1, 2, 3]
