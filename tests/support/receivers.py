# SPDX-License-Identifier: Apache-2.0
"""Real receivers of alerts, on loopback: HTTP that answers as told, and SMTP that does, too."""

import asyncio
import contextlib
import http.server
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from typing import Any

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

Handler = http.server.BaseHTTPRequestHandler


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def key(self) -> str:
        return self.headers.get("idempotency-key", "")


#: What a receiver does: a status, (status, headers), (status, headers, body), or a function of
#: the connection.
Reply = (
    int
    | tuple[int, dict[str, str]]
    | tuple[int, dict[str, str], str]
    | Callable[["Receiver", Handler], None]
)


class Receiver:
    """Takes requests; *replies* are used in their turn, the last one for ever."""

    def __init__(
        self,
        *replies: Reply,
        certificate: trustme.LeafCert | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.replies: list[Reply] = list(replies) or [200]
        self.requests: list[Request] = []
        #: What it answers to who wants a tunnel of it as a proxy.
        self.tunnels = 502
        self.stopping = threading.Event()
        receiver = self

        class Answering(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.answer(self)

            do_GET = do_POST

            def do_CONNECT(self) -> None:
                self.send_error(receiver.tunnels)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((host, 0), Answering)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https" if certificate is not None else "http"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook"

    @property
    def keys(self) -> list[str]:
        return [request.key for request in self.requests]

    def answer(self, handler: Handler) -> None:
        """Take a request and reply as told."""
        length = int(handler.headers.get("Content-Length", "0"))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append(
            Request(handler.command, handler.path, headers, handler.rfile.read(length))
        )
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if callable(reply):
            handler.close_connection = True
            with contextlib.suppress(OSError):
                reply(self, handler)
            return
        status, more, *given = (reply, {}) if isinstance(reply, int) else reply
        handler.send_response_only(status)
        body = given[0].encode() if given else b"said something"
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


def hang(receiver: Receiver, _: Handler) -> None:
    """Never answer."""
    receiver.stopping.wait(60)


def drip(receiver: Receiver, handler: Handler) -> None:
    """Answer a byte at a time, for ever: each read of the client is short."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if receiver.stopping.wait(0.05):
            return


def reset(_: Receiver, handler: Handler) -> None:
    """Take the request and reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@contextmanager
def receiving(*replies: Reply, certificate: trustme.LeafCert | None = None) -> Iterator[Receiver]:
    """A running receiver."""
    receiver = Receiver(*replies, certificate=certificate)
    try:
        yield receiver
    finally:
        receiver.stop()


@contextmanager
def swallowing() -> Iterator[tuple[str, int]]:
    """An address whose queue is full: who comes now is not answered."""
    with socket.socket() as deaf, contextlib.ExitStack() as callers:
        deaf.bind(("127.0.0.2", 0))
        deaf.listen(0)
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        yield deaf.getsockname()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class MailBox:
    """What a mail server took, and how it answers: by command, a reply instead of its own."""

    mails: list[Message] = field(default_factory=list)
    replies: dict[str, list[str]] = field(default_factory=dict)
    logins: list[str] = field(default_factory=list)
    greetings: list[str] = field(default_factory=list)
    #: Whether it wants a greeting with a dot, as Postfix' reject_non_fqdn_helo_hostname.
    dotted: bool = False
    port: int = 0

    def reply(self, command: str) -> str | None:
        """Return what to say to *command* now; "hang" says nothing, "drop" hangs up."""
        replies = self.replies.get(command, [])
        return replies.pop(0) if replies else None


class _Mail:
    """aiosmtpd's handler."""

    def __init__(self, box: MailBox) -> None:
        self.box = box

    async def _say(self, command: str, server: SMTP) -> str | None:
        said = self.box.reply(command)
        if said == "hang":
            await asyncio.sleep(60)
        if said == "drop":
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
            await asyncio.sleep(60)
        return said

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.box.greetings.append(str(session.host_name))
        if said := await self._say("MAIL", server):
            return said
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, _: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if said := await self._say("RCPT", server):
            return said
        if self.box.dotted and "." not in self.box.greetings[-1]:
            return "504 5.5.2 Helo command rejected: need fully-qualified hostname"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _: Session, envelope: Envelope) -> str:
        said = await self._say("DATA", server)
        if said and not said.startswith("250"):
            return said
        content = envelope.content
        assert isinstance(content, bytes)
        self.box.mails.append(message_from_bytes(content, policy=default))
        if said := await self._say("AFTER", server):
            return said
        return "250 taken"


@contextmanager
def mail_server(
    *,
    certificate: trustme.LeafCert | None = None,
    starttls: bool = False,
    login: tuple[str, str] | None = None,
    host: str = "127.0.0.1",
    dotted: bool = False,
) -> Iterator[MailBox]:
    """A real SMTP server, on loopback; *login*: (user, password) without which nothing is taken.

    *dotted*: it takes mail only from who greets with a name with a dot, or with an address.
    """
    box = MailBox(dotted=dotted)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)

    def check(_: SMTP, __: Session, ___: Envelope, mechanism: str, given: Any) -> AuthResult:
        user, password = given.login.decode(), given.password.decode()
        box.logins.append(user)
        return AuthResult(success=(user, password) == login, handled=False)

    def make() -> SMTP:
        return SMTP(
            _Mail(box),
            hostname="mail.test",
            loop=loop,
            tls_context=context if starttls else None,
            require_starttls=starttls,
            auth_required=login is not None,
            auth_require_tls=login is not None,
            authenticator=check if login else None,
        )

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        loop.create_server(make, host, 0, ssl=None if starttls else context)
    )
    box.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield box
    finally:
        loop.call_soon_threadsafe(_close, loop, server)
        thread.join(10)
        loop.close()


def _close(loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
    server.close()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_soon(loop.stop)
