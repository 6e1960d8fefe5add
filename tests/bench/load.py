# SPDX-License-Identifier: Apache-2.0
"""A closed-loop HTTP client on raw sockets, so that the client is not what is measured."""

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

STALLED_AFTER = 30.0


@dataclass
class LoadResult:
    """What a run of load saw: latencies in seconds, and every status with its count."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Return the latency below which *percent* of the answers came, in milliseconds."""
        ordered = sorted(self.latencies)
        if not ordered:
            return float("nan")
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000


class _Connection:
    """One keep-alive connection that has one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.buffer = b""
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read what is there; return the status once the answer is complete."""
        chunk = self.socket.recv(262144)
        if not chunk:
            raise ConnectionError("the server closed the connection in mid-answer")
        self.buffer += chunk
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        lower = head.lower()
        start = lower.find(b"content-length:")
        if start < 0:
            raise ValueError("the answer has no Content-Length")
        length = int(lower[start + 15 :].split(b"\r\n", 1)[0])
        return int(head[9:12]) if len(body) >= length else None


def run_load(
    port: int, make_request: Callable[[], bytes], *, connections: int, seconds: float
) -> LoadResult:
    """Keep *connections* requests under way for *seconds*; every request is made anew."""
    result = LoadResult()
    selector = selectors.DefaultSelector()
    open_connections = [_Connection(port) for _ in range(connections)]
    for connection in open_connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    started = time.perf_counter()
    for connection in open_connections:
        connection.send(make_request())
    under_way = connections
    while under_way:
        events = selector.select(STALLED_AFTER)
        if not events:
            raise TimeoutError(f"no answer for {STALLED_AFTER:g} s")
        for key, _ in events:
            connection = key.data
            status = connection.receive()
            if status is None:
                continue
            now = time.perf_counter()
            result.latencies.append(now - connection.sent_at)
            result.statuses[status] = result.statuses.get(status, 0) + 1
            if now - started < seconds:
                connection.send(make_request())
            else:
                under_way -= 1
    result.seconds = time.perf_counter() - started
    for connection in open_connections:
        connection.socket.close()
    selector.close()
    return result


def request_bytes(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a whole HTTP/1.1 request with a JSON *body*."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode("ascii") + b"\r\n" + body
