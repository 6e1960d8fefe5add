# SPDX-License-Identifier: Apache-2.0
"""A state folder, or a file in it, that was deleted: found, alerted, and counted until known."""

import json
import shutil
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgepaas.alerts import catalogue_entry
from edgepaas.files.node_identity import Node, node_identity
from edgepaas.files.paths import Paths
from edgepaas.outbox.stream import Stream
from edgepaas.sync import status as sync_status
from edgepaas.sync.audit.hub import HubReader
from edgepaas.sync.losses import lost_state
from edgepaas.sync.status import SyncStatus

WAITED = 852


def stream(identity: str, forked_from: str = "") -> Stream:
    return Stream("node", identity, forked_from, 0, 0, "", "", 0, 0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(
        catalogue_entry, "raise_alert",
        lambda text, *, severity, **_: found.append((severity, text)),
    )  # fmt: skip
    yield found


def look(
    paths: Paths, stream_id: str, *, forked_from: str = "", replaced: bool = False, rows: int = 0
) -> None:
    """What a drainer does when it opens the file; *rows*: waited in the stream s1 before."""
    before = SyncStatus(
        node_id=NODES.get("first", ""), stream_id="s1", rows_waiting=rows, updated="2026-01-31"
    )
    lost_state.look(
        paths,
        node_identity(paths),
        stream(stream_id, forked_from) if stream_id else None,
        before=(SyncStatus(), before, None),
        replaced=replaced,
    )


NODES: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _first(paths: Paths) -> None:
    NODES["first"] = node_identity(paths).node_id


def hub(waiting: int = 900, mark: int = 4000) -> HubReader:
    """PostgreSQL, that knows the box."""
    found = SimpleNamespace(
        has_sync_tables=lambda: True,
        heartbeat=lambda node: (
            (waiting, "2026-01-30T12:00:00Z") if node == NODES["first"] else None
        ),
        streams=lambda node, _: [
            SimpleNamespace(mark=mark, base=0, rows=mark, stream_id="s1", node=node)
        ],
    )
    return cast(HubReader, found)


def test_a_box_that_is_as_it_was_says_nothing_and_writes_nothing(
    paths: Paths, told: list[Any]
) -> None:
    look(paths, "s1")
    written = paths.last_known.stat().st_mtime_ns
    look(paths, "s1")
    lost_state.ask_hub(paths, hub())
    assert (told, lost_state.lost_sentences(paths)) == ([], [])
    assert paths.last_known.stat().st_mtime_ns == written


def test_a_deleted_state_folder_is_critical_with_all_that_is_known(
    paths: Paths, told: list[tuple[str, str]]
) -> None:
    """From the drainer before, and from PostgreSQL; then it is counted until somebody knows."""
    look(paths, "s1")
    shutil.rmtree(paths.state)
    paths.create()
    look(paths, "s2", rows=WAITED)
    ((severity, text),) = told
    assert severity == "critical"
    assert "the state folder of this box was deleted" in text
    assert f"{WAITED} rows waited there for PostgreSQL" in text
    lost_state.ask_hub(paths, hub())
    assert "900 rows waited at its last heartbeat, of 2026-01-30T12:00:00Z" in told[1][1]
    assert "PostgreSQL has its rows up to 4000 of the stream s1" in told[1][1]
    for _ in range(2):
        look(paths, "s2")
        lost_state.ask_hub(paths, hub())
    assert len(told) == 2
    (sentence,) = lost_state.lost_sentences(paths)
    assert f"{WAITED} rows" in sentence
    assert lost_state.rows_lost_with_state(paths) == 900
    assert lost_state.forget_losses(paths) == 1
    assert lost_state.lost_sentences(paths) == []
    look(paths, "s2")
    assert lost_state.rows_lost_with_state(paths) == 900, "not in place ever after"


def test_a_deleted_file_is_found_whether_there_is_a_new_one_or_not(
    paths: Paths, told: list[tuple[str, str]]
) -> None:
    look(paths, "s1")
    look(paths, "", rows=WAITED)
    look(paths, "", rows=WAITED)
    look(paths, "s2")
    assert [severity for severity, _ in told] == ["critical"]
    look(paths, "s3")
    assert "deleted, and a new one was made" in told[-1][1]
    assert len(lost_state.lost_sentences(paths)) == 2


def test_where_nothing_waited_it_is_a_warning(paths: Paths, told: list[tuple[str, str]]) -> None:
    look(paths, "s1")
    look(paths, "s2", rows=0)
    assert told[0][0] == "warning"
    lost_state.ask_hub(paths, hub(waiting=0))
    assert told[1][0] == "warning"


def test_a_stream_that_goes_on_is_no_loss(paths: Paths, told: list[Any]) -> None:
    """Forks, files that were set aside and came back, a card in another machine."""
    look(paths, "s1")
    look(paths, "s2", forked_from="s1")
    look(paths, "s3", replaced=True)
    look(paths, "s1")
    node = node_identity(paths)
    moved = Node("another", node.made_at, "m", (node.node_id,))
    lost_state.look(paths, moved, stream("s4", "s1"), before=(), replaced=False)
    assert (told, lost_state.lost_sentences(paths)) == ([], [])


def test_a_new_box_has_nothing_to_lose(paths: Paths, told: list[Any]) -> None:
    look(paths, "")
    assert not paths.last_known.exists()
    look(paths, "s1")
    assert told == []


def test_a_record_of_the_version_before_is_read(paths: Paths) -> None:
    look(paths, "s1")
    written = json.loads(paths.last_known.read_text())
    del written["acknowledged_rows"]
    paths.last_known.write_text(json.dumps({**written, "version": 1}))
    assert lost_state.rows_lost_with_state(paths) == 0
    look(paths, "s1")
    assert paths.last_known.exists()
    assert not list(paths.spool.glob("*.set-aside-*"))


def test_what_the_spool_kept_of_another_version_is_no_loss(paths: Paths, told: list[Any]) -> None:
    paths.last_known.write_text("{}")
    look(paths, "s1")
    assert told == []
    assert sync_status.read(paths) is None
