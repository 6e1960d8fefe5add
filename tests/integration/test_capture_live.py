# SPDX-License-Identifier: Apache-2.0
"""A whole box whose capturing triggers are removed while clients write, on both sides."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgepaas.files.node_identity import node_identity
from edgepaas.outbox.hub_capture.triggers import TRIGGERS
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.tables import journal_path
from tests.support.checker import check
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox
from tests.support.relay import Relay
from tests.support.service_process import until

SETTINGS: dict[str, Any] = {"POSTGRES_HOLD": "1", "HANDBACK_ROWS": "100000"}


def drop_in_file(box: LiveBox, trigger: str) -> None:
    """Remove a trigger of the SQLite file, as a person with a shell does."""
    with contextlib.closing(sqlite3.connect(box.paths.sqlite, timeout=30)) as connection:
        connection.execute(f"DROP TRIGGER {trigger}")


def triggers_of(hub: HubDatabase, table: str) -> set[str]:
    rows = hub.execute(
        f"SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
    )
    return {str(row[0]) for row in rows} & set(TRIGGERS)


def journaled(box: LiveBox) -> dict[str, set[str]]:
    """The descriptions of each device that the journal has, by the device's name."""
    journal = Journal(journal_path(box.paths.sqlite), node_identity(box.paths).node_id)
    found: dict[str, set[str]] = {}
    try:
        for entry in journal.lacking({}):
            for change in journal.with_changes(entry).changes:
                if change.layout.table == "devices" and change.new is not None:
                    row = dict(zip(change.layout.names, change.new, strict=True))
                    found.setdefault(row["name"], set()).add(row["description"])
    finally:
        journal.close()
    return found


def test_what_is_acknowledged_in_primary_is_in_the_journal_though_triggers_go(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """Facts and shared rows; the hub refuses what it does not capture until it captures again."""
    history = History()
    with (
        LiveBox(tmp_path, DATABASE_URL=hub_database.url, **SETTINGS) as box,
        Clients(box.port, history, pause=0.02).writing() as clients,
    ):
        assert box.state() == "primary"
        for trigger in ("edgepaas_capture_update", "edgepaas_capture_insert"):
            clients.wait_for(30)
            hub_database.execute(f"DROP TRIGGER {trigger} ON devices")
            until(lambda: triggers_of(hub_database, "devices") == set(TRIGGERS), "the triggers")
            clients.wait_for(30)
        clients.stop()
        assert clients.surprises == []
        assert check(history, hub_database.witness.look(), conflicts=None) == []
        written = journaled(box)
        for write in history.writes():
            if write.kind == "set" and write.outcome == "acknowledged":
                assert str(write.number) in written[write.key], write
        wait_for_alert(box)


def wait_for_alert(box: LiveBox) -> None:
    """An operator is told; by whoever delivers alerts at the time."""
    until(
        lambda: any(
            "capture-restored" in box.run("alerts", verb)[1] for verb in ("list", "history")
        ),
        "the alert",
    )


def fallback_without_a_trigger(box: LiveBox, clients: Clients, relay: Relay) -> None:
    """Serve from SQLite, lose a trigger there, and go home again."""
    clients.wait_for(20)
    relay.cut()
    box.wait_state("fallback")
    clients.wait_for(20)
    drop_in_file(box, "outbox_insert_readings")
    clients.wait_for(60)
    relay.heal()
    box.wait_state("primary")
    clients.wait_for(10)
    clients.stop()
    box.wait_drained()


@pytest.mark.parametrize("weak", ["", "unguarded-file"])
def test_a_trigger_of_the_file_that_goes_in_fallback_costs_no_row(
    tmp_path: Path, hub_database: HubDatabase, weak: str
) -> None:
    """A build that does not look loses what it acknowledged."""
    history = History()
    with (
        Relay(hub_database.server.port) as relay,
        LiveBox(
            tmp_path, weak=(weak,) if weak else (),
            DATABASE_URL=relay.reroute(hub_database.url), **SETTINGS,
        ) as box,
        Clients(box.port, history, pause=0.02).writing() as clients,
    ):  # fmt: skip
        fallback_without_a_trigger(box, clients, relay)
        complaints = check(history, hub_database.witness.look(), conflicts=None)
        if weak:
            assert "lost" in {complaint.kind for complaint in complaints}
        else:
            assert complaints == []
            wait_for_alert(box)
