# SPDX-License-Identifier: Apache-2.0
"""What the schema stage can fail with, and how it is said."""

from edgepaas.errors import EdgePaaSError

_LONGEST = 300


class SchemaError(EdgePaaSError):
    """The schema cannot be brought to head; the message says what was left as it was."""


class SchemaRefused(SchemaError):
    """This build cannot work on the database, which was left as it is; the message says why.

    The box answers 503 with it, and tries again, until what it names was mended.
    """


class OfAnotherApplication(SchemaRefused):
    """The database is another application's, which the message names."""


class RightsLacking(SchemaError):
    """This role may not change PostgreSQL's schema; *said*: the server's own words."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class ChainIncomplete(SchemaError):
    """The build lacks a part of its migrations: no database is to blame for that."""


class RevisionRefused(SchemaError):
    """A revision would break rows that wait; the message has their number and a way out.

    ``reached``: the revisions that the database came to without it.
    """

    reached: frozenset[str] = frozenset()


def brief(error: BaseException) -> str:
    """Return *error* as one line: the driver's own words, without the statement and its values."""
    said = str(getattr(error, "orig", None) or error) or type(error).__name__
    line = next((line for line in said.splitlines() if line.strip()), type(error).__name__)
    return " ".join(line.split())[:_LONGEST]
