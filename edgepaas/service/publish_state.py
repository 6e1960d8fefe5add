# SPDX-License-Identifier: Apache-2.0
"""The service's state, published for the processes beside it (``run/state.json``)."""

import logging
import threading
from typing import TYPE_CHECKING

from edgepaas.files.published_state import publish_state

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.health.state import StateBoard

logger = logging.getLogger("edgepaas.service")


class StatePublisher:
    """Writes the state of *board* whenever it has changed; thread-safe."""

    def __init__(self, paths: "Paths", board: "StateBoard") -> None:
        self._paths = paths
        self._board = board
        # Held while the state is read as well: of two threads, the later reading is written last.
        self._lock = threading.Lock()
        self._published = ""
        self._failed = False

    def publish(self) -> None:
        """Write the state as of now; a file that cannot be written is logged once and retried."""
        with self._lock:
            state = self._board.state().state
            if state == self._published:
                return
            try:
                publish_state(self._paths, state)
            except OSError as error:
                if not self._failed:
                    logger.warning("%s cannot be written: %s", self._paths.published_state, error)
                self._failed = True
            else:
                self._published, self._failed = state, False
