# SPDX-License-Identifier: Apache-2.0
"""The queue before the one writer: bounded, and cheap where nobody has to wait for a place."""

import queue
import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class JobQueue(Generic[T]):
    """First in, first out, at most *length* of them; one thread takes, any puts."""

    def __init__(self, length: int) -> None:
        self._length = length
        # Its hand-over is one lock in C; a queue.Queue takes three locks in Python.
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._place_free = threading.Condition()
        self._waiting = 0

    def put(self, item: T, timeout: float | None = None) -> bool:
        """Append *item*, after waiting up to *timeout* seconds for a place; whether it was."""
        if self.put_at_once(item):
            return True
        until = None if timeout is None else time.monotonic() + timeout
        with self._place_free:
            self._waiting += 1
            try:
                while not self.put_at_once(item):
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._place_free.wait(left)
            finally:
                self._waiting -= 1
        return True

    def put_at_once(self, item: T) -> bool:
        """Append *item* if there is a place; whether there was.

        Several threads at once may exceed the length by their number.
        """
        if self._queue.qsize() >= self._length:
            return False
        self._queue.put(item)
        return True

    def put_always(self, item: T) -> None:
        """Append *item*, whether or not there is a place."""
        self._queue.put(item)

    def get(self) -> T:
        """Take the first item; waits until there is one."""
        item = self._queue.get()
        self._announce()
        return item

    def get_at_once(self) -> T:
        """Take the first item; raises queue.Empty."""
        item = self._queue.get_nowait()
        self._announce()
        return item

    def qsize(self) -> int:
        """How many items wait."""
        return self._queue.qsize()

    def _announce(self) -> None:
        if self._waiting:
            with self._place_free:
                self._place_free.notify()
