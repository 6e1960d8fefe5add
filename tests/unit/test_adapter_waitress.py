# SPDX-License-Identifier: Apache-2.0
"""The contract with Waitress: what edgepaas.httpd.waitress_adapter uses."""

import contextlib
import inspect
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.wasyncore import dispatcher as loop_dispatcher
from waitress.wasyncore import file_dispatcher

from edgepaas.httpd.waitress_adapter import (
    AdaptedChannel,
    AdaptedDispatcher,
    AdaptedErrorTask,
    AdaptedParser,
    AdaptedTask,
    Adjustments,
    LoopDispatcher,
    LoopFile,
    LoopMap,
    ParsingError,
    TcpWSGIServer,
    TransferEncodingNotImplemented,
    UnixWSGIServer,
    body_of,
    build_http_date,
    close_all,
    is_bare_request,
    join_loop,
    loop_map_of,
    new_listener,
    run_once,
    stop_accepting,
)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (HTTPRequestParser.__init__, ["self", "adj"]),
        (HTTPRequestParser.parse_header, ["self", "header_plus"]),
        (HTTPRequestParser.received, ["self", "data"]),
        (WSGITask.build_response_header, ["self"]),
        (WSGITask.get_environment, ["self"]),
        (ErrorTask.execute, ["self"]),
        (ErrorTask.set_close_on_finish, ["self"]),
        (ErrorTask.write, ["self", "data"]),
        (HTTPChannel.__init__, ["self", "server", "sock", "addr", "adj", "map"]),
        (HTTPChannel.received, ["self", "data"]),
        (HTTPChannel.service, ["self"]),
        (HTTPChannel.write_soon, ["self", "data"]),
        (HTTPChannel.send, ["self", "data", "do_close"]),
        (HTTPChannel.readable, ["self"]),
        (HTTPChannel.handle_read, ["self"]),
        (HTTPChannel.handle_close, ["self"]),
        (HTTPChannel.send_continue, ["self"]),
        (HTTPChannel.del_channel, ["self", "map"]),
        (ThreadedTaskDispatcher.add_task, ["self", "task"]),
        (ThreadedTaskDispatcher.set_thread_count, ["self", "count"]),
        (ThreadedTaskDispatcher.start_new_thread, ["self", "target", "thread_no"]),
        (ThreadedTaskDispatcher.shutdown, ["self", "cancel_pending", "timeout"]),
        (BaseWSGIServer.accept, ["self"]),
        (BaseWSGIServer.add_task, ["self", "task"]),
        (BaseWSGIServer.handle_accept, ["self"]),
        (BaseWSGIServer.readable, ["self"]),
        (BaseWSGIServer.set_socket_options, ["self", "conn"]),
        (BaseWSGIServer.fix_addr, ["self", "addr"]),
        (BaseWSGIServer.pull_trigger, ["self"]),
        (loop_dispatcher.add_channel, ["self", "map"]),
        (loop_dispatcher.recv, ["self", "buffer_size"]),
        (loop_dispatcher.close, ["self"]),
        (file_dispatcher.__init__, ["self", "fd", "map"]),
    ],
)
def test_what_is_called_or_overridden_takes_what_it_took(method: Any, names: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == names


def test_settings_have_the_names_that_are_set() -> None:
    """Adjustments raises for a name that it does not know."""
    adjustments = Adjustments(
        threads=1,
        connection_limit=5,
        max_request_body_size=7,
        backlog=9,
        asyncore_use_poll=True,
        ident="contract",
        clear_untrusted_proxy_headers=False,
    )
    assert (adjustments.max_request_body_size, adjustments.ident) == (7, "contract")


def parsed(data: bytes, **settings: Any) -> AdaptedParser:
    parser = AdaptedParser(Adjustments(**settings))
    while data:
        taken = parser.received(data)
        data = data[taken:]
        if parser.completed or not taken:
            break
    return parser


def test_a_parser_has_every_attribute_and_reads_a_request() -> None:
    parser = parsed(b"POST /a HTTP/1.1\r\nX-Some-Name: v\r\nContent-Length: 4\r\n\r\nbody")
    missing = [name for name in AdaptedParser.__annotations__ if not hasattr(parser, name)]
    assert not missing
    assert (parser.completed, parser.error, parser.chunked) == (True, None, False)
    assert parser.headers == {"X_SOME_NAME": "v", "CONTENT_LENGTH": "4"}
    assert parser.body_bytes_received == 4
    assert (parser.command, parser.path) == ("POST", "/a")


@pytest.mark.parametrize("size", [5, 8191, 8192, 20_000])
def test_a_body_is_read_without_being_taken(size: int) -> None:
    """Whichever of its kinds of buffer it lies in."""
    body = b"x" * size
    parser = parsed(b"POST /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + body)
    assert parser.completed
    assert (body_of(parser), body_of(parser)) == (body, body)
    assert parser.body_rcv.getfile().read() == body


@pytest.mark.parametrize(
    ("head", "bare"),
    [
        (b"POST /a HTTP/1.1\r\nContent-Length: 4", True),
        (b"POST /a HTTP/1.1\r\nContent-Length: 5", False),
        (b"POST /a HTTP/1.1\r\nContent-Length: 0", False),
        (b"POST /a HTTP/1.1", False),
        (b"PUT /a HTTP/1.1\r\nContent-Length: 4", False),
        (b"POST /a HTTP/1.0\r\nContent-Length: 4", False),
        (b"POST /a?b=c HTTP/1.1\r\nContent-Length: 4", False),
        (b"POST /a#b HTTP/1.1\r\nContent-Length: 4", False),
        (b"POST http://host/a HTTP/1.1\r\nContent-Length: 4", False),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked", False),
    ],
)
def test_a_bare_request_has_an_address_and_a_length_and_nothing_else(
    head: bytes, bare: bool
) -> None:
    parser = parsed(head + b"\r\n\r\n" + b"body.")
    assert is_bare_request(parser, 4) is bare


@pytest.mark.parametrize(
    "head",
    [
        b"POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\n",
        b"POST http://h/a HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        b"GET /a#b HTTP/1.0\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_head_that_is_known_is_parsed_to_the_same(head: bytes) -> None:
    """To every attribute, whatever a new version may add."""
    first, known, fresh = (AdaptedParser(Adjustments()) for _ in range(3))
    first.parse_header(head)
    known.adopt_head(first.parsed_head())
    fresh.parse_header(head)
    first.headers["CONNECTION"] = "changed later"
    found = [
        {name: value for name, value in vars(parser).items() if name not in ("adj", "body_rcv")}
        | {"expects": parser.expect_continue, "closes": parser.connection_close}
        for parser in (known, fresh)
    ]
    for one in found:
        one.pop("expect_continue", None)
        one.pop("connection_close", None)
        one.setdefault("content_length", 0)
    assert found[0] == found[1]
    assert type(known.body_rcv) is type(fresh.body_rcv)
    if fresh.body_rcv is not None:
        assert known.body_rcv.remain == fresh.body_rcv.remain


def test_a_date_is_written_as_a_header_has_it() -> None:
    assert build_http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_a_parser_that_is_fed_by_parts_says_how_far_it_is() -> None:
    parser = parsed(b"POST /a HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert (parser.headers_finished, parser.completed) == (True, False)
    assert parser.expect_continue is True
    assert parser.received(b"bodyGET ") == 4
    assert parser.completed


def test_a_refused_request_has_status_reason_and_text() -> None:
    parser = parsed(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
    assert parser.completed
    assert (parser.error.code, parser.error.reason) == (400, "Bad Request")
    assert parser.error.body


def test_a_parser_raises_what_is_caught() -> None:
    parser = AdaptedParser(Adjustments())
    with pytest.raises(TransferEncodingNotImplemented):
        parser.parse_header(b"POST / HTTP/1.1\r\nTransfer-Encoding: mine")
    with pytest.raises(ParsingError):
        AdaptedParser(Adjustments()).parse_header(b"no request line at all\r\nbad")


def test_a_chunked_body_has_what_its_bounds_are_taken_from() -> None:
    parser = parsed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")
    assert parser.chunked
    body = parser.body_rcv
    assert (len(body), body.chunk_remainder, body.control_line, body.trailer) == (3, 2, b"", b"")


class Recording(AdaptedChannel):
    """A channel that notes which of the overridden methods was called, and by which thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.calls: list[tuple[str, bool]] = []
        self._loop = threading.current_thread()
        super().__init__(*arguments, **options)

    def _note(self, name: str) -> None:
        self.calls.append((name, threading.current_thread() is self._loop))

    def received(self, data: bytes) -> bool:
        self._note("received")
        return bool(super().received(data))

    def service(self) -> None:
        self._note("service")
        super().service()

    def write_soon(self, data: Any) -> int:
        self._note("write_soon")
        return int(super().write_soon(data))

    def send(self, data: bytes, do_close: bool = True) -> int:
        self._note("send")
        return int(super().send(data, do_close))

    def handle_close(self) -> None:
        self._note("handle_close")
        super().handle_close()


class Task(AdaptedTask):
    """A task that adds a header of its own."""

    def build_response_header(self) -> bytes:
        self.response_headers.append(("X-Task", "ours"))
        return bytes(super().build_response_header())


class Refused(AdaptedErrorTask):
    """A refusal in our words."""

    def execute(self) -> None:
        self.status = f"{self.request.error.code} {self.request.error.reason}"
        self.response_headers.append(("Content-Type", "text/plain"))
        self.set_close_on_finish()
        self.content_length = 4
        self.write(b"ours")


Recording.task_class = Task
Recording.error_task_class = Refused
Recording.parser_class = AdaptedParser


class Serving:
    """A listener and its loop, run by hand."""

    def __init__(self) -> None:
        self.map: LoopMap = {}
        self.workers = AdaptedDispatcher()
        self.workers.set_thread_count(1)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = self.sock.getsockname()
        self.listener = new_listener(
            TcpWSGIServer,
            self.application,
            self.map,
            self.sock,
            dispatcher=self.workers,
            adjustments=Adjustments(sockets=[self.sock], clear_untrusted_proxy_headers=False),
        )
        self.listener.channel_class = Recording
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.entered.set()
        assert self.gate.wait(10)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def run_until(self, done: Any) -> None:
        for _ in range(500):
            if done():
                return
            run_once(self.map, 0.02)
        raise AssertionError("the loop did not get there")

    @property
    def channels(self) -> list[Recording]:
        return list(self.listener.active_channels.values())

    def close(self) -> None:
        self.gate.set()
        self.workers.shutdown(timeout=2)
        self.listener.trigger.close()
        close_all(self.map)
        self.sock.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    yield made
    made.close()


def test_a_request_passes_through_the_overridden_methods(serving: Serving) -> None:
    """The loop receives, a worker serves and writes."""
    with socket.create_connection(serving.address, timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        serving.run_until(lambda: serving.channels and ("service", False) in _calls(serving))
        (channel,) = serving.channels
        missing = [name for name in AdaptedChannel.__annotations__ if not hasattr(channel, name)]
        assert not missing
        assert channel.loop_map() is serving.map
        assert channel.addr == client.getsockname()
        client.setblocking(False)
        answer = bytearray()
        serving.run_until(lambda: _read_into(client, answer).endswith(b"ok"))
        assert b"X-Task: ours" in answer
        calls = _calls(serving)
        assert ("received", True) in calls
        assert ("write_soon", False) in calls
        assert any(name == "send" for name, _ in calls)
        client.close()
        serving.run_until(lambda: not serving.channels)


def test_a_request_in_work_is_in_the_channels_list(serving: Serving) -> None:
    """And the answer's bytes are counted until they are sent."""
    serving.gate.clear()
    with socket.create_connection(serving.address, timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /half HTTP/1.1\r\n")
        serving.run_until(serving.entered.is_set)
        (channel,) = serving.channels
        assert len(channel.requests) == 1
        assert channel.total_outbufs_len == 0
        assert (channel.will_close, channel.close_when_flushed, channel.connected) == (
            False, False, True,
        )  # fmt: skip
        assert serving.workers.active_count == 1
        serving.gate.set()
        serving.run_until(lambda: not channel.requests)
        assert channel.request is None or not channel.request.completed


def test_a_request_can_be_answered_without_a_worker(serving: Serving) -> None:
    """As service() does it: the next one is left, or the connection is read on."""
    taken: list[str] = []

    def add_task(channel: AdaptedChannel) -> None:
        assert channel.requests_lock.locked(), "the caller holds it"
        taken.append(channel.requests[0].path)

    serving.listener.task_dispatcher.add_task = add_task
    with socket.create_connection(serving.address, timeout=10) as client:
        client.sendall(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(2)))
        serving.run_until(lambda: taken)
        (channel,) = serving.channels
        ahead = []
        for number, close in enumerate((False, False, True)):
            if number == 2:
                client.sendall(b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
                serving.run_until(lambda: len(taken) == 2)
            channel.write_soon(b"answer")
            with channel.requests_lock:
                ahead.append(channel.finish_request(close=close))
        assert ahead == [True, False, False]
        assert taken == ["/0", "/2"]
        client.setblocking(False)
        answer = bytearray()
        serving.run_until(lambda: _read_into(client, answer) == b"answer" * 3)
        serving.run_until(lambda: not serving.channels)


def test_a_body_is_invited_after_the_answer_before_it(serving: Serving) -> None:
    taken: list[object] = []
    serving.listener.task_dispatcher.add_task = taken.append
    expecting = b"POST /b HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(serving.address, timeout=10) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" + expecting)
        serving.run_until(lambda: taken)
        (channel,) = serving.channels
        channel.write_soon(b"answer")
        with channel.requests_lock:
            assert not channel.finish_request(close=False)
        client.setblocking(False)
        answer = bytearray()
        serving.run_until(lambda: b"100 Continue" in _read_into(client, answer))
        assert answer.startswith(b"answer")


def test_a_request_that_is_refused_has_the_refusing_task(serving: Serving) -> None:
    with socket.create_connection(serving.address, timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        client.setblocking(False)
        answer = bytearray()
        serving.run_until(lambda: _read_into(client, answer).endswith(b"ours"))
        assert answer.startswith((b"HTTP/1.0 400 Bad Request", b"HTTP/1.1 400 Bad Request"))
        assert b"Connection: close" in answer


def test_a_connection_is_closed_when_it_is_told_so(serving: Serving) -> None:
    with socket.create_connection(serving.address, timeout=10) as client:
        serving.run_until(lambda: serving.channels)
        serving.channels[0].will_close = True
        serving.run_until(lambda: not serving.channels)
        assert client.recv(1) == b""


def test_a_socket_that_is_given_away_stays_open(serving: Serving) -> None:
    with socket.create_connection(serving.address, timeout=10) as client:
        serving.run_until(lambda: serving.channels)
        (channel,) = serving.channels
        sock = channel.give_away_socket()
        with sock:
            assert sock.fileno() not in serving.map
            assert not serving.channels
            sock.sendall(b"still here")
            assert client.recv(20) == b"still here"


def test_a_listener_that_stops_accepting_leaves_its_trigger(serving: Serving) -> None:
    """Workers wake the loop through it until the end."""
    done: list[int] = []
    stop_accepting(serving.listener)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(serving.address, timeout=1)
    serving.listener.trigger.pull_trigger(lambda: done.append(1))
    serving.run_until(lambda: done)
    serving.listener.pull_trigger()
    serving.run_until(lambda: True)


def test_a_unix_listener_gives_its_callers_an_address_of_two_parts(tmp_path: Any) -> None:
    """fix_addr(): the application sees a host and a port."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        loop_map: LoopMap = {}
        listener = new_listener(
            UnixWSGIServer,
            lambda *_: [],
            loop_map,
            sock,
            dispatcher=AdaptedDispatcher(),
            adjustments=Adjustments(sockets=[sock]),
        )
        address = listener.fix_addr("")
        assert (len(address), isinstance(address[0], str)) == (2, True)
        listener.trigger.close()
        close_all(loop_map)


def test_workers_take_tasks_from_the_head_of_the_queue_under_the_lock() -> None:
    """As the gate and the probe put them there."""
    started: list[int] = []

    class Workers(AdaptedDispatcher):
        def start_new_thread(self, target: Any, thread_no: int) -> None:
            started.append(thread_no)
            threading.Thread(target=target, args=(thread_no,), daemon=True).start()

    class Job:
        def __init__(self) -> None:
            self.ended = threading.Event()
            self.how = ""

        def service(self) -> None:
            self.how = "served"
            self.ended.set()

        def cancel(self) -> None:
            self.how = "cancelled"
            self.ended.set()

    workers = Workers()
    first, late = Job(), Job()
    with workers.lock:
        workers.queue.appendleft(first)
    workers.set_thread_count(1)
    assert first.ended.wait(10)
    assert (first.how, started) == ("served", [0])
    with workers.lock:
        workers.queue.appendleft(late)
        workers.queue_cv.notify()
    assert late.ended.wait(10)
    left = Job()
    workers.shutdown(timeout=5)
    workers.add_task(left)
    workers.shutdown(cancel_pending=True, timeout=0)
    assert left.how == "cancelled"


def test_a_file_and_a_socket_join_the_loop() -> None:
    """The file's descriptor is a duplicate; each ends by its handle_close()."""
    loop_map: LoopMap = {}
    ended: list[str] = []

    class End(LoopFile):
        def readable(self) -> bool:
            return True

        def writable(self) -> bool:
            return False

        def handle_read(self) -> None:
            if not self.recv(1):
                self.handle_close()

        def handle_close(self) -> None:
            if self.is_open:
                ended.append("file")
                self.close()

    class Far(LoopDispatcher):
        def writable(self) -> bool:
            return False

        def handle_read(self) -> None:
            self.recv(10)

        def handle_close(self) -> None:
            ended.append("socket")
            self.close()

    reading, writing = os.pipe()
    watched = End(reading, map={})
    os.close(reading)
    join_loop(watched, loop_map)
    near, far = socket.socketpair()
    peer = Far(far, map=loop_map)
    peer.connected = True
    assert loop_map_of(watched) is loop_map
    assert len(loop_map) == 2
    os.close(writing)
    near.close()
    for _ in range(100):
        if not loop_map:
            break
        run_once(loop_map, 0.02)
    assert set(ended) == {"file", "socket"}
    assert not loop_map
    assert not watched.is_open


def _calls(serving: Serving) -> list[tuple[str, bool]]:
    return [call for channel in serving.channels for call in channel.calls]


def _read_into(client: socket.socket, answer: bytearray) -> bytes:
    with contextlib.suppress(BlockingIOError):
        answer += client.recv(65536)
    return bytes(answer)
