# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL database that boxes forward to, for tests: made once, copied for each test."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgepaas.files.paths import find_paths
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from tests.support.checker import Witness
from tests.support.postgres_server import PostgresServer
from tests.support.telemetry_box import contract_for


@dataclass(frozen=True)
class HubDatabase:
    """One database on *server*."""

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        """Its address, without any relay."""
        return self.server.url(self.name)

    @property
    def witness(self) -> Witness:
        """What sees the arrivals."""
        return Witness(self.execute)

    def execute(self, sql: str) -> Sequence[Sequence[object]]:
        """Run one statement as superuser."""
        return self.server.execute(sql, self.name)

    def number(self, sql: str) -> int:
        """Return the one number that *sql* asks for."""
        return int(str(self.execute(sql)[0][0]))

    @classmethod
    @contextmanager
    def copy_of(cls, server: PostgresServer, template: str) -> Iterator["HubDatabase"]:
        """Give a new database that begins as *template*, with the witness in place."""
        name = f"{template}_{server.execute('SELECT txid_current()')[0][0]}"
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        database = cls(server, name)
        try:
            database.witness.install()
            yield database
        finally:
            server.drop_database(name)


def make_template(server: PostgresServer, folder: Path) -> str:
    """Make a database with both chains at head; returns its name."""
    name = server.create_database()
    paths = find_paths({"EDGEPAAS_HOME": str(folder)})
    paths.create()
    contract = contract_for(paths, server.url(name))
    prepare_database(contract, Settings.of(), paths, telemetry)
    return name
