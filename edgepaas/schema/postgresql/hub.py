# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --hub``: the PostgreSQL that rows are forwarded to, whatever serves."""

from functools import cache
from typing import TYPE_CHECKING

from edgepaas.database.postgresql.connector import Connector
from edgepaas.hosting.loading import metadata_of
from edgepaas.outcomes.fit import fit_question, judge
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.postgresql.migrate import (
    check_postgres,
    parts_of,
    prepare_postgres,
)
from edgepaas.schema.postgresql.transactions import unusable
from edgepaas.schema.renames.boxes import OwnBox
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.table_contract import describe

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.app import Application
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.settings import Settings


def prepare_hub(
    contract: "DatabaseContract",
    settings: "Settings",
    application: "Application",
    *,
    node_id: str = "",
) -> SchemaReport:
    """Bring both chains of the contract's ``HUB_URL`` to head; changes nothing on this box.

    *node_id*: this box's. A revision that would break rows which wait, here or on another box,
    is left for later. With RUN_MIGRATIONS=false it only looks whether everything is there. Raises
    DatabaseUnavailable, or SchemaError that names what is lacking or does not fit.
    """
    if not contract.hub_url:
        return SchemaReport("postgresql", "left", (), (), "there is none to forward rows to")
    chain = chain_of(application)
    chain.check_folder()

    @cache
    def models() -> "MetaData | None":
        return metadata_of(application)

    connector = Connector(contract.hub_url, settings, name="edgepaas-schema")
    parts = parts_of(chain, models)
    # The contract's RUN_MIGRATIONS is false whenever SQLite serves.
    if settings.flag("RUN_MIGRATIONS"):
        own = OwnBox(node_id, contract.sqlite_path)
        report = prepare_postgres(
            connector, parts, run_migrations=True, always_capture=True, own=own, forwarding=True
        )
    else:
        report = check_postgres(connector, parts)
    # At another revision its tables are not those of the models; rows find their columns there.
    if report.action not in {"ahead", "unmigrated"}:
        require_fit(connector, models())
    return report


def require_fit(connector: Connector, metadata: "MetaData | None") -> None:
    """Raise SchemaError where the tables of *metadata* would not keep every row as it is."""
    if metadata is None:
        return
    tables = describe(metadata)
    connection = connector()
    try:
        ((answer,),) = simple_query(connection, fit_question(tables))
    except Exception as error:
        raise unusable(error, "its tables cannot be examined") from error
    finally:
        close_quietly(connection)
    fit = judge(tables, answer)
    if fit.refusals:
        raise SchemaError(f"{fit.reason}; what waits is sent once its owner has run this")
