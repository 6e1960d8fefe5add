# SPDX-License-Identifier: Apache-2.0
"""TLS in front of a PostgreSQL that was built without it, as a proxy on its host would have it.

The server that the wheel brings knows no TLS; what the client checks is the same.
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

#: The message that asks for TLS (PostgreSQL's protocol, SSLRequest): length 8, code 80877103.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@contextlib.contextmanager
def tls_front(context: ssl.SSLContext, port: int) -> Iterator[int]:
    """Give the port on loopback where TLS is spoken for the server on *port*."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, context, port), daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # closed: the test is over
        threading.Thread(target=_serve, args=(client, context, port), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError), client:
        if client.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
            return
        client.sendall(b"S")
        with (
            context.wrap_socket(client, server_side=True) as secure,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            back = threading.Thread(target=_copy, args=(server, secure), daemon=True)
            back.start()
            _copy(secure, server)
            back.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
