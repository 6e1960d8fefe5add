# SPDX-License-Identifier: Apache-2.0
"""Why rows cannot reach the hub, classified by what is to be done about it."""

from edgepaas.errors import EdgePaaSError
from edgepaas.outcomes.causes import Refusal
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

    ``sqlstate`` and ``server_message`` are empty where PostgreSQL sent no error of its own.
    """

    def __init__(self, message: str, *, sqlstate: str = "", server_message: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.server_message = server_message


class HubUnreachable(HubError):
    """The link or the server failed: keep the rows, try again later. Nothing was lost."""


class HubMisconfigured(HubError):
    """A right or a name is wrong: keep the rows and alert an operator; retrying is harmless."""


class TableRefused(HubError):
    """PostgreSQL refuses every row of a table: keep the rows, try again later."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text, sqlstate=refusal.sqlstate, server_message=refusal.said)
        self.refusal = refusal


class SchemaDrift(HubError):
    """The hub's tables do not fit the rows: upgrade its schema, or block."""


class RowRefused(HubError):
    """PostgreSQL will never accept this row; only code that sends single rows sees this."""


class UnclassifiedHubError(HubError):
    """Any other error: keep the rows and alert an operator."""


_OF_CLASS: dict[ErrorClass, type[HubError]] = {
    ErrorClass.LINK: HubUnreachable,
    ErrorClass.CONFIGURATION: HubMisconfigured,
    ErrorClass.SCHEMA: SchemaDrift,
    ErrorClass.ROW: RowRefused,
    ErrorClass.OTHER: UnclassifiedHubError,
}
#: Failures to connect that only an operator can correct.
_MISCONFIGURED = frozenset({Failure.NO_DATABASE, Failure.PERMISSION, Failure.TOO_OLD})


def as_hub_error(raised: Exception, doing: str) -> HubError:
    """Return the HubError for *raised*, an exception of the driver or of connecting.

    *doing* names what was tried, e.g. ``sending rows``; the message begins with it.
    """
    if isinstance(raised, HubError):
        return raised
    if isinstance(raised, ConnectFailure):
        untrusted = raised.kind is Failure.TLS and raised.permanent
        kind = HubMisconfigured if untrusted or raised.kind in _MISCONFIGURED else HubUnreachable
        return kind(str(raised))  # its text names the server already
    state = sqlstate(raised) or ""
    message = server_message(raised)
    text = (
        f"{doing}: PostgreSQL reports: {message} (SQLSTATE {state})"
        if state
        else f"{doing}: {message}"
    )
    return _OF_CLASS[error_class(raised)](text, sqlstate=state, server_message=message)
