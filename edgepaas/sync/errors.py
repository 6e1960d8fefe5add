# SPDX-License-Identifier: Apache-2.0
"""What can keep rows from reaching the hub, told apart by what is to be done about it."""

from edgepaas.errors import EdgePaaSError
from edgepaas.pgdriver.failures import (
    ConnectFailure,
    ErrorClass,
    Failure,
    error_class,
    server_message,
    sqlstate,
)


class HubError(EdgePaaSError):
    """The hub could not do what it was asked.

    ``sqlstate`` and ``said``, its own words, are empty when it said nothing.
    """

    def __init__(self, message: str, *, sqlstate: str = "", said: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.said = said


class HubUnreachable(HubError):
    """The link or the server: hold everything, try again later. Nothing was lost."""


class HubMisconfigured(HubError):
    """The hub's rights or names are wrong: hold, and tell a human; trying again is harmless."""


class SchemaDrift(HubError):
    """The hub's tables are not those of the rows: bring its schema to head, or block."""


class RowRefused(HubError):
    """PostgreSQL will never take this row; only seen outside by who sends single rows."""


class UnclassifiedHubError(HubError):
    """Something else: hold, and tell a human."""


_OF_CLASS: dict[ErrorClass, type[HubError]] = {
    ErrorClass.LINK: HubUnreachable,
    ErrorClass.CONFIGURATION: HubMisconfigured,
    ErrorClass.SCHEMA: SchemaDrift,
    ErrorClass.ROW: RowRefused,
    ErrorClass.OTHER: UnclassifiedHubError,
}
#: Failures to connect that only a person can mend.
_MISCONFIGURED = frozenset({Failure.NO_DATABASE, Failure.PERMISSION, Failure.TOO_OLD})


def translated(raised: Exception, doing: str) -> HubError:
    """Return what *raised*, by the driver or while connecting, is for who sends rows.

    *doing* says what was tried, e.g. ``sending rows``.
    """
    if isinstance(raised, HubError):
        return raised
    if isinstance(raised, ConnectFailure):
        untrusted = raised.kind is Failure.TLS and raised.permanent
        kind = HubMisconfigured if untrusted or raised.kind in _MISCONFIGURED else HubUnreachable
        return kind(str(raised))  # it names the place itself
    state = sqlstate(raised) or ""
    said = server_message(raised)
    text = f"{doing}: PostgreSQL says: {said} (SQLSTATE {state})" if state else f"{doing}: {said}"
    return _OF_CLASS[error_class(raised)](text, sqlstate=state, said=said)
