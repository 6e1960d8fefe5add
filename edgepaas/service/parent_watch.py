# SPDX-License-Identifier: Apache-2.0
"""Noticing the parent's death: a pipe whose other end only the parent holds."""

import os
from collections.abc import Callable

from edgepaas.httpd.server import HTTPServer
from edgepaas.httpd.waitress_adapter import LoopFile, LoopMap


class Lifeline(LoopFile):
    """Calls *died* in the loop's thread when the pipe *descriptor* is closed at its other end.

    A service that outlived ``edgepaas up`` would hold its port against the next one.
    """

    def __init__(self, descriptor: int, server: HTTPServer, died: Callable[[], None]) -> None:
        loop_map: LoopMap = {}
        super().__init__(descriptor, map=loop_map)
        os.close(descriptor)  # the loop works on a duplicate
        self._died = died
        server.watch(self)

    def readable(self) -> bool:
        """Always: nothing is ever written, only the end is waited for."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def handle_read(self) -> None:
        """Take the end of the file for the parent's."""
        if not self.recv(1):
            self.handle_close()

    def handle_close(self) -> None:
        """Report once, and stop watching."""
        if self.is_open:
            self.close()
            self._died()
