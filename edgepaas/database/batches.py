# SPDX-License-Identifier: Apache-2.0
"""Lists of rows that travel as few statements, on either database."""

from sqlalchemy import Engine

#: Without it the row count of a batched insert would be that of its last statement.
EXECUTION_OPTIONS = {"preserve_rowcount": True}


def batch_inserts(engine: Engine) -> None:
    """Let a list of rows travel as multi-row INSERTs also when nothing is returned.

    One statement a row is one step a row: it costs PostgreSQL a round trip (the driver
    does not pipeline) and SQLite's writer a fight for the interpreter's lock.
    """
    engine.dialect.use_insertmanyvalues_wo_returning = True
