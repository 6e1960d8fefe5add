# SPDX-License-Identifier: Apache-2.0
"""Many boxes that bring one hub to head at the same moment: none stands in another's way."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from edgepaas.database.model import forwarded_tables
from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.reserved_names import APPLICATIONS, REVISIONS
from edgepaas.outbox.hub_capture.triggers import TRIGGERS, lacking_question
from edgepaas.outbox.hub_capture.upkeep import Lacking, mend, parse_lacking
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.schema import migrations
from edgepaas.schema.chain import SHARED_VERSION_TABLE, chain_of, platform_chain
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from edgepaas.telemetry.models import Model
from tests.support.chains import REPOSITORY
from tests.support.hub_database import HubDatabase
from tests.support.postgres_server import PostgresServer

BOXES = 6


def at_once(work: Callable[[], object]) -> None:
    """Run *work* as often as there are boxes, from one moment on; raises what it raises."""
    barrier = threading.Barrier(BOXES, timeout=60)

    def run() -> None:
        barrier.wait()
        work()

    with ThreadPoolExecutor(BOXES) as pool:
        for future in [pool.submit(run) for _ in range(BOXES)]:
            future.result(timeout=120)


def size_of_log(server: PostgresServer) -> int:
    """Return how many bytes the server has logged."""
    return (server.home / "server.log").stat().st_size


def errors_since(server: PostgresServer, began: int) -> list[str]:
    """Return the errors logged since; looking for a version table that is missing is none."""
    written = (server.home / "server.log").read_bytes()[began:]
    lines = written.decode(errors="replace").splitlines()
    return [one for one in lines if " ERROR: " in one and "does not exist at character" not in one]


_BRING = """
import sys
from edgepaas.files.paths import find_paths
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application
from tests.support.chains import postgres_contract
paths = find_paths({"EDGEPAAS_HOME": sys.argv[2]})
paths.create()
print("up", flush=True)
sys.stdin.readline()
contract = postgres_contract(paths, sys.argv[1], fallback=True)
prepare_database(contract, Settings.of(), paths, application)
"""


def bring_at_once(url: str, folder: Path) -> None:
    """Run the schema stage of all boxes, each a process, once the last of them is up."""
    boxes = [
        subprocess.Popen(
            [sys.executable, "-c", _BRING, url, str(folder / f"box{number}")],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(BOXES)
    ]
    try:
        for box in boxes:
            assert box.stdout is not None
            assert box.stdout.readline() == "up\n"
        for box in boxes:
            assert box.stdin is not None
            box.stdin.write("\n")
            box.stdin.flush()
        for box in boxes:
            told, _ = box.communicate(timeout=200)
            assert box.returncode == 0, told
    finally:
        for box in boxes:
            box.kill()
            box.wait()


def put_in_place(url: str, lacking: Lacking) -> None:
    """Put what is *lacking* in place, as a box that has just found it so."""
    connection = Connector(url, Settings.of(), name="edgepaas-test")()
    try:
        connection.autocommit = True

        def ask(sql: str) -> Sequence[Sequence[object]]:
            rows: Sequence[Sequence[object]] = simple_query(connection, sql)
            return rows

        mend(ask, lacking)
    finally:
        close_quietly(connection)


def test_boxes_that_make_the_same_triggers_at_once_all_succeed(hub_database: HubDatabase) -> None:
    """Those that come second found none either, and would create what is there by now."""
    tables = list(forwarded_tables(Model.metadata))
    began = size_of_log(hub_database.server)

    def lacking() -> Lacking:
        return parse_lacking(str(hub_database.execute(f"SELECT {lacking_question(tables)}")[0][0]))

    for _ in range(5):
        for table in tables:
            for name in TRIGGERS:
                hub_database.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
        found = lacking()
        assert set(found.tables) == set(tables)
        at_once(partial(put_in_place, hub_database.url, found))
        assert not lacking()
    assert errors_since(hub_database.server, began) == []


@pytest.mark.parametrize("before", ["empty", "former release"])
def test_boxes_that_start_at_once_leave_no_error(
    before: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    """At an empty hub, and at one that the release before this has left."""
    name = postgres.create_database()
    url = postgres.url(name)
    if before != "empty":
        _make_former(url)
    began = size_of_log(postgres)
    bring_at_once(url, tmp_path)
    for chain in (chain_of(telemetry), platform_chain()):
        rows = postgres.execute(f"SELECT version_num FROM {chain.version_table}", name)
        assert {row[0] for row in rows} == set(chain.heads)
    assert errors_since(postgres, began) == []
    postgres.drop_database(name)


def _make_former(url: str) -> None:
    """Bring an empty database to 0002 of the platform's, and of telemetry's in the shared table."""
    own = chain_of(telemetry)
    engine = migrations.migration_engine(
        Connector(url, Settings.of(), name="edgepaas-test"), "postgresql+pg8000://"
    )
    try:
        with engine.begin() as connection:
            migrations.upgrade(connection, platform_chain(), None, "0002")
            migrations.upgrade(connection, own, Model.metadata, "0002")
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {APPLICATIONS}, {REVISIONS}")
            connection.exec_driver_sql(
                f"ALTER TABLE {own.version_table} RENAME TO {SHARED_VERSION_TABLE}"
            )
            connection.exec_driver_sql(
                f"ALTER INDEX {own.version_table}_pkc RENAME TO {SHARED_VERSION_TABLE}_pkc"
            )
    finally:
        engine.dispose()
