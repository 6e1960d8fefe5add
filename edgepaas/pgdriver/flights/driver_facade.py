# SPDX-License-Identifier: Apache-2.0
"""What SQLAlchemy's dialect finds at a connection of pg8000 beside its statements."""

from collections.abc import Callable, Sequence
from typing import Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.flights.exchange import IDLE, Exchange


class DriverFacade:
    """The state of a *driver* of pg8000 that has logged in, under the names that it has there."""

    def __init__(self, driver: Any) -> None:
        self.autocommit = False
        self.link = driver.link
        #: The server's place, for messages.
        self.endpoint = ""
        self._driver = driver
        self._exchange = Exchange(driver)

    def close(self) -> None:
        """Close the connection; raises InterfaceError where it is closed already, or lost."""
        self._exchange.lost = True
        self._driver.close()

    def register_in_adapter(self, oid: int, decode: Callable[[str], Any]) -> None:
        """Have values of the type *oid* decoded by *decode*, from their text."""
        self._driver.register_in_adapter(oid, decode)
        self._exchange.forget_formats()

    def register_out_adapter(self, kind: type, encode: Callable[[Any], Any]) -> None:
        """Have parameters of the Python type *kind* become text by *encode*."""
        self._driver.register_out_adapter(kind, encode)

    @property
    def py_types(self) -> dict[type, Callable[[Any], Any]]:
        """What makes text of a parameter, by its Python type; may be added to."""
        known: dict[type, Callable[[Any], Any]] = self._driver.py_types
        return known

    @property
    def parameter_statuses(self) -> dict[str, str]:
        """What the server reported of its settings, by name."""
        reported: dict[str, str] = self._driver.parameter_statuses
        return reported

    @property
    def notices(self) -> Sequence[dict[bytes, bytes]]:
        """The last notices and warnings, by the codes of their fields; the oldest first."""
        received: Sequence[dict[bytes, bytes]] = self._driver.notices
        return received

    def take_notices(self) -> list[dict[str, str]]:
        """Return the notices like :attr:`notices`, as text, and forget them."""
        return pg8000_adapter.take_notices(self._driver) if self._driver.notices else []

    def cancel_request(self) -> bytes:
        """Return the message that cancels what the server does here; see commit_wait.

        Raises OSError where it gave no key at the login.
        """
        return pg8000_adapter.cancel_request(self._driver)

    @property
    def notifications(self) -> Sequence[tuple[int, str, str]]:
        """The last notifications: process, channel, payload."""
        received: Sequence[tuple[int, str, str]] = self._driver.notifications
        return received

    @property
    def backend_pid(self) -> int:
        """The process id that came with the login: the server's, or what a pooler made up."""
        return pg8000_adapter.backend_pid(self._driver)

    @property
    def exchange(self) -> Exchange:
        """The session itself, which may go on in another connection object."""
        return self._exchange

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, perhaps a failed one."""
        return self._exchange.status != IDLE

    @property
    def lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._exchange.lost
