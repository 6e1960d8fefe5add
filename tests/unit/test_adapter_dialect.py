# SPDX-License-Identifier: Apache-2.0
"""The contract with SQLAlchemy's dialect: what the dialect_adapter of the PostgreSQL room uses."""

from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql.base import PGDialect

from edgepaas.database.postgresql.dialect_adapter import URL
from edgepaas.pgdriver.session_settings import SessionDefaults


class Server:
    """A driver's connection after its login; it must not be asked anything."""

    autocommit = False

    def __init__(self) -> None:
        self.parameter_statuses = {
            "server_version": "16.4 (Debian 16.4-1)",
            "standard_conforming_strings": "on",
        }
        self.session = SessionDefaults("edge", "repeatable read")
        self.py_types: dict[type, object] = {str: None}

    def register_in_adapter(self, *_: object) -> None:
        """Take a converter."""

    def rollback(self) -> None:
        """Nothing was begun."""

    def close(self) -> None:
        """Be closed."""

    def cursor(self) -> Any:
        """Nothing is to be asked."""
        raise AssertionError("a question was sent to the server")


def test_a_new_server_is_asked_nothing() -> None:
    """What SQLAlchemy wants to know of it comes from the login, and is used."""
    engine = create_engine(URL, creator=Server)
    with engine.connect():
        dialect: Any = engine.dialect
        assert dialect.server_version_info == (16, 4)
        assert dialect.default_schema_name == "edge"
        assert dialect.default_isolation_level == "REPEATABLE READ"
        assert dialect._backslash_escapes is False
        assert dialect.supports_identity_columns
    engine.dispose()


def test_sqlalchemy_asks_by_the_methods_that_are_answered_here() -> None:
    for name in (
        "_get_server_version_info",
        "_get_default_schema_name",
        "get_default_isolation_level",
        "_set_backslash_escapes",
    ):
        assert hasattr(PGDialect, name), name


def test_a_beta_has_a_version_as_well() -> None:
    server = Server()
    server.parameter_statuses["server_version"] = "19beta1"
    engine = create_engine(URL, creator=lambda: server)
    with engine.connect():
        dialect: Any = engine.dialect
        assert dialect.server_version_info == (19,)
    engine.dispose()
