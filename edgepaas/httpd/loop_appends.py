# SPDX-License-Identifier: Apache-2.0
"""Appends that need no worker: the loop's thread hands them in, the writer's answers them.

A worker that waits for a commit is a thread that the interpreter has to be handed over to,
twice a request, and there are only THREADS of them to share a commit. Here a request waits as
an entry in a table. What a slow disk holds up are these entries: neither the loop nor a worker.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgepaas.httpd.waitress_adapter import body_of, build_http_date, is_bare_request

if TYPE_CHECKING:
    from edgepaas.database.append import AppendJob
    from edgepaas.httpd.channel import Channel
    from edgepaas.web.plain_appends import PlainAnswer, PlainAppends

#: Seconds between two looks for requests whose patience is over.
_LOOK_EVERY = 0.5
#: How much of the number of clients that came together is left after a group without them.
_FADING = 0.98


class LoopAppends:
    """Takes requests off the loop for *appends*, for as long as *open* says that it may."""

    def __init__(
        self,
        appends: "PlainAppends",
        *,
        ident: str,
        is_open: Callable[[], bool],
        hand_over: Callable[["Channel"], None],
        wake: Callable[[], None],
    ) -> None:
        """*hand_over* gives a channel to the workers; *wake* ends the loop's waiting."""
        self._appends = appends
        self._paths = appends.paths
        self._is_open = is_open
        self._hand_over = hand_over
        self._wake = wake
        self._heads = _Heads(appends.status, appends.headers, ident)
        self._waiting: dict[_Waiting, None] = {}
        self._gathered: list[tuple[str, AppendJob]] = []
        self._looked = 0.0
        self._gathering = Gathering()
        #: The loop's; a worker that passes the next request of its connection on is another.
        self._thread = 0
        #: Whether the loop was woken since it last looked at its channels.
        self._woken = False

    def take(self, channel: "Channel") -> bool:
        """Take the request of *channel*, if it is a plain append and this is the loop's thread.

        It is handed in at the end of this pass. False: nothing has happened, and a worker has
        to have it.
        """
        request = channel.requests[0]
        if threading.get_ident() != self._thread:
            return False
        if request.path not in self._paths or not self._is_open():
            return False
        if not is_bare_request(request, self._appends.longest_body):
            return False
        body = body_of(request)
        waiting = _Waiting(self, channel, request.path)
        job = self._appends.prepare(
            request.path, request.headers, channel.addr[0], body, waiting.done
        )
        if job is None:
            return False
        waiting.job = job
        self._waiting[waiting] = None
        channel.appending = True
        self._gathered.append((request.path, job))
        return True

    def busy(self) -> bool:
        """Whether a request waits for its commit."""
        return bool(self._waiting)

    def begin_pass(self) -> None:
        """The loop is about to look at its channels (the loop's thread)."""
        self._woken = False
        self._thread = threading.get_ident()
        if not self._waiting:
            return
        now = time.monotonic()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            for waiting in list(self._waiting):
                waiting.end_patience(now)

    def gathers(self, before: int) -> bool:
        """Whether to look at the channels again before handing in (the loop's thread).

        *before* were gathered when it looked last.
        """
        return self._gathering.goes_on(before, len(self._gathered), len(self._waiting))

    def gathered(self) -> int:
        """Return how many requests wait to be handed in."""
        return len(self._gathered)

    def end_pass(self) -> None:
        """Hand in what this pass took (the loop's thread).

        Not one by one: the writer would begin with the first, and commit it alone.
        """
        if self._gathered:
            self._gathering.note(len(self._waiting))
            gathered, self._gathered = self._gathered, []
            for path, job in gathered:
                try:
                    self._appends.submit(path, job)
                except Exception as error:  # noqa: BLE001 - every other connection waits for this
                    job.done(error)

    def finish(self, waiting: "_Waiting", outcome: "PlainAnswer | BaseException") -> None:
        """Answer; an error is worded by the ordinary way (the writer's thread, or the loop's)."""
        channel = waiting.channel
        self._waiting.pop(waiting, None)
        if isinstance(outcome, BaseException):
            channel.append_outcome = outcome
            channel.leave_to_workers()
            self._hand_over(channel)
            return
        close = channel.closes_after_answer()
        data = self._heads.head(outcome, close=close) + outcome.body
        if channel.answer(data, close=close) and not self._woken:
            self._woken = True
            self._wake()

    def patience(self, path: str) -> float | None:
        """Return the seconds for which a request waits at most."""
        return self._appends.patience(path)


class Gathering:
    """Whether requests that the loop has read are worth keeping back for one more look.

    Clients that were answered together send their next requests one after the other: with the
    first of them alone the writer would begin, and commit it alone.
    """

    def __init__(self) -> None:
        #: How many requests were in work at once of late: the most, and then ever less.
        self._together = 0.0

    def note(self, in_work: int) -> None:
        """Take note that *in_work* requests wait for a commit, those handed in just now too."""
        self._together = max(float(in_work), self._together * _FADING)

    def goes_on(self, before: int, gathered: int, in_work: int) -> bool:
        """Whether another look may find more than the *gathered*.

        Not where the last one found none beside the *before*, nor while the writer works for
        others (they are among the *in_work*): meanwhile the next ones gather by themselves.
        """
        return before < gathered == in_work and gathered < self._together


class _Waiting:
    """A request that waits for its commit."""

    __slots__ = ("_answered", "_owner", "_until", "channel", "job", "path")

    def __init__(self, owner: LoopAppends, channel: "Channel", path: str) -> None:
        self._owner = owner
        self.channel = channel
        self.path = path
        self.job: AppendJob | None = None
        patience = owner.patience(path)
        self._until = None if patience is None else time.monotonic() + patience
        self._answered = threading.Lock()

    def done(self, outcome: "PlainAnswer | BaseException") -> None:
        """Answer the request, once."""
        if self._answered.acquire(blocking=False):
            self._owner.finish(self, outcome)

    def end_patience(self, now: float) -> None:
        """Answer that the disk did not take it, where the time is over."""
        if self._until is not None and now >= self._until and self.job is not None:
            self.done(self.job.give_up(self._owner.patience(self.path)))


class _Heads:
    """The heads of the answers: one text for all, with three places to fill in."""

    def __init__(self, status: str, headers: Mapping[str, str], ident: str) -> None:
        self._kept = _template(status, headers, ident, close=False)
        self._closed = _template(status, headers, ident, close=True)
        self._date = ""
        self._date_of = 0

    def head(self, answer: "PlainAnswer", *, close: bool) -> bytes:
        """Return the head of *answer*."""
        now = int(time.time())
        if now != self._date_of:
            self._date, self._date_of = build_http_date(now), now
        template = self._closed if close else self._kept
        return (template % (len(answer.body), self._date, answer.request_id)).encode("latin-1")


def _template(status: str, headers: Mapping[str, str], ident: str, *, close: bool) -> str:
    """Return a head as Waitress writes it: names in one spelling, sorted."""
    fixed = {
        "-".join(part.capitalize() for part in name.split("-")): value.replace("%", "%%")
        for name, value in {**headers, "Server": ident}.items()
    }
    filled: dict[str, Any] = {"Content-Length": "%d", "Date": "%s", "X-Request-Id": "%s"}
    if close:
        fixed["Connection"] = "close"
    lines = [f"{name}: {value}" for name, value in sorted({**fixed, **filled}.items())]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""])
