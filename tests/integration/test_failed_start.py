# SPDX-License-Identifier: Apache-2.0
"""A start on PostgreSQL fails: SQLite serves at once, whatever it was that failed."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.hold import UNTIL_DECIDED, read_hold, write_hold
from edgepaas.files.paths import Paths
from tests.support.service_process import (
    Manager,
    Process,
    child_environ,
    edgepaas,
    free_port,
    write_contracts,
)
from tests.support.weaken import weak_environ

#: Asks the database while it is made, before there is a gate.
ASKS_AT_ITS_START = """
from sqlalchemy import text
from edgepaas.app import Application


def wsgi(box):
    with box.database.read() as session:
        session.execute(text({sql!r}))
    return lambda environ, start_response: [start_response("200 OK", []) or b""]


application = Application(name="asking", wsgi=wsgi, guarded=False)
"""


def serve(
    folder: Path, paths: Paths, url: str, sql: str = "SELECT 1", *, weak: str = "", **settings: str
) -> tuple[int, str]:
    """Run the service on *url*, with SQLite armed, below a manager; its status and output."""
    (folder / "asking.py").write_text(ASKS_AT_ITS_START.format(sql=sql))
    own = {"PORT": str(free_port()), "EDGEPAAS_APP": "asking:application", "POSTGRES_HOLD": "1"}
    write_contracts(paths, **(own | {"DB_CONNECT_TIMEOUT": "10"} | settings))
    contract = DatabaseContract.read(paths.db_contract)
    replace(
        contract, database_url=url, hub_url=url, final_db_mode="try_postgres", db_state="primary"
    ).write(paths.db_contract)
    manager = Manager(folder)
    environ = child_environ(folder, NOTIFY_SOCKET=str(manager.path))
    if weak:
        weakening = weak_environ(weak)
        weakening["PYTHONPATH"] += os.pathsep + environ["PYTHONPATH"]
        environ |= weakening
    process = Process(edgepaas("serve"), folder, environ)
    try:
        return process.wait(60), process.output
    finally:
        process.close()
        manager.close()


@pytest.mark.parametrize("fault", ["unreachable", "refused", "full"])
def test_a_start_that_postgres_makes_fail_is_decided_again_without_a_back_off(
    fault: str, tmp_path: Path, paths: Paths, postgres_url: str
) -> None:
    """It raised before the gate: the box backed off, and chose PostgreSQL again, for minutes."""
    url, sql = postgres_url, "SELECT 1"
    if fault == "unreachable":
        url = re.sub(r":\d+/", f":{free_port()}/", url)
    elif fault == "refused":
        sql = "SELECT * FROM there_is_no_such_table"
    else:
        url = re.sub(r"/\w+$", "/postgres", url)
        sql = "DO $$ BEGIN RAISE EXCEPTION 'none left' USING ERRCODE = '53300'; END $$"
    status, output = serve(tmp_path, paths, url, sql)
    assert status == 75, output
    assert "PostgreSQL cannot be used" in output
    hold = read_hold(paths.postgres_hold)
    assert hold is not None
    assert not paths.crash_loop.exists(), "it counted as a crash"


def test_a_start_that_backs_off_from_postgres_is_found_out(
    tmp_path: Path, paths: Paths, postgres_url: str
) -> None:
    """The box would choose PostgreSQL again after the pause, and never serve."""
    url = re.sub(r":\d+/", f":{free_port()}/", postgres_url)
    status, _ = serve(tmp_path, paths, url, weak="gate-backs-off")
    assert status not in (0, 75)
    assert paths.crash_loop.exists()
    assert read_hold(paths.postgres_hold) is None


def test_a_start_that_fails_for_another_reason_backs_off_and_the_hold_outlasts_it(
    tmp_path: Path, paths: Paths, postgres_url: str
) -> None:
    """Here the application: PostgreSQL is not to blame. A hold of an earlier start is kept."""
    write_hold(paths.postgres_hold, "the gate failed", 5.0)
    status, output = serve(tmp_path, paths, postgres_url, EDGEPAAS_APP="asking:nothing")
    assert status == 78, output
    assert json.loads(paths.crash_loop.read_text())["failures"] == 1
    hold = read_hold(paths.postgres_hold)
    assert hold is not None
    assert hold.reason == "the gate failed"
    entry = json.loads(paths.postgres_hold.read_text())
    assert entry["seconds"] > UNTIL_DECIDED
