# SPDX-License-Identifier: Apache-2.0
"""Servers that are not what DATABASE_URL promises: real sockets on loopback, each bad in its way.

    with HostileServer(silent) as server:
        connect(split_url(server.url()), …)

A behaviour is a function of one accepted connection; ``pause`` inside of it waits until
the test is over, so that nothing depends on a sleep being long enough.
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

Behaviour = Callable[["Peer"], None]

SSL_REQUEST = 80877103
AUTHENTICATION_OK = b"R" + struct.pack("!ii", 8, 0)
READY = b"Z" + struct.pack("!i", 5) + b"I"


class Peer:
    """One accepted connection, as a behaviour sees it."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self.sock = sock
        self.over = over

    def pause(self) -> None:
        """Say nothing until the test is over."""
        self.over.wait(60)

    def read_startup(self) -> int:
        """Read one untyped message (startup or SSLRequest) and return its code."""
        length = struct.unpack("!i", self._exactly(4))[0]
        return int(struct.unpack("!i", self._exactly(length - 4)[:4])[0])

    def start(self) -> None:
        """Read until the startup message, declining TLS where it is asked for."""
        if self.read_startup() == SSL_REQUEST:
            self.sock.sendall(b"N")
            self.read_startup()

    def read_message(self) -> bytes:
        """Read one typed message and return its body."""
        header = self._exactly(5)
        return self._exactly(struct.unpack("!i", header[1:])[0] - 4)

    def drip(self, data: bytes, every: float = 0.05) -> None:
        """Send *data* a byte at a time, so that no single read ever times out."""
        for i in range(len(data)):
            self.sock.sendall(data[i : i + 1])
            if self.over.wait(every):
                return

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            block = self.sock.recv(count - len(data))
            if not block:
                raise ConnectionError("the client went away")
            data += block
        return data


class HostileServer:
    """Listens on a free port of loopback and treats every connection by one behaviour."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.connections = 0
        self._over = threading.Event()
        self._accepted: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def url(self, host: str = "127.0.0.1", query: str = "") -> str:
        """Return the address that promises a PostgreSQL here."""
        return f"postgresql://edgepaas:tr0ub4dor@{host}:{self.port}/edgepaas{query}"

    def __enter__(self) -> "HostileServer":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._accepted:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._accepted.append(sock)
                threading.Thread(target=self._treat, args=(sock,), daemon=True).start()

    def _treat(self, sock: socket.socket) -> None:
        # A client that gives up is what the tests are about.
        with contextlib.suppress(OSError, struct.error, ValueError):
            self.behaviour(Peer(sock, self._over))
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def silent(peer: Peer) -> None:
    """Accepts and never says a word."""
    peer.pause()


def silent_in_tls(peer: Peer) -> None:
    """Promises TLS and says nothing more."""
    peer.read_startup()
    peer.sock.sendall(b"S")
    peer.pause()


def dripping(peer: Peer) -> None:
    """Sends a greeting that would be valid if it ever came to its end."""
    peer.start()
    peer.sock.sendall(AUTHENTICATION_OK)
    value = b"x" * 20_000
    peer.drip(b"S" + struct.pack("!i", 4 + 9 + len(value) + 1) + b"TimeZone\0" + value + b"\0")


def dripping_in_tls(peer: Peer) -> None:
    """Promises TLS and sends a handshake record a byte at a time."""
    peer.read_startup()
    peer.sock.sendall(b"S")
    peer.drip(b"\x16\x03\x03\x3f\x00\x02\x00\x3e\xfc" + b"\x03" * 16_000)


def http(peer: Peer) -> None:
    """A web server that keeps the connection open."""
    peer.sock.recv(64)
    peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    peer.pause()


def ssh(peer: Peer) -> None:
    """A server that speaks first."""
    peer.sock.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    peer.pause()


def hang_up(peer: Peer) -> None:
    """Accepts and closes at once."""


def hang_up_after_startup(peer: Peer) -> None:
    """Reads what the client wants and closes."""
    peer.start()


def without_tls(peer: Peer) -> None:
    """Speaks PostgreSQL's protocol but declines TLS."""
    peer.start()
    peer.pause()


def nonsense(peer: Peer) -> None:
    """Begins like PostgreSQL and goes on with a message that does not exist."""
    peer.start()
    peer.sock.sendall(AUTHENTICATION_OK + b"\x00" + struct.pack("!i", 8) + b"\xff\xfe\xfd\xfc")
    peer.pause()


def huge_message(peer: Peer) -> None:
    """Announces an error message of two gigabytes."""
    peer.start()
    peer.sock.sendall(b"E" + struct.pack("!i", 2**31 - 1) + b"SERROR\0")
    peer.pause()


def costly_password(peer: Peer) -> None:
    """Asks for a proof of the password that takes seconds of computing."""
    peer.start()
    mechanisms = b"SCRAM-SHA-256\0\0"
    peer.sock.sendall(b"R" + struct.pack("!ii", 8 + len(mechanisms), 10) + mechanisms)
    first = peer.read_message().split(b"n=,r=")[-1].split(b",r=")[-1]
    text = b"r=" + first.split(b"r=")[-1] + b"server,s=c2FsdHNhbHRzYWx0,i=4000000"
    peer.sock.sendall(b"R" + struct.pack("!ii", 8 + len(text), 11) + text)
    peer.pause()


def error(state: str, message: str) -> Behaviour:
    """Answers the startup message with an error and hangs up, as a server does."""

    def behaviour(peer: Peer) -> None:
        peer.start()
        fields = f"SFATAL\0VFATAL\0C{state}\0M{message}\0\0".encode()
        peer.sock.sendall(b"E" + struct.pack("!i", 4 + len(fields)) + fields)

    return behaviour


def version(number: str) -> Behaviour:
    """Lets everybody in and says that it is PostgreSQL *number*."""

    def behaviour(peer: Peer) -> None:
        peer.start()
        greet(peer, number)
        peer.pause()

    return behaviour


def greet(peer: Peer, number: str) -> None:
    """Send what follows a startup message: no password, the version, ready."""
    value = f"server_version\0{number}\0".encode()
    status = b"S" + struct.pack("!i", 4 + len(value)) + value
    peer.sock.sendall(AUTHENTICATION_OK + status + READY)


def obliging(*, standby: bool = False, read_only: bool = False) -> Behaviour:
    """Greets as PostgreSQL 16 and answers whatever it is asked, as far as a login asks it."""

    def behaviour(peer: Peer) -> None:
        peer.start()
        greet(peer, "16.1")
        answer(peer, standby=standby, read_only=read_only)

    return behaviour


def answer(peer: Peer, *, standby: bool = False, read_only: bool = False) -> None:
    """Answer simple queries until the client goes: whether it is a standby, and read-only."""
    writable = _rows(
        (b"pg_is_in_recovery", 16, 1, b"t" if standby else b"f"),
        (b"current_setting", 25, -1, b"on" if standby or read_only else b"off"),
    )
    defaults = _rows(
        (b"current_schema", 25, -1, b"public"),
        (b"current_setting", 25, -1, b"read committed"),
        (b"pg_backend_pid", 23, 4, b"7"),
    )
    while b"\0" in (query := peer.read_message()):
        asked = writable if b"pg_is_in_recovery" in query else b""
        asked += defaults if b"current_schema" in query else b""
        peer.sock.sendall(asked + _message(b"C", b"SET\0") + READY)


def _rows(*columns: tuple[bytes, int, int, bytes]) -> bytes:
    """Return the description of one row and the row; of each column name, type, size, value."""
    described = b"".join(
        name + b"\0" + struct.pack("!ihihih", 0, 0, type_id, size, -1, 0)
        for name, type_id, size, _ in columns
    )
    row = b"".join(struct.pack("!i", len(value)) + value for _, _, _, value in columns)
    count = struct.pack("!h", len(columns))
    return _message(b"T", count + described) + _message(b"D", count + row)


def _message(code: bytes, body: bytes) -> bytes:
    return code + struct.pack("!i", 4 + len(body)) + body


def tls(context: ssl.SSLContext, number: str = "16.1") -> Behaviour:
    """Does TLS with *context*, then greets as PostgreSQL *number*; it takes writes."""

    def behaviour(peer: Peer) -> None:
        peer.read_startup()
        peer.sock.sendall(b"S")
        with context.wrap_socket(peer.sock, server_side=True) as wrapped:
            peer.sock = wrapped
            peer.read_startup()
            greet(peer, number)
            answer(peer)

    return behaviour


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Yield a URL whose packets vanish: a listener whose backlog is full drops every SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.3)
            try:
                filler.connect(place)
            except TimeoutError:
                break
        else:
            raise RuntimeError("the backlog never filled")
        yield f"postgresql://edgepaas:tr0ub4dor@{place[0]}:{place[1]}/edgepaas"


def dead_resolver(*_arguments: object, **_options: object) -> list[tuple[object, ...]]:
    """A name server that never answers, as ``socket.getaddrinfo`` sees it."""
    time.sleep(30)
    return []
