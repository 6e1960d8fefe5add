# SPDX-License-Identifier: Apache-2.0
"""The scratch database of a drill on the real PostgreSQL; a schema where none can be created."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgepaas.drill.interrupts import interrupts_deferred
from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields
from edgepaas.pgdriver.connection import close_quietly, connect
from edgepaas.pgdriver.failures import ConnectFailure, server_message, sqlstate
from edgepaas.pgdriver.hosts import endpoint_of
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import Address, split_url

if TYPE_CHECKING:
    from edgepaas.settings import Settings

PREFIX = "edgepaas_drill_"
_LOGIN_WITHIN = 10.0
#: insufficient_privilege (PostgreSQL manual, appendix A).
_DENIED = "42501"
#: The file in the scratch folder that names what was created, for a clean-up after a crash.
NOTE = "place.json"
RECORD = RecordType(
    "drill-place",
    2,
    {"kind": shapes.one_of("database", "schema"), "name": shapes.text, "server": shapes.text},
    {1: same_fields},
)


class DrillImpossible(EdgePaaSError):
    """A drill cannot start; the message says what it needs."""


@dataclass(frozen=True)
class Server:
    """The PostgreSQL that the drill uses, and how to connect to it."""

    address: Address
    tls: TLSPolicy

    @classmethod
    def of(cls, settings: "Settings", url: str) -> "Server":
        """Return the server of *url* with the TLS that the settings demand."""
        address = split_url(url)
        return cls(address, TLSPolicy.of(settings, address))

    def serving(self) -> "Server":
        """Return it with the one of its hosts that serves now; raises ConnectFailure.

        What a drill does on the way, and counts, has to happen at one server.
        """
        hosts = {endpoint_of(host): host for host in self.address.hosts()}
        if len(hosts) == 1:
            return self
        with self.session() as connection:
            return replace(self, address=hosts[connection.endpoint])

    @contextlib.contextmanager
    def session(self, address: Address | None = None) -> Iterator[Any]:
        """Give a connection, by default to the configured database; raises ConnectFailure."""
        connection = connect(
            address or self.address,
            deadline=_LOGIN_WITHIN,
            tls=self.tls,
            application_name="edgepaas drill",
        )
        try:
            yield connection
        finally:
            close_quietly(connection)


@dataclass(frozen=True)
class ScratchDatabase:
    """A database, or a schema, that only this drill uses."""

    kind: Literal["database", "schema"]
    name: str

    def address(self, server: Server) -> Address:
        """Return its address on *server*, without the relay."""
        if self.kind == "database":
            return replace(server.address, database=self.name)
        options = " ".join(
            part
            for part in (server.address.params.get("options", ""), f"-c search_path={self.name}")
            if part
        )
        return replace(server.address, params={**server.address.params, "options": options})

    @property
    def label(self) -> str:
        """The kind and the name, for messages."""
        return f"the {self.kind} {self.name}"


def create_scratch_database(server: Server, folder: Path) -> ScratchDatabase:
    """Create an empty one on *server*; a note in *folder* is written first.

    A database where the user may create one and can log in to it (a connection pooler may
    know only its own), else a schema. Raises DrillImpossible, ConnectFailure.
    """
    name = PREFIX + secrets.token_hex(6)
    database, schema = ScratchDatabase("database", name), ScratchDatabase("schema", name)
    _note(folder, server, database)
    try:
        with interrupts_deferred(), server.session() as connection:
            simple_query(connection, f"CREATE DATABASE {name}")
        try:
            with server.session(database.address(server)):
                return database
        except ConnectFailure:
            drop_scratch_database(server, database)
    except ConnectFailure:
        raise
    except Exception as error:
        if sqlstate(error) is None:
            raise
    _note(folder, server, schema)
    try:
        with interrupts_deferred(), server.session() as connection:
            simple_query(connection, f"CREATE SCHEMA {name}")
    except Exception as error:
        if sqlstate(error) != _DENIED:
            raise
        raise DrillImpossible(
            f"{endpoint_of(server.address)}: user {server.address.username!r} may create neither a "
            f"database nor a schema there ({server_message(error)}); grant it one of both: ALTER "
            f"ROLE {server.address.username} CREATEDB, or GRANT CREATE ON DATABASE "
            f"{server.address.database} TO {server.address.username}"
        ) from None
    return schema


def drop_scratch_database(server: Server, scratch: ScratchDatabase) -> None:
    """Drop *scratch* with everything in it, if it exists."""
    with server.session() as connection:
        if scratch.kind == "schema":
            simple_query(connection, f"DROP SCHEMA IF EXISTS {scratch.name} CASCADE")
            return
        # FORCE is there from PostgreSQL 13 on, the oldest one that is supported.
        simple_query(connection, f"DROP DATABASE IF EXISTS {scratch.name} WITH (FORCE)")


def read_note(folder: Path) -> tuple[ScratchDatabase | None, str]:
    """Return what a drill in *folder* created or was about to create, and on which server."""
    try:
        entry = RECORD.read_or_set_aside(folder / NOTE)
    except OSError:
        return None, ""
    if entry is None:
        return None, ""
    name, kind, where = entry["name"], entry["kind"], entry["server"]
    # The name becomes part of a statement: only names as made above are accepted.
    if not name.startswith(PREFIX) or not name.replace("_", "").isalnum():
        return None, ""
    return ScratchDatabase(kind, name), where


def _note(folder: Path, server: Server, scratch: ScratchDatabase) -> None:
    entry = {"kind": scratch.kind, "name": scratch.name, "server": server.address.masked()}
    RECORD.write(folder / NOTE, entry)
