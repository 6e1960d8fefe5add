# SPDX-License-Identifier: Apache-2.0
"""A server with one limit taken out is found out by a client that takes what it can get."""

import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from edgepaas.apikit import json_body
from edgepaas.files.paths import Paths
from edgepaas.httpd import connection_limits as limits_module
from edgepaas.httpd import protocol
from edgepaas.httpd.channel import Channel
from edgepaas.httpd.connection_limits import ConnectionLimits
from edgepaas.logs.throttle import ThrottlingFilter
from edgepaas.telemetry.allowance import Allowance
from edgepaas.web.access import auth
from edgepaas.web.access.entrance import Entrance
from edgepaas.web.access.proxies import TrustedProxies
from tests.support.answers import json_of
from tests.support.boxes import make_box
from tests.support.greedy_clients import (
    BIG,
    Running,
    ask_from,
    clients_that_read_nothing,
    greedy_client,
)
from tests.support.loop_box import serving_in_loop
from tests.support.service_process import until
from tests.support.telemetry_box import open_box

#: As it is, whatever a weakened build makes of it.
MOST_VALUES = json_body.MOST_VALUES

#: Seconds for what does not come in a weakened build; it comes after ANSWER_PATIENCE in others.
PATIENCE = 60.0

Weaken = Callable[[pytest.MonkeyPatch], None]


def others_are_refused(paths: Paths) -> bool:
    """Whether one greedy address keeps another one from being served."""
    running = Running(connection_limit=24, connections_per_client=6)
    try:
        with greedy_client(running, "127.0.0.9"):
            for _ in range(15):
                try:
                    if ask_from(running, "127.0.0.8", timeout=3) != 200:
                        return True
                except OSError:
                    return True
        return False
    finally:
        running.end()


def answers_are_kept(paths: Paths) -> bool:
    """Whether answers pile up for clients that read none."""
    running = Running(threads=2)
    try:
        with clients_that_read_nothing(running, 3):
            for _ in range(20):
                if running.most_kept > BIG:
                    return True
                time.sleep(0.05)
            return False
    finally:
        running.end()


def a_worker_is_held(paths: Paths) -> bool:
    """Whether a client that reads nothing keeps the only worker."""
    running = Running(threads=1)
    try:
        with running.connect(b"GET /huge HTTP/1.1\r\nHost: x\r\n\r\n"):
            until(lambda: running.asked >= 1, "the worker to have it")
            return not running.server.dispatcher.workers_answer(PATIENCE)
    finally:
        running.end()


def a_strangers_body_is_read(paths: Paths) -> bool:
    """Whether a body is taken in before its sender is known."""
    with serving_in_loop(make_box(paths, ENV="production").app) as box, ExitStack() as opened:
        sock = opened.enter_context(socket.create_connection(box.address, timeout=60))
        sock.settimeout(1.0)
        head = b"POST /api/things HTTP/1.1\r\nHost: x\r\nContent-Length: 800000\r\n\r\n"
        sock.sendall(head + b"x")
        try:
            return not sock.recv(4096).startswith(b"HTTP/1.1 401")
        except TimeoutError:
            return True


def requests_are_smuggled(paths: Paths) -> bool:
    """Whether a body is taken for a request of its own."""
    with serving_in_loop(make_box(paths).app) as box, ExitStack() as opened:
        sock = opened.enter_context(socket.create_connection(box.address, timeout=60))
        sock.sendall(
            b"POST /api/things HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.0\r\nHost: x\r\n\r\n"
        )
        sock.settimeout(1.0)
        answers = b""
        try:
            while block := sock.recv(65536):
                answers += block
        except TimeoutError:
            pass
        return len(re.findall(rb"HTTP/1\.[01] \d{3}", answers)) > 1


def too_much_is_parsed(paths: Paths) -> bool:
    """Whether a body of more values than allowed reaches the parser."""
    body = b"[" + b",".join([b"{}"] * (MOST_VALUES + 1)) + b"]"
    client = make_box(paths).app.test_client()
    answer = client.post("/api/things/many", data=body, content_type="application/json")
    return answer.status_code != 413


def loopback_behind_a_proxy_is_the_box(paths: Paths) -> bool:
    made = make_box(paths, ENV="production", TRUSTED_PROXIES="127.0.0.1")
    return made.app.test_client().get("/api/things").status_code == 200


def any_user_reads(paths: Paths) -> bool:
    """Whether a program that is nobody's the box knows may read."""
    client = make_box(paths, ENV="production").app.test_client()
    return client.get("/api/things", environ_base={"REMOTE_PORT": "1"}).status_code == 200


def names_are_endless(paths: Paths) -> bool:
    with open_box(paths, ENV="development", DEVICES_PER_TOKEN="2") as (app, _):
        client = app.test_client()
        for number in range(4):
            client.post("/api/v1/devices", json={"name": f"d-{number}"})
        return len(json_of(client.get("/api/v1/devices"))["items"]) > 2


def the_log_is_filled(paths: Paths) -> bool:
    import logging

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(ThrottlingFilter())
    logger = logging.getLogger("edgepaas.test_weakened")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        for number in range(500):
            logger.error("GET /%d failed", number)
    finally:
        logger.removeHandler(handler)
    return len(lines) > 100


def _no_share(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ConnectionLimits, "_share_of", lambda *_: 10_000)


def _no_holding_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "hold_back", lambda _: False)


def _no_answer_patience(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "does_not_read", lambda *_: False)


def _no_entrance(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Entrance, "refusal", lambda *_: None)


def _no_framing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(protocol.Parser, "_check_framing", lambda *_: None)


def _no_counting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(json_body, "MOST_VALUES", 10**9)


def _no_proxies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrustedProxies, "__contains__", lambda *_: False)


def _everybodys_loopback(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(auth, "is_own_program", lambda *_: True)


def _no_allowance(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Allowance, "take", lambda *_: None)


def _no_throttle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ThrottlingFilter, "_passes", lambda *_: True)


CHECKS: dict[Callable[[Paths], bool], Weaken] = {
    others_are_refused: _no_share,
    answers_are_kept: _no_holding_back,
    a_worker_is_held: _no_answer_patience,
    a_strangers_body_is_read: _no_entrance,
    requests_are_smuggled: _no_framing,
    too_much_is_parsed: _no_counting,
    loopback_behind_a_proxy_is_the_box: _no_proxies,
    any_user_reads: _everybodys_loopback,
    names_are_endless: _no_allowance,
    the_log_is_filled: _no_throttle,
}


@pytest.mark.parametrize("weak", [False, True], ids=["as it is", "weakened"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_limit_that_is_taken_out_is_seen(
    check: Callable[[Paths], bool], paths: Paths, monkeypatch: pytest.MonkeyPatch, *, weak: bool
) -> None:
    monkeypatch.setattr(limits_module, "ANSWER_PATIENCE", 0.5)
    if check is answers_are_kept:
        monkeypatch.setattr(limits_module, "ANSWER_PATIENCE", 600.0)
    if weak:
        monkeypatch.setattr(f"{__name__}.PATIENCE", 3.0)
        CHECKS[check](monkeypatch)
    assert check(paths) is weak
