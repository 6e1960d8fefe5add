# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --hub``: the PostgreSQL that rows are forwarded to, whatever serves."""

from functools import cache
from typing import TYPE_CHECKING

from edgepaas.database.postgresql.connector import Connector
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema.chain import chain_of
from edgepaas.schema.postgresql.migrate import check_postgres, parts_of, prepare_postgres
from edgepaas.schema.report import SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.app import Application
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.settings import Settings


def prepare_hub(
    contract: "DatabaseContract", settings: "Settings", application: "Application"
) -> SchemaReport:
    """Bring both chains of the contract's ``HUB_URL`` to head; changes nothing on this box.

    With RUN_MIGRATIONS=false it only looks whether everything is there. Raises
    DatabaseUnavailable, or SchemaError that names what is lacking.
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
    if not settings.flag("RUN_MIGRATIONS"):
        return check_postgres(connector, parts)
    return prepare_postgres(connector, parts, run_migrations=True, always_capture=True)
