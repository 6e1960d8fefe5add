# SPDX-License-Identifier: Apache-2.0
"""Taking PostgreSQL back to an earlier revision: one transaction, its rows written down before."""

import logging
from functools import partial
from typing import TYPE_CHECKING

from edgepaas.files.paths import Paths
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.downgrade.rehearsal import Downgrade, carry_out, rehearse
from edgepaas.schema.downgrade.rows_kept import keep_rows
from edgepaas.schema.downgrade.target import require_known
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.postgresql.migrate import STATEMENT_TIMEOUT, take_turn
from edgepaas.schema.postgresql.transactions import transaction
from edgepaas.schema.renames.boxes import OwnBox, guard_of_hub
from edgepaas.schema.report import SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.database.postgresql.connector import Connector

logger = logging.getLogger("edgepaas.schema")

_FAILURE = "taking it back failed"


def revisions_of_server(
    connector: "Connector", chain: Chain, metadata: "MetaData | None"
) -> Revisions:
    """Return PostgreSQL's revisions; raises DatabaseUnavailable, SchemaError."""
    from edgepaas.schema import migrations, ownership

    with transaction(connector, "its version cannot be read", commit=False) as connection:
        ownership.require_own(connection, chain, "PostgreSQL", metadata)
        return require_known(chain, migrations.versions(connection, chain), "PostgreSQL")


def rehearse_on_server(
    connector: "Connector", chain: Chain, metadata: "MetaData | None", target: str, own: OwnBox
) -> Downgrade:
    """Say what going back to *target* would do; the tables are locked for that long."""
    connect = partial(connector, statement_timeout=STATEMENT_TIMEOUT)
    with transaction(connect, _FAILURE, commit=False) as connection:
        return _rehearsed(connection, chain, metadata, target, own)


def downgrade_server(
    connector: "Connector",
    paths: Paths,
    chain: Chain,
    metadata: "MetaData | None",
    *,
    target: str,
    own: OwnBox,
    before: Revisions,
) -> SchemaReport:
    """Take it back under the advisory lock, in one transaction or not at all.

    Rows of tables that lose something are written to a file of this box before. Raises
    DatabaseUnavailable, SchemaError.
    """
    connect = partial(connector, statement_timeout=STATEMENT_TIMEOUT)
    with transaction(connect, _FAILURE, commit=True) as connection:
        plan = _rehearsed(connection, chain, metadata, target, own)
        if plan.refusal:
            raise SchemaError(f"PostgreSQL: {plan.refusal}")
        kept = keep_rows(connection, paths, plan.tables)
        carry_out(connection, chain, metadata, target)
    message = f"taken back from {show(before)} to {show(plan.after)}; lost: {plan.lost}"
    logger.warning("PostgreSQL: %s", message)
    steps = () if kept is None else (f"wrote the rows of these tables, as they were, to {kept}",)
    return SchemaReport(
        "postgresql",
        "downgraded",
        tuple(sorted(before)),
        tuple(sorted(plan.after)),
        message,
        kept=kept,
        steps=steps,
    )


def _rehearsed(
    connection: "Connection",
    chain: Chain,
    metadata: "MetaData | None",
    target: str,
    own: OwnBox,
) -> Downgrade:
    take_turn(connection, chain)
    return rehearse(connection, chain, metadata, target, guard_of_hub(connection, own))
