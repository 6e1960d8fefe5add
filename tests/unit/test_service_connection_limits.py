# SPDX-License-Identifier: Apache-2.0
"""Slow, silent and greedy clients on a real server: who keeps a place and who loses it."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from edgepaas.httpd import connection_limits as limits_module
from edgepaas.httpd.connection_limits import RESERVE, ConnectionLimits
from tests.support.greedy_clients import (
    BIG,
    HUGE,
    Running,
    answer_on,
    ask_from,
    clients_that_read_nothing,
    from_elsewhere,
    greedy_client,
)
from tests.support.service_process import get, until

HEAD = b"POST /slow HTTP/1.1\r\nHost: x\r\nX-Slow: "
BODY = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n["
REMOTE = "203.0.113.9"

Serve = Callable[..., "Running"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers and ends them after the test."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(Running(**options))
        return started[-1]

    yield start
    for running in started:
        running.end()


@contextlib.contextmanager
def slow_clients(
    running: Running, count: int, first: bytes, more: bytes = b""
) -> Iterator[list[socket.socket]]:
    """Hold *count* connections; each sends *first*, then *more* again and again."""
    over = threading.Event()
    sockets = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(running.address)
        sockets.append(sock)

    def trickle() -> None:
        say = dict.fromkeys(sockets, first)
        while not over.wait(0.2):
            for sock in sockets if say or more else ():
                with contextlib.suppress(OSError):
                    sock.send(say.get(sock, more))
                    say.pop(sock, None)

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield sockets
    finally:
        over.set()
        thread.join(30)
        for sock in sockets:
            sock.close()


def slowly(running: Running, size: int, *, seconds: float) -> bytes:
    """Post *size* bytes in a hundred parts over *seconds*; returns the answer."""
    with running.connect(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    ) as sock:
        for _ in range(100):
            sock.sendall(b"x" * (size // 100))
            time.sleep(seconds / 100)
        return answer_on(sock)


@pytest.mark.parametrize(
    ("first", "more"),
    [(b"", b""), (HEAD, b"b"), (BODY, b" "), (b"\r\n", b"\r\n")],
    ids=["silent", "slow head", "slow body", "blank lines"],
)
def test_probes_and_posts_are_answered_among_four_hundred_slow_clients(
    serve: Serve, first: bytes, more: bytes
) -> None:
    """Slow clients are closed for those that make progress, a slow honest one is not."""
    running = serve()
    running.server._limits.is_proxy = lambda address: True  # many clients behind one address
    with slow_clients(running, 400, first, more):
        until(lambda: running.server.connections >= 100, "every place to be taken")
        honest: list[bytes] = []
        upload = threading.Thread(
            target=lambda: honest.append(slowly(running, 1_000_000, seconds=2.0))
        )
        upload.start()
        while upload.is_alive():
            assert get(running.address[1], "/health/ready", timeout=5)[0] == 200
            assert running.post(b"12345") == (200, b"got 5")
            assert running.server.connections <= 100 + RESERVE
            time.sleep(0.1)
        assert honest == [b"got 1000000"]


def test_a_client_that_does_not_read_its_answers_loses_its_place(serve: Serve) -> None:
    """It keeps no more than one that does not send."""
    running = serve(connection_limit=4)
    with slow_clients(running, 30, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"):
        until(lambda: running.server.connections >= 4, "every place to be taken")
        for _ in range(5):
            assert get(running.address[1], "/health/ready", timeout=10)[0] == 200


@pytest.mark.parametrize(("first", "more"), [(HEAD, b"b"), (BODY, b" ")], ids=["head", "body"])
def test_a_request_that_does_not_arrive_is_408(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, first: bytes, more: bytes
) -> None:
    """Also far below the limit; each byte more is no reason to wait on."""
    monkeypatch.setattr(limits_module, "REQUEST_PATIENCE", 0.5)
    running = serve()
    with running.connect(first) as sock:
        sock.settimeout(0.1)
        answer = b""
        while not answer:
            sock.sendall(more)
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in head
    assert set(json.loads(body)) == {"error", "message", "request_id", "details"}
    until(lambda: running.server.connections == 0, "the connection to be closed")


def test_a_steady_upload_may_take_longer_than_any_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is that it gets on."""
    monkeypatch.setattr(limits_module, "REQUEST_PATIENCE", 0.5)
    assert slowly(serve(), 1_000_000, seconds=1.5) == b"got 1000000"


def test_requests_at_work_are_never_closed_and_the_box_gets_a_place_beside_them(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reserve is for programs of the box; a remote caller is told to come again."""
    running = serve(threads=2, connection_limit=4)
    listener = running.server._listeners[0]
    monkeypatch.setattr(listener, "fix_addr", lambda address: (REMOTE, address[1]))
    ask = b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"
    working = [running.connect(ask) for _ in range(4 + RESERVE // 2)]
    for _ in range(2):
        assert running.held.acquire(timeout=30)
    with running.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as refused:
        answer = refused.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 2" in answer
    monkeypatch.setattr(listener, "fix_addr", lambda address: address)
    assert get(running.address[1], "/health/live", timeout=10)[0] == 200
    running.released.set()
    for sock in working:
        assert answer_on(sock) == b"got 0"
        sock.close()


def connection(
    host: str,
    stalled: float,
    cut: list[str],
    *,
    proven: bool = False,
    authorization: str | None = None,
    working: bool = False,
) -> Any:
    """A connection from *host* that has been getting nowhere for *stalled* seconds."""
    return SimpleNamespace(
        addr=(host, 1),
        network=None,
        authorization=authorization,
        at_work=lambda: working,
        does_not_read=lambda now, patience: False,
        proven=proven,
        stalled_seconds=lambda now: stalled,
        overdue=lambda now, patience: False,
        has_unread_data=lambda: False,
        cut=lambda: cut.append(host),
    )


def test_an_address_with_more_than_its_share_loses_places_before_others_do() -> None:
    """However long the others have been silent; the box itself has no share."""
    cut: list[str] = []
    crowd = [("203.0.113.1", 1.0)] * 3 + [("203.0.113.2", 9.0)] + [("127.0.0.1", 8.0)] * 3
    channels = dict(enumerate(connection(host, stalled, cut) for host, stalled in crowd))
    ConnectionLimits(5, 5, [SimpleNamespace(active_channels=channels)]).enforce()
    assert cut == ["203.0.113.1"] * 2


def test_who_never_asked_for_anything_goes_before_who_was_answered() -> None:
    """A device between two requests keeps its connection while others only hold theirs."""
    cut: list[str] = []
    crowd = [
        connection("203.0.113.1", 60.0, cut, proven=True),
        connection("203.0.113.2", limits_module.PATIENCE, cut),
        connection("203.0.113.3", 0.0, cut),
    ]
    ConnectionLimits(2, 2, [SimpleNamespace(active_channels=dict(enumerate(crowd)))]).enforce()
    assert cut == ["203.0.113.2"]


def test_nobody_is_closed_while_there_are_places() -> None:
    """An idle connection costs nothing then."""
    cut: list[str] = []
    channels = {n: connection("203.0.113.1", 100.0, cut) for n in range(5)}
    ConnectionLimits(5, 5, [SimpleNamespace(active_channels=channels)]).enforce()
    assert cut == []


def limits_of(crowd: list[Any], *, limit: int, share: int) -> ConnectionLimits:
    """Limits over the connections of *crowd*, which has its own idea of tokens."""
    channels = dict(enumerate(crowd))
    limits = ConnectionLimits(limit, share, [SimpleNamespace(active_channels=channels)])
    limits.knows = lambda authorization: authorization == "Bearer valid"
    return limits


def test_an_address_keeps_no_more_than_its_share_however_busy_it_is() -> None:
    """Also far below the limit, and though each of them makes progress."""
    cut: list[str] = []
    limits_of([connection(REMOTE, 0.0, cut) for _ in range(9)], limit=100, share=4).enforce()
    assert cut == [REMOTE] * 5


def test_a_connection_on_which_a_token_was_shown_counts_for_no_share() -> None:
    cut: list[str] = []
    crowd = [connection(REMOTE, 9.0, cut, authorization="Bearer valid") for _ in range(9)]
    crowd += [connection(REMOTE, 0.0, cut, authorization="Bearer made-up") for _ in range(3)]
    limits = limits_of(crowd, limit=100, share=2)
    limits.enforce()
    assert cut == [REMOTE]
    assert not limits.rejects(REMOTE)


def test_what_is_in_work_is_answered_and_no_more_is_taken_meanwhile() -> None:
    cut: list[str] = []
    crowd = [connection(REMOTE, 0.0, cut, working=True) for _ in range(2 + RESERVE // 2)]
    limits = limits_of(crowd, limit=100, share=2)
    limits.enforce()
    assert cut == []
    assert limits.rejects(REMOTE)
    assert not limits.rejects("203.0.113.8")


def test_proxies_and_unix_sockets_have_no_share() -> None:
    """They speak for many clients."""
    cut: list[str] = []
    crowd = [connection(host, 0.0, cut) for host in ("localhost", REMOTE) for _ in range(9)]
    limits = limits_of(crowd, limit=100, share=2)
    limits.is_proxy = lambda address: address == REMOTE
    limits.enforce()
    assert cut == []


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1"])
def test_a_loopback_address_leaves_the_share_of_one_client(address: str) -> None:
    """Behind it may be a proxy that nobody named, or a program of any user."""
    cut: list[str] = []
    crowd = [connection(address, 0.0, cut) for _ in range(9)]
    limits = limits_of(crowd, limit=8, share=2)
    limits.enforce()
    assert cut == [address] * 3
    assert not limits.rejects(address)
    full = limits_of([connection(address, 0.0, cut)] * (6 + RESERVE // 2), limit=8, share=2)
    assert full.rejects(address)
    assert not full.rejects("127.0.0.2")
    assert not full.rejects(REMOTE)


@pytest.mark.parametrize("source", ["127.0.0.9", "remote"])
def test_one_address_without_a_token_cannot_take_everyones_place(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Though each of its connections makes progress all the time; loopback or not."""
    running = serve()
    if source == "remote":
        from_elsewhere(running, monkeypatch)
    with greedy_client(running, "127.0.0.9"):
        assert [ask_from(running, "127.0.0.8") for _ in range(40)] == [200] * 40


def test_answers_that_nobody_reads_are_not_made(serve: Serve) -> None:
    """The next request of a connection waits until the answer before it is on its way."""
    running = serve(threads=2)
    with clients_that_read_nothing(running, 5):
        for _ in range(20):
            assert running.server.dispatcher.workers_answer(30)
            assert running.post(b"12345") == (200, b"got 5")
        # Some are in the sockets' buffers; of those that wait there is one a connection.
        assert running.most_kept <= BIG


def test_what_was_sent_ahead_is_answered_as_the_answers_are_read(serve: Serve) -> None:
    running = serve(threads=2)
    with running.connect(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * 9) as sock:
        until(lambda: running.asked >= 1, "the first to be asked for")
        received, heads = 0, 0
        with sock.makefile("rb") as answers:
            while heads < 9:
                line = answers.readline()
                heads += line.startswith(b"HTTP/1.1 200")
                if line == b"\r\n":
                    received += len(answers.read(3_000_000))
            while answers.readline() != b"\r\n":
                pass
            received += len(answers.read(3_000_000))
        assert received == 9 * 3_000_000


def test_a_worker_does_not_wait_for_a_client_that_reads_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed after a while; one that reads slowly gets all of it."""
    monkeypatch.setattr(limits_module, "ANSWER_PATIENCE", 1.0)
    running = serve(threads=1)
    ask = b"GET /huge HTTP/1.1\r\nHost: x\r\n\r\n"
    with running.connect(ask) as silent, running.connect(ask) as slow:
        read = 0
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        while block := answer.read(1_000_000):
            read += len(block)
            time.sleep(0.05)
        assert read == HUGE
        assert running.post(b"12345") == (200, b"got 5")
        until(lambda: running.server.connections <= 1, "the silent one to be closed")
        silent.close()
