# SPDX-License-Identifier: Apache-2.0
"""The rows' way home on every surface: the state's word, the reasons, the page, the commands."""

import contextlib
import dataclasses
from typing import Any

import pytest

from edgepaas.cli import main
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.paths import Paths
from edgepaas.health.forwarding import (
    ForwardingWatch,
    current_forwarding,
    forwarding_of,
)
from edgepaas.health.state import Facts, StateBoard, box_state
from edgepaas.service.watches.monitor import status_line
from edgepaas.sync import status as sync_status
from edgepaas.sync.losses.acknowledge import acknowledge_lost, acknowledged_lost
from edgepaas.sync.status import SyncStatus
from tests.support.boxes import contract, make_box

HUB = "postgresql://hub.example/edge"


def written(paths: Paths, **values: Any) -> SyncStatus:
    """Write what a drainer that lives (this process) would."""
    status = sync_status.stamped({"state": "idle", "hub": "ok", **values}, 1_700_000_000.0)
    assert sync_status.write(paths, status)
    return status


def word(paths: Paths, mode: str, **values: Any) -> tuple[str, tuple[str, ...]]:
    written(paths, **values)
    decided = contract(paths, hub_url=HUB, db_state=mode, reason="decided so")
    found = box_state(decided, "running", Facts(forwarding=ForwardingWatch(paths, decided)()))
    assert found.mode == mode
    return found.state, found.reasons


@pytest.mark.parametrize(
    ("mode", "hub", "waiting", "state"),
    [
        ("fallback", "away", 7, "fallback"),
        ("fallback", "ok", 7, "draining"),
        ("fallback", "ok", 0, "draining"),
        ("draining", "ok", 7, "draining"),
        ("draining", "away", 7, "fallback"),
        ("primary", "ok", 0, "primary"),
        ("primary", "ok", 3, "draining"),
        ("primary", "away", 3, "primary"),
        ("local-first", "ok", 3, "local-first"),
        ("local-first", "away", 3, "local-first"),
    ],
)
def test_the_word_follows_what_the_drainer_sees(
    paths: Paths, mode: str, hub: str, waiting: int, state: str
) -> None:
    """Nobody decides anew while SQLite serves; PostgreSQL's return shows in the drain."""
    assert word(paths, mode, hub=hub, rows_waiting=waiting)[0] == state


def test_what_waits_and_until_when_is_among_the_reasons(paths: Paths) -> None:
    """Rows, since when, the countdown."""
    _, reasons = word(
        paths, "fallback", rows_waiting=1234, waiting_since="2026-01-01T00:00:00Z",
        hand_back="in 12 s",
    )  # fmt: skip
    assert reasons == (
        "decided so",
        "1,234 rows to be sent, since 2026-01-01T00:00:00Z, hand-back to PostgreSQL: in 12 s",
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"open_dead_letters": 1, "dead_letters": 5}, "1 dead letter; 'edgepaas sync dead-letters"),
        ({"dead_letters": 2}, "2 dead letters"),
        ({"hub_lost": 3}, "PostgreSQL lost 3 rows"),
        ({"state": "blocked", "reason": "no column"}, "until an operator acts: no column"),
        ({"hub": "misconfigured", "reason": "no rights"}, "until an operator acts: no rights"),
        ({"hub": "schema"}, "until an operator acts"),
    ],
)
def test_what_needs_a_person_is_degraded(paths: Paths, values: Any, said: str) -> None:
    """With the way out in the reason."""
    state, reasons = word(paths, "primary", **values)
    assert state == "degraded"
    assert said in reasons[0]


def test_settled_letters_and_conflicts_are_no_trouble(paths: Paths) -> None:
    """Dead letters of the past are history; a conflict lost nothing, and is shown."""
    state, reasons = word(
        paths, "primary", dead_letters=5, open_dead_letters=0, conflicts=9, open_conflicts=2
    )
    assert state == "primary"
    assert reasons == ("decided so", "2 conflicts")


def test_what_the_hub_lost_is_trouble_until_somebody_acknowledges_it(paths: Paths) -> None:
    """And again when it loses more."""
    acknowledge_lost(paths, 3)
    assert acknowledged_lost(paths) == 3
    assert word(paths, "primary", hub_lost=3)[0] == "primary"
    assert "lost 1 row " in word(paths, "primary", hub_lost=4)[1][0]


@pytest.mark.parametrize("drainer", ["never there", "dead", "killed and silent for long"])
def test_what_waits_is_counted_in_the_file_where_no_drainer_says_it(
    paths: Paths, drainer: str
) -> None:
    """It said what the decision had counted, or what the drainer saw last: often nothing."""
    if drainer != "never there":
        status = written(paths, rows_waiting=0)
        ended = {"pid": 2**22 + 1} if drainer == "dead" else {"updated_since_boot": -1000.0}
        assert sync_status.write(paths, dataclasses.replace(status, **ended))
    with contextlib.closing(open_sqlite(paths.sqlite, create=True)) as connection:
        connection.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO outbox VALUES (1), (2), (3)")
    decided = contract(paths, hub_url=HUB, db_state="fallback", sqlite_path=paths.sqlite)
    found = current_forwarding(paths, decided)
    assert found is not None
    assert found.rows_waiting == 3
    assert box_state(decided, "running", Facts(forwarding=found)).state == "degraded"
    with contextlib.closing(open_sqlite(paths.sqlite)) as connection:
        connection.execute("DELETE FROM outbox")
    found = current_forwarding(paths, decided)
    assert found is not None
    assert found.rows_waiting == 0


def test_a_drainer_that_stays_away_is_degraded_after_a_grace(paths: Paths) -> None:
    """It starts after the service, and anew at every decision."""
    now = [0.0]
    decided = contract(paths, hub_url=HUB, db_state="fallback")
    watch = ForwardingWatch(paths, decided, grace=20, clock=lambda: now[0])
    board = StateBoard(decided, forwarding=watch)
    board.phase = "running"
    assert board.state().state == "fallback"
    now[0] = 19
    assert board.state().state == "fallback"
    now[0] = 21
    assert board.state().state == "degraded"
    assert "edgepaas sync does not run" in board.state().reasons[0]
    written(paths)
    now[0] = 30
    assert board.state().state == "draining"


def test_a_killed_drainer_leaves_its_counts_and_no_claim_about_postgres(paths: Paths) -> None:
    """Its last file still says ok."""
    status = dataclasses.replace(written(paths, rows_waiting=5), pid=0)
    found = forwarding_of(status, waiting=0, running=False)
    assert (found.hub, found.state, found.rows_waiting) == ("unknown", "unknown", 5)


def test_without_a_hub_there_is_nothing_to_say(paths: Paths) -> None:
    """A standalone box has no way home."""
    assert current_forwarding(paths, contract(paths)) is None


def test_readiness_the_page_and_the_status_line_say_the_same(paths: Paths) -> None:
    """One function, every surface."""
    written(paths, state="draining", rows_waiting=42, hand_back="in 9 s")
    box = make_box(paths)
    decided = contract(paths, hub_url=HUB, db_state="fallback")
    board = StateBoard(decided, forwarding=ForwardingWatch(paths, decided))
    board.phase = "running"
    box.box.state = board.state
    client = box.app.test_client()
    document = client.get("/health/ready").get_json()
    assert (document["state"], document["forwarding"]["rows_waiting"]) == ("draining", 42)
    assert document["forwarding"]["hand_back"] == "in 9 s"
    page = client.get("/", headers={"Accept": "text/html"}).get_data(as_text=True)
    assert "Rows on their way" in page
    assert "<td>in 9 s</td>" in page
    assert "42 rows to be sent" in status_line(board)


def test_the_command_shows_what_the_drainer_wrote_when_nobody_answers(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service may be the very thing that is broken."""
    written(paths, rows_waiting=42, hub="away", reason="refused", open_conflicts=2)
    contract(paths, hub_url=HUB, db_state="fallback").write(paths.db_contract)
    assert main(["status", "--url", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().out
    assert "42 rows to be sent" in said
    assert "away: refused" in said
    assert "2; 'edgepaas sync conflicts'" in said
