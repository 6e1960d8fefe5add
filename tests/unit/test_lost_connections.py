# SPDX-License-Identifier: Apache-2.0
"""A look for what PostgreSQL lost is made until it has come to its end."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from edgepaas.files.paths import find_paths
from edgepaas.marks.check import Found
from edgepaas.marks.comparison import NOTHING, Loss, Mark
from edgepaas.marks.record import changing
from edgepaas.outbox.journal.access import JournalUnreadable
from edgepaas.outbox.journal.journal import Journal, nobody
from edgepaas.outbox.resending import resent
from edgepaas.outbox.resending.recovery_state import read_history
from edgepaas.sync.errors import HubError
from edgepaas.sync.resend import lost_connections
from edgepaas.sync.resend.lost_connections import LOOK_AGAIN, LostConnections
from tests.support.outbox import NODE, captured_file


@pytest.mark.parametrize("cut", [HubError("the link was cut"), JournalUnreadable("in use")])
def test_a_look_that_is_cut_is_made_again_however_long_the_link_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: Exception
) -> None:
    paths = find_paths({"EDGEPAAS_HOME": str(tmp_path)})
    paths.create()
    path = tmp_path / "journal"
    Journal(path, NODE).close()
    # The service has found it, so that the comparison of the marks finds nothing new.
    with changing(paths, NODE) as record:
        record.add_loss("s", Loss(Mark(30, 30), NOTHING))
    monkeypatch.setattr(lost_connections, "compare", lambda *_a, **_k: Found(None, {}))
    looks: list[int] = []

    def look(*_: Any, newest: int) -> list[str]:
        looks.append(newest)
        if len(looks) == 1:
            raise cut
        return ["an entry"]

    monkeypatch.setattr(lost_connections, "lost_entries", look)
    monkeypatch.setattr(lost_connections, "doubtful_entries", lambda *_: [])
    now = [0.0]
    connections = LostConnections(paths, NODE, path, nobody, clock=lambda: now[0])
    hub: Any = object()
    with captured_file(tmp_path / "box.db") as connection:
        with contextlib.suppress(HubError):
            connections.compare(hub, connection)
        assert looks == [0] and not read_history(connection).broken
        now[0] += 2 * LOOK_AGAIN
        assert not connections.compare(hub, connection)
        assert looks == [0, 0] and read_history(connection).broken
        now[0] += 2 * LOOK_AGAIN
        connections.compare(hub, connection)
        assert looks == [0, 0]


def test_a_loss_found_while_another_is_accounted_for_is_judged_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may write it down at any moment; nobody looked for it in the journal yet."""
    paths = find_paths({"EDGEPAAS_HOME": str(tmp_path)})
    paths.create()
    path = tmp_path / "journal"
    Journal(path, NODE).close()
    with changing(paths, NODE) as record:
        record.add_loss("first", Loss(Mark(20, 20), NOTHING))
    monkeypatch.setattr(lost_connections, "compare", lambda *_a, **_k: Found(None, {}))
    monkeypatch.setattr(lost_connections, "doubtful_entries", lambda *_: [])
    looks: list[int] = []

    def look(*_: Any, newest: int) -> list[str]:
        looks.append(newest)
        if len(looks) == 1:
            with changing(paths, NODE) as record:
                record.add_loss("second", Loss(Mark(40, 40), NOTHING))
        return []

    monkeypatch.setattr(lost_connections, "lost_entries", look)
    monkeypatch.setattr(resent, "rows_of", lambda _, marks: {one: SENT[one] for one in marks})
    alerts: list[int] = []
    monkeypatch.setattr(lost_connections, "alert_lost", lambda lost: alerts.append(lost.rows))
    connections = LostConnections(paths, NODE, path, nobody)
    hub: Any = object()
    with captured_file(tmp_path / "box.db") as connection:
        connections.compare(hub, connection)
        assert alerts == []
        connections.compare(hub, connection)
        assert alerts == [], "all of both is sent again"
        with changing(paths, NODE) as record:
            record.add_loss("third", Loss(Mark(10, 10), NOTHING))
        connections.compare(hub, connection)
        assert alerts == [1]


#: Rows of each stream that were sent again: all but one.
SENT = {"first": 20, "second": 40, "third": 9}
