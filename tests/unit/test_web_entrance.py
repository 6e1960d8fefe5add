# SPDX-License-Identifier: Apache-2.0
"""Bodies of strangers, on real sockets: they are not read, let alone kept."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from edgepaas.app import Application
from edgepaas.files.paths import Paths
from edgepaas.web.access.tokens import TokenStore
from tests.support.boxes import make_box
from tests.support.loop_box import LoopBox, serving_in_loop
from tests.support.service_process import until

HEAD = (
    b"POST /api/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"%sContent-Length: 8000000\r\n\r\n["
)


@pytest.fixture
def box(paths: Paths) -> Iterator[LoopBox]:
    """A served box of production."""
    with serving_in_loop(make_box(paths, ENV="production").app) as served:
        yield served


def _begin(box: LoopBox, *headers: bytes) -> socket.socket:
    sock = socket.create_connection(box.address, timeout=60)
    sock.sendall(HEAD % b"".join(header + b"\r\n" for header in headers))
    return sock


def _kept(box: LoopBox) -> int:
    """Bytes of bodies that the server holds."""
    channels = box.server._limits.channels()
    requests: list[Any] = [c.request for c in channels if c.request is not None]
    requests += [one for c in channels for one in c.requests]
    return sum(len(one.body_rcv) for one in requests if one.body_rcv is not None)


@pytest.mark.parametrize(
    "headers",
    [(), (b"Authorization: Bearer made-up",), (b"Expect: 100-continue",)],
    ids=["no token", "made-up token", "asks first"],
)
def test_a_body_of_a_stranger_is_refused_by_its_head(
    box: LoopBox, headers: tuple[bytes, ...]
) -> None:
    """While it is still being sent; the answer is the one that a whole request would get."""
    with _begin(box, *headers) as sock:
        answer = b""
        while block := sock.recv(65536):
            answer += block
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: bearer" in answer.lower()
    assert b'"error":"unauthorized"' in answer
    assert b"100 Continue" not in answer


def test_bodies_of_strangers_are_not_kept(box: LoopBox) -> None:
    """Of 96 at once not one."""
    with ExitStack() as opened:
        socks = [opened.enter_context(_begin(box)) for _ in range(96)]
        for sock in socks:
            assert sock.recv(65536).startswith(b"HTTP/1.1 401 ")
        assert _kept(box) < 100_000


def test_a_body_is_read_of_who_shows_a_token(box: LoopBox, paths: Paths) -> None:
    _, secret = TokenStore(paths.tokens).create("device", read_only=False)
    with _begin(box, b"Authorization: Bearer " + secret.encode()) as sock:
        sock.sendall(b" " * 100_000)
        assert until(lambda: _kept(box) > 100_000, "the body to be read")


def test_a_reader_may_not_send_a_body(box: LoopBox, paths: Paths) -> None:
    _, secret = TokenStore(paths.tokens).create("display", read_only=True)
    with _begin(box, b"Authorization: Bearer " + secret.encode()) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_no_body_is_read_before_it_is_known_whose_may_be(box: LoopBox) -> None:
    """As while the application is being loaded; then it is read, or refused."""
    entrance = box.server._limits.refusal
    box.server.hold_bodies()
    with _begin(box) as sock:
        until(lambda: box.server.connections == 1, "the connection")
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(10_000):  # until the sockets' buffers are full
                sock.send(b" " * 100_000)
        assert _kept(box) < 100_000
        sock.settimeout(60)
        box.server._limits.refusal = entrance
        box.server.wake()
        assert sock.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_body_that_waits_for_an_application_that_never_comes_is_503(box: LoopBox) -> None:
    box.server.hold_bodies()
    with _begin(box) as sock:
        sock.sendall(b" " * 100_000)
        box.server.refuse_waiting()
        assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_an_application_with_its_own_door_gets_every_body_but_for_the_platforms_routes(
    paths: Paths,
) -> None:
    def wsgi(box: Any) -> Any:
        def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            body = b"%d" % len(environ["wsgi.input"].read())
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]

        return answer

    application = Application(name="own", wsgi=wsgi, guarded=False)
    made = make_box(paths, application=application, ENV="production")
    with serving_in_loop(made.app) as served, _begin(served) as sock:
        sock.sendall(b" " * 7_999_999)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
