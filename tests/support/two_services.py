# SPDX-License-Identifier: Apache-2.0
"""Two services on one port and one state folder, as in a release's overlap that lasts."""

import contextlib
import signal
import socket
import threading
from pathlib import Path

from tests.support.live_box import STATES, LiveBox
from tests.support.service_process import Process, edgepaas

_STAGES = ("env", "dbdecide", "schema")


class TwoServices(LiveBox):
    """A box of two services and a drainer; when one of them ends, the chain runs again."""

    def __init__(
        self,
        folder: Path,
        *,
        weak: tuple[str, ...] = (),
        environ: dict[str, str] | None = None,
        **settings: str,
    ) -> None:
        super().__init__(folder, weak=weak, environ=environ, **settings)
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._over = threading.Event()
        self._chain = threading.Thread(target=self._run_chain)
        #: How often the chain ran.
        self.runs = 0

    def start(self, *, wait: bool = True) -> None:
        """Start all of it, and wait until it is ready."""
        self._chain.start()
        if wait:
            self.wait_state(*STATES)

    def close(self) -> None:
        """End it in order, or else."""
        self._over.set()
        if self._chain.is_alive():
            self._chain.join(120)
        self._listener.close()

    def _run_chain(self) -> None:
        while not self._over.is_set():
            self.runs += 1
            for stage in _STAGES:
                done = Process(edgepaas(stage), self.folder, self._environ)
                done.wait()
            with contextlib.ExitStack() as ended:
                running = [
                    Process(edgepaas("serve"), self.folder, self._environ, self._listener),
                    Process(edgepaas("serve"), self.folder, self._environ, self._listener),
                    Process(edgepaas("sync"), self.folder, self._environ),
                ]
                for process in running:
                    ended.callback(process.close)
                while all(process.running for process in running):
                    if self._over.wait(0.05):
                        break
                for process in running:
                    if process.running:
                        process.signal(signal.SIGTERM)
                for process in running:
                    with contextlib.suppress(AssertionError):
                        process.wait(20)
