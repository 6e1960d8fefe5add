# SPDX-License-Identifier: Apache-2.0
"""The boot chain of one box by its commands, and its PostgreSQL by bare statements."""

from typing import Any

from sqlalchemy import CursorResult, text
from sqlalchemy.orm import Session

from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings
from tests.support.in_process import edgepaas_here

_ROUNDS = 3


def chain_runs() -> int:
    """Run the stages as systemd does, again on 75; return the last one's exit status."""
    status = 75
    for _ in range(_ROUNDS):
        for stage in ("env", "dbdecide", "schema"):
            status = edgepaas_here(stage).returncode
            if status:
                break
        if status != 75:
            return status
    return status


def decided_state(paths: Paths) -> str:
    """Return the state that the decision wrote."""
    return DatabaseContract.read(paths.db_contract).db_state


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements on PostgreSQL, each in its own transaction; return the last one's rows."""
    database = ServerDatabase(url, Settings.of())

    def run(statement: str) -> list[Any]:
        def work(session: Session) -> list[Any]:
            result = session.execute(text(statement))
            return list(result) if isinstance(result, CursorResult) and result.returns_rows else []

        return database.write(work)

    try:
        return [run(statement) for statement in statements][-1]
    finally:
        database.close()
