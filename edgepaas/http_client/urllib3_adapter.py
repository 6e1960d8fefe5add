# SPDX-License-Identifier: Apache-2.0
"""Everything that EdgePaaS uses of urllib3 beyond what it documents, behind requests.

``_new_conn`` of its connections makes the socket: here it tries every address of a name
within the deadline. ``pool_classes_by_scheme`` says which connections a pool makes. Tests
find out when a version does not call them any more (tests/unit/test_http_client.py).
"""

from typing import TYPE_CHECKING, Any, Protocol

from edgepaas.http_client.connecting import trust

if TYPE_CHECKING:
    from socket import socket


class Progress(Protocol):
    """What a connection reports, and asks for its socket."""

    def connect(self, host: str, port: int) -> "socket":
        """Return a connected socket; raises OSError, OutOfTime."""

    def connected(self) -> None:
        """Take note that the request goes out next; raises OutOfTime."""

    def reuse(self, sock: "socket") -> None:
        """Take a kept socket under the deadline of this request; raises OutOfTime."""


def library_errors() -> tuple[type[Exception], ...]:
    """Return urllib3's errors, which reading a response's body raises unwrapped by requests."""
    from urllib3.exceptions import HTTPError

    return (HTTPError,)


def requests_adapter(progress: Progress) -> Any:
    """Return requests' adapter that connects through *progress* and reports to it.

    It trusts what the system trusts beside the authorities that requests brings along.
    """
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Plain(HTTPConnection):
        def _new_conn(self) -> "socket":
            return progress.connect(self.host, self.port)

        def connect(self) -> None:
            super().connect()
            progress.connected()

        def putrequest(self, *args: Any, **more: Any) -> None:
            if self.sock is not None:
                progress.reuse(self.sock)
            super().putrequest(*args, **more)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> "socket":
            return progress.connect(self.host, self.port or 443)

        def connect(self) -> None:
            super().connect()
            progress.connected()

        def putrequest(self, *args: Any, **more: Any) -> None:
            if self.sock is not None:
                progress.reuse(self.sock)
            super().putrequest(*args, **more)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    pools = {"http": PlainPool, "https": SecurePool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **more: Any) -> None:
            super().init_poolmanager(*args, **more, ssl_context=trust())
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
            manager = super().proxy_manager_for(*args, **more)
            manager.pool_classes_by_scheme = pools
            return manager

    return Adapter()
