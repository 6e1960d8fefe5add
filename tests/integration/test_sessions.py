# SPDX-License-Identifier: Apache-2.0
"""This box's sessions at PostgreSQL: kept alive at both ends, named, and not left behind."""

import ast
import dataclasses
import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import text

import edgepaas
from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.decision import probe as probe_module
from edgepaas.decision.probe import probe
from edgepaas.drill.scratch_database import Server
from edgepaas.files.paths import Paths
from edgepaas.pgdriver import sessions
from edgepaas.pgdriver.connection import close_quietly, connect
from edgepaas.pgdriver.flights import FlightConnection
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.pgdriver.sessions import forget_identity, identify, own_sessions
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings import Settings, split_url
from edgepaas.sync.hub.connection import connect_hub, open_hub
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.service_process import until
from tests.support.weaken import weakened

PLAIN = TLSPolicy("disable")
AMPLE = 30.0
TCP = "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp\\_%' ORDER BY name"
EXPECTED = [
    ["tcp_keepalives_count", "3"],
    ["tcp_keepalives_idle", "10"],
    ["tcp_keepalives_interval", "5"],
    ["tcp_user_timeout", "10000"],
]
#: Every place of the package that opens a session, however it is called there.
PLACES = {
    "database/opening.py": {"service_connector"},
    "database/postgresql/connector.py": {"connect", "Connector"},
    "database/postgresql/database.py": {"service_connector"},
    "database/postgresql/write_outcomes.py": {"connect"},
    "decision/probe.py": {"log_in"},
    "drill/scratch_database.py": {"connect"},
    "pgdriver/connection.py": {"log_in"},
    "schema/postgresql/hub.py": {"Connector"},
    "schema/hub_check.py": {"Connector"},
    "schema/stage.py": {"Connector"},
    "cli/stages/schema.py": {"Connector"},
    "cli/stages/schema_downgrade.py": {"Connector"},
    "cli/operator/sync_inspect.py": {"open_hub"},
    "doctor/forwarding.py": {"open_hub"},
    "sync/audit/hub.py": {"open_hub"},
    "sync/audit/marks.py": {"open_hub"},
    "sync/context.py": {"open_hub"},
    "service/early_connections.py": {"service_connector"},
    "sync/takeover/rehearsal.py": {"service_connector"},
    "sync/hub/connection.py": {"connect", "connect_hub"},
}


@pytest.fixture
def relay(postgres: PostgresServer) -> Iterator[Relay]:
    """A wire to the server that can fall silent."""
    with Relay(postgres.port) as made:
        yield made


# --- kept alive ---------------------------------------------------------------------


def test_every_place_that_opens_a_session_is_known_here() -> None:
    """A new one has to be added above, and to the sessions that are looked at below."""
    root = Path(edgepaas.__file__).parent
    found: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        names = called & {
            *("connect", "log_in", "Connector", "service_connector", "open_hub", "connect_hub")
        }
        if names and "http_client" not in path.parts:
            found[str(path.relative_to(root))] = names
    assert found == PLACES


def pool_session(url: str) -> Any:
    database = ServerDatabase(url, Settings.of())
    try:
        return database.write(lambda session: session.execute(text(TCP)).all())
    finally:
        database.close()


def pinger_session(url: str) -> Any:
    database = ServerDatabase(url, Settings.of())
    try:
        database.ping()
        return simple_query(database._pinger._connection, TCP)
    finally:
        database.close()


def probe_session(url: str) -> Any:
    found = []

    def look(_scope: object, _address: object, connection: Any) -> str:
        found.append(simple_query(connection, TCP))
        return "15"

    with patch.object(probe_module, "_examine", look):
        result = probe(split_url(url), PLAIN, AMPLE)
    assert result.usable, result.reason
    return found[0]


def connector_session(url: str) -> Any:
    """As the schema stage, with and without ``--hub``, and Alembic open theirs."""
    connection = Connector(url, Settings.of(), name="edgepaas-schema")(statement_timeout=900)
    try:
        return simple_query(connection, TCP)
    finally:
        close_quietly(connection)


def hub_session(url: str) -> Any:
    """As the drainer, the audit and the commands that look at the hub open theirs."""
    with open_hub(Settings.of(), url) as hub:
        with hub.transaction():
            assert hub.query(TCP) == EXPECTED
        return hub.query(TCP)


def direct_hub_session(url: str) -> Any:
    with connect_hub(split_url(url), tls=PLAIN, deadline=AMPLE) as hub:
        return hub.query(TCP)


def drill_session(url: str) -> Any:
    with Server(split_url(url), PLAIN).session() as connection:
        return simple_query(connection, TCP)


@pytest.mark.parametrize(
    "opened",
    [
        pool_session, pinger_session, probe_session, connector_session, hub_session,
        direct_hub_session, drill_session,
    ],
)  # fmt: skip
def test_a_session_is_kept_alive_at_the_server_s_end(
    opened: Callable[[str], Any], postgres_url: str
) -> None:
    """Else a box that vanished keeps its sessions, and their locks, for two hours."""
    assert [list(row) for row in opened(postgres_url)] == EXPECTED


# --- named, and ended ---------------------------------------------------------------


def names(postgres: PostgresServer, paths: Paths) -> list[str]:
    """The names of this box's sessions at the server."""
    found = postgres.execute(
        "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'edgepaas/%' "
        "ORDER BY backend_start"
    )
    return [str(name) for (name,) in found]


def opened_as(paths: Paths, process: str, url: str) -> Any:
    """A connection of a process of this box."""
    identify(paths, process)
    return connect(split_url(url), deadline=AMPLE, tls=PLAIN)


def test_a_session_is_named_by_box_process_and_run(
    postgres: PostgresServer, postgres_url: str, paths: Paths
) -> None:
    connection = opened_as(paths, "serve", postgres_url)
    own = own_sessions()
    assert own is not None
    node = paths.node.read_text()
    box = names(postgres, paths)[0].split("/")[1]
    assert box in node.replace("-", "")
    assert names(postgres, paths) == [f"edgepaas/{box}/serve/{own.tag}"]
    close_quietly(connection)


def test_an_operator_s_own_name_stands_before_it(
    postgres: PostgresServer, postgres_url: str, paths: Paths
) -> None:
    """Cut to what PostgreSQL keeps, so that the end of it is whole."""
    identify(paths, "serve")
    own = own_sessions()
    assert own is not None
    url = f"{postgres_url}?application_name={'x' * 80}"
    connection = connect(split_url(url), deadline=AMPLE, tls=PLAIN)
    [[name]] = simple_query(connection, "SELECT current_setting('application_name')")
    assert name.startswith("xxx")
    assert name.endswith(f"/serve/{own.tag}")
    close_quietly(connection)


def test_the_sessions_of_a_process_that_ended_are_ended_by_the_next(
    postgres: PostgresServer, postgres_url: str, paths: Paths, relay: Relay
) -> None:
    """The link was cut, and the process killed: nobody told the server."""
    left = opened_as(paths, "serve", relay.reroute(postgres_url))
    relay.black_hole()
    forget_identity()  # its lock is free, as when the process is gone
    assert len(names(postgres, paths)) == 1
    connection = opened_as(paths, "dbdecide", postgres_url)
    until(lambda: len(names(postgres, paths)) == 1, "the end of the session left behind", 60)
    assert "/dbdecide/" in names(postgres, paths)[0]
    again = connect(split_url(postgres_url), deadline=AMPLE, tls=PLAIN)
    own = own_sessions()
    assert own is not None
    assert [path.name for path in (paths.state / "sessions").iterdir()] == [own.tag], (
        "the tag of the ended one is kept for ever"
    )
    for one in (left, connection, again):
        close_quietly(one)


def test_a_build_that_leaves_the_sessions_of_its_predecessor_is_found_out(
    postgres: PostgresServer, postgres_url: str, paths: Paths, relay: Relay
) -> None:
    left = opened_as(paths, "serve", relay.reroute(postgres_url))
    relay.black_hole()
    forget_identity()
    with weakened("predecessors-stay"):
        connection = opened_as(paths, "dbdecide", postgres_url)
    with pytest.raises(AssertionError, match="in vain"):
        until(lambda: len(names(postgres, paths)) == 1, "the end of the session left behind", 0.5)
    for one in (left, connection):
        close_quietly(one)


def test_a_lost_session_of_a_process_that_lives_is_ended_by_its_next_connection(
    postgres: PostgresServer, postgres_url: str, paths: Paths, relay: Relay
) -> None:
    """And no other one of it."""
    kept = opened_as(paths, "serve", postgres_url)
    lost = [
        connect(split_url(relay.reroute(postgres_url)), deadline=AMPLE, tls=PLAIN) for _ in range(3)
    ]
    relay.black_hole()
    for connection in lost:
        close_quietly(connection)
    assert len(names(postgres, paths)) == 4
    fresh = connect(split_url(postgres_url), deadline=AMPLE, tls=PLAIN)
    until(lambda: len(names(postgres, paths)) == 2, "the end of the three that were lost", 60)
    for connection in (kept, fresh):
        assert simple_query(connection, "SELECT 1") == [[1]]
        close_quietly(connection)


def test_a_session_in_the_place_of_one_that_was_cut_is_not_ended(
    postgres_url: str, paths: Paths, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle connection goes on with another session, whose own connection object is gone."""
    monkeypatch.setattr("edgepaas.database.postgresql.pool.FRESH", 0.0)
    identify(paths, "serve")
    database = ServerDatabase(relay.reroute(postgres_url), Settings.of(DB_CONNECT_TIMEOUT="60"))
    question = text("SELECT pg_backend_pid()")
    try:
        first = database.write(lambda session: session.execute(question).scalar_one())
        relay.break_connections("close")
        with database.read() as session:
            second = session.execute(question).scalar_one()
            gc.collect()
            connect(split_url(postgres_url), deadline=AMPLE, tls=PLAIN).close()
            assert session.execute(question).scalar_one() == second != first
    finally:
        database.close()


def test_nothing_of_another_box_or_of_a_process_that_lives_is_ended(
    postgres: PostgresServer, postgres_url: str, paths: Paths, tmp_path: Path
) -> None:
    """A service that still answers its last requests, the drainer, a box of the same role."""
    draining = opened_as(paths, "serve", postgres_url)
    drainer_identity = own_sessions()
    sessions._own = None  # it lives on, with its lock
    elsewhere = dataclasses.replace(paths, state=tmp_path / "another-box")
    elsewhere.state.mkdir()
    other = opened_as(elsewhere, "serve", postgres_url)
    forget_identity()  # that one is dead, but it is another box's
    connection = opened_as(paths, "serve", postgres_url)
    connect(split_url(postgres_url), deadline=AMPLE, tls=PLAIN).close()
    for one in (draining, other, connection):
        assert simple_query(one, "SELECT 1") == [[1]]
        close_quietly(one)
    assert drainer_identity is not None
    drainer_identity.close()


def test_a_role_that_may_end_nothing_connects_all_the_same(
    postgres: PostgresServer,
    postgres_url: str,
    paths: Paths,
    relay: Relay,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged; the server's keepalive ends them in time."""
    database = split_url(postgres_url).database
    postgres.execute("CREATE ROLE humble LOGIN PASSWORD 'secret'")
    try:
        for revoked in ("(integer, bigint)", "(integer)"):
            function = f"pg_terminate_backend{revoked}"
            if postgres.execute(f"SELECT to_regprocedure('{function}') IS NOT NULL") == [[True]]:
                postgres.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC", database)
        url = f"postgresql://humble:secret@127.0.0.1:{postgres.port}/{database}"
        left = opened_as(paths, "serve", relay.reroute(url))
        relay.black_hole()
        close_quietly(left)
        with caplog.at_level(logging.WARNING):
            connection = connect(split_url(url), deadline=AMPLE, tls=PLAIN)
        assert simple_query(connection, "SELECT 1") == [[1]]
        assert "permission denied for function pg_terminate_backend" in caplog.text
        close_quietly(connection)
    finally:
        relay.break_connections()
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                         "WHERE usename = 'humble'")  # fmt: skip
        postgres.execute("DROP ROLE humble")


def test_behind_a_pooler_nothing_is_ended(
    postgres: PostgresServer, postgres_url: str, paths: Paths, relay: Relay
) -> None:
    """Its sessions serve others as well; it gives a process id of its own at login."""
    left = opened_as(paths, "serve", relay.reroute(postgres_url))
    relay.black_hole()
    forget_identity()
    with patch.object(FlightConnection, "backend_pid", 1):
        connection = opened_as(paths, "serve", postgres_url)
    assert simple_query(connection, "SELECT 1") == [[1]]
    assert len(names(postgres, paths)) == 2
    for one in (left, connection):
        close_quietly(one)


def test_connections_that_replace_lost_ones_are_opened_one_at_a_time(paths: Paths) -> None:
    """Else they would all be opened beside the sessions that the first of them ends."""
    identify(paths, "serve")
    own = own_sessions()
    assert own is not None
    with own.turn(AMPLE), own.turn(AMPLE):
        pass  # nothing is left behind: they may be opened at once
    (paths.state / "sessions" / "0badcafe").touch()
    with own.turn(AMPLE):
        assert not own._turn.acquire(blocking=False), "another one may be opened beside it"
        with own.turn(0.01):
            pass  # no longer waited for than there is time
    assert own._turn.acquire(blocking=False)


def test_a_process_that_ends_in_order_leaves_no_tag(paths: Paths, postgres_url: str) -> None:
    with sessions.identified(paths, "dbdecide"):
        connect(split_url(postgres_url), deadline=AMPLE, tls=PLAIN).close()
    assert list((paths.state / "sessions").iterdir()) == []


def test_a_state_folder_that_takes_no_file_keeps_nobody_from_connecting(
    paths: Paths, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    (paths.state / "sessions").write_text("a file in its place")
    connection = opened_as(paths, "serve", postgres_url)
    assert own_sessions() is None
    assert "not told apart" in caplog.text
    [[name]] = simple_query(connection, "SELECT current_setting('application_name')")
    assert name == "edgepaas"
    close_quietly(connection)
