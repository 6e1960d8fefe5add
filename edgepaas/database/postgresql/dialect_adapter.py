# SPDX-License-Identifier: Apache-2.0
"""What SQLAlchemy's dialect asks of a new server, known from the login instead of asked for.

SQLAlchemy documents that a dialect is registered by name, not what it asks on its first
connection: version, schema, isolation level and a setting, four questions one after the other,
which over a slow link hold the first request up. This class answers them from what the server
reported at the login, and from what :mod:`edgepaas.pgdriver.session_settings` asks along with
the session's settings. ``tests/unit/test_adapter_dialect.py`` fails when a new version of
SQLAlchemy changes the following. The upper bound in ``pyproject.toml`` is the first version
that was not tested.

- ``_get_server_version_info(connection)``, ``_get_default_schema_name(connection)``,
  ``get_default_isolation_level(dbapi_connection)``, ``_set_backslash_escapes(connection)``:
  called by ``initialize()``, which calls nothing else of the server.
"""

import re
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.pg8000 import PGDialect_pg8000

from edgepaas.pgdriver.pg8000_adapter import parameter_status, server_version

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgepaas.pgdriver.session_settings import SessionDefaults

#: The URL of an engine with this dialect.
URL = "postgresql+edgepaas://"


class LoginDialect(PGDialect_pg8000):
    """pg8000's dialect for connections of :func:`edgepaas.pgdriver.connection.connect`."""

    supports_statement_cache = True

    def _get_server_version_info(self, connection: "Connection") -> tuple[int, ...]:
        # E.g. 16.4, 19beta1, or 14.5 of a maker with more words.
        found = re.match(r"\d+(?:\.\d+)*", server_version(_driver(connection)))
        return tuple(map(int, found[0].split("."))) if found else ()

    def _get_default_schema_name(self, connection: "Connection") -> str:
        session: SessionDefaults = _driver(connection).session
        return cast(str, session.schema)  # or None, as the dialect's own

    def get_default_isolation_level(self, dbapi_conn: Any) -> Any:
        session: SessionDefaults = dbapi_conn.session
        return session.isolation.upper()

    def _set_backslash_escapes(self, connection: "Connection") -> None:
        reported = parameter_status(_driver(connection), "standard_conforming_strings")
        self._backslash_escapes = reported == "off"


def _driver(connection: "Connection") -> Any:
    return connection.connection.dbapi_connection


registry.register("postgresql.edgepaas", __name__, LoginDialect.__name__)
