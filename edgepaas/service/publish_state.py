# SPDX-License-Identifier: Apache-2.0
"""The service's word for its box, left for the processes beside it (``run/state.json``)."""

import logging
import threading
from typing import TYPE_CHECKING

from edgepaas.files.published_state import leave_word

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.health.state import StateBoard

logger = logging.getLogger("edgepaas.service")


class StateFile:
    """Writes the word of *state* when it is another one; from any thread."""

    def __init__(self, paths: "Paths", state: "StateBoard") -> None:
        self._paths = paths
        self._state = state
        # Around the look as well: of two threads, the later look is to be written last.
        self._lock = threading.Lock()
        self._left = ""
        self._failed = False

    def leave(self) -> None:
        """Leave the word as of now; a folder that takes none is logged once and tried again."""
        with self._lock:
            word = self._state.state().state
            if word == self._left:
                return
            try:
                leave_word(self._paths, word)
            except OSError as error:
                if not self._failed:
                    logger.warning("%s cannot be written: %s", self._paths.state_word, error)
                self._failed = True
            else:
                self._left, self._failed = word, False
