# SPDX-License-Identifier: Apache-2.0
"""A channel's answer, what became of a notification, and a call that ends at its deadline."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

T = TypeVar("T")

Kind = Literal["taken", "refused", "later"]


@dataclass(frozen=True)
class Answer:
    """*kind*: taken; refused for good, so that asking again is of no use; or later.

    *words* for a person. *reached*: the receiver may have it, though it did not say so.
    *down*: nobody answers there at all. *retry_after* in seconds, 0.0 when it did not say.
    """

    kind: Kind
    words: str
    reached: bool = False
    down: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a notification: taken by *via*, refused by every channel, or for later.

    *refused* says why, by channel; *reached*: a receiver may have it; *wait*: seconds until
    it is to be tried again.
    """

    kind: Kind
    via: str = ""
    words: str = ""
    reached: bool = False
    tried: bool = False
    wait: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)


class DeadlineExceeded(Exception):
    """The call was not done in time; its thread is left to itself."""


def within(seconds: float, work: Callable[[], T], *, abort: Callable[[], None] | None = None) -> T:
    """Return what *work* returns, or raise what it raises, or DeadlineExceeded.

    Done in a daemon thread: neither a dead resolver nor a server that drips a byte at a
    time obeys a socket's timeout. *abort* is called at the deadline, to end the thread.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name="alerts-send", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if outcome:
        return outcome[0]
    if abort is not None:
        with contextlib.suppress(OSError):
            abort()
    raise DeadlineExceeded(f"no answer within {seconds:g} s")
