# SPDX-License-Identifier: Apache-2.0
"""Appends without a worker, under clients that misbehave and a disk that takes its time."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgepaas.app import Box
from edgepaas.database.sqlite import group_commit
from edgepaas.files.paths import Paths
from edgepaas.httpd.protocol import Parser
from edgepaas.httpd.waitress_adapter import Adjustments
from edgepaas.telemetry.models import READINGS
from edgepaas.telemetry.rules import feed
from edgepaas.telemetry.rules.follower import RuleFollower
from tests.support.loop_box import LIMIT, PATH, Client, LoopBox, post, serving_in_loop, until
from tests.support.telemetry_box import open_box

GET_LIVE = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
GET_STATUS = b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def reading(value: float) -> bytes:
    return json.dumps({"device": "press-1", "metric": "temperature", "value": value}).encode()


@contextmanager
def loop_box(paths: Paths, **options: Any) -> Iterator[tuple[LoopBox, Box, Flask]]:
    with open_box(paths) as (app, box):
        (follower,) = box.workers
        assert isinstance(follower, RuleFollower)
        follower.rules.watches()
        with serving_in_loop(app, **options) as loop:
            yield loop, box, app


@pytest.fixture(autouse=True)
def _rules_stay_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RULES_KEPT", 3600.0)


def stored(box: Box) -> list[float]:
    with box.database.read() as session:
        return sorted(session.scalars(select(READINGS.c.value)))


class SlowDisk:
    """The writer is in the middle of a transaction until the block ends."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._begun, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=box.database.write, args=(self._hold,))

    def _hold(self, _session: Session) -> None:
        self._begun.set()
        assert self._go.wait(LIMIT)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._begun.wait(LIMIT)

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._thread.join(LIMIT)


def waiting(loop: LoopBox) -> int:
    appends = loop.server.dispatcher.appends
    assert appends is not None
    return len(appends._waiting)


def is_waiting(loop: LoopBox, number: int) -> bool:
    return waiting(loop) == number


def test_a_hundred_requests_sent_ahead_are_answered_in_their_order(paths: Paths) -> None:
    with loop_box(paths) as (loop, box, _), loop.connect() as client:
        ids = [f"request-{number}" for number in range(100)]
        client.send(
            b"".join(post(reading(n), {"X-Request-ID": name}) for n, name in enumerate(ids))
        )
        answers = [client.receive() for _ in ids]
        assert [answer.headers["X-Request-Id"] for answer in answers] == ids
        assert {answer.status for answer in answers} == {"201 CREATED"}
        assert stored(box) == [float(number) for number in range(100)]


def test_more_connections_than_workers_share_a_commit(paths: Paths) -> None:
    """Two workers, forty clients, and a disk that is busy meanwhile: one group."""
    with loop_box(paths, threads=2) as (loop, box, _):
        clients = [loop.connect() for _ in range(40)]
        before = sum(box.database.group_sizes.counts)  # type: ignore[attr-defined]
        with SlowDisk(box):
            for number, client in enumerate(clients):
                client.send(post(reading(number)))
            until(lambda: waiting(loop) == 40, "forty requests that wait for the disk")
        assert {client.receive().status for client in clients} == {"201 CREATED"}
        assert sum(box.database.group_sizes.counts) - before <= 2  # type: ignore[attr-defined]
        for client in clients:
            client.socket.close()


def test_a_slow_disk_holds_up_neither_probes_nor_readers(paths: Paths) -> None:
    with loop_box(paths, threads=2) as (loop, box, _):
        clients = [loop.connect() for _ in range(20)]
        with SlowDisk(box):
            for number, client in enumerate(clients):
                client.send(post(reading(number)))
            until(lambda: waiting(loop) == 20, "requests that wait for the disk")
            assert loop.server.dispatcher.busy(), "a watch has to know that requests are in work"
            assert loop.send(GET_LIVE).status == "200 OK"
            assert loop.send(GET_STATUS).status == "200 OK"
            assert loop.server.probe(LIMIT), "the watchdog finds loop and workers free"
            assert waiting(loop) == 20
        assert {client.receive().status for client in clients} == {"201 CREATED"}
        until(lambda: not loop.server.dispatcher.busy(), "no request in work")
        for client in clients:
            client.socket.close()


def test_a_client_that_leaves_before_its_answer_leaves_its_row_and_nothing_else(
    paths: Paths,
) -> None:
    with loop_box(paths) as (loop, box, _):
        with SlowDisk(box):
            for number in range(50):
                client = loop.connect()
                client.send(post(reading(number)))
                wanted = number + 1
                until(partial(is_waiting, loop, wanted), "the request to wait")
                if number % 2:  # a reset, as a crashed device sends it
                    linger = struct.pack("ii", 1, 0)
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.socket.close()
        until(lambda: waiting(loop) == 0, "every request to be done")
        assert stored(box) == [float(number) for number in range(50)]
        until(lambda: loop.server.connections == 0, "every connection to be closed")
        assert loop.send(post(reading(99))).status == "201 CREATED"


def test_a_client_that_has_finished_sending_gets_its_answer(paths: Paths) -> None:
    """It shut its side down, as some do after a request."""
    with loop_box(paths) as (loop, box, _), loop.connect() as client:
        with SlowDisk(box):
            client.send(post(reading(1.0)))
            client.socket.shutdown(socket.SHUT_WR)
            until(lambda: waiting(loop) == 1, "the request to wait")
        assert client.receive().status == "201 CREATED"
        assert client.is_closed()


def test_a_request_that_arrives_byte_by_byte_is_taken_when_it_is_whole(paths: Paths) -> None:
    with loop_box(paths) as (loop, _, _app), loop.connect() as client:
        for byte in post(reading(1.0)):
            client.send(bytes([byte]))
        assert client.receive().status == "201 CREATED"
        assert loop.taken == [PATH]


def test_what_a_worker_has_and_what_the_loop_has_take_turns_on_one_connection(
    paths: Paths,
) -> None:
    with loop_box(paths) as (loop, box, _), loop.connect() as client:
        client.send(post(reading(1.0)) + GET_STATUS + post(b"{}") + post(reading(2.0)) + GET_LIVE)
        found = [client.receive().status.split()[0] for _ in range(5)]
        assert found == ["201", "200", "422", "201", "200"]
        client.send(post(reading(3.0)))
        assert client.receive().status == "201 CREATED"
        assert stored(box) == [1.0, 2.0, 3.0]


def test_a_disk_that_takes_nothing_is_not_waited_for_without_end(paths: Paths) -> None:
    with loop_box(paths) as (loop, box, _), loop.connect() as client:
        box.database.patience = 0.05
        with SlowDisk(box):
            client.send(post(reading(1.0)))
            answer = client.receive()
            assert answer.status.startswith("503")
            assert answer.headers["Retry-After"]
            assert json.loads(answer.body)["error"] == "unavailable"
        box.database.patience = LIMIT
        client.send(post(reading(2.0)))
        assert client.receive().status == "201 CREATED"
        assert stored(box) == [2.0], "what was given up is not written later"


def test_a_queue_that_is_full_is_answered_and_not_waited_in(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loop_box(paths) as (loop, box, _):
        writer = box.database._writer  # type: ignore[attr-defined]
        monkeypatch.setattr(writer._queue, "_length", 5)
        clients = [loop.connect() for _ in range(12)]
        with SlowDisk(box):
            for number, client in enumerate(clients):
                client.send(post(reading(number)))
            refused = [client.receive() for client in clients[5:]]
            assert {answer.status[:3] for answer in refused} == {"503"}
            assert all(answer.headers["Retry-After"] for answer in refused)
        assert {client.receive().status for client in clients[:5]} == {"201 CREATED"}
        assert stored(box) == [0.0, 1.0, 2.0, 3.0, 4.0]
        for client in clients:
            client.socket.close()
    assert group_commit.QUEUE_LENGTH <= 1000


def drain(loop: LoopBox, **options: Any) -> threading.Thread:
    thread = threading.Thread(target=loop.end, kwargs=options)
    thread.start()
    until(lambda: loop.server._listeners[0].draining, "the drain")
    return thread


def test_a_drain_answers_what_waits_and_closes(paths: Paths) -> None:
    with loop_box(paths) as (loop, box, _), loop.connect() as client:
        with SlowDisk(box):
            client.send(post(reading(1.0)))
            until(lambda: waiting(loop) == 1, "the request to wait")
            ended = drain(loop)
        answer = client.receive()
        assert answer.status == "201 CREATED"
        assert answer.headers["Connection"] == "close"
        assert client.is_closed()
        ended.join(LIMIT)
        assert not ended.is_alive()
        assert stored(box) == [1.0]


def test_a_drain_without_patience_says_so_and_the_late_commit_harms_nobody(paths: Paths) -> None:
    with loop_box(paths) as (loop, box, _), loop.connect() as client:
        with SlowDisk(box):
            client.send(post(reading(1.0)))
            until(lambda: waiting(loop) == 1, "the request to wait")
            ended = drain(loop, hurry=lambda: True)
            assert client.receive().status.startswith("503")
            ended.join(LIMIT)
            assert not ended.is_alive()
        until(lambda: waiting(loop) == 0, "the job to be done")
        assert stored(box) == [1.0], "it may be stored: the client was told nothing else"


def test_a_client_that_reads_nothing_holds_up_nobody_and_no_memory(paths: Paths) -> None:
    """What it sends ahead stays in the kernel once one answer waits for it."""
    with loop_box(paths) as (loop, _, _app), loop.connect() as greedy:
        greedy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.socket.setblocking(False)
        request = post(reading(1.0))
        sent = 0
        ahead = b"".join([request] * 200)
        for _ in range(2000):
            try:
                sent += greedy.socket.send(ahead)
            except BlockingIOError:
                break
        (channel,) = until(loop.server._limits.channels, "the connection to be accepted")
        # A read takes 8 KiB at most; the next one waits until its requests are answered.
        most = 2 * 8192 // len(request) + 2
        for _ in range(20):
            assert len(channel.requests) <= most
            assert loop.send(post(reading(2.0))).status == "201 CREATED"


def test_forty_clients_at_once_lose_and_double_nothing(paths: Paths) -> None:
    """Each keeps its own list; some repeat under their key."""
    with loop_box(paths, threads=2) as (loop, box, _):
        acknowledged: list[float] = []
        failures: list[object] = []

        def run(number: int) -> None:
            try:
                with loop.connect() as client:
                    for turn in range(15):
                        value = float(number * 1000 + turn)
                        send_twice(client, value, repeat=turn % 3 == 0)
                        acknowledged.append(value)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert failures == []
        assert stored(box) == sorted(acknowledged)
        assert len(acknowledged) == 600


def send_twice(client: Client, value: float, *, repeat: bool) -> None:
    headers = {"Idempotency-Key": f"k{value}"} if repeat else {}
    client.send(post(reading(value), headers))
    assert json.loads(client.receive().body) == {"accepted": 1, "duplicates": 0}
    if repeat:
        client.send(post(reading(value), headers))
        assert json.loads(client.receive().body) == {"accepted": 0, "duplicates": 1}


def test_a_drain_says_so_on_a_connection_that_was_answered_before(paths: Paths) -> None:
    """Kept alive, as a device's connection is."""
    with loop_box(paths) as (loop, box, _), loop.connect() as client:
        client.send(post(reading(1.0)))
        assert client.receive().status == "201 CREATED"
        with SlowDisk(box):
            client.send(post(reading(2.0)))
            until(lambda: waiting(loop) == 1, "the request to wait")
            ended = drain(loop, hurry=lambda: True)
            assert client.receive().status.startswith("503")
        ended.join(LIMIT)
        assert not ended.is_alive()


def test_what_a_worker_passes_on_while_the_loop_reads_is_no_business_of_the_loop(
    paths: Paths,
) -> None:
    """Its table and what it gathers in a pass are for one thread."""
    with loop_box(paths) as (loop, _, _app):
        assert loop.send(GET_LIVE).status == "200 OK"
        request = Parser(Adjustments())
        whole = post(reading(1.0))
        request.received(whole[request.received(whole) :])
        served = threading.Event()
        channel = SimpleNamespace(requests=[request], addr=("127.0.0.1", 1), service=served.set)
        channel.hold_back = lambda: False
        loop.server.dispatcher.add_task(channel)
        assert served.wait(LIMIT)
        assert loop.taken == []


def test_a_database_that_fails_to_take_a_job_costs_this_request_alone(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no thread can be started: the loop goes on, and somebody answers."""
    with loop_box(paths) as (loop, box, _), loop.connect() as client:

        def fail(_job: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as broken:
            broken.setattr(box.database, "submit", fail)
            client.send(post(reading(1.0)))
            assert client.receive().status.startswith("500")
        client.send(post(reading(2.0)))
        assert client.receive().status == "201 CREATED"
        assert stored(box) == [2.0]
