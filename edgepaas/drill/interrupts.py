# SPDX-License-Identifier: Apache-2.0
"""Deferring Ctrl-C while something is created that would otherwise be left behind."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until the end of the block, which then raises KeyboardInterrupt.

    PostgreSQL completes a CREATE whose client has disconnected: the clean-up would run before
    it, and the database would stay. A process whose start was interrupted has no one to end it.
    """
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            raise KeyboardInterrupt
