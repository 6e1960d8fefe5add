# SPDX-License-Identifier: Apache-2.0
"""Where a drill's rows go: a database where one may be made, else a schema, and gone afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.drill.scratch_database import (
    DrillImpossible,
    ScratchDatabase,
    Server,
    create_scratch_database,
    drop_scratch_database,
    read_note,
)
from edgepaas.pgdriver.hosts import endpoint_of
from edgepaas.settings import Settings
from edgepaas.settings.urls import split_url
from tests.support.postgres_server import PostgresServer
from tests.support.service_process import free_port


def names(postgres: PostgresServer) -> set[str]:
    """Every database and schema of a drill on the test server."""
    found = {str(name) for (name,) in postgres.execute("SELECT datname FROM pg_database")}
    return {name for name in found if name.startswith("edgepaas_drill_")}


@pytest.fixture
def limited(postgres: PostgresServer, postgres_url: str) -> Iterator[str]:
    """The address of the test's database for a user who may create nothing yet."""
    postgres.execute("DROP ROLE IF EXISTS drill_limited")
    postgres.execute("CREATE ROLE drill_limited LOGIN PASSWORD 'only-for-tests'")
    address = split_url(postgres_url)
    yield postgres_url.replace(
        f"{address.username}:{address.password}@", "drill_limited:only-for-tests@"
    )
    postgres.execute(f"REVOKE ALL ON DATABASE {address.database} FROM drill_limited")
    postgres.execute("DROP ROLE drill_limited")


def test_a_user_who_may_create_databases_gets_one_and_nothing_is_left(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    server = Server.of(Settings.of(), postgres_url)
    scratch = create_scratch_database(server, tmp_path)
    assert scratch.kind == "database"
    assert read_note(tmp_path) == (scratch, server.address.masked())
    with server.session(scratch.address(server)) as connection:
        connection.execute_simple("CREATE TABLE readings (a integer)")
        drop_scratch_database(server, scratch)  # although somebody is still connected
    assert scratch.name not in names(postgres)
    drop_scratch_database(server, scratch)


def test_of_several_hosts_the_drill_uses_the_one_that_serves(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """Its relay leads to one server, and its rows are counted there."""
    here = f"127.0.0.1:{postgres.port}"
    several = postgres_url.replace(here, f"127.0.0.1:{free_port()},{here}")
    assert several != postgres_url
    server = Server.of(Settings.of(), several)
    assert server.serving().address.further == ()
    assert endpoint_of(server.serving().address) == here
    assert Server.of(Settings.of(), postgres_url).serving() == Server.of(
        Settings.of(), postgres_url
    )


def test_without_that_right_it_is_a_schema_which_the_session_lives_in(
    postgres: PostgresServer, limited: str, tmp_path: Path
) -> None:
    """The same rows by the same unqualified names."""
    database = split_url(limited).database
    postgres.execute(f"GRANT CREATE ON DATABASE {database} TO drill_limited")
    server = Server.of(Settings.of(), limited)
    scratch = create_scratch_database(server, tmp_path)
    assert scratch.kind == "schema"
    with server.session(scratch.address(server)) as connection:
        connection.execute_simple("CREATE TABLE readings (a integer)")
        found = connection.execute_simple(
            "SELECT table_schema FROM information_schema.tables WHERE table_name = 'readings'"
        ).rows
        assert [list(row) for row in found] == [[scratch.name]]
    drop_scratch_database(server, scratch)
    with server.session() as connection:
        left = connection.execute_simple(
            f"SELECT count(*) FROM pg_namespace WHERE nspname = '{scratch.name}'"
        ).rows
        assert int(left[0][0]) == 0


def test_a_user_who_may_create_neither_is_told_which_grant_to_ask_for(
    limited: str, tmp_path: Path
) -> None:
    with pytest.raises(DrillImpossible, match="CREATEDB, or GRANT CREATE ON DATABASE"):
        create_scratch_database(Server.of(Settings.of(), limited), tmp_path)


@pytest.mark.parametrize(
    "note",
    ["", "{", '{"name": "postgres", "kind": "database", "server": "x"}',
     '{"name": "edgepaas_drill_x; DROP TABLE t", "kind": "schema", "server": "x"}'],
)  # fmt: skip
def test_a_note_that_names_anything_else_is_no_note(note: str, tmp_path: Path) -> None:
    """What stands in it is dropped."""
    (tmp_path / "place.json").write_text(note, encoding="utf-8")
    assert read_note(tmp_path) == (None, "")


def test_a_place_says_what_it_is() -> None:
    assert ScratchDatabase("schema", "edgepaas_drill_1").label == "the schema edgepaas_drill_1"
