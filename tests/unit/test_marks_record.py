# SPDX-License-Identifier: Apache-2.0
"""What the box knows of its marks outlives the process, and belongs to this box alone."""

import os
from pathlib import Path

import pytest

from edgepaas.alerts import catalogue_entry
from edgepaas.files.paths import Paths, find_paths
from edgepaas.files.records import RecordType
from edgepaas.marks import record as marks_record
from edgepaas.marks.check import compare
from edgepaas.marks.comparison import Loss, Mark
from edgepaas.marks.record import (
    changing,
    claim_owner,
    is_alive,
    lost_rows,
    read_record,
    remove_dead_owners,
    settle,
)

NODE = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
OTHER = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = find_paths({"EDGEPAAS_HOME": str(tmp_path)})
    found.create()
    return found


def test_what_was_changed_is_read_again(paths: Paths) -> None:
    with changing(paths, NODE) as record:
        record.set_stream("a", Mark(2, 5), "owner")
        record.set_stream("b", Mark(1, 1), "")
        record.joining = frozenset({"b"})
        record.add_loss("c", Loss(Mark(9, 9), Mark(4, 4)))
    found = read_record(paths, NODE)
    assert found is not None and found == record
    assert found.lost == Mark(5, 5) and lost_rows(paths) == 5


def test_nothing_is_written_where_nothing_changed(paths: Paths) -> None:
    with changing(paths, NODE) as record:
        record.set_stream("a", Mark(2, 5), "owner")
    before = paths.marks.stat().st_ino
    with changing(paths, NODE) as record:
        record.set_stream("a", Mark(2, 5), "owner")
    assert paths.marks.stat().st_ino == before


def test_the_record_of_another_box_is_not_this_one_s(paths: Paths) -> None:
    """A card was copied: the streams are written by the other box."""
    with changing(paths, OTHER) as record:
        record.set_stream("a", Mark(2, 5), "owner")
    assert read_record(paths, NODE) is None
    with changing(paths, NODE) as record:
        assert record.streams == {}


@pytest.mark.parametrize("content", ["", "{", '{"record": "node", "version": 1}', "[]"])
def test_a_record_that_is_not_understood_is_set_aside(paths: Paths, content: str) -> None:
    paths.marks.write_text(content)
    assert lost_rows(paths) == 0
    assert read_record(paths, NODE) is None
    assert not paths.marks.exists() and list(paths.state.glob("marks.json.set-aside-*"))


def test_acknowledged_losses_keep_their_number(paths: Paths) -> None:
    with changing(paths, NODE) as record:
        record.add_loss("c", Loss(Mark(9, 9), Mark(4, 4)))
    settle(paths)
    found = read_record(paths, NODE)
    assert found is not None and found.losses == {}
    assert found.lost == found.acknowledged == Mark(5, 5) and lost_rows(paths) == 5


def test_the_list_of_losses_is_bounded_and_its_sum_is_not(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_record, "MOST_LOSSES", 3)
    with changing(paths, NODE) as record:
        for number in range(10):
            record.add_loss(f"s{number}", Loss(Mark(1, 2), Mark(0, 0)))
    assert len(record.losses) == 3 and record.lost == Mark(10, 20)


def test_a_process_lives_as_long_as_it_holds_its_claim(paths: Paths) -> None:
    claim = claim_owner(paths, "mine")
    assert is_alive(paths, "mine") and not is_alive(paths, "other") and not is_alive(paths, "")
    os.close(claim)
    assert not is_alive(paths, "mine")


def test_the_claims_of_dead_processes_go_once_they_own_no_stream(paths: Paths) -> None:
    claim = claim_owner(paths, "alive")
    for name in ("dead", "owning"):
        os.close(claim_owner(paths, name))
    with changing(paths, NODE) as record:
        record.set_stream("a", Mark(1, 1), "owning")
        remove_dead_owners(paths, record)
    assert {path.name for path in paths.marks_owners.iterdir()} == {"alive", "owning"}
    os.close(claim)


def test_a_loss_is_alerted_on_a_disk_that_takes_no_write(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record cannot be written; an operator is notified all the same."""
    with changing(paths, NODE) as record:
        record.set_stream("a", Mark(2, 5), "")
    raised: list[str] = []

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(paths.marks))

    def raise_alert(message: str, **_: object) -> None:
        raised.append(message)

    monkeypatch.setattr(RecordType, "write", refuse)
    monkeypatch.setattr(catalogue_entry, "raise_alert", raise_alert)
    found = compare(lambda _: [(False, None, None, None)], paths, NODE)
    assert found.losses["a"].lost == Mark(2, 5)
    assert len(raised) == 1 and "5 rows" in raised[0]


def test_a_standby_is_not_compared_with(paths: Paths) -> None:
    """It may lag and takes no writes: what it lacks is not lost."""
    with changing(paths, NODE) as record:
        record.set_stream("a", Mark(2, 5), "")
    found = compare(lambda _: [(True, None, None, None)], paths, NODE)
    assert found.hub is None and lost_rows(paths) == 0
