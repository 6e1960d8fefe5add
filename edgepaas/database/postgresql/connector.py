# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL connections as the settings say; for lean stages as well, so without SQLAlchemy."""

from typing import TYPE_CHECKING

from edgepaas.pgdriver.connection import connect
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import Address, split_url

if TYPE_CHECKING:
    from edgepaas.pgdriver.flights import FlightConnection
    from edgepaas.settings import Settings


class Connector:
    """Makes connections as the settings say; raises DatabaseUnavailable (ConnectFailure)."""

    def __init__(
        self,
        url: str,
        settings: "Settings",
        *,
        name: str = "edgepaas",
        lock_timeout: float | None = None,
        idle_timeout: float | None = None,
        keep_prepared: bool = False,
    ) -> None:
        """*lock_timeout*: seconds that a statement waits for another session's lock.

        *idle_timeout*: seconds after which the server ends an idle transaction.
        *keep_prepared*: for what sends the same statements again and again.
        """
        self.address: Address = split_url(url)
        self._tls = TLSPolicy.of(settings, self.address)
        self._deadline = settings.number("DB_CONNECT_TIMEOUT")
        self._statement_timeout = settings.number("DB_STATEMENT_TIMEOUT") or None
        self._lock_timeout = lock_timeout
        self._idle_timeout = idle_timeout
        self._keep_prepared = keep_prepared
        self._name = name

    def __call__(
        self, *, deadline: float | None = None, statement_timeout: float | None = None
    ) -> "FlightConnection":
        """Connect within *deadline* seconds (default: DB_CONNECT_TIMEOUT)."""
        return connect(
            self.address,
            deadline=min(deadline or self._deadline, self._deadline),
            tls=self._tls,
            application_name=self._name,
            statement_timeout=statement_timeout or self._statement_timeout,
            lock_timeout=self._lock_timeout,
            idle_timeout=self._idle_timeout,
            keep_prepared=self._keep_prepared,
        )
