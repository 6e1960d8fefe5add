# SPDX-License-Identifier: Apache-2.0
"""Where a drill's rows go: a database of its own on the PostgreSQL, else a schema of its own."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgepaas.drill.undisturbed import undisturbed
from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields
from edgepaas.pgdriver.connection import close_quietly, connect, place_of
from edgepaas.pgdriver.failures import ConnectFailure, server_message, sqlstate
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import Address, split_url

if TYPE_CHECKING:
    from edgepaas.settings import Settings

PREFIX = "edgepaas_drill_"
_LOGIN_WITHIN = 10.0
#: insufficient_privilege (PostgreSQL manual, appendix A).
_DENIED = "42501"
#: A note of what was made, in the scratch folder, for the drill that comes after a crash.
NOTE = "place.json"
RECORD = RecordType(
    "drill-place",
    2,
    {"kind": shapes.one_of("database", "schema"), "name": shapes.text, "server": shapes.text},
    {1: same_fields},
)


class DrillImpossible(EdgePaaSError):
    """A drill cannot even begin; says what it needs."""


@dataclass(frozen=True)
class Server:
    """The PostgreSQL that is drilled against, and how it is reached."""

    address: Address
    tls: TLSPolicy

    @classmethod
    def of(cls, settings: "Settings", url: str) -> "Server":
        """Return the server of *url* with the TLS that the settings demand."""
        address = split_url(url)
        return cls(address, TLSPolicy.of(settings, address))

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
class Place:
    """A database or a schema that nobody else uses, called *name*."""

    kind: Literal["database", "schema"]
    name: str

    def address(self, server: Server) -> Address:
        """Return where its rows are, on *server* itself."""
        if self.kind == "database":
            return replace(server.address, database=self.name)
        options = " ".join(
            part
            for part in (server.address.params.get("options", ""), f"-c search_path={self.name}")
            if part
        )
        return replace(server.address, params={**server.address.params, "options": options})

    @property
    def in_words(self) -> str:
        """Say what it is, for a person."""
        return f"the {self.kind} {self.name}"


def make_place(server: Server, folder: Path) -> Place:
    """Make an empty place on *server*, noted in *folder* before it is there.

    A database where the user may create one and can log in to it (a connection pooler may
    know of none but its own), else a schema. Raises DrillImpossible, ConnectFailure.
    """
    name = PREFIX + secrets.token_hex(6)
    database, schema = Place("database", name), Place("schema", name)
    _note(folder, server, database)
    try:
        with undisturbed(), server.session() as connection:
            connection.execute_simple(f"CREATE DATABASE {name}")
        try:
            with server.session(database.address(server)):
                return database
        except ConnectFailure:
            drop_place(server, database)
    except ConnectFailure:
        raise
    except Exception as error:
        if sqlstate(error) is None:
            raise
    _note(folder, server, schema)
    try:
        with undisturbed(), server.session() as connection:
            connection.execute_simple(f"CREATE SCHEMA {name}")
    except Exception as error:
        if sqlstate(error) != _DENIED:
            raise
        raise DrillImpossible(
            f"{place_of(server.address)}: user {server.address.username!r} may create neither a "
            f"database nor a schema there ({server_message(error)}); grant it one of both: ALTER "
            f"ROLE {server.address.username} CREATEDB, or GRANT CREATE ON DATABASE "
            f"{server.address.database} TO {server.address.username}"
        ) from None
    return schema


def drop_place(server: Server, place: Place) -> None:
    """Remove *place* with everything in it; one that is not there is no error."""
    with server.session() as connection:
        if place.kind == "schema":
            connection.execute_simple(f"DROP SCHEMA IF EXISTS {place.name} CASCADE")
            return
        # FORCE is there from PostgreSQL 13 on, the oldest one that is supported.
        connection.execute_simple(f"DROP DATABASE IF EXISTS {place.name} WITH (FORCE)")


def noted_place(folder: Path) -> tuple[Place | None, str]:
    """Return the place that a drill in *folder* made or was about to make, and on which server."""
    try:
        entry = RECORD.read_or_set_aside(folder / NOTE)
    except OSError:
        return None, ""
    if entry is None:
        return None, ""
    name, kind, where = entry["name"], entry["kind"], entry["server"]
    # It becomes part of a statement: nothing but what is written above.
    if not name.startswith(PREFIX) or not name.replace("_", "").isalnum():
        return None, ""
    return Place(kind, name), where


def _note(folder: Path, server: Server, place: Place) -> None:
    entry = {"kind": place.kind, "name": place.name, "server": server.address.masked()}
    RECORD.write(folder / NOTE, entry)
