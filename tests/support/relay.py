# SPDX-License-Identifier: Apache-2.0
"""A wire to PostgreSQL that fails when told: a TCP relay on loopback that reads the protocol.

    with Relay(server.port) as relay:
        box = start_box(DATABASE_URL=relay.reroute(server.url("box")))
        relay.commit_cut = 0.5      # every second answer to COMMIT never arrives
        relay.cut()                 # refused and reset, until heal()

It runs in a thread of its own. The fault that finds the most is the cut at the answer to
COMMIT: the server has committed, and the client cannot know.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

_UNTYPED = {80877102: "cancel", 80877103: "tls", 80877104: "gss"}
#: Messages that are looked into are small; a longer one is no COMMIT.
_LOOKED_INTO = 200

#: How a client notices a cut: at once, as an ordinary end, or not at all.
End = Literal["reset", "close", "silence"]


class Stream:
    """One direction of one connection, cut into PostgreSQL's messages as they pass by.

    ``feed`` gives pieces of what arrived, each with the message that it completes: its
    type and, where that is short, its body. See "Message Formats" in PostgreSQL's manual.
    """

    def __init__(self, *, startup: bool) -> None:
        self._startup = startup
        self._head = b""
        self._left = 0
        self._body: bytes | None = None
        self._type = b""
        #: Bytes of answers that have no type and no length (to a request for TLS).
        self.bare = 0
        self.opaque = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield (bytes to pass on, type, body); type is empty while no message is complete."""
        while data:
            if self.opaque:
                yield data, b"", b""
                return
            if self.bare:
                piece, data = data[: self.bare], data[self.bare :]
                self.bare -= len(piece)
                yield piece, b"bare", piece
            elif not self._left and self._body is None:
                data = yield from self._read_head(data)
            else:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                if self._body is not None:
                    self._body += piece
                    if not self._left:
                        yield self._complete()
                elif not self._left:
                    yield piece, self._type, b""
                else:
                    yield piece, b"", b""

    def _read_head(self, data: bytes) -> Generator[tuple[bytes, bytes, bytes], None, bytes]:
        length = 4 if self._startup else 5
        missing = length - len(self._head)
        self._head += data[:missing]
        data = data[missing:]
        if len(self._head) < length:
            return data
        self._type = b"startup" if self._startup else self._head[:1]
        self._left = struct.unpack("!i", self._head[-4:])[0] - 4
        head, self._head = self._head, b""
        if self._left <= _LOOKED_INTO or self._startup:
            self._body, self._kept_head = b"", head
            if not self._left:
                yield self._complete()
        else:
            yield head, b"", b""
        return data

    def _complete(self) -> tuple[bytes, bytes, bytes]:
        body, self._body = self._body or b"", None
        if self._startup:
            code = struct.unpack("!i", body[:4])[0]
            self._type = _UNTYPED.get(code, "startup").encode()
            self._startup = self._type in (b"tls", b"gss")
        return self._kept_head + body, self._type, body


def is_commit(kind: bytes, body: bytes) -> bool:
    """Whether a client's message asks for COMMIT, as a simple query or as one to be prepared."""
    if kind == b"Q":
        text = body
    elif kind == b"P":
        text = body.partition(b"\0")[2]
    else:
        return False
    return text.rstrip(b"\0 ;").strip().upper().split(b"\0")[0] in (b"COMMIT", b"END")


class Relay:
    """Listens on a free port and passes on to *port* of *host*, except for what it is told.

    To be told at any time from any thread:

    ``commit_cut``     the probability that a connection ends when the answer to COMMIT comes
    ``request_cut``    the same when COMMIT is sent: it never arrives
    ``byte_cut``       connections end after so many bytes on average, anywhere; 0: never
    ``latency``        seconds that each direction is late
    ``ends``           how a client notices such a cut; one of them by chance
    ``only``           the cuts above only hit connections whose application_name has this in it
    """

    def __init__(
        self, port: int, host: str = "127.0.0.1", *, seed: int = 1,
        listen: str = "127.0.0.1", enter: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """*enter* is called first in the relay's thread (to be in another network)."""
        self._target = (host, port)
        self._listen, self._enter = listen, enter
        self._chance = random.Random(seed)
        self.commit_cut = 0.0
        self.request_cut = 0.0
        self.byte_cut = 0.0
        self.latency = 0.0
        self.ends: tuple[End, ...] = ("reset",)
        self.only = ""
        #: What happened so far.
        self.connections = 0
        self.commits = 0
        #: How often the server's answer came after something was sent, of each connection: what
        #: a link's latency is paid for. Those of the login are among them.
        self.round_trips = 0
        self.cuts = 0
        self.names: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._flapping: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="relay")

    def __enter__(self) -> "Relay":
        started = threading.Event()
        self._started = started
        self._thread.start()
        if not started.wait(10) or not self.port:
            raise RuntimeError("the relay did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def reroute(self, url: str) -> str:
        """Return *url* with this relay in the server's place, without TLS."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(
            (parts.scheme, f"{login}@{self._listen}:{self.port}", parts.path, parts.query, "")
        )

    # -- what a test tells it --

    def cut(self, end: End = "reset") -> None:
        """End every connection and refuse new ones until ``heal``."""
        self._call(self._cut(end))

    def switch(self, port: int) -> None:
        """Pass new connections on to *port* of the same host."""
        self._target = (self._target[0], port)

    def break_connections(self, end: End = "reset") -> None:
        """End every connection there is; new ones are let through."""
        self._call(self._break(end))

    def pause(self) -> None:
        """Pass nothing on, and lose nothing: ``heal`` goes on where it was (a cable pulled)."""
        self._call(self._set_passing(False))

    def black_hole(self) -> None:
        """Every connection there is falls silent for ever, open at both ends; so do new ones."""
        self._call(self._black_hole())

    def heal(self) -> None:
        """Let new connections through, and those that were paused; the probabilities stay.

        A connection in a black hole stays there: nobody tells either end.
        """
        self._call(self._heal())

    def calm(self) -> None:
        """Heal, and cut nothing by chance any more."""
        self.commit_cut = self.request_cut = self.byte_cut = self.latency = 0.0
        self.heal()

    def flap(self, every: float, end: End = "reset") -> None:
        """Cut and heal in turns, each for *every* seconds, until ``heal``.

        Each turn is a little longer than the one before, so that a slow machine gets
        something through as well.
        """
        self._call(self._start_flapping(every, end))

    # -- in its thread --

    def _run(self) -> None:
        if self._enter is not None:
            self._enter()
        asyncio.set_event_loop(self._loop)
        self._passing.set()
        try:
            self._loop.run_until_complete(self._open())
        finally:
            self._started.set()
        self._loop.run_forever()

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)  # type: ignore[arg-type]

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, self._listen, self.port, reuse_address=True, backlog=200
            )
            self.port = int(self._server.sockets[0].getsockname()[1])

    async def _refuse(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _break(self, end: End) -> None:
        for link in list(self._links):
            link.end(end)

    async def _cut(self, end: End) -> None:
        await self._refuse()
        await self._break(end)

    async def _set_passing(self, passing: bool) -> None:
        if passing:
            self._passing.set()
        else:
            self._passing.clear()

    async def _black_hole(self) -> None:
        self._passing.clear()
        for link in self._links:
            link.lost = True

    async def _heal(self) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
            self._flapping = None
        self._passing.set()
        await self._open()

    async def _start_flapping(self, every: float, end: End) -> None:
        async def flap() -> None:
            turn = every
            while True:
                await self._cut(end)
                await asyncio.sleep(turn)
                await self._open()
                await asyncio.sleep(turn)
                turn = min(turn * 1.02, 20 * every)

        await self._heal()
        self._flapping = asyncio.create_task(flap())

    async def _shut_down(self) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
        await self._refuse()
        for link in self._links:
            link.lost = False
        await self._break("reset")
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        except (OSError, asyncio.CancelledError):  # cancelled: the relay is closed
            link.end("reset")
        finally:
            self._links.discard(link)

    def draw(self, probability: float) -> bool:
        """Let chance decide."""
        return probability > 0 and self._chance.random() < probability

    def bytes_to_live(self) -> float:
        """How far a new connection gets."""
        return self._chance.expovariate(1 / self.byte_cut) if self.byte_cut else float("inf")

    def any_end(self) -> End:
        """One of the ways in which a client may notice."""
        return self._chance.choice(self.ends)


class _Link:
    """One client's connection and its own to the server."""

    def __init__(
        self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._relay = relay
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.lost = False
        self.name = ""
        self._left = relay.bytes_to_live()
        self._asked = False
        self._over = asyncio.Event()
        self._to_server = Stream(startup=True)
        self._to_client = Stream(startup=False)

    async def run(self) -> None:
        # The client's own kernel has taken its connection at once; over a slow link that takes
        # a round trip, by which all that it sends is late here instead.
        await asyncio.sleep(2 * self._relay.latency)
        await self._relay._passing.wait()
        self._server = await asyncio.open_connection(*self._relay._target)
        for _, writer in (self._client, self._server):
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up = asyncio.create_task(self._pump(self._client[0], self._server[1], self._sent))
        down = asyncio.create_task(self._pump(self._server[0], self._client[1], self._answered))
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({up, down, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down, over):
                task.cancel()
            await asyncio.gather(up, down, over, return_exceptions=True)
            self.end("close")

    def end(self, how: End) -> None:
        """End it for both; a silent end leaves the client alone with an open connection."""
        if how == "silence":
            self.lost = True
            if self._server is not None:
                self._server[1].transport.abort()
            return
        for _, writer in (self._client, *([self._server] if self._server else [])):
            raw = writer.get_extra_info("socket")
            if how == "reset" and raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.close()
        self._over.set()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[bytes], list[bytes] | None],
    ) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        sender = asyncio.create_task(self._send_late(late, writer))
        now = asyncio.get_running_loop().time
        try:
            while data := await reader.read(65536):
                pieces = look(data)
                if pieces is None:
                    return
                if pieces:
                    await late.put((now() + self._relay.latency, b"".join(pieces)))
            await late.join()
        except OSError:
            return
        finally:
            sender.cancel()
            while self.lost:
                await asyncio.sleep(0.1)

    async def _send_late(
        self, late: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, piece = await late.get()
            if due > now():
                await asyncio.sleep(due - now())
            await self._relay._passing.wait()
            if not self.lost:
                with contextlib.suppress(OSError):
                    writer.write(piece)
                    await writer.drain()
            late.task_done()

    def _sent(self, data: bytes) -> list[bytes] | None:
        self._asked = True
        pieces = []
        for piece, kind, body in self._to_server.feed(data):
            if kind == b"startup":
                words = body[4:].split(b"\0")
                pairs = dict(zip(words[::2], words[1::2], strict=False))
                self.name = pairs.get(b"application_name", b"").decode(errors="replace")
                self._relay.names.append(self.name)
            elif kind in (b"tls", b"gss"):
                self._to_client.bare += 1
            elif kind == b"cancel":
                self._to_server.opaque = self._to_client.opaque = True
            if is_commit(kind, body) and self._hit(self._relay.request_cut):
                return None
            pieces.append(piece)
        return self._shorten(pieces)

    def _answered(self, data: bytes) -> list[bytes] | None:
        if self._asked and self._relay.only in self.name:
            self._asked = False
            self._relay.round_trips += 1
        pieces = []
        for piece, kind, body in self._to_client.feed(data):
            if kind == b"bare" and body == b"S":
                self._to_server.opaque = self._to_client.opaque = True
            if kind == b"C" and body == b"COMMIT\0":
                self._relay.commits += 1
                if self._hit(self._relay.commit_cut):
                    return None
            pieces.append(piece)
        return self._shorten(pieces)

    def _hit(self, probability: float) -> bool:
        if self._relay.only not in self.name or not self._relay.draw(probability):
            return False
        self._relay.cuts += 1
        self.end(self._relay.any_end())
        return True

    def _shorten(self, pieces: list[bytes]) -> list[bytes] | None:
        if self._relay.only not in self.name:
            return pieces
        if self._left == float("inf") and self._relay.byte_cut:
            self._left = self._relay.bytes_to_live()
        self._left -= sum(map(len, pieces))
        if self._left > 0 or not self._relay.byte_cut:
            return pieces
        self._relay.cuts += 1
        self.end(self._relay.any_end())
        return None
