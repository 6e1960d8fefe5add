# SPDX-License-Identifier: Apache-2.0
"""A transaction on PostgreSQL's schema, and what an error in it means."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgepaas.errors import DatabaseUnavailable
from edgepaas.pgdriver.failures import is_lost, server_message, sqlstate
from edgepaas.schema.errors import RightsLacking, SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Connection

_NO_RIGHT = "42501"


@contextmanager
def transaction(
    connect: Callable[[], Any], failure: str, *, commit: bool
) -> "Iterator[Connection]":
    """Give a connection in a transaction, which is committed at the end or, without *commit*, not.

    *failure* says what an error means, e.g. ``its tables cannot be examined``. Raises
    DatabaseUnavailable or SchemaError for whatever is raised in it.
    """
    from edgepaas.schema import migrations

    engine = migrations.migration_engine(connect, "postgresql+pg8000://")
    try:
        with engine.begin() if commit else engine.connect() as connection:
            yield connection
    except (SchemaError, DatabaseUnavailable):
        raise
    except Exception as error:
        raise unusable(error, failure) from error
    finally:
        engine.dispose()


def unusable(error: Exception, what: str) -> Exception:
    """Return what an error of the driver means: the link is lost, or the schema is in the way."""
    if isinstance(error, DatabaseUnavailable | SchemaError):
        return error
    original = getattr(error, "orig", None) or error
    said = " ".join(server_message(original).split())
    state = sqlstate(original)
    if is_lost(original):
        return DatabaseUnavailable(f"PostgreSQL: {what}: {said}")
    message = f"PostgreSQL: {what}: {said}{f' (SQLSTATE {state})' if state else ''}"
    return RightsLacking(message, said) if state == _NO_RIGHT else SchemaError(message)
