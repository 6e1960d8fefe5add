# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL as an earlier release left it, and a role that may write its tables alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgepaas.database.postgresql.connector import Connector
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema import migrations
from edgepaas.schema.chain import SHARED_VERSION_TABLE, chain_of, platform_chain
from edgepaas.schema.migrations import migration_engine
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from tests.support.postgres_server import PostgresServer

#: Where the platform's tables stood before capture, histories and the record of revisions.
EARLIER = "0002"


def make_earlier(server: PostgresServer, name: str) -> None:
    """Make the tables of the release before in the empty database *name*, as its owner."""
    connector = Connector(server.url(name), Settings.of())
    engine = migration_engine(connector, "postgresql+pg8000://")
    chain = chain_of(telemetry)
    try:
        with engine.begin() as connection:
            migrations.upgrade(connection, platform_chain(), None, EARLIER)
            migrations.upgrade(connection, chain, metadata_of(telemetry))
            # One version table for whichever application came first, and no name.
            connection.exec_driver_sql(
                f"ALTER TABLE {chain.version_table} RENAME TO {SHARED_VERSION_TABLE}"
            )
            connection.exec_driver_sql(
                f"ALTER INDEX {chain.version_table}_pkc RENAME TO {SHARED_VERSION_TABLE}_pkc"
            )
            connection.exec_driver_sql("DROP TABLE edgepaas_applications")
    finally:
        engine.dispose()


@contextmanager
def role_without_create(server: PostgresServer, name: str, *, temporary: bool) -> Iterator[str]:
    """Give the address of the database *name* for a role that reads and writes its tables alone."""
    role = f"{name}_box"
    server.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'box'")
    server.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    if not temporary:
        server.execute(f'REVOKE TEMPORARY ON DATABASE "{name}" FROM PUBLIC')
    server.execute(
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{role}"', name
    )
    try:
        yield f"postgresql://{role}:box@127.0.0.1:{server.port}/{name}"
    finally:
        server.execute(f'DROP OWNED BY "{role}" CASCADE', name)
        server.execute(f'DROP ROLE "{role}"')
