# SPDX-License-Identifier: Apache-2.0
"""A closed-loop HTTP client on raw sockets, so that the client is not what is measured."""

import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.servers import Server

STALLED_AFTER = 60.0
_LENGTH = b"content-length:"

#: A request, or what makes a new one each time.
Request = bytes | Callable[[], bytes]


@dataclass
class LoadResult:
    """What a run of load saw: latencies in seconds, and every status with its count."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    #: Processor time that the server's answering process took, and the client's own; seconds.
    server_processor: float = 0.0
    client_processor: float = 0.0

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def processor_us(self) -> float:
        """Processor time of the server for one request, in microseconds."""
        return 1e6 * self.server_processor / max(1, len(self.latencies))

    @property
    def client_busy(self) -> float:
        """The part of the time in which the client itself was at work (1: it is the limit)."""
        return self.client_processor / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """How many answers were no success."""
        return sum(count for status, count in self.statuses.items() if not 200 <= status < 300)

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
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection in mid-answer")
        self.buffer += chunk
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        lower = self.buffer[:end].lower()
        start = lower.find(_LENGTH)
        if start < 0:
            raise ValueError("the answer has no Content-Length")
        length = int(lower[start + len(_LENGTH) :].split(b"\r\n", 1)[0])
        return int(self.buffer[9:12]) if len(self.buffer) - end - 4 >= length else None


@contextmanager
def off_the_cores_of(server: Server) -> Iterator[None]:
    """Keep this process off the one core that *server* is held to, where there is another."""
    before = os.sched_getaffinity(0)
    theirs = server.cores()
    others = before - theirs
    try:
        if len(theirs) == 1 and others:
            os.sched_setaffinity(0, others)
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_load(server: Server, request: Request, *, connections: int, seconds: float) -> LoadResult:
    """Keep *connections* requests under way for *seconds*."""
    with off_the_cores_of(server):
        open_connections = [_Connection(server.port) for _ in range(connections)]
        try:
            return _run(server, request, open_connections, seconds)
        finally:
            for connection in open_connections:
                connection.socket.close()


def _run(
    server: Server, request: Request, open_connections: list[_Connection], seconds: float
) -> LoadResult:
    result = LoadResult()
    make = request if callable(request) else lambda: request
    by_descriptor = {one.socket.fileno(): one for one in open_connections}
    poll = select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    busy, own = server.processor_seconds(), time.process_time()
    started = time.perf_counter()
    for connection in open_connections:
        connection.send(make())
    under_way = len(open_connections)
    while under_way:
        events = poll.poll(STALLED_AFTER)
        if not events:
            raise TimeoutError(f"no answer for {STALLED_AFTER:g} s")
        for descriptor, _ in events:
            connection = by_descriptor[descriptor]
            status = connection.receive()
            if status is None:
                continue
            now = time.perf_counter()
            result.latencies.append(now - connection.sent_at)
            result.statuses[status] += 1
            if now - started < seconds:
                connection.send(make())
            else:
                under_way -= 1
    result.seconds = time.perf_counter() - started
    result.server_processor = server.processor_seconds() - busy
    result.client_processor = time.process_time() - own
    poll.close()
    return result


def request_bytes(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return a whole HTTP/1.1 request with a JSON *body*; ``_`` in a header's name is ``-``."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    for name, value in headers.items():
        head += f"{name.replace('_', '-')}: {value}\r\n"
    return head.encode("ascii") + b"\r\n" + body
