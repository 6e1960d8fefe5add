# SPDX-License-Identifier: Apache-2.0
"""What must not be left half-way by a Ctrl-C, since nobody would know of it afterwards."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the block has ended; KeyboardInterrupt then.

    A server goes on with a CREATE whose client has given up: it would be there only after
    it was dropped, and for ever. A process whose start was interrupted is nobody's child.
    """
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: asked.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked:
            raise KeyboardInterrupt
